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

// position(t, pair): of row t, as that pair reads it.
template <class F>
void fill_table(const Crew& threads, float* table, int64_t rows, const RopeFrequencies& f, F&& position) {
  const auto half = static_cast<int64_t>(f.inverse.size());
  parallel(threads, rows, row_grain(threads, rows, 16 * half), [&](int64_t begin, int64_t end, int) {
    float* p = table + begin * 2 * half;
    for (int64_t t = begin; t < end; ++t)
      for (size_t i = 0; i < f.inverse.size(); ++i) {
        const double angle = position(t, i) * f.inverse[i];
        *p++ = static_cast<float>(std::cos(angle) * f.factor);
        *p++ = static_cast<float>(std::sin(angle) * f.factor);
      }
  });
}

}  // namespace

void CpuBackend::rope_table(float* table, Ints positions, const RopeFrequencies& f) {
  ISR_ASSERT(f.axes > 0 && positions.n % f.axes == 0 && (f.axes == 1 || f.axis.size() == f.inverse.size()), "rope_table: ", positions.n,
             " positions over ", f.axes, " axes, ", f.axis.size(), " of ", f.inverse.size(), " pairs have an axis");
  for (const int32_t axis : f.axis) ISR_ASSERT(f.axes == 1 || (axis >= 0 && axis < f.axes), "rope_table: axis ", axis, " of ", f.axes);
  const int64_t rows = positions.n / f.axes;
  if (f.axes == 1) return fill_table(threads, table, rows, f, [&](int64_t t, size_t) { return positions.data[t]; });
  fill_table(threads, table, rows, f, [&](int64_t t, size_t pair) { return positions.data[f.axis[pair] * rows + t]; });
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
