// Operands of attention's products, made from rows of the batch (attention_math.h explains the words).
// A page is one key block of one kv head: keys transposed, (Dp / per word, 64) words, then values, (64 / per word, Dp) words,
// where Dp is the head size padded to 16. Cache pages (attention_cached.cc) and the batch's scratch pages are the same.
#pragma once
#include "kernels/cpu/attention_math.h"

namespace isr::cpu::ISR_NS {

static inline int head_padded(const AttentionShape& s) { return padded(s.head_size, 16); }

template <class P>
static inline int64_t page_part_words(int dp) {
  return int64_t{kKeyBlock} * dp / P::kPerWord;
}

// `count` rows of d numbers to rows of dp, zeros behind; To is From, or float for bfloat16.
template <class To, class From>
static inline void stage_rows(To* dst, const From* src, int64_t stride, int count, int d, int dp) {
  for (int r = 0; r < count; ++r, src += stride, dst += dp) {
    if constexpr (sizeof(To) == sizeof(From)) std::memcpy(dst, src, sizeof(To) * static_cast<size_t>(d));
    else for (int i = 0; i < d; ++i) dst[i] = bf16_to_f32(src[i]);
    if (d < dp) std::memset(dst + d, 0, sizeof(To) * static_cast<size_t>(dp - d));
  }
}

template <class To>
static inline void zero_rows(To* dst, int begin, int end, int dp) {
  if (begin < end) std::memset(dst + begin * dp, 0, sizeof(To) * static_cast<size_t>((end - begin) * dp));
}

// dst[c][r] = src[r][c] in 32-bit words; rows and cols are multiples of 4.
static inline void transpose_words(uint32_t* dst, int64_t ldd, const uint32_t* src, int64_t lds, int rows, int cols) {
  typedef int32_t q __attribute__((vector_size(16)));
  for (int r = 0; r < rows; r += 4)
    for (int c = 0; c < cols; c += 4) {
      q x[4];
      for (int i = 0; i < 4; ++i) std::memcpy(&x[i], src + (r + i) * lds + c, sizeof(q));
      const q a = __builtin_shuffle(x[0], x[1], q{0, 4, 1, 5}), b = __builtin_shuffle(x[2], x[3], q{0, 4, 1, 5});
      const q e = __builtin_shuffle(x[0], x[1], q{2, 6, 3, 7}), f = __builtin_shuffle(x[2], x[3], q{2, 6, 3, 7});
      const q y[4] = {__builtin_shuffle(a, b, q{0, 1, 4, 5}), __builtin_shuffle(a, b, q{2, 3, 6, 7}),
                      __builtin_shuffle(e, f, q{0, 1, 4, 5}), __builtin_shuffle(e, f, q{2, 3, 6, 7})};
      for (int i = 0; i < 4; ++i) std::memcpy(dst + (c + i) * ldd + r, &y[i], sizeof(q));
    }
}

// Word lines along rows: a float32 line is a row; a bfloat16 line pairs rows 2k and 2k + 1. `rows` is even.
static inline void pair_rows(uint32_t* dst, const uint16_t* src, int rows, int dp) {
  for (int r = 0; r < rows; r += 2, src += 2 * dp, dst += dp)
    for (int i = 0; i < dp; ++i) dst[i] = src[i] | static_cast<uint32_t>(src[dp + i]) << 16;
}
static inline void pair_rows(uint32_t* dst, const float* src, int rows, int dp) {
  std::memcpy(dst, src, sizeof(float) * static_cast<size_t>(rows * dp));
}

// The rows of a key block, in logical order, zero up to a multiple of 16.
template <class To, class From>
static inline void stage_block(To* dst, const AttentionPlan& plan, const KeyBlock& block, const From* src, int64_t stride, int d, int dp) {
  for (int i = 0; i < block.segments; ++i) {
    const KeySegment& g = plan.segments[static_cast<size_t>(block.first_segment + i)];
    stage_rows(dst + g.offset * dp, src + g.row * stride, stride, g.count, d, dp);
  }
  zero_rows(dst, block.count, padded(block.count, 16), dp);
}

// One page from batch rows; k and v point at the kv head's columns. stage: 64 * dp numbers.
template <class P>
static inline void pack_page(uint32_t* page, typename P::In* stage, const AttentionPlan& plan, const KeyBlock& block,
                             const typename P::In* k, int64_t k_stride, const typename P::In* v, int64_t v_stride, int d, int dp) {
  const int rows = padded(block.count, 16), words = dp / P::kPerWord;
  stage_block(stage, plan, block, k, k_stride, d, dp);
  transpose_words(page, kKeyBlock, reinterpret_cast<const uint32_t*>(stage), words, rows, words);
  stage_block(stage, plan, block, v, v_stride, d, dp);
  pair_rows(page + page_part_words<P>(dp), stage, rows, dp);
}

}  // namespace isr::cpu::ISR_NS
