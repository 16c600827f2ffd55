// The optimizer's passes over a flat group: AdamW (Loshchilov & Hutter 2019, the order of operations of PyTorch's
// torch.optim.AdamW) and the sum of squares behind the gradient norm. Both run at the speed of memory.
#include <cmath>

#include "kernels/cpu/simd.h"

namespace isr::cpu::ISR_NS {
namespace {

typedef float half_vf __attribute__((vector_size(2 * kLanes)));
typedef double vd __attribute__((vector_size(4 * kLanes)));  // kLanes / 2 doubles

constexpr int64_t kChunk = 4096;

inline vd load_double(const float* p) {
  half_vf v;
  std::memcpy(&v, p, sizeof v);
  return __builtin_convertvector(v, vd);
}

double chunk_sum_squares(const float* x, int64_t n) {
  constexpr int64_t kHalf = kLanes / 2;
  vd a = {}, b = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const vd u = load_double(x + i), v = load_double(x + i + kHalf);
    a += u * u;
    b += v * v;
  }
  a += b;
  double total = 0;
  for (int64_t k = 0; k < kHalf; ++k) total += a[k];
  for (; i < n; ++i) total += static_cast<double>(x[i]) * x[i];
  return total;
}

}  // namespace

void CpuBackend::adamw(float* master, float* m, float* v, const float* grad, int64_t n, const AdamW& o) {
  const double correction1 = 1 - std::pow(static_cast<double>(o.beta1), static_cast<double>(o.step));
  const double correction2 = 1 - std::pow(static_cast<double>(o.beta2), static_cast<double>(o.step));
  const vf decay = splat(static_cast<float>(1 - static_cast<double>(o.lr) * o.weight_decay));
  const vf step = splat(static_cast<float>(-o.lr / correction1));
  const vf root = splat(static_cast<float>(1 / std::sqrt(correction2)));
  const vf b1 = splat(o.beta1), b2 = splat(o.beta2), eps = splat(o.eps), scale = splat(o.grad_scale);
  const vf c1 = splat(static_cast<float>(1 - static_cast<double>(o.beta1)));
  const vf c2 = splat(static_cast<float>(1 - static_cast<double>(o.beta2)));
  for_lanes(n, [&](int64_t i, auto lanes) {
    const vf g = load_at(grad + i, lanes) * scale;
    const vf first = fma(b1, load_at(m + i, lanes), c1 * g);
    const vf second = fma(b2, load_at(v + i, lanes), c2 * g * g);
    const vf change = step * first / fma(sqrtv(second), root, eps);
    store_at(m + i, first, lanes);
    store_at(v + i, second, lanes);
    store_at(master + i, fma(load_at(master + i, lanes), decay, change), lanes);
  });
}

double CpuBackend::sum_squares(const float* x, int64_t n) {
  const int64_t chunks = (n + kChunk - 1) / kChunk;
  ArenaScope scope(scratch);
  double* const partial = scratch.allocate_n<double>(chunks);
  parallel(threads, chunks, row_grain(threads, chunks, kChunk), [&](int64_t begin, int64_t end, int) {
    for (int64_t k = begin; k < end; ++k)
      partial[k] = chunk_sum_squares(x + k * kChunk, n - k * kChunk < kChunk ? n - k * kChunk : kChunk);
  });
  double total = 0;
  for (int64_t k = 0; k < chunks; ++k) total += partial[k];
  return total;
}

}  // namespace isr::cpu::ISR_NS
