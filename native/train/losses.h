// Losses as host functions of per-token log-probs (policy and reference, one array a pair and side, one value a scored
// token). A loss is a function of kernels/pair_formulas.h and a row of the table in losses.cc, with its test row.
#pragma once
#include <string>
#include <vector>

#include "kernels/pair_losses.h"

namespace isr {

struct LossOptions {
  std::string loss = "sigmoid";
  double beta = 0.1;
  double label_smoothing = 0;
  double ld_alpha = -1;                    // < 0: off. LD-DPO: tokens beyond the pair's shorter length count with this weight
  double gamma = 0;                        // weight of the cross-entropy of chosen tokens (token mean over the step)
  std::string divergence = "reverse_kl";   // reverse_kl | forward_kl | js_divergence; others than the first with "sigmoid" only
};

struct PairLogps {                         // nats
  std::vector<float> chosen, rejected, ref_chosen, ref_rejected;
};

struct LossResult {
  double loss = 0, dpo_loss = 0, sft_loss = 0;                 // means over the pairs of the step; sft: over chosen tokens
  std::vector<std::vector<float>> d_chosen, d_rejected;        // gradient of `loss` per token
  std::vector<double> chosen_reward, rejected_reward;          // beta * (policy - reference), sums over tokens, one per pair
};

void check_loss_options(const LossOptions& o);                 // INVALID_ARGUMENT
bool loss_couples_pairs(const LossOptions& o);                 // aot: needs all pairs of the step at once

// For Backend::pair_loss: the loss of one pair, whose means are over `total_pairs` and `total_chosen_tokens` of the step. Of a
// loss that couples pairs only the weights mean anything.
PairLoss pair_loss_of(const LossOptions& o, int64_t total_pairs, int64_t total_chosen_tokens);

// The loss over all pairs of a step (an optimizer step, not a micro-batch).
LossResult preference_loss(const std::vector<PairLogps>& pairs, const LossOptions& o);

}  // namespace isr
