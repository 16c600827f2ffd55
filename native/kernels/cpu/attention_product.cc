// The register tiles behind attention's products (attention_math.h): 6 rows by 64 columns of C at the 512-bit levels, 6 by 2
// vectors below, with smaller tiles for the remainders.
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "kernels/cpu/attention_math.h"

namespace isr::cpu::ISR_NS {
namespace {

constexpr int kColVectors = ISR_LEVEL >= 2 ? 4 : 2;  // vectors of columns in registers

// f(0) ... f(N - 1) with the index a constant: an array of accumulators then lives in registers from first to last.
template <int N, class F>
inline __attribute__((always_inline)) void unrolled(F&& f) {
  if constexpr (N > 0) {
    unrolled<N - 1>(f);
    f(std::integral_constant<int, N - 1>{});
  }
}
#define ISR_INLINE __attribute__((always_inline))

// One step of depth: acc[r][n] += A[r] B[n].
template <class P, int R, int N>
inline ISR_INLINE void step(vf (&acc)[R][N], const typename P::Num* a, int64_t lda, const uint32_t* b) {
  vf w[N];
  unrolled<N>([&](auto n) ISR_INLINE { w[n] = load_words(b + n * kLanes); });
  unrolled<R>([&](auto r) ISR_INLINE {
    if constexpr (P::kPerWord == 1) {
      const vf x = broadcast(a[r * lda]);
      unrolled<N>([&](auto n) ISR_INLINE { acc[r][n] = fma(x, w[n], acc[r][n]); });
    } else {
#if ISR_LEVEL == 3
      int pair;
      std::memcpy(&pair, a + r * lda, sizeof pair);
      const __m512bh x = (__m512bh)_mm512_set1_epi32(pair);
      unrolled<N>([&](auto n) ISR_INLINE { acc[r][n] = (vf)_mm512_dpbf16_ps((__m512)acc[r][n], x, (__m512bh)w[n]); });
#else
      const vf x = broadcast(a[r * lda]);
      unrolled<N>([&](auto n) ISR_INLINE { acc[r][n] = fma(x, low_bf16(w[n]), acc[r][n]); });
#endif
    }
  });
#if ISR_LEVEL < 3
  if constexpr (P::kPerWord == 2)
    unrolled<R>([&](auto r) ISR_INLINE {
      const vf x = broadcast(a[r * lda + 1]);
      unrolled<N>([&](auto n) ISR_INLINE { acc[r][n] = fma(x, high_bf16(w[n]), acc[r][n]); });
    });
#endif
}

template <class P, Into I, int R, int N>
__attribute__((noinline)) void product_tile(const Product<P>& p, int row, int col) {
  const int64_t ldc = p.ldc, lda = p.lda, ldb = p.ldb;
  float* c = p.c + row * ldc + col;
  const typename P::Num* a = p.a + row * lda;
  const uint32_t* b = p.b + col;
  vf acc[R][N];
  unrolled<R>([&](auto r) ISR_INLINE {
    unrolled<N>([&](auto n) ISR_INLINE {
      if constexpr (I == Into::Set) acc[r][n] = zero();
      else if constexpr (I == Into::Add) acc[r][n] = load(c + r * ldc + n * kLanes);
      else acc[r][n] = broadcast(p.scale[row + r]) * load(c + r * ldc + n * kLanes);
    });
  });
  for (int k = 0; k < p.words; ++k, a += P::kPerWord, b += ldb) step<P, R, N>(acc, a, lda, b);
  unrolled<R>([&](auto r) ISR_INLINE { unrolled<N>([&](auto n) ISR_INLINE { store(c + r * ldc + n * kLanes, acc[r][n]); }); });
}

template <class P, Into I, int R>
void tile_row(const Product<P>& p, int row, int cols) {
  int col = 0;
  for (; col + kColVectors * kLanes <= cols; col += kColVectors * kLanes) product_tile<P, I, R, kColVectors>(p, row, col);
#if ISR_LEVEL >= 2
  if (cols - col >= 2 * kLanes) {
    product_tile<P, I, R, 2>(p, row, col);
    col += 2 * kLanes;
  }
  if (col < cols) product_tile<P, I, R, 1>(p, row, col);
#endif
}

template <class P, Into I>
void all_tiles(const Product<P>& p, int rows, int cols) {
  int row = 0;
  for (; row + kRowGroup <= rows; row += kRowGroup) tile_row<P, I, kRowGroup>(p, row, cols);
  if (row + 4 <= rows) {
    tile_row<P, I, 4>(p, row, cols);
    row += 4;
  }
  switch (rows - row) {
    case 3: return tile_row<P, I, 3>(p, row, cols);
    case 2: return tile_row<P, I, 2>(p, row, cols);
    case 1: return tile_row<P, I, 1>(p, row, cols);
  }
}

}  // namespace

template <class P>
void product(Into into, const Product<P>& p, int rows, int cols) {
  switch (into) {
    case Into::Set: return all_tiles<P, Into::Set>(p, rows, cols);
    case Into::Add: return all_tiles<P, Into::Add>(p, rows, cols);
    case Into::ScaleAdd: return all_tiles<P, Into::ScaleAdd>(p, rows, cols);
  }
}

template void product<Float32>(Into, const Product<Float32>&, int, int);
template void product<Bfloat16>(Into, const Product<Bfloat16>&, int, int);

}  // namespace isr::cpu::ISR_NS
