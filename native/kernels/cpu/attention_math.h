// Small products for attention: C (rows, cols) = A (rows, depth) B (depth, cols) on tiles that live in L1 and L2.
// An operand B is stored in 32-bit words, one line of `ldb` words a step of depth. In float32 a word is one number; in
// bfloat16 it is the pair (2k, 2k + 1) along depth, which is what the bf16 dot product takes. A is row-major, its pairs
// adjacent. An element of C is one chain over depth from the first step to the last, whatever rows and columns are computed
// beside it; steps whose A is zero are exact no-ops, so a caller may stop the depth early.
#pragma once
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "kernels/cpu/simd.h"

namespace isr::cpu::ISR_NS {

constexpr int kRowGroup = 6;                        // rows of C in registers
constexpr int kColVectors = ISR_LEVEL >= 2 ? 4 : 2;  // vectors of columns in registers

// Operand types. In: of tensors and pages; Num: of A. Below level 3, bfloat16 is widened on the way into registers.
struct Float32 {
  using In = float;
  using Num = float;
  static constexpr int kPerWord = 1;
};
struct Bfloat16 {
  using In = uint16_t;
#if ISR_LEVEL == 3
  using Num = uint16_t;
#else
  using Num = float;
#endif
  static constexpr int kPerWord = 2;
};

static inline int padded(int64_t n, int to) { return static_cast<int>((n + to - 1) / to * to); }

static inline vf broadcast(float x) {
#if ISR_LEVEL >= 2
  return (vf)_mm512_set1_ps(x);
#elif ISR_LEVEL == 1
  return (vf)_mm256_set1_ps(x);
#else
  return (vf)_mm_set1_ps(x);
#endif
}

static inline vf load_words(const uint32_t* p) {
  vf v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
static inline vf low_bf16(vf words) { return (vf)((vu)words << 16); }
static inline vf high_bf16(vf words) { return (vf)((vu)words & 0xffff0000u); }

// f(0) ... f(N - 1) with the index a constant: an array of accumulators then lives in registers from first to last.
template <int N, class F>
static inline __attribute__((always_inline)) void unrolled(F&& f) {
  if constexpr (N > 0) {
    unrolled<N - 1>(f);
    f(std::integral_constant<int, N - 1>{});
  }
}
#define ISR_INLINE __attribute__((always_inline))

// One step of depth: acc[r][n] += A[r] B[n].
template <class P, int R, int N>
static inline ISR_INLINE void step(vf (&acc)[R][N], const typename P::Num* a, int64_t lda, const uint32_t* b) {
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

enum class Into { Set, Add, ScaleAdd };  // C = AB, C += AB, C = scale[row] C + AB

template <class P>
struct Product {
  float* c;
  int64_t ldc;
  const typename P::Num* a;
  int64_t lda;
  const uint32_t* b;
  int64_t ldb;
  int words;
  const float* scale = nullptr;
};

template <class P, Into I, int R, int N>
static __attribute__((noinline)) void product_tile(const Product<P>& p, int row, int col) {
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
static inline void product_rows(const Product<P>& p, int row, int cols) {
  constexpr int step = kColVectors * kLanes;
  int col = 0;
  for (; col + step <= cols; col += step) product_tile<P, I, R, kColVectors>(p, row, col);
#if ISR_LEVEL >= 2
  switch ((cols - col) / kLanes) {
    case 3: return product_tile<P, I, R, 3>(p, row, col);
    case 2: return product_tile<P, I, R, 2>(p, row, col);
    case 1: return product_tile<P, I, R, 1>(p, row, col);
  }
#endif
}

// cols: a multiple of 16.
template <class P, Into I>
static inline void product(const Product<P>& p, int rows, int cols) {
  int row = 0;
  for (; row + kRowGroup <= rows; row += kRowGroup) product_rows<P, I, kRowGroup>(p, row, cols);
  switch (rows - row) {
    case 5: return product_rows<P, I, 5>(p, row, cols);
    case 4: return product_rows<P, I, 4>(p, row, cols);
    case 3: return product_rows<P, I, 3>(p, row, cols);
    case 2: return product_rows<P, I, 2>(p, row, cols);
    case 1: return product_rows<P, I, 1>(p, row, cols);
  }
}

// 2^x for probabilities. Those that the bf16 dot product will round to 8 bits need no more than 3e-6; 2^0 is exactly 1.
template <class P>
static inline vf exp2_of(vf x) {
#if ISR_LEVEL == 3
  if constexpr (P::kPerWord == 2) {
    const vf n = round_nearest(x), f = x - n;
    vf p = broadcast(9.582853141e-3f);
    p = fma(p, f, broadcast(5.590642673e-2f));
    p = fma(p, f, broadcast(2.402409862e-1f));
    p = fma(p, f, broadcast(6.931241932e-1f));
    p = fma(p, f, broadcast(1.0f));
    const __mmask16 seen = _mm512_cmp_ps_mask((__m512)x, (__m512)broadcast(-126.0f), _CMP_NLE_UQ);
    return (vf)_mm512_maskz_scalef_ps(seen, (__m512)p, (__m512)n);
  }
#endif
  return exp2v(x);
}

static inline vi lane_index() {
  vi v;
  for (int i = 0; i < kLanes; ++i) v[i] = i;
  return v;
}

// Probabilities become operand A of the next product.
static inline void store_num(float* p, vf v) { store(p, v); }
static inline void store_num(uint16_t* p, vf v) { store(p, v); }

}  // namespace isr::cpu::ISR_NS
