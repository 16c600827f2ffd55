// Moving rows: add and cast, gather, embedding lookup and its gradient. A value is rounded at most once, at its store.
#include <cstring>

#include "kernels/cpu/simd.h"

namespace isr::cpu::ISR_NS {
namespace {

// y[0, n) (+)= x; a copy between like types keeps every bit.
template <class Y, class X>
inline void move_row(Y* y, bool accumulate, const X* x, int64_t n) {
  if (accumulate) {
    for_lanes(n, [&](int64_t c, auto lanes) { store_at(y + c, load_at(y + c, lanes) + load_at(x + c, lanes), lanes); });
  } else if constexpr (sizeof(Y) == sizeof(X)) {
    if (static_cast<const void*>(y) != x) std::memcpy(y, x, sizeof(Y) * static_cast<size_t>(n));
  } else {
    for_lanes(n, [&](int64_t c, auto lanes) { store_at(y + c, load_at(x + c, lanes), lanes); });
  }
}

template <class F>
void with_types(DType a, DType b, F&& f) {
  with_type(a, [&](auto first) { with_type(b, [&](auto second) { f(first, second); }); });
}

// y[i] (+)= row index[i] of the n_rows rows at x; -1 is a row of zeros.
void gather(Tensor y, bool accumulate, Tensor x, Ints index, const Crew& threads) {
  ISR_ASSERT(index.n == y.rows && y.cols == x.cols, "gather: ", index.n, " indices for ", y.rows,
             " rows; widths ", y.cols, " and ", x.cols);
  with_types(y.dtype, x.dtype, [&](auto to, auto from) {
    using Y = decltype(to);
    using X = decltype(from);
    parallel(threads, y.rows, row_grain(threads, y.rows, y.cols), [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t r = index.data[i];
        ISR_ASSERT(r >= -1 && r < x.rows, "gather: index ", r, " of ", x.rows, " rows");
        if (r >= 0) move_row(row_of<Y>(y, i), accumulate, row_of<X>(x, r), y.cols);
        else if (!accumulate) std::memset(row_of<Y>(y, i), 0, sizeof(Y) * static_cast<size_t>(y.cols));
      }
    });
  });
}

}  // namespace

void CpuBackend::add(Tensor y, bool accumulate, Tensor a) {
  ISR_ASSERT(y.rows == a.rows && y.cols == a.cols, "add: (", y.rows, ", ", y.cols, ") and (", a.rows, ", ", a.cols, ")");
  with_types(y.dtype, a.dtype, [&](auto to, auto from) {
    parallel(threads, y.rows, row_grain(threads, y.rows, y.cols), [&](int64_t begin, int64_t end, int) {
      for (int64_t t = begin; t < end; ++t)
        move_row(row_of<decltype(to)>(y, t), accumulate, row_of<decltype(from)>(a, t), y.cols);
    });
  });
}

void CpuBackend::gather_rows(Tensor y, bool accumulate, Tensor x, Ints index) {
  gather(y, accumulate, x, index, threads);
}

void CpuBackend::pool_rows(Tensor y, bool accumulate, Tensor x, Ints index, int64_t n, float scale) {
  const bool itself = !index.data && n == 1 && x.rows == y.rows;
  ISR_ASSERT((itself || index.n == y.rows * n) && y.cols == x.cols && y.dtype == x.dtype, "pool_rows: ", index.n,
             " indices for ", y.rows, " rows of ", n, "; widths ", y.cols, " and ", x.cols);
  with_type(y.dtype, [&](auto type) {
    using E = decltype(type);
    parallel(threads, y.rows, row_grain(threads, y.rows, y.cols * n), [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        E* const out = row_of<E>(y, i);
        const auto own = static_cast<int32_t>(i);
        const int32_t* const from = itself ? &own : index.data + i * n;
        for (int64_t j = 0; j < n; ++j) ISR_ASSERT(from[j] >= -1 && from[j] < x.rows, "pool_rows: index ", from[j], " of ", x.rows, " rows");
        for_lanes(y.cols, [&](int64_t c, auto lanes) {
          vf sum = zero();
          for (int64_t j = 0; j < n; ++j)
            if (from[j] >= 0) sum += load_at(row_of<E>(x, from[j]) + c, lanes);
          sum *= scale;
          store_at(out + c, accumulate ? load_at(out + c, lanes) + sum : sum, lanes);
        });
      }
    });
  });
}

void CpuBackend::embedding_forward(Tensor y, Tensor table, Ints ids) {
  gather(y, false, table, ids, threads);
}

// The owner of a vocabulary row adds its tokens: per id a chain of its rows in ascending t, so no two threads meet.
void CpuBackend::embedding_backward(float* dw, bool accumulate, Tensor dy, Ints ids, int64_t vocab) {
  const int64_t T = dy.rows, C = dy.cols;
  ISR_ASSERT(ids.n == T, "embedding_backward: ", ids.n, " ids for ", T, " rows");
  ArenaScope scope(scratch);
  int32_t* const first = scratch.allocate_n<int32_t>(vocab);  // of id; -1: absent
  int32_t* const next = scratch.allocate_n<int32_t>(T);
  std::memset(first, 0xff, sizeof(int32_t) * static_cast<size_t>(vocab));
  for (int64_t t = T - 1; t >= 0; --t) {
    const int64_t id = ids.data[t];
    ISR_ASSERT(id >= -1 && id < vocab, "embedding_backward: id ", id, " of ", vocab);
    if (id < 0) continue;
    next[t] = first[id];
    first[id] = static_cast<int32_t>(t);
  }
  with_type(dy.dtype, [&](auto type) {
    using E = decltype(type);
    parallel(threads, vocab, row_grain(threads, vocab, C), [&](int64_t begin, int64_t end, int) {
      for (int64_t id = begin; id < end; ++id) {
        float* const out = dw + id * C;
        int32_t t = first[id];
        if (!accumulate && t < 0) std::memset(out, 0, sizeof(float) * static_cast<size_t>(C));
        for (bool add = accumulate; t >= 0; t = next[t], add = true) move_row(out, add, row_of<E>(dy, t), C);
      }
    });
  });
}

// A convolution whose stride is its size, as rows for a product.
void CpuBackend::patchify(Tensor y, const float* pixels, int64_t frames, int64_t height, int64_t width, int64_t patch) {
  const int64_t strips = height / patch, side = width / patch, plane = height * width;   // strips a frame, patches a strip
  ISR_ASSERT(y.rows == frames * strips * side && y.cols == 3 * patch * patch, "patchify: (",
             y.rows, ", ", y.cols, ") from ", frames, " frames of ", height, " x ", width, ", patches of ", patch);
  with_type(y.dtype, [&](auto type) {
    using E = decltype(type);
    parallel(threads, frames * strips, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t strip = begin; strip < end; ++strip) {
        const int64_t frame = strip / strips, py = strip % strips;
        for (int64_t px = 0; px < side; ++px)
          for (int64_t ch = 0; ch < 3; ++ch)
            for (int64_t dy = 0; dy < patch; ++dy) {
              const float* from = pixels + (frame * 3 + ch) * plane + (py * patch + dy) * width + px * patch;
              move_row(row_of<E>(y, strip * side + px) + (ch * patch + dy) * patch, false, from, patch);
            }
      }
    });
  });
}

}  // namespace isr::cpu::ISR_NS
