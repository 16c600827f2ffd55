// The vector types that row-wise kernels are written in: vf = kLanes floats, the same source at every level.
// load/store take a pointer to float32 or bfloat16 data; the _n forms touch only the first n lanes (the rest read as 0).
// Elementary functions (exp, erf) are within 2 ulp of the exact value and pass NaN on.
#pragma once
#include <cstdint>
#include <cstring>

#include "core/bf16.h"
#include "kernels/cpu/cpu_backend.h"

namespace isr::cpu::ISR_NS {

#if ISR_LEVEL >= 2
constexpr int kLanes = 16;
#elif ISR_LEVEL == 1
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif
typedef float vf __attribute__((vector_size(4 * kLanes)));
typedef int32_t vi __attribute__((vector_size(4 * kLanes)));
typedef uint32_t vu __attribute__((vector_size(4 * kLanes)));
typedef uint16_t vh __attribute__((vector_size(2 * kLanes)));

static inline vf splat(float x) { return vf{} + x; }
static inline vf zero() { return vf{}; }

static inline vf fma(vf a, vf b, vf c) {  // a * b + c, fused where the level has it
#if ISR_LEVEL >= 2
  return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif ISR_LEVEL == 1
  return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  return a * b + c;
#endif
}

// AVX-512 intrinsics stand in their maskz form with every lane on: the plain forms pass an undefined vector, which GCC 12
// takes for an uninitialised variable. The code is the same.
#if ISR_LEVEL >= 2
constexpr __mmask16 kAll = 0xffff;
#endif

static inline vf select(vi mask, vf a, vf b) { return mask ? a : b; }

// a > b ? a : b and a < b ? a : b, exactly: of NaN and x, the second argument comes out.
static inline vf max(vf a, vf b) {
#if ISR_LEVEL >= 2
  return (vf)_mm512_maskz_max_ps(kAll, (__m512)a, (__m512)b);
#elif ISR_LEVEL == 1
  return (vf)_mm256_max_ps((__m256)a, (__m256)b);
#else
  return (vf)_mm_max_ps((__m128)a, (__m128)b);
#endif
}
static inline vf min(vf a, vf b) {
#if ISR_LEVEL >= 2
  return (vf)_mm512_maskz_min_ps(kAll, (__m512)a, (__m512)b);
#elif ISR_LEVEL == 1
  return (vf)_mm256_min_ps((__m256)a, (__m256)b);
#else
  return (vf)_mm_min_ps((__m128)a, (__m128)b);
#endif
}

static inline unsigned lanes_set(vi mask) {  // bit i: lane i of a comparison is true
#if ISR_LEVEL >= 2
  return _mm512_movepi32_mask((__m512i)mask);
#elif ISR_LEVEL == 1
  return static_cast<unsigned>(_mm256_movemask_ps((__m256)mask));
#else
  return static_cast<unsigned>(_mm_movemask_ps((__m128)mask));
#endif
}

static inline vf sqrtv(vf a) {
#if ISR_LEVEL >= 2
  return (vf)_mm512_maskz_sqrt_ps(kAll, (__m512)a);
#elif ISR_LEVEL == 1
  return (vf)_mm256_sqrt_ps((__m256)a);
#else
  return (vf)_mm_sqrt_ps((__m128)a);
#endif
}

// ---- memory
static inline vf load(const float* p) {
  vf v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
static inline void store(float* p, vf v) { std::memcpy(p, &v, sizeof v); }

static inline vf from_bf16(vh h) {
#if ISR_LEVEL >= 2
  return (vf)((vu)_mm512_maskz_cvtepu16_epi32(kAll, (__m256i)h) << 16);
#elif ISR_LEVEL == 1
  return (vf)((vu)_mm256_cvtepu16_epi32((__m128i)h) << 16);
#else
  return (vf)(__builtin_convertvector(h, vu) << 16);
#endif
}
static inline vf load(const uint16_t* p) {
  vh h;
  std::memcpy(&h, p, sizeof h);
  return from_bf16(h);
}

static inline vh to_bf16(vf v) {  // round to nearest even; NaN stays NaN. Level 3 flushes subnormals (the instruction does)
#if ISR_LEVEL == 3
  return (vh)_mm512_cvtneps_pbh((__m512)v);
#else
  const vu u = (vu)v;
  const vu rounded = (u + 0x7fffu + ((u >> 16) & 1)) >> 16;
  const vi nan = v != v;
  const vu kept = (u >> 16) | 0x40u;
  return __builtin_convertvector(nan ? kept : rounded, vh);
#endif
}
static inline void store(uint16_t* p, vf v) {
  const vh h = to_bf16(v);
  std::memcpy(p, &h, sizeof h);
}

template <class T>
static inline vf load_n(const T* p, int n) {
#if ISR_LEVEL >= 2
  const __mmask16 mask = static_cast<__mmask16>((1u << n) - 1);
  if constexpr (sizeof(T) == 4) return (vf)_mm512_maskz_loadu_ps(mask, p);
  else return from_bf16((vh)_mm256_maskz_loadu_epi16(mask, p));
#else
  T tmp[kLanes] = {};
  std::memcpy(tmp, p, sizeof(T) * static_cast<size_t>(n));
  return load(tmp);
#endif
}
template <class T>
static inline void store_n(T* p, vf v, int n) {
#if ISR_LEVEL >= 2
  const __mmask16 mask = static_cast<__mmask16>((1u << n) - 1);
  if constexpr (sizeof(T) == 4) _mm512_mask_storeu_ps(p, mask, (__m512)v);
  else _mm256_mask_storeu_epi16(p, mask, (__m256i)to_bf16(v));
#else
  T tmp[kLanes];
  store(tmp, v);
  std::memcpy(p, tmp, sizeof(T) * static_cast<size_t>(n));
#endif
}

// One body for whole vectors and for the tail: f(c, lanes), where lanes goes to load_at / store_at.
struct Whole {};
struct Part { int n; };
template <class T> static inline vf load_at(const T* p, Whole) { return load(p); }
template <class T> static inline vf load_at(const T* p, Part k) { return load_n(p, k.n); }
template <class T> static inline void store_at(T* p, vf v, Whole) { store(p, v); }
template <class T> static inline void store_at(T* p, vf v, Part k) { store_n(p, v, k.n); }
static inline vf keep_at(vf v, Whole, vf = zero()) { return v; }
static inline vf keep_at(vf v, Part k, vf other = zero()) {  // lanes past the end come from `other`
#if ISR_LEVEL >= 2
  return (vf)_mm512_mask_mov_ps((__m512)other, static_cast<__mmask16>((1u << k.n) - 1), (__m512)v);
#else
  for (int i = k.n; i < kLanes; ++i) v[i] = other[i];
  return v;
#endif
}
template <class F>
static inline void for_lanes(int64_t n, F&& f) {
  int64_t c = 0;
  for (; c + kLanes <= n; c += kLanes) f(c, Whole{});
  if (c < n) f(c, Part{static_cast<int>(n - c)});
}

template <class T>
static inline T* row_of(const Tensor& t, int64_t row) { return t.as<T>() + row * t.stride; }

// Rows a chunk of a row-wise region: at least 64 Ki elements (tens of microseconds), so small work runs inline.
static inline int64_t row_grain(int threads, int64_t rows, int64_t cols) {
  return grain_for(threads, rows, (int64_t{1} << 16) / (cols > 0 ? cols : 1) + 1);
}

// Calls f with a value of the element's storage type (float or uint16_t = bfloat16).
template <class F>
static inline void with_type(DType t, F&& f) {
  if (t == DType::F32) f(float{});
  else if (t == DType::BF16) f(uint16_t{});
  else throw Error("BUG", "a kernel got neither f32 nor bf16");
}

// ---- horizontal reductions: lane i meets lane i + kLanes/2 and so on
typedef float quad __attribute__((vector_size(16)));
#if ISR_LEVEL == 0
static inline quad fold_add(vf v) { return v; }
static inline quad fold_max(vf v) { return v; }
#else
typedef float octet __attribute__((vector_size(32)));
#if ISR_LEVEL == 1
static inline octet low_plus_high(vf v) { return v; }
static inline octet max_low_high(vf v) { return v; }
#else
static inline octet low_half(vf v) { return __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7); }
static inline octet high_half(vf v) { return __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15); }
static inline octet low_plus_high(vf v) { return low_half(v) + high_half(v); }
static inline octet max_low_high(vf v) { return (octet)_mm256_max_ps((__m256)low_half(v), (__m256)high_half(v)); }
#endif
static inline quad fold_add(vf v) {
  const octet x = low_plus_high(v);
  return __builtin_shufflevector(x, x, 0, 1, 2, 3) + __builtin_shufflevector(x, x, 4, 5, 6, 7);
}
static inline quad fold_max(vf v) {
  const octet x = max_low_high(v);
  return (quad)_mm_max_ps((__m128)__builtin_shufflevector(x, x, 0, 1, 2, 3), (__m128)__builtin_shufflevector(x, x, 4, 5, 6, 7));
}
#endif
static inline float sum(vf v) {
  const quad q = fold_add(v);
  return (q[0] + q[2]) + (q[1] + q[3]);
}
static inline float max_of(vf v) {
  const quad q = fold_max(v);
  const float a = q[0] > q[2] ? q[0] : q[2], b = q[1] > q[3] ? q[1] : q[3];
  return a > b ? a : b;
}

