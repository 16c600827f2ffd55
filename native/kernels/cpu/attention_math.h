// Small products for attention: C (rows, cols) = A (rows, depth) B (depth, cols) on tiles that live in L1 and L2.
// An operand B is stored in 32-bit words, one line of `ldb` words a step of depth. In float32 a word is one number; in
// bfloat16 it is the pair (2k, 2k + 1) along depth, which is what the bf16 dot product takes. A is row-major, its pairs
// adjacent. An element of C is one chain over depth from the first step to the last, whatever rows and columns are computed
// beside it; steps whose A is zero are exact no-ops, so a caller may stop the depth early.
#pragma once
#include <cstdint>
#include <cstring>

#include "kernels/cpu/simd.h"

namespace isr::cpu::ISR_NS {

constexpr int kRowGroup = 6;  // rows of C in registers

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

// rows x cols of C; cols: a multiple of 16. Defined in attention_product.cc for both operand types.
template <class P>
void product(Into into, const Product<P>& p, int rows, int cols);

constexpr float kMasked = -1e30f;  // the score of a key that must not be seen: finite, so that differences of scores are

// 2^x for probabilities, x <= 0 or barely above; 2^0 is exactly 1, 2^(something like kMasked) exactly 0, NaN stays NaN.
// Relative error 1e-7; where the bf16 dot product rounds probabilities to 8 bits anyway, 3e-6.
template <class P>
static inline vf exp2_of(vf x) {
#if ISR_LEVEL < 2
  x = max(broadcast(-126.0f), x);
#endif
  const vf n = round_nearest(x), f = x - n;
  vf p;
  if constexpr (ISR_LEVEL == 3 && P::kPerWord == 2) {
    p = fma(broadcast(9.582853141e-3f), f, broadcast(5.590642673e-2f));
    p = fma(p, f, broadcast(2.402409862e-1f));
    p = fma(p, f, broadcast(6.931241932e-1f));
  } else {
    p = fma(broadcast(1.326472709e-3f), f, broadcast(9.671512862e-3f));
    p = fma(p, f, broadcast(5.550733746e-2f));
    p = fma(p, f, broadcast(2.402224208e-1f));
    p = fma(p, f, broadcast(6.931469776e-1f));
  }
  p = fma(p, f, broadcast(1.0f));
#if ISR_LEVEL >= 2
  return (vf)_mm512_maskz_scalef_ps(0xffff, (__m512)p, (__m512)n);  // the plain form warns in gcc 12
#else
  const vf y = (vf)((vu)p + ((vu)__builtin_convertvector(n, vi) << 23));
  return select(x <= broadcast(-126.0f), zero(), y);
#endif
}

static inline vi lane_index() {
  vi v;
  for (int i = 0; i < kLanes; ++i) v[i] = i;
  return v;
}

// Two vectors of probabilities to operand A of the next product.
static inline void store_nums(float* p, vf x, vf y) {
  store(p, x);
  store(p + kLanes, y);
}
static inline void store_nums(uint16_t* p, vf x, vf y) {
#if ISR_LEVEL == 3
  const __m512bh both = _mm512_cvtne2ps_pbh((__m512)y, (__m512)x);
  std::memcpy(p, &both, sizeof both);
#else
  store(p, x);
  store(p + kLanes, y);
#endif
}

}  // namespace isr::cpu::ISR_NS
