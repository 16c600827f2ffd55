// Products. Wide, aligned ones go to cuBLASLt, those of 1 to 8 rows to a kernel that streams the weights once, and what the
// library has no fast path for (rows that do not begin at 16 bytes) to a plain tiled one. Bias, activation, SwiGLU and residual
// follow in one pass of our own.
#include "kernels/cuda/activation.h"
#include "kernels/cuda/cuda_backend.h"

namespace isr::cuda {
namespace {

constexpr int kBlock = 256;

// ---- what follows a product. `pre` holds x W^T; y = act(pre + bias) + residual, pre = pre + bias
template <class Y, class P, Act kAct, int N>
__global__ void finish(Rows<Y> y, Rows<P> pre, bool keep, const float* bias, Rows<const Y> residual, int64_t packs, int64_t total) {
  const int64_t i = int64_t{blockIdx.x} * kBlock + threadIdx.x;
  if (i >= total) return;
  const int64_t row = i / packs, col = i % packs * N;
  Pack<N> x = load<N>(pre.row(row) + col);
  if (bias) x += load<N>(bias + col);
  if (keep && bias) store(pre.row(row) + col, x);
#pragma unroll
  for (int k = 0; k < N; ++k) {
    Y stored;
    from_float(stored, x.v[k]);   // the activation sees what y's type holds, saved or not: training and inference agree
    x.v[k] = kAct == Act::None ? x.v[k] : act_value<kAct>(to_float(stored));
  }
  if (residual.data) x += load<N>(residual.row(row) + col);
  store(y.row(row) + col, x);
}

template <class Y, class P, int N>
__global__ void finish_swiglu(Rows<Y> y, Rows<P> pre, bool keep, const float* bias, Rows<const Y> residual, int64_t width, int64_t packs, int64_t total) {
  const int64_t i = int64_t{blockIdx.x} * kBlock + threadIdx.x;
  if (i >= total) return;
  const int64_t row = i / packs, col = i % packs * N;
  Pack<N> gate = load<N>(pre.row(row) + col), up = load<N>(pre.row(row) + width + col), x;
  if (bias) {
    gate += load<N>(bias + col), up += load<N>(bias + width + col);
    if (keep) store(pre.row(row) + col, gate), store(pre.row(row) + width + col, up);
  }
#pragma unroll
  for (int k = 0; k < N; ++k) {
    Y g, u;
    from_float(g, gate.v[k]), from_float(u, up.v[k]);
    x.v[k] = silu(to_float(g)) * to_float(u);
  }
  if (residual.data) x += load<N>(residual.row(row) + col);
  store(y.row(row) + col, x);
}

// ---- few rows: a warp per R outputs, lanes along K, all rows of x at once. Values of x are read once for R rows of weights: with
// one, 8 rows of x would take caches longer than the weights take memory.
constexpr int kFewRows = 8, kWarps = 4;

template <class T, class Y, int N, int M, int R>
__global__ void few_rows(Rows<Y> y, bool accumulate, Rows<const T> x, Rows<const T> w, int64_t rows, int64_t outputs, int64_t inputs) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int64_t n = (int64_t{blockIdx.x} * kWarps + threadIdx.x / 32) * R;
  if (n >= outputs) return;   // whole warps
  const T* weights[R];
#pragma unroll
  for (int r = 0; r < R; ++r) weights[r] = w.row(n + r < outputs ? n + r : outputs - 1);
  float sums[R][M] = {};
  for (int64_t k = lane * N; k < inputs; k += 32 * N) {
    Pack<N> weight[R];
#pragma unroll
    for (int r = 0; r < R; ++r) weight[r] = load<N>(weights[r] + k);
#pragma unroll
    for (int m = 0; m < M; ++m) {
      if (m >= rows) break;
      const Pack<N> value = load<N>(x.row(m) + k);
#pragma unroll
      for (int r = 0; r < R; ++r)
#pragma unroll
        for (int i = 0; i < N; ++i) sums[r][m] += weight[r].v[i] * value.v[i];
    }
  }
#pragma unroll
  for (int m = 0; m < M; ++m) {
    if (m >= rows) break;
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const float sum = warp_sum(sums[r][m]);
      if (lane != 0 || n + r >= outputs) continue;
      Y& to = y.row(m)[n + r];
      from_float(to, accumulate ? to_float(to) + sum : sum);
    }
  }
}

