// RMSNorm (Zhang & Sennrich 2019) and LayerNorm (Ba et al. 2016), forward and backward.
// A row is reduced by lanes over C in one fixed order, in f32, and rounded once at the store. Gradients of the weights are
// summed over rows in chunks of 64 rows, then over the chunks in ascending order: the same bits for any number of threads.
#include <cmath>
#include <cstring>

#include "kernels/cpu/simd.h"

namespace isr::cpu::ISR_NS {
namespace {

constexpr int64_t kChunkRows = 64;

struct Two { vf first, second; };  // two sums at once
inline Two operator+(const Two& a, const Two& b) { return {a.first + b.first, a.second + b.second}; }

// Sum over c in [0, n) of what f adds: f(c, lanes, acc) returns the new acc. Four chains hide the latency of the adder.
template <class Acc, class F>
inline Acc reduce_lanes(int64_t n, F&& f) {
  Acc a0{}, a1{}, a2{}, a3{};
  int64_t c = 0;
  for (; c + 4 * kLanes <= n; c += 4 * kLanes) {
    a0 = f(c, Whole{}, a0);
    a1 = f(c + kLanes, Whole{}, a1);
    a2 = f(c + 2 * kLanes, Whole{}, a2);
    a3 = f(c + 3 * kLanes, Whole{}, a3);
  }
  for_lanes(n - c, [&](int64_t i, auto lanes) { a0 = f(c + i, lanes, a0); });
  return (a0 + a1) + (a2 + a3);
}

template <class T>
float mean_square(const T* x, float mean, int64_t C) {
  const vf m = splat(mean);
  const vf total = reduce_lanes<vf>(C, [&](int64_t c, auto lanes, vf acc) {
    const vf d = keep_at(load_at(x + c, lanes) - m, lanes);
    return fma(d, d, acc);
  });
  return sum(total) / static_cast<float>(C);
}

template <class T>
float mean_of(const T* x, int64_t C) {
  const vf total = reduce_lanes<vf>(C, [&](int64_t c, auto lanes, vf acc) { return acc + load_at(x + c, lanes); });
  return sum(total) / static_cast<float>(C);
}

// Head r % heads of row r / heads, of rows that are cut into heads of C columns.
struct Heads {
  int64_t heads = 1, C = 0;
  int64_t rows(const Tensor& x) const { return x.rows * heads; }
  template <class T>
  T* at(const Tensor& x, int64_t r) const { return row_of<T>(x, r / heads) + r % heads * C; }
};

// What both norms share. RMSNorm is the case mean = 0, b = 0, without the mean term of the backward.
struct NormBackward {
  Tensor dx, dy, x;
  bool accumulate = false;
  const float *w = nullptr, *mean = nullptr, *rstd = nullptr;  // mean null: RMSNorm
  Heads cut;
  float *dw_chunks = nullptr, *db_chunks = nullptr;            // (chunks, C); null: skipped
};

// One row: its two sums, then one pass that writes dx and adds to the chunk's dw and db.
template <class T, bool kDx>
void backward_row(const NormBackward& n, int64_t t, float* dw, float* db) {
  const int64_t C = n.cut.C;
  T* const dx = kDx ? n.cut.at<T>(n.dx, t) : nullptr;
  const T *const dy = n.cut.at<T>(n.dy, t), *const x = n.cut.at<T>(n.x, t);
  const float* const w = n.w;
  const vf mean = splat(n.mean ? n.mean[t] : 0.0f), r = splat(n.rstd[t]);
  vf slope = zero(), shift = zero();
  if (kDx) {
    const float inverse = 1.0f / static_cast<float>(C);
    const Two sums = reduce_lanes<Two>(C, [&](int64_t c, auto lanes, const Two& acc) -> Two {  // lanes past the end: w = 0
      const vf g = load_at(dy + c, lanes) * load_at(w + c, lanes);
      return {fma(g, (load_at(x + c, lanes) - mean) * r, acc.first), acc.second + g};
    });
    slope = splat(-inverse * sum(sums.first));
    if (n.mean) shift = splat(inverse * sum(sums.second));
  }
  for_lanes(C, [&](int64_t c, auto lanes) {
    const vf g = load_at(dy + c, lanes), hat = (load_at(x + c, lanes) - mean) * r;
    if (dw) store_at(dw + c, fma(g, hat, load_at(dw + c, lanes)), lanes);
    if (db) store_at(db + c, g + load_at(db + c, lanes), lanes);
    if (!kDx) return;
    vf d = r * fma(hat, slope, fma(g, load_at(w + c, lanes), -shift));
    if (n.accumulate) d += load_at(dx + c, lanes);
    store_at(dx + c, d, lanes);
  });
}

template <class T>
void backward_chunk(const NormBackward& n, int64_t chunk) {
  const int64_t C = n.cut.C, rows = n.cut.rows(n.x), first = chunk * kChunkRows;
  const int64_t last = first + kChunkRows < rows ? first + kChunkRows : rows;
  float* const dw = n.dw_chunks ? n.dw_chunks + chunk * C : nullptr;
  float* const db = n.db_chunks ? n.db_chunks + chunk * C : nullptr;
  if (dw) std::memset(dw, 0, sizeof(float) * static_cast<size_t>(C));
  if (db) std::memset(db, 0, sizeof(float) * static_cast<size_t>(C));
  for (int64_t t = first; t < last; ++t) {
    if (n.dx) backward_row<T, true>(n, t, dw, db);
    else backward_row<T, false>(n, t, dw, db);
  }
}

void sum_chunks(float* out, bool accumulate, const float* chunks, int64_t count, int64_t C, const Crew& threads) {
  if (!out) return;
  const int64_t grain = row_grain(threads, (C + kLanes - 1) / kLanes, count * kLanes);
  parallel(threads, (C + kLanes - 1) / kLanes, grain, [&](int64_t begin, int64_t end, int) {
    const int64_t first = begin * kLanes, last = end * kLanes < C ? end * kLanes : C;
    for_lanes(last - first, [&](int64_t i, auto lanes) {
      vf total = zero();
      for (int64_t k = 0; k < count; ++k) total += load_at(chunks + k * C + first + i, lanes);
      if (accumulate) total += load_at(out + first + i, lanes);
      store_at(out + first + i, total, lanes);
    });
  });
}

void norm_backward(NormBackward n, float* dw, float* db, bool accumulate_w, const Crew& threads, Arena& scratch) {
  const int64_t C = n.cut.C, chunks = (n.cut.rows(n.x) + kChunkRows - 1) / kChunkRows;
  ISR_ASSERT(n.dy.dtype == n.x.dtype && (!n.dx || n.dx.dtype == n.x.dtype), "norm backward: one dtype");
  ArenaScope scope(scratch);
  if (dw) n.dw_chunks = scratch.allocate_n<float>(chunks * C);
  if (db) n.db_chunks = scratch.allocate_n<float>(chunks * C);
  with_type(n.x.dtype, [&](auto type) {
    using E = decltype(type);
    parallel(threads, chunks, row_grain(threads, chunks, kChunkRows * C), [&](int64_t begin, int64_t end, int) {
      for (int64_t k = begin; k < end; ++k) backward_chunk<E>(n, k);
    });
  });
  sum_chunks(dw, accumulate_w, n.dw_chunks, chunks, C, threads);
  sum_chunks(db, accumulate_w, n.db_chunks, chunks, C, threads);
}

}  // namespace

void CpuBackend::rms_norm_forward(Tensor y, float* rstd, Tensor x, Flat w, float eps) {
  ISR_ASSERT(y.dtype == x.dtype && y.rows == x.rows && y.cols == x.cols && x.cols % w.n == 0, "rms_norm: y must be like x, of heads of ", w.n, " columns");
  const Heads cut{x.cols / w.n, w.n};
  with_type(x.dtype, [&](auto type) {
    using E = decltype(type);
    parallel(threads, x.rows, row_grain(threads, x.rows, x.cols), [&](int64_t begin, int64_t end, int) {
      for (int64_t r = begin * cut.heads; r < end * cut.heads; ++r) {
        const E* const in = cut.at<E>(x, r);
        E* const out = cut.at<E>(y, r);
        const float scale = 1.0f / std::sqrt(mean_square(in, 0.0f, cut.C) + eps);
        if (rstd) rstd[r] = scale;
        for_lanes(cut.C, [&](int64_t c, auto lanes) {
          store_at(out + c, load_at(w.data + c, lanes) * (load_at(in + c, lanes) * splat(scale)), lanes);
        });
      }
    });
  });
}

void CpuBackend::rms_norm_backward(Tensor dx, bool accumulate, float* dw, bool accumulate_w, Tensor dy, Tensor x, Flat w,
                                   const float* rstd) {
  ISR_ASSERT(x.cols % w.n == 0, "rms_norm: heads of ", w.n, " columns in rows of ", x.cols);
  norm_backward({dx, dy, x, accumulate, w.data, nullptr, rstd, {x.cols / w.n, w.n}}, dw, nullptr, accumulate_w, threads, scratch);
}

void CpuBackend::layer_norm_forward(Tensor y, float* mean, float* rstd, Tensor x, const float* w, const float* b, float eps) {
  ISR_ASSERT(y.dtype == x.dtype && y.rows == x.rows && y.cols == x.cols, "layer_norm: y must be like x");
  with_type(x.dtype, [&](auto type) {
    using E = decltype(type);
    parallel(threads, x.rows, row_grain(threads, x.rows, x.cols), [&](int64_t begin, int64_t end, int) {
      for (int64_t t = begin; t < end; ++t) {
        const E* const in = row_of<E>(x, t);
        E* const out = row_of<E>(y, t);
        const float m = mean_of(in, x.cols);
        const float r = 1.0f / std::sqrt(mean_square(in, m, x.cols) + eps);
        if (mean) mean[t] = m;
        if (rstd) rstd[t] = r;
        for_lanes(x.cols, [&](int64_t c, auto lanes) {
          const vf hat = (load_at(in + c, lanes) - splat(m)) * splat(r);
          store_at(out + c, fma(hat, load_at(w + c, lanes), load_at(b + c, lanes)), lanes);
        });
      }
    });
  });
}

void CpuBackend::layer_norm_backward(Tensor dx, bool accumulate, float* dw, float* db, bool accumulate_w, Tensor dy, Tensor x,
                                     const float* w, const float* mean, const float* rstd) {
  norm_backward({dx, dy, x, accumulate, w, mean, rstd, {1, x.cols}}, dw, db, accumulate_w, threads, scratch);
}

}  // namespace isr::cpu::ISR_NS
