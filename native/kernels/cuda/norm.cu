// RMSNorm (Zhang & Sennrich 2019) and LayerNorm (Ba et al. 2016), forward and backward. A block reduces one row in one fixed
// order, in f32. Gradients of the weights are summed over chunks of 64 rows, then over the chunks, ascending.
#include "kernels/cuda/cuda_backend.h"

namespace isr::cuda {
namespace {

constexpr int kBlock = 256;
constexpr size_t kShared = sizeof(float) * kBlock / 32;

// y = hat * w + b, hat = (x - mean) * rstd; RMSNorm is the case mean = 0, b = 0.
template <class T, bool kCentred, int N>
__global__ void norm_rows(Rows<T> y, float* mean, float* rstd, Rows<const T> x, const float* w, const float* b, int64_t cols, float eps) {
  float* const scratch = shared_as<float>();
  const int64_t row = blockIdx.x;
  const T* const in = x.row(row);
  float centre = 0;
  if (kCentred) {
    float sum = 0;
    for (int64_t c = threadIdx.x * N; c < cols; c += kBlock * N) {
      const Pack<N> value = load<N>(in + c);
#pragma unroll
      for (int k = 0; k < N; ++k) sum += value.v[k];
    }
    centre = block_sum(sum, scratch) / static_cast<float>(cols);
  }
  float squares = 0;
  for (int64_t c = threadIdx.x * N; c < cols; c += kBlock * N) {
    const Pack<N> value = load<N>(in + c);
#pragma unroll
    for (int k = 0; k < N; ++k) squares += (value.v[k] - centre) * (value.v[k] - centre);
  }
  const float r = 1.0f / sqrtf(block_sum(squares, scratch) / static_cast<float>(cols) + eps);
  if (threadIdx.x == 0) {
    if (mean) mean[row] = centre;
    if (rstd) rstd[row] = r;
  }
  for (int64_t c = threadIdx.x * N; c < cols; c += kBlock * N) {
    Pack<N> value = load<N>(in + c);
    const Pack<N> gain = load<N>(w + c), shift = kCentred ? load<N>(b + c) : Pack<N>{};
#pragma unroll
    for (int k = 0; k < N; ++k) value.v[k] = (value.v[k] - centre) * r * gain.v[k] + shift.v[k];
    store(y.row(row) + c, value);
  }
}

// dx = rstd * (g - mean(g) - hat * mean(g hat)), g = dy * w; without the middle term for RMSNorm.
template <class T, bool kCentred, int N>
__global__ void norm_rows_backward(Rows<T> dx, bool accumulate, Rows<const T> dy, Rows<const T> x, const float* w, const float* mean,
                                   const float* rstd, int64_t cols) {
  float* const scratch = shared_as<float>();
  const int64_t row = blockIdx.x;
  const float centre = kCentred ? mean[row] : 0, r = rstd[row];
  float along = 0, whole = 0;
  for (int64_t c = threadIdx.x * N; c < cols; c += kBlock * N) {
    const Pack<N> g = load<N>(dy.row(row) + c), value = load<N>(x.row(row) + c), gain = load<N>(w + c);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      along += g.v[k] * gain.v[k] * ((value.v[k] - centre) * r);
      whole += g.v[k] * gain.v[k];
    }
  }
  const float slope = block_sum(along, scratch) / static_cast<float>(cols);
  const float shift = kCentred ? block_sum(whole, scratch) / static_cast<float>(cols) : 0;
  for (int64_t c = threadIdx.x * N; c < cols; c += kBlock * N) {
    const Pack<N> g = load<N>(dy.row(row) + c), value = load<N>(x.row(row) + c), gain = load<N>(w + c);
    Pack<N> d = accumulate ? load<N>(dx.row(row) + c) : Pack<N>{};
#pragma unroll
    for (int k = 0; k < N; ++k) d.v[k] += r * (g.v[k] * gain.v[k] - shift - (value.v[k] - centre) * r * slope);
    store(dx.row(row) + c, d);
  }
}

// A thread per column of a chunk of rows.
template <class T, bool kCentred>
__global__ void weight_chunks(float* dw, float* db, Rows<const T> dy, Rows<const T> x, const float* mean, const float* rstd, int64_t rows,
                              int64_t cols) {
  const int64_t c = int64_t{blockIdx.x} * kBlock + threadIdx.x, first = int64_t{blockIdx.y} * kChunkRows;
  if (c >= cols) return;
  const int64_t last = first + kChunkRows < rows ? first + kChunkRows : rows;
  float w = 0, b = 0;
  for (int64_t t = first; t < last; ++t) {
    const float g = to_float(dy.row(t)[c]);
    w += g * ((to_float(x.row(t)[c]) - (kCentred ? mean[t] : 0)) * rstd[t]);
    b += g;
  }
  if (dw) dw[blockIdx.y * cols + c] = w;
  if (db) db[blockIdx.y * cols + c] = b;
}

template <bool kCentred>
void forward(cudaStream_t stream, const char* name, Tensor y, float* mean, float* rstd, Tensor x, const float* w, const float* b, float eps) {
  ISR_ASSERT(y.dtype == x.dtype && y.rows == x.rows && y.cols == x.cols, name, ": y must be like x");
  if (x.rows == 0) return;
  with_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    Packs().and_of(x).and_of(y).and_of(w).and_of(b).with([&](auto n) {
      launch(stream, {name, static_cast<unsigned>(x.rows), kBlock, kShared}, norm_rows<T, kCentred, n.value>, rows_of<T>(y), mean, rstd,
             rows_of<const T>(x), w, b, x.cols, eps);
    });
  });
}

