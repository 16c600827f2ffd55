// The head: log-probabilities of given tokens without ever storing logits whole. The vocabulary goes by in chunks of 4,096:
// forward keeps a running maximum and sum a row (log_sum.h), backward recomputes a chunk's
// logits and turns them, in place, into their gradient, which goes into two products.
// Logits are f32. Their gradient is rounded once, to x's type, for the products. With bf16, dx is summed over chunks in f32.
#include <cmath>

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/log_sum.h"

namespace isr::cpu::ISR_NS {
namespace {

constexpr int64_t kChunk = kVocabChunk;
static_assert(kChunk % kPanel == 0);

// d(logp of target)/d(logit) = onehot - softmax. d may overlay logits: a vector is read before it is written.
template <class T>
void logits_to_gradient(T* d, const float* logits, int64_t n, int64_t target, float dlogp, float lse) {
  const bool here = target >= 0 && target < n;
  const float at_target = here ? logits[target] : 0;
  for_lanes(n, [&](int64_t c, auto lanes) {
    store_at(d + c, splat(-dlogp) * expv(load_at(logits + c, lanes) - splat(lse)), lanes);
  });
  if (here) store_n(d + target, splat(dlogp) * (splat(1.0f) - expv(splat(at_target - lse))), 1);
}

}  // namespace

void CpuBackend::token_logp_forward(float* logp, float* lse, Tensor x, const Matrix& matrix, Ints targets) {
  const Packed& head = packed_of(matrix);
  const int64_t R = x.rows, V = head.n;
  ISR_ASSERT(targets.n == R, "token_logp: ", targets.n, " targets for ", R, " rows");
  for (int64_t r = 0; r < R; ++r) ISR_ASSERT(targets.data[r] >= 0 && targets.data[r] < V, "token_logp: target ", targets.data[r], " of ", V);
  ArenaScope scope(scratch);
  Online* const online = scratch.allocate_n<Online>(R);
  for (int64_t r = 0; r < R; ++r) online[r] = {};
  float* const buffer = scratch.allocate_n<float>(R * (V < kChunk ? V : kChunk));
  for (int64_t n0 = 0; n0 < V; n0 += kChunk) {
    const int64_t n = V - n0 < kChunk ? V - n0 : kChunk;
    const Tensor logits = view(buffer, R, n);
    gemm_nt(logits, x, panel_range(head, n0, n), {});
    parallel(threads, R, row_grain(threads, R, n), [&](int64_t begin, int64_t end, int) {
      for (int64_t r = begin; r < end; ++r)
        update(online[r], row_of<float>(logits, r), n, targets.data[r] - n0);
    });
  }
  for (int64_t r = 0; r < R; ++r) {
    lse[r] = static_cast<float>(online[r].top + std::log(online[r].sum));
    logp[r] = online[r].log_prob();
  }
}

void CpuBackend::token_logp_backward(Tensor dx, bool accumulate, float* dw, bool accumulate_w, const float* dlogp, Tensor x,
                                     const Matrix& matrix, Tensor head_rows, Ints targets,
                                     const float* lse) {
  const Packed& head = packed_of(matrix);
  const int64_t R = x.rows, C = x.cols, V = head.n;
  ISR_ASSERT(targets.n == R && head_rows.rows == V && head_rows.cols == C, "token_logp: ", targets.n, " targets for ", R,
             " rows; head (", head_rows.rows, ", ", head_rows.cols, ")");
  const bool direct = dx.dtype == DType::F32;
  const int64_t width = V < kChunk ? V : kChunk;
  ArenaScope scope(scratch);
  float* const buffer = scratch.allocate_n<float>(R * width);
  const Tensor total = direct ? dx : view(scratch.allocate_n<float>(R * C), R, C);
  const Tensor part = direct ? dx : view(scratch.allocate_n<uint16_t>(R * C), R, C);
  for (int64_t n0 = 0; n0 < V; n0 += width) {
    const int64_t n = V - n0 < width ? V - n0 : width;
    const Tensor logits = {buffer, R, n, width, DType::F32, -1};
    gemm_nt(logits, x, panel_range(head, n0, n), {});
    const Tensor gradient = {buffer, R, n, width * 4 / static_cast<int64_t>(size_of(x.dtype)), x.dtype, -1};
    with_type(x.dtype, [&](auto type) {
      parallel(threads, R, row_grain(threads, R, n), [&](int64_t begin, int64_t end, int) {
        for (int64_t r = begin; r < end; ++r)
          logits_to_gradient(row_of<decltype(type)>(gradient, r), row_of<float>(logits, r), n,
                             targets.data[r] - n0, dlogp[r], lse[r]);
      });
    });
    const Tensor weights = head_rows.row_range(n0, n);
    gemm_nn(part, direct && (accumulate || n0 > 0), gradient, {&weights, 1});
    if (!direct) add(total, n0 > 0, part);
    if (!dw) continue;
    const GradPart to = {dw + n0 * C, nullptr, n, accumulate_w, false};
    gemm_tn({&to, 1}, gradient, x);
  }
  if (!direct) add(dx, accumulate, total);
}

}  // namespace isr::cpu::ISR_NS
