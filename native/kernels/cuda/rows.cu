// Moving rows: add and cast, gather, pooling, embedding lookup and its gradient, patches. A value is rounded at most once, at its
// store. A thread owns a pack of neighbouring values of one row.
#include "kernels/cuda/cuda_backend.h"

namespace isr::cuda {
namespace {

constexpr int kBlock = 256;

// y[i] (+)= x[index[i]], or x[i] without an index; -1 is a row of zeros.
template <class Y, class X, int N>
__global__ void move_rows(Rows<Y> y, Rows<const X> x, const int32_t* index, int64_t packs, int64_t total, bool accumulate) {
  const int64_t i = int64_t{blockIdx.x} * kBlock + threadIdx.x;
  if (i >= total) return;
  const int64_t row = i / packs, col = i % packs * N;
  const int64_t from = index ? index[row] : row;
  Y* const to = y.row(row) + col;
  if (from < 0) {
    if (!accumulate) store(to, Pack<N>{});
    return;
  }
  Pack<N> value = load<N>(x.row(from) + col);
  if (accumulate) value += load<N>(to);
  store(to, value);
}

void move(cudaStream_t stream, const char* name, Tensor y, bool accumulate, Tensor x, const int32_t* index) {
  if (y.rows * y.cols == 0) return;
  with_type(y.dtype, [&](auto to) {
    with_type(x.dtype, [&](auto from) {
      using Y = decltype(to);
      using X = decltype(from);
      Packs().and_of(y).and_of(x, y.cols).with([&](auto n) {
        const int64_t packs = y.cols / n.value, total = y.rows * packs;
        launch(stream, {name, ceil_div(total, kBlock), kBlock}, move_rows<Y, X, n.value>, rows_of<Y>(y), rows_of<const X>(x), index, packs,
               total, accumulate);
      });
    });
  });
}

template <class T, int N>
__global__ void pool(Rows<T> y, Rows<const T> x, const int32_t* index, int64_t n, float scale, int64_t packs, int64_t total, bool accumulate) {
  const int64_t i = int64_t{blockIdx.x} * kBlock + threadIdx.x;
  if (i >= total) return;
  const int64_t row = i / packs, col = i % packs * N;
  Pack<N> sum{};
  for (int64_t j = 0; j < n; ++j) {
    const int64_t from = index ? index[row * n + j] : row;
    if (from >= 0) sum += load<N>(x.row(from) + col);
  }
  T* const to = y.row(row) + col;
#pragma unroll
  for (int k = 0; k < N; ++k) sum.v[k] *= scale;
  if (accumulate) sum += load<N>(to);
  store(to, sum);
}

// A block per token. The first token of an id adds the rows of all its tokens, in ascending order; the others do nothing. So no
// two blocks meet, and ids need no sorting: reading all of them once per token costs far less than the rows.
template <class T>
__global__ void scatter_rows(float* dw, Rows<const T> dy, const int32_t* ids, int64_t tokens, int64_t cols) {
  int32_t* const found = shared_as<int32_t>();   // (kBlock) tokens of one chunk, ascending; behind it their number
  const int64_t first = blockIdx.x;
  const int32_t id = ids[first];
  if (id < 0) return;
  int earlier = 0;
  for (int64_t t = threadIdx.x; t < first; t += kBlock) earlier |= ids[t] == id;
  if (__syncthreads_or(earlier)) return;
  int32_t* const counts = found + kBlock;        // by warp
  for (int64_t chunk = first / kBlock * kBlock; chunk < tokens; chunk += kBlock) {
    const int64_t t = chunk + threadIdx.x;
    const bool mine = t >= first && t < tokens && ids[t] == id;
    const Rank rank = block_rank(mine, counts);
    if (mine) found[rank.before] = static_cast<int32_t>(t);
    __syncthreads();
    for (int64_t c = threadIdx.x; c < cols; c += kBlock) {
      float sum = dw[id * cols + c];
      for (int i = 0; i < rank.all; ++i) sum += to_float(dy.row(found[i])[c]);
      dw[id * cols + c] = sum;
    }
    __syncthreads();
  }
}

__global__ void sum_chunks(float* to, const float* chunks, int64_t count, int64_t cols, bool accumulate) {
  const int64_t c = int64_t{blockIdx.x} * kBlock + threadIdx.x;
  if (c >= cols) return;
  float sum = 0;
  for (int64_t k = 0; k < count; ++k) sum += chunks[k * cols + c];
  to[c] = accumulate ? to[c] + sum : sum;
}

template <class T>
__global__ void cut_patches(Rows<T> y, const float* pixels, int64_t height, int64_t width, int64_t patch, int64_t total) {
  const int64_t i = int64_t{blockIdx.x} * kBlock + threadIdx.x;
  if (i >= total) return;
  const int64_t square = patch * patch, cols = 3 * square, side = width / patch, strips = height / patch;
  const int64_t row = i / cols, col = i % cols;
  const int64_t channel = col / square, dy = col % square / patch, dx = col % patch;
  const int64_t frame = row / (strips * side), py = row / side % strips, px = row % side;
  from_float(y.row(row)[col], pixels[((frame * 3 + channel) * height + py * patch + dy) * width + px * patch + dx]);
}

}  // namespace

void add_chunks(cudaStream_t stream, float* to, const float* chunks, int64_t count, int64_t cols, bool accumulate) {
  if (cols > 0) launch(stream, {"add_chunks", ceil_div(cols, kBlock), kBlock}, sum_chunks, to, chunks, count, cols, accumulate);
}

void CudaBackend::add(Tensor y, bool accumulate, Tensor a) {
  ISR_ASSERT(y.rows == a.rows && y.cols == a.cols, "add: (", y.rows, ", ", y.cols, ") and (", a.rows, ", ", a.cols, ")");
  move(stream(), "add", y, accumulate, a, nullptr);
}

void CudaBackend::gather_rows(Tensor y, bool accumulate, Tensor x, Ints index) {
  ISR_ASSERT(index.n == y.rows && y.cols == x.cols, "gather: ", index.n, " indices for ", y.rows, " rows; widths ", y.cols, " and ", x.cols);
  move(stream(), "gather_rows", y, accumulate, x, index.data);
}

void CudaBackend::embedding_forward(Tensor y, Tensor table, Ints ids) { gather_rows(y, false, table, ids); }

void CudaBackend::pool_rows(Tensor y, bool accumulate, Tensor x, Ints index, int64_t n, float scale) {
  const bool itself = !index.data && n == 1 && x.rows == y.rows;
  ISR_ASSERT((itself || index.n == y.rows * n) && y.cols == x.cols && y.dtype == x.dtype, "pool_rows: ", index.n, " indices for ", y.rows, " rows of ", n,
             "; widths ", y.cols, " and ", x.cols);
  if (y.rows * y.cols == 0) return;
  with_type(y.dtype, [&](auto type) {
    using T = decltype(type);
    Packs().and_of(y).and_of(x).with([&](auto pack) {
      const int64_t packs = y.cols / pack.value, total = y.rows * packs;
      launch(stream(), {"pool_rows", ceil_div(total, kBlock), kBlock}, pool<T, pack.value>, rows_of<T>(y), rows_of<const T>(x), index.data, n, scale,
             packs, total, accumulate);
    });
  });
}

void CudaBackend::embedding_backward(float* dw, bool accumulate, Tensor dy, Ints ids, int64_t vocab) {
  ISR_ASSERT(ids.n == dy.rows, "embedding_backward: ", ids.n, " ids for ", dy.rows, " rows");
  if (!accumulate) device_.zero(dw, static_cast<size_t>(vocab * dy.cols) * sizeof(float));
  if (dy.rows * dy.cols == 0) return;
  with_type(dy.dtype, [&](auto type) {
    using T = decltype(type);
    launch(stream(), {"embedding_backward", static_cast<unsigned>(dy.rows), kBlock, sizeof(int32_t) * (kBlock + kBlock / 32)}, scatter_rows<T>, dw,
           rows_of<const T>(dy), ids.data, dy.rows, dy.cols);
  });
}

void CudaBackend::patchify(Tensor y, const float* pixels, int64_t frames, int64_t height, int64_t width, int64_t patch) {
  ISR_ASSERT(y.rows == frames * (height / patch) * (width / patch) && y.cols == 3 * patch * patch,
             "patchify: (", y.rows, ", ", y.cols, ") from ", frames, " frames of ", height, " x ", width, ", patches of ", patch);
  const int64_t total = y.rows * y.cols;
  if (total == 0) return;
  with_type(y.dtype, [&](auto type) {
    using T = decltype(type);
    launch(stream(), {"patchify", ceil_div(total, kBlock), kBlock}, cut_patches<T>, rows_of<T>(y), pixels, height, width, patch, total);
  });
}

}  // namespace isr::cuda
