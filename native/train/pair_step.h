// Between a micro-batch's forward and backward pass: the gradient of every log-prob, made on the device, so that a step waits for
// nothing before its end; and what a step then tells of its pairs.
#pragma once
#include <span>
#include <vector>

#include "autograd/ops.h"
#include "models/batch.h"
#include "train/losses.h"
#include "train/trainer.h"

namespace isr {

// `reference`: the log-probs of the batch's scored tokens under the reference, on the host. `figures` (pairs of the batch,
// kPairFigures), resident.
void pair_answer(Ctx& c, const Batch& batch, const TokenLogp& head, std::span<const float> reference, double* figures, const PairLoss& loss);

// The stored references of a batch's scored tokens, two sequences a pair.
std::vector<float> references_of(const Batch& batch, std::span<const TrainPair> pairs);

// Figures of a loss that couples pairs: each tells the mean loss.
std::vector<double> figures_of(const LossResult& loss, std::span<const PairLogps> pairs);

struct PairTokens { int64_t chosen = 0, rejected = 0; };   // scored ones of a pair

// What a step tells of its pairs (P, kPairFigures), whose loss has the weights of `loss`. Pairs that are not finite go into `not_finite`.
StepMetrics pair_metrics(std::span<const double> figures, std::span<const PairTokens> pairs, const PairLoss& loss, double gamma, std::vector<int64_t>& not_finite);

}  // namespace isr
