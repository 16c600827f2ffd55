// RMSNorm (Zhang & Sennrich 2019) and LayerNorm (Ba et al. 2016), forward and backward. A block reduces one row in one fixed
// order, in f32. Gradients of the weights are summed over chunks of 64 rows, then over the chunks, ascending.
#include "kernels/cuda/cuda_backend.h"

namespace isr::cuda {
namespace {

constexpr int kWide = 256, kWarp = 32;      // threads of a row
constexpr int64_t kWarpColumns = 512;       // rows up to here have a warp
constexpr size_t kShared = sizeof(float) * kWide / 32;

// Head r % heads of row r / heads, of rows that are cut into heads of `cols` columns.
template <class T>
struct Heads {
  Rows<T> rows;
  int64_t heads, cols;
  __device__ T* at(int64_t r) const { return rows.row(r / heads) + r % heads * cols; }
};

// y = hat * w + b, hat = (x - mean) * rstd; RMSNorm is the case mean = 0, b = 0.
template <class T, bool kCentred, int kBlock, int N>
__global__ void norm_rows(Heads<T> y, float* mean, float* rstd, Heads<const T> x, const float* w, const float* b, float eps) {
  float* const scratch = shared_as<float>();
  const int64_t row = blockIdx.x, cols = x.cols;
  const T* const in = x.at(row);
  T* const out = y.at(row);
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
    store(out + c, value);
  }
}

// dx = rstd * (g - mean(g) - hat * mean(g hat)), g = dy * w; without the middle term for RMSNorm.
template <class T, bool kCentred, int kBlock, int N>
__global__ void norm_rows_backward(Heads<T> dx, bool accumulate, Heads<const T> dy, Heads<const T> x, const float* w, const float* mean,
                                   const float* rstd) {
  float* const scratch = shared_as<float>();
  const int64_t row = blockIdx.x, cols = x.cols;
  const T *const in = x.at(row), *const from = dy.at(row);
  T* const out = dx.at(row);
  const float centre = kCentred ? mean[row] : 0, r = rstd[row];
  float along = 0, whole = 0;
  for (int64_t c = threadIdx.x * N; c < cols; c += kBlock * N) {
    const Pack<N> g = load<N>(from + c), value = load<N>(in + c), gain = load<N>(w + c);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      along += g.v[k] * gain.v[k] * ((value.v[k] - centre) * r);
      whole += g.v[k] * gain.v[k];
    }
  }
  const float slope = block_sum(along, scratch) / static_cast<float>(cols);
  const float shift = kCentred ? block_sum(whole, scratch) / static_cast<float>(cols) : 0;
  for (int64_t c = threadIdx.x * N; c < cols; c += kBlock * N) {
    const Pack<N> g = load<N>(from + c), value = load<N>(in + c), gain = load<N>(w + c);
    Pack<N> d = accumulate ? load<N>(out + c) : Pack<N>{};
#pragma unroll
    for (int k = 0; k < N; ++k) d.v[k] += r * (g.v[k] * gain.v[k] - shift - (value.v[k] - centre) * r * slope);
    store(out + c, d);
  }
}

// A thread per column of a chunk of rows.
template <class T, bool kCentred>
__global__ void weight_chunks(float* dw, float* db, Heads<const T> dy, Heads<const T> x, const float* mean, const float* rstd, int64_t rows) {
  const int64_t cols = x.cols, c = int64_t{blockIdx.x} * kWide + threadIdx.x, first = int64_t{blockIdx.y} * kChunkRows;
  if (c >= cols) return;
  const int64_t last = first + kChunkRows < rows ? first + kChunkRows : rows;
  float w = 0, b = 0;
  for (int64_t t = first; t < last; ++t) {
    const float g = to_float(dy.at(t)[c]);
    w += g * ((to_float(x.at(t)[c]) - (kCentred ? mean[t] : 0)) * rstd[t]);
    b += g;
  }
  if (dw) dw[blockIdx.y * cols + c] = w;
  if (db) db[blockIdx.y * cols + c] = b;
}

// f(block): as many threads as rows of so many columns keep busy.
template <class F>
void with_block(int64_t cols, F&& f) {
  if (cols <= kWarpColumns) f(std::integral_constant<int, kWarp>());
  else f(std::integral_constant<int, kWide>());
}