// ---- the plain one: 16 x 16 threads, a value each; op(a) (M, K), op(b) (K, N)
constexpr int kTile = 16;

template <class T, class D>
__global__ void plain(Rows<D> d, bool accumulate, Rows<const T> a, bool a_transposed, Rows<const T> b, bool b_transposed, int64_t M, int64_t N, int64_t K) {
  float* const left = shared_as<float>();
  float* const right = left + kTile * kTile;
  const int64_t row = int64_t{blockIdx.y} * kTile + threadIdx.y, col = int64_t{blockIdx.x} * kTile + threadIdx.x;
  const int at = static_cast<int>(threadIdx.y * kTile + threadIdx.x);
  float sum = 0;
  for (int64_t k0 = 0; k0 < K; k0 += kTile) {
    const int64_t ka = k0 + threadIdx.x, kb = k0 + threadIdx.y;
    left[at] = row < M && ka < K ? to_float(a_transposed ? a.row(ka)[row] : a.row(row)[ka]) : 0;
    right[at] = col < N && kb < K ? to_float(b_transposed ? b.row(col)[kb] : b.row(kb)[col]) : 0;
    __syncthreads();
    for (int k = 0; k < kTile; ++k) sum += left[threadIdx.y * kTile + k] * right[k * kTile + threadIdx.x];
    __syncthreads();
  }
  if (row < M && col < N) from_float(d.row(row)[col], accumulate ? to_float(d.row(row)[col]) + sum : sum);
}

// Column sums of a chunk of rows.
template <class T>
__global__ void column_chunks(float* chunks, Rows<const T> x, int64_t rows, int64_t cols) {
  const int64_t c = int64_t{blockIdx.x} * kBlock + threadIdx.x, first = int64_t{blockIdx.y} * kChunkRows;
  if (c >= cols) return;
  const int64_t last = first + kChunkRows < rows ? first + kChunkRows : rows;
  float sum = 0;
  for (int64_t t = first; t < last; ++t) sum += to_float(x.row(t)[c]);
  chunks[blockIdx.y * cols + c] = sum;
}

bool aligned(const Tensor& t) {
  return reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && t.stride * static_cast<int64_t>(size_of(t.dtype)) % 16 == 0 && t.cols % 8 == 0;
}

void product(Products& library, cudaStream_t stream, Tensor d, bool accumulate, Tensor a, bool a_transposed, Tensor b, bool b_transposed) {
  const int64_t M = d.rows, N = d.cols, K = a_transposed ? a.rows : a.cols;
  ISR_ASSERT(a.dtype == b.dtype && (b_transposed ? b.cols : b.rows) == K && (b_transposed ? b.rows : b.cols) == N && (a_transposed ? a.cols : a.rows) == M,
             "product: (", a.rows, ", ", a.cols, ") by (", b.rows, ", ", b.cols, ") into (", M, ", ", N, ")");
  if (M * N == 0) return;
  if (K > 0 && aligned(d) && aligned(a) && aligned(b)) return library.multiply(d, accumulate, a, a_transposed, b, b_transposed);
  with_type(a.dtype, [&](auto from) {
    with_type(d.dtype, [&](auto to) {
      using T = decltype(from);
      using D = decltype(to);
      launch(stream, {"product", {ceil_div(N, kTile), ceil_div(M, kTile)}, {kTile, kTile}, 2 * kTile * kTile * sizeof(float)}, plain<T, D>, rows_of<D>(d),
             accumulate, rows_of<const T>(a), a_transposed, rows_of<const T>(b), b_transposed, M, N, K);
    });
  });
}

void product_of_few(cudaStream_t stream, Tensor y, bool accumulate, Tensor x, Tensor w) {
  with_type(x.dtype, [&](auto from) {
    with_type(y.dtype, [&](auto to) {
      using T = decltype(from);
      using Y = decltype(to);
      Packs().and_of(x).and_of(w).with([&](auto n) {
        const auto run = [&](auto kernel, int outputs) {
          launch(stream, {"few_rows", ceil_div(y.cols, kWarps * outputs), 32 * kWarps}, kernel, rows_of<Y>(y), accumulate, rows_of<const T>(x), rows_of<const T>(w),
                 x.rows, y.cols, x.cols);
        };
        if (x.rows == 1) run(few_rows<T, Y, n.value, 1, 2>, 2);
        else run(few_rows<T, Y, n.value, kFewRows, 4>, 4);
      });
    });
  });
}

}  // namespace

