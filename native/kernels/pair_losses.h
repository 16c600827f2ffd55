// Preference losses of a pair: which there are, and what they need. Their formulas: kernels/pair_formulas.h.
#pragma once
#include <cstdint>

namespace isr {

enum class PairFunction : uint8_t { Sigmoid, Ipo, Hinge, Robust, Cdpo, ExoPair, NcaPair, BcoPair, SppoHard, ApoZero, ApoDown, Discopop };
enum class Divergence : uint8_t { ReverseKl, ForwardKl, JsDivergence };

struct PairLoss {
  PairFunction function = PairFunction::Sigmoid;
  Divergence divergence = Divergence::ReverseKl;
  double beta = 0.1, smoothing = 0;
  double ld_alpha = -1;        // < 0: off. LD-DPO: tokens beyond the pair's shorter length count with this weight
  bool token_mean = false;     // log-ratios are means over a side's tokens
  double per_pair = 1;         // what a pair's loss weighs: one over the pairs of a step
  double per_chosen = 0;       // subtracted from the gradient of chosen tokens: the weight of their cross-entropy
};

enum PairFigure : int { kLoss, kChosenReward, kRejectedReward, kChosenLogp, kRejectedLogp, kNotFinite, kPairFigures };   // of one pair

}  // namespace isr