// ---- elementary functions
static inline vf round_nearest(vf x) {  // |x| < 2^22
#if ISR_LEVEL >= 2
  return (vf)_mm512_maskz_roundscale_ps(kAll, (__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif ISR_LEVEL == 1
  return (vf)_mm256_round_ps((__m256)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
  const vf magic = splat(12582912.0f);  // 1.5 * 2^23
  return (x + magic) - magic;
#endif
}
static inline vf scale_by_power(vf p, vf n) {  // p 2^n for integral n in [-252, 254]; rounds once, also to subnormals
#if ISR_LEVEL >= 2
  return (vf)_mm512_maskz_scalef_ps(kAll, (__m512)p, (__m512)n);
#else
  const vi e = __builtin_convertvector(n, vi), half = e >> 1;
  return p * (vf)((half + 127) << 23) * (vf)((e - half + 127) << 23);
#endif
}

// 2^x, degree-6 minimax on [-1/2, 1/2]: for attention, whose arguments are <= 0 or barely above. x <= -126 gives 0.
static inline vf exp2v(vf x) {
#if ISR_LEVEL >= 2
  const vf top = min(splat(128.0f), x);
#else
  const vf top = max(splat(-126.0f), min(splat(128.0f), x));
#endif
  const vf n = round_nearest(top);
  const vf f = top - n;
  vf p = splat(1.535336188319500e-4f);
  p = fma(p, f, splat(1.339887440266574e-3f));
  p = fma(p, f, splat(9.618437357674640e-3f));
  p = fma(p, f, splat(5.550332471162809e-2f));
  p = fma(p, f, splat(2.402264791363012e-1f));
  p = fma(p, f, splat(6.931472028550421e-1f));
  p = fma(p, f, splat(1.0f));
#if ISR_LEVEL >= 2
  const __mmask16 seen = _mm512_cmp_ps_mask((__m512)x, (__m512)splat(-126.0f), _CMP_NLE_UQ);
  return (vf)_mm512_maskz_scalef_ps(seen, (__m512)p, (__m512)n);
#else
  return select(x <= splat(-126.0f), zero(), scale_by_power(p, n));
#endif
}

// e^x over the whole range: x = n ln2 + r with ln2 in two parts, so that n times the first is exact (Cody & Waite 1980).
static inline vf expv(vf x) {
  x = max(splat(-104.0f), min(splat(89.0f), x));
  const vf n = round_nearest(x * splat(1.44269504088896341f));
  const vf r = fma(n, splat(2.12194440e-4f), fma(n, splat(-0.693359375f), x));
  vf q = splat(1.381459297e-3f);
  q = fma(q, r, splat(8.368719369e-3f));
  q = fma(q, r, splat(4.166838899e-2f));
  q = fma(q, r, splat(1.666652113e-1f));
  q = fma(q, r, splat(4.999999404e-1f));
  return scale_by_power(fma(r * r, q, r) + splat(1.0f), n);
}

// erf: x (1 + P(x^2)) up to |x| = 1, then 1 - e^R(|x|) with R fitted to log(erfc).
static inline vf erfv(vf x) {
  const vu sign = (vu)x & 0x80000000u;
  const vf t = (vf)((vu)x & 0x7fffffffu);
  const vf s = t * t;
  vf p = splat(7.853892021e-5f);
  p = fma(p, s, splat(-8.010203601e-4f));
  p = fma(p, s, splat(5.188329145e-3f));
  p = fma(p, s, splat(-2.685381286e-2f));
  p = fma(p, s, splat(1.128358543e-1f));
  p = fma(p, s, splat(-3.761262596e-1f));
  p = fma(p, s, splat(1.283791661e-1f));
  const vf small = fma(p, t, t);
  const vf u = min(splat(4.0f), t);  // 1 - erf(4) is below half an ulp of 1
  vf r = splat(1.855740265e-4f);
  r = fma(r, u, splat(-2.939607482e-3f));
  r = fma(r, u, splat(2.180531807e-2f));
  r = fma(r, u, splat(-1.030373722e-1f));
  r = fma(r, u, splat(-6.382256746e-1f));
  r = fma(r, u, splat(-1.127040029e+0f));
  r = fma(r, u, splat(-3.537193115e-4f));
  const vf large = splat(1.0f) - expv(r);
  return (vf)((vu)select(t > splat(1.0f), large, small) | sign);
}

}  // namespace isr::cpu::ISR_NS