struct Gradients { Tensor dx; bool accumulate; float *dw, *db; bool accumulate_w; };

template <bool kCentred>
void backward(cudaStream_t stream, Arena& scratch, const char* name, const Gradients& to, Tensor dy, Tensor x, const float* w, const float* mean,
              const float* rstd) {
  ISR_ASSERT(dy.dtype == x.dtype && (!to.dx || to.dx.dtype == x.dtype), name, ": one dtype");
  const int64_t chunks = ceil_div(x.rows, kChunkRows);
  if (x.rows > 0)
    with_type(x.dtype, [&](auto type) {
      using T = decltype(type);
      if (!to.dx) return;
      Packs().and_of(x).and_of(dy).and_of(to.dx).and_of(w).with([&](auto n) {
        launch(stream, {name, static_cast<unsigned>(x.rows), kBlock, kShared}, norm_rows_backward<T, kCentred, n.value>, rows_of<T>(to.dx),
               to.accumulate, rows_of<const T>(dy), rows_of<const T>(x), w, mean, rstd, x.cols);
      });
    });
  if (!to.dw && !to.db) return;
  const ArenaScope scope(scratch);
  float* const dw = to.dw ? scratch.allocate_n<float>(chunks * x.cols) : nullptr;
  float* const db = to.db ? scratch.allocate_n<float>(chunks * x.cols) : nullptr;
  const unsigned columns = ceil_div(x.cols, kBlock);
  if (x.rows > 0)
    with_type(x.dtype, [&](auto type) {
      using T = decltype(type);
      launch(stream, {name, {columns, static_cast<unsigned>(chunks)}, kBlock}, weight_chunks<T, kCentred>, dw, db, rows_of<const T>(dy),
             rows_of<const T>(x), mean, rstd, x.rows, x.cols);
    });
  if (dw) add_chunks(stream, to.dw, dw, chunks, x.cols, to.accumulate_w);
  if (db) add_chunks(stream, to.db, db, chunks, x.cols, to.accumulate_w);
}

}  // namespace

void CudaBackend::rms_norm_forward(Tensor y, float* rstd, Tensor x, const float* w, float eps) {
  forward<false>(stream(), "rms_norm_forward", y, nullptr, rstd, x, w, nullptr, eps);
}
void CudaBackend::rms_norm_backward(Tensor dx, bool accumulate, float* dw, bool accumulate_w, Tensor dy, Tensor x, const float* w,
                                    const float* rstd) {
  backward<false>(stream(), scratch_, "rms_norm_backward", {dx, accumulate, dw, nullptr, accumulate_w}, dy, x, w, nullptr, rstd);
}
void CudaBackend::layer_norm_forward(Tensor y, float* mean, float* rstd, Tensor x, const float* w, const float* b, float eps) {
  forward<true>(stream(), "layer_norm_forward", y, mean, rstd, x, w, b, eps);
}
void CudaBackend::layer_norm_backward(Tensor dx, bool accumulate, float* dw, float* db, bool accumulate_w, Tensor dy, Tensor x, const float* w,
                                      const float* mean, const float* rstd) {
  backward<true>(stream(), scratch_, "layer_norm_backward", {dx, accumulate, dw, db, accumulate_w}, dy, x, w, mean, rstd);
}

}  // namespace isr::cuda