void CudaBackend::gemm_nt(Tensor y, Tensor x, const Matrix& matrix, const Epilogue& e) {
  const Tensor& w = static_cast<const RowMatrix&>(matrix).rows;
  const bool swiglu = e.act == Act::SwiGlu;
  ISR_ASSERT(x.dtype == w.dtype && x.cols == w.cols && y.rows == x.rows && y.cols == (swiglu ? w.rows / 2 : w.rows) && (!swiglu || matrix.shape.swiglu),
             "gemm_nt: (", x.rows, ", ", x.cols, ") by (", w.rows, ", ", w.cols, ") into (", y.rows, ", ", y.cols, ")");
  ISR_ASSERT(!e.accumulate || e.pre || e.act == Act::None, "gemm_nt: what is added to an activation's input needs `pre`");
  if (x.rows == 0) return;
  const ArenaScope scope(scratch_);
  Tensor pre = e.pre;
  if (!pre) pre = swiglu ? view(scratch_.allocate(static_cast<size_t>(x.rows * w.rows) * size_of(x.dtype)), x.dtype, x.rows, w.rows) : y;
  if (x.rows <= kFewRows) product_of_few(stream(), pre, e.accumulate, x, w);
  else product(*products_, stream(), pre, e.accumulate, x, false, w, true);
  if (pre.data == y.data && !e.bias && e.act == Act::None && !e.residual) return;
  with_type(y.dtype, [&](auto to) {
    with_type(pre.dtype, [&](auto from) {
      using Y = decltype(to);
      using P = decltype(from);
      Packs().and_of(y).and_of(pre, swiglu ? y.cols : pre.cols).and_of(e.residual).and_of(e.bias).with([&](auto n) {
        const int64_t packs = y.cols / n.value, total = y.rows * packs;
        const Launch l{"finish", ceil_div(total, kBlock), kBlock};
        const bool keep = static_cast<bool>(e.pre);
        if (swiglu)
          return launch(stream(), l, finish_swiglu<Y, P, n.value>, rows_of<Y>(y), rows_of<P>(pre), keep, e.bias, rows_of<const Y>(e.residual), y.cols, packs,
                        total);
        with_act(e.act, [&](auto act) {
          launch(stream(), l, finish<Y, P, act.value, n.value>, rows_of<Y>(y), rows_of<P>(pre), keep, e.bias, rows_of<const Y>(e.residual), packs, total);
        });
      });
    });
  });
}

void CudaBackend::gemm_nn(Tensor dx, bool accumulate, Tensor dy, std::span<const Tensor> w) {
  int64_t column = 0;
  for (const Tensor& part : w) {
    product(*products_, stream(), dx, accumulate, dy.columns(column, part.rows), false, part, false);
    column += part.rows;
    accumulate = true;
  }
  ISR_ASSERT(column == dy.cols, "gemm_nn: parts of ", column, " rows for ", dy.cols, " columns");
}

void CudaBackend::gemm_tn(std::span<const GradPart> dw, Tensor dy, Tensor x) {
  int64_t column = 0;
  for (const GradPart& part : dw) {
    const Tensor columns = dy.columns(column, part.rows);
    column += part.rows;
    if (part.dw) {
      const Tensor to = view(part.dw, part.rows, x.cols);
      if (x.rows > 0) product(*products_, stream(), to, part.accumulate, columns, true, x, false);
      else if (!part.accumulate) device_.zero(part.dw, static_cast<size_t>(part.rows * x.cols) * sizeof(float));
    }
    if (!part.db) continue;
    const ArenaScope scope(scratch_);
    const int64_t chunks = ceil_div(x.rows, kChunkRows);
    float* const sums = scratch_.allocate_n<float>(chunks * part.rows);
    const unsigned blocks = ceil_div(part.rows, kBlock);
    if (chunks > 0)
      with_type(dy.dtype, [&](auto type) {
        using T = decltype(type);
        launch(stream(), {"column_sums", {blocks, static_cast<unsigned>(chunks)}, kBlock}, column_chunks<T>, sums, rows_of<const T>(columns), x.rows,
               part.rows);
      });
    add_chunks(stream(), part.db, sums, chunks, part.rows, part.accumulate_bias);
  }
  ISR_ASSERT(column == dy.cols, "gemm_tn: parts of ", column, " rows for ", dy.cols, " columns");
}

}  // namespace isr::cuda
