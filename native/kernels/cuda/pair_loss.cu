// From per-token log-probs and stored references to losses, rewards and the gradient of every log-prob, one block a pair: a training
// step needs nothing of the host between its forward and its backward pass.
#include "kernels/cuda/cuda_backend.h"
#include "kernels/pair_formulas.h"

namespace isr::cuda {
namespace {

constexpr int kBlock = 128;

struct SideSums { double policy, reference, plain, plain_reference, not_finite; };

// The same in every thread: each adds every kBlock-th token, then the block adds up.
__device__ SideSums sums_of(const float* logp, const float* reference, int64_t tokens, int64_t other, const PairLoss& o, double* scratch) {
  SideSums s{};
  for (int64_t t = threadIdx.x; t < tokens; t += kBlock) {
    const double w = token_weight(o, t, tokens, other), x = logp[t], y = reference[t];
    s.policy += w * x;
    s.reference += w * y;
    s.plain += x;
    s.plain_reference += y;
    s.not_finite += pair_finite(x) ? 0 : 1;
  }
  return {block_sum(s.policy, scratch), block_sum(s.reference, scratch), block_sum(s.plain, scratch), block_sum(s.plain_reference, scratch),
          block_sum(s.not_finite, scratch)};
}

__global__ void __launch_bounds__(kBlock) pair_losses(float* dlogp, double* figures, const float* logp, const float* reference, const int32_t* sides, PairLoss o) {
  double* const scratch = shared_as<double>();
  const int64_t begin = sides[2 * blockIdx.x], middle = sides[2 * blockIdx.x + 1], end = sides[2 * blockIdx.x + 2];
  const int64_t chosen = middle - begin, rejected = end - middle;
  const SideSums c = sums_of(logp + begin, reference + begin, chosen, rejected, o, scratch);
  const SideSums r = sums_of(logp + middle, reference + middle, rejected, chosen, o, scratch);
  const PairPoint p = pair_point(o, c.policy - c.reference, r.policy - r.reference);
  for (int64_t t = threadIdx.x; t < chosen; t += kBlock)
    dlogp[begin + t] = static_cast<float>(p.dc * o.per_pair * token_weight(o, t, chosen, rejected)) - static_cast<float>(o.per_chosen);
  for (int64_t t = threadIdx.x; t < rejected; t += kBlock) dlogp[middle + t] = static_cast<float>(p.dr * o.per_pair * token_weight(o, t, rejected, chosen));
  if (threadIdx.x > 0) return;
  double* const f = figures + int64_t{blockIdx.x} * kPairFigures;
  f[kLoss] = p.loss;
  f[kChosenReward] = o.beta * (c.plain - c.plain_reference);
  f[kRejectedReward] = o.beta * (r.plain - r.plain_reference);
  f[kChosenLogp] = c.plain;
  f[kRejectedLogp] = r.plain;
  f[kNotFinite] = c.not_finite + r.not_finite > 0 || !pair_finite(f[kChosenReward] - f[kRejectedReward]) ? 1 : 0;
}

}  // namespace

void CudaBackend::pair_loss(float* dlogp, double* figures, const float* logp, const float* reference, Ints sides, const PairLoss& o) {
  const int64_t pairs = sides.n / 2;
  if (pairs == 0) return;
  launch(stream(), {"pair_loss", static_cast<unsigned>(pairs), kBlock, sizeof(double) * kBlock / 32}, pair_losses, dlogp, figures, logp, reference, sides.data, o);
}

}  // namespace isr::cuda
