// Rotary position embedding (Su et al. 2021), halves paired: (x_i, x_{i + D/2}) turns by the angle of pair i. The inverse turns
// back (the transpose), which is also the backward. Angles, cos and sin are float64.
#include "kernels/cuda/cuda_backend.h"

namespace isr::cuda {
namespace {

constexpr int kBlock = 256, kMaxPairs = 128;

struct Turns {                  // by value: a few hundred bytes that no copy has to carry
  double inverse[kMaxPairs];
  uint8_t axis[kMaxPairs];
};

__global__ void fill_table(float* table, const int32_t* positions, Turns turns, double factor, int64_t half, int64_t rows) {
  const int64_t i = int64_t{blockIdx.x} * kBlock + threadIdx.x;
  if (i >= rows * half) return;
  const int64_t row = i / half, pair = i % half;
  const double angle = positions[turns.axis[pair] * rows + row] * turns.inverse[pair];
  table[2 * i] = static_cast<float>(cos(angle) * factor);
  table[2 * i + 1] = static_cast<float>(sin(angle) * factor);
}

template <class T, int N>
__global__ void turn_rows(Rows<T> x, const float* table, int64_t heads, int64_t half, int64_t packs, int64_t total, float direction) {
  const int64_t i = int64_t{blockIdx.x} * kBlock + threadIdx.x;   // a pack of pairs of a head of a row
  if (i >= total) return;
  const int64_t first = i % packs * N, head = i / packs % heads, row = i / (packs * heads);
  T *const low = x.row(row) + head * 2 * half + first, *const high = low + half;
  const float* const angles = table + 2 * (row * half + first);
  Pack<N> a = load<N>(low), b = load<N>(high);
#pragma unroll
  for (int k = 0; k < N; ++k) {
    const float cosine = angles[2 * k], sine = direction * angles[2 * k + 1], before = a.v[k];
    a.v[k] = before * cosine - b.v[k] * sine;
    b.v[k] = b.v[k] * cosine + before * sine;
  }
  store(low, a);
  store(high, b);
}

}  // namespace

void CudaBackend::rope_table(float* table, Ints positions, const RopeFrequencies& f) {
  const size_t half = f.inverse.size();
  ISR_ASSERT(f.axes > 0 && positions.n % f.axes == 0 && (f.axes == 1 || f.axis.size() == half) && half <= kMaxPairs, "rope_table: ", positions.n,
             " positions over ", f.axes, " axes, ", f.axis.size(), " of ", half, " pairs have an axis");
  Turns turns{};
  for (size_t i = 0; i < half; ++i) {
    const int32_t axis = f.axes == 1 ? 0 : f.axis[i];
    ISR_ASSERT(axis >= 0 && axis < f.axes, "rope_table: axis ", axis, " of ", f.axes);
    turns.inverse[i] = f.inverse[i];
    turns.axis[i] = static_cast<uint8_t>(axis);
  }
  const int64_t rows = positions.n / f.axes, total = rows * static_cast<int64_t>(half);
  if (total == 0) return;
  launch(stream(), {"rope_table", ceil_div(total, kBlock), kBlock}, fill_table, table, positions.data, turns, f.factor, static_cast<int64_t>(half), rows);
}

void CudaBackend::rope(Tensor x, const float* table, int64_t heads, int64_t head_size, bool inverse) {
  ISR_ASSERT(head_size % 2 == 0 && x.cols == heads * head_size, "rope: x is (T, heads * D), D even; cols ", x.cols, ", heads ", heads, ", D ", head_size);
  const int64_t half = head_size / 2;
  if (x.rows * x.cols == 0) return;
  with_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    Packs().and_of(x, half).with([&](auto n) {
      const int64_t packs = half / n.value, total = x.rows * heads * packs;
      launch(stream(), {"rope", ceil_div(total, kBlock), kBlock}, turn_rows<T, n.value>, rows_of<T>(x), table, heads, half, packs, total,
             inverse ? -1.0f : 1.0f);
    });
  });
}

}  // namespace isr::cuda
