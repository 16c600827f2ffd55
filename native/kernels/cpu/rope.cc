// Rotary position embedding (Su et al. 2021), halves paired: (x_i, x_{i + D/2}) turns by the angle of pair i.
// The inverse turns back (the transpose), which is also the backward. Every value is rounded once.
#include <cmath>

#include "kernels/cpu/simd.h"

namespace isr::cpu::ISR_NS {
namespace {

constexpr int64_t kPairs = 64;  // pairs of a row whose cos and sin are split at a time, for all heads

template <class T>
void rope_row(T* x, const float* table, int64_t heads, int64_t half, bool inverse) {
  float cosine[kPairs], sine[kPairs];
  const float direction = inverse ? -1.0f : 1.0f;
  for (int64_t first = 0; first < half; first += kPairs) {
    const int64_t count = half - first < kPairs ? half - first : kPairs;
    for (int64_t i = 0; i < count; ++i) {
      cosine[i] = table[2 * (first + i)];
      sine[i] = direction * table[2 * (first + i) + 1];
    }
    for (int64_t h = 0; h < heads; ++h) {
      T *const low = x + h * 2 * half + first, *const high = low + half;
      for_lanes(count, [&](int64_t i, auto lanes) {
        const vf a = load_at(low + i, lanes), b = load_at(high + i, lanes);
        const vf c = load_at(cosine + i, lanes), s = load_at(sine + i, lanes);
        store_at(low + i, fma(a, c, -(b * s)), lanes);
        store_at(high + i, fma(b, c, a * s), lanes);
      });
    }
  }
}

}  // namespace

void CpuBackend::rope_table(float* table, Ints positions, const RopeFrequencies& f) {
  const auto half = static_cast<int64_t>(f.inverse.size());
  parallel(threads, positions.n, row_grain(threads, positions.n, 16 * half), [&](int64_t begin, int64_t end, int) {
    float* p = table + begin * 2 * half;
    for (int64_t t = begin; t < end; ++t)
      for (int64_t i = 0; i < half; ++i) {
        const double angle = positions.data[t] * f.inverse[static_cast<size_t>(i)];
        *p++ = static_cast<float>(std::cos(angle) * f.factor);
        *p++ = static_cast<float>(std::sin(angle) * f.factor);
      }
  });
}

void CpuBackend::rope(Tensor x, const float* table, int64_t heads, int64_t head_size, bool inverse) {
  ISR_ASSERT(head_size % 2 == 0 && x.cols == heads * head_size, "rope: x is (T, heads * D), D even; cols ", x.cols, ", heads ",
             heads, ", D ", head_size);
  with_type(x.dtype, [&](auto type) {
    using E = decltype(type);
    parallel(threads, x.rows, row_grain(threads, x.rows, x.cols), [&](int64_t begin, int64_t end, int) {
      for (int64_t t = begin; t < end; ++t) rope_row(row_of<E>(x, t), table + t * head_size, heads, head_size / 2, inverse);
    });
  });
}

}  // namespace isr::cpu::ISR_NS
