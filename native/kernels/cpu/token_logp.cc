// The head: log-probabilities of given tokens without ever storing logits whole. The vocabulary goes by in chunks of 4,096:
// forward keeps a running maximum and sum a row (online softmax, Milakov & Gimelshein 2018), backward recomputes a chunk's
// logits and turns them, in place, into their gradient, which goes into two products.
// Logits are f32. Their gradient is rounded once, to x's type, for the products. With bf16, dx is summed over chunks in f32.
#include <cmath>

#include "kernels/cpu/gemm.h"

namespace isr::cpu::ISR_NS {
namespace {

constexpr int64_t kChunk = 4096;  // a multiple of kPanel; fixed, so that a row's result is a function of the row alone
static_assert(kChunk % kPanel == 0);

struct Online {         // over the chunks seen so far
  float top;            // largest logit
  float target;         // the target's logit
  double sum;           // of e^(logit - top)
};

void update(Online& o, const float* logits, int64_t n, int64_t target) {
  vf m = splat(-__builtin_inff());
  for_lanes(n, [&](int64_t c, auto lanes) { m = max(keep_at(load_at(logits + c, lanes), lanes, m), m); });
  const float top = max_of(m) > o.top ? max_of(m) : o.top;
  vf s = zero();
  for_lanes(n, [&](int64_t c, auto lanes) { s += keep_at(expv(load_at(logits + c, lanes) - splat(top)), lanes); });
  o.sum = o.sum * std::exp(static_cast<double>(o.top) - top) + sum(s);
  o.top = top;
  if (target >= 0 && target < n) o.target = logits[target];
}

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

void CpuBackend::token_logp_forward(float* logp, float* lse, Tensor x, const Packed& head, std::span<const int32_t> targets) {
  const int64_t R = x.rows, V = head.n;
  ISR_ASSERT(static_cast<int64_t>(targets.size()) == R, "token_logp: ", targets.size(), " targets for ", R, " rows");
  for (const int32_t t : targets) ISR_ASSERT(t >= 0 && t < V, "token_logp: target ", t, " of ", V);
  ArenaScope scope(scratch);
  Online* const online = scratch.allocate_n<Online>(R);
  for (int64_t r = 0; r < R; ++r) online[r] = {-__builtin_inff(), 0, 0};
  float* const buffer = scratch.allocate_n<float>(R * (V < kChunk ? V : kChunk));
  for (int64_t n0 = 0; n0 < V; n0 += kChunk) {
    const int64_t n = V - n0 < kChunk ? V - n0 : kChunk;
    const Tensor logits = view(buffer, R, n);
    gemm_nt(logits, x, panel_range(head, n0, n), {});
    parallel(threads, R, row_grain(threads, R, n), [&](int64_t begin, int64_t end, int) {
      for (int64_t r = begin; r < end; ++r)
        update(online[r], row_of<float>(logits, r), n, targets[static_cast<size_t>(r)] - n0);
    });
  }
  for (int64_t r = 0; r < R; ++r) {
    const double log_sum = std::log(online[r].sum);
    lse[r] = static_cast<float>(online[r].top + log_sum);
    logp[r] = static_cast<float>(static_cast<double>(online[r].target) - online[r].top - log_sum);
  }
}

void CpuBackend::token_logp_backward(Tensor dx, bool accumulate, float* dw, bool accumulate_w, const float* dlogp, Tensor x,
                                     const Packed& head, const WeightRows& head_rows, std::span<const int32_t> targets,
                                     const float* lse) {
  const int64_t R = x.rows, C = x.cols, V = head.n;
  ISR_ASSERT(static_cast<int64_t>(targets.size()) == R && head_rows.rows == V && head_rows.k == C, "token_logp: ",
             targets.size(), " targets for ", R, " rows; head (", head_rows.rows, ", ", head_rows.k, ")");
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
                             targets[static_cast<size_t>(r)] - n0, dlogp[r], lse[r]);
      });
    });
    const char* const rows = static_cast<const char*>(head_rows.data) + n0 * C * static_cast<int64_t>(size_of(head_rows.dtype));
    const WeightRows weights = {rows, head_rows.dtype, n, C};
    gemm_nn(part, direct && (accumulate || n0 > 0), gradient, {&weights, 1});
    if (!direct) add(total, n0 > 0, part);
    if (!dw) continue;
    const GradPart to = {dw + n0 * C, nullptr, n, accumulate_w, false};
    gemm_tn({&to, 1}, gradient, x);
  }
  if (!direct) add(dx, accumulate, total);
}

}  // namespace isr::cpu::ISR_NS