template <bool kCentred>
void forward(cudaStream_t stream, const char* name, Tensor y, float* mean, float* rstd, Tensor x, Flat w, const float* b, float eps) {
  ISR_ASSERT(y.dtype == x.dtype && y.rows == x.rows && y.cols == x.cols && x.cols % w.n == 0, name, ": y must be like x, of heads of ", w.n, " columns");
  if (x.rows == 0) return;
  const int64_t heads = x.cols / w.n;
  with_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    Packs().and_of(x, w.n).and_of(y, w.n).and_of(w.data).and_of(b).with([&](auto n) {
      with_block(w.n, [&](auto block) {
        launch(stream, {name, static_cast<unsigned>(x.rows * heads), block.value, kShared}, norm_rows<T, kCentred, block.value, n.value>,
               Heads<T>{rows_of<T>(y), heads, w.n}, mean, rstd, Heads<const T>{rows_of<const T>(x), heads, w.n}, w.data, b, eps);
      });
    });
  });
}

struct Gradients { Tensor dx; bool accumulate; float *dw, *db; bool accumulate_w; };
struct Saved { const float *mean, *rstd; };

template <bool kCentred>
void weight_gradients(cudaStream_t stream, Arena& scratch, const char* name, const Gradients& to, Tensor dy, Tensor x, int64_t cols, const Saved& saved) {
  if (!to.dw && !to.db) return;
  const int64_t heads = x.cols / cols, rows = x.rows * heads, chunks = ceil_div(rows, kChunkRows);
  const ArenaScope scope(scratch);
  float* const dw = to.dw ? scratch.allocate_n<float>(chunks * cols) : nullptr;
  float* const db = to.db ? scratch.allocate_n<float>(chunks * cols) : nullptr;
  const unsigned columns = ceil_div(cols, kWide);
  if (rows > 0)
    with_type(x.dtype, [&](auto type) {
      using T = decltype(type);
      launch(stream, {name, {columns, static_cast<unsigned>(chunks)}, kWide}, weight_chunks<T, kCentred>, dw, db,
             Heads<const T>{rows_of<const T>(dy), heads, cols}, Heads<const T>{rows_of<const T>(x), heads, cols}, saved.mean, saved.rstd, rows);
    });
  if (dw) add_chunks(stream, to.dw, dw, chunks, cols, to.accumulate_w);
  if (db) add_chunks(stream, to.db, db, chunks, cols, to.accumulate_w);
}

// Gradients of the weights first: dx may be dy.
template <bool kCentred>
void backward(cudaStream_t stream, Arena& scratch, const char* name, const Gradients& to, Tensor dy, Tensor x, Flat w, const Saved& saved) {
  ISR_ASSERT(dy.dtype == x.dtype && (!to.dx || to.dx.dtype == x.dtype) && x.cols % w.n == 0, name, ": one dtype, heads of ", w.n, " columns");
  weight_gradients<kCentred>(stream, scratch, name, to, dy, x, w.n, saved);
  if (x.rows == 0 || !to.dx) return;
  const int64_t heads = x.cols / w.n;
  with_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    Packs().and_of(x, w.n).and_of(dy, w.n).and_of(to.dx, w.n).and_of(w.data).with([&](auto n) {
      with_block(w.n, [&](auto block) {
        launch(stream, {name, static_cast<unsigned>(x.rows * heads), block.value, kShared}, norm_rows_backward<T, kCentred, block.value, n.value>,
               Heads<T>{rows_of<T>(to.dx), heads, w.n}, to.accumulate, Heads<const T>{rows_of<const T>(dy), heads, w.n},
               Heads<const T>{rows_of<const T>(x), heads, w.n}, w.data, saved.mean, saved.rstd);
      });
    });
  });
}

}  // namespace

void CudaBackend::rms_norm_forward(Tensor y, float* rstd, Tensor x, Flat w, float eps) {
  forward<false>(stream(), "rms_norm_forward", y, nullptr, rstd, x, w, nullptr, eps);
}
void CudaBackend::rms_norm_backward(Tensor dx, bool accumulate, float* dw, bool accumulate_w, Tensor dy, Tensor x, Flat w, const float* rstd) {
  backward<false>(stream(), scratch_, "rms_norm_backward", {dx, accumulate, dw, nullptr, accumulate_w}, dy, x, w, {nullptr, rstd});
}
void CudaBackend::layer_norm_forward(Tensor y, float* mean, float* rstd, Tensor x, const float* w, const float* b, float eps) {
  forward<true>(stream(), "layer_norm_forward", y, mean, rstd, x, {w, x.cols}, b, eps);
}
void CudaBackend::layer_norm_backward(Tensor dx, bool accumulate, float* dw, float* db, bool accumulate_w, Tensor dy, Tensor x, const float* w,
                                      const float* mean, const float* rstd) {
  backward<true>(stream(), scratch_, "layer_norm_backward", {dx, accumulate, dw, db, accumulate_w}, dy, x, {w, x.cols}, {mean, rstd});
}

}  // namespace isr::cuda
