// The vector types that row-wise kernels are written in: vf = kLanes floats, the same source at every level.
// load/store take a pointer to float32 or bfloat16 data; the _n forms touch only the first n lanes (the rest read as 0).
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

static inline vf load(const float* p) {
  vf v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
static inline void store(float* p, vf v) { std::memcpy(p, &v, sizeof v); }

static inline vf load(const uint16_t* p) {
  vh h;
  std::memcpy(&h, p, sizeof h);
  return (vf)(__builtin_convertvector(h, vu) << 16);
}
static inline vh to_bf16(vf v) {  // round to nearest even; NaN stays NaN
  const vu u = (vu)v;
  const vu rounded = (u + 0x7fffu + ((u >> 16) & 1)) >> 16;
  const vi nan = v != v;
  const vu kept = (u >> 16) | 0x40u;
  return __builtin_convertvector((vu)(((vi)rounded & ~nan) | ((vi)kept & nan)), vh);
}
static inline void store(uint16_t* p, vf v) {
  const vh h = to_bf16(v);
  std::memcpy(p, &h, sizeof h);
}

template <class T>
static inline vf load_n(const T* p, int n) {
  T tmp[kLanes] = {};
  std::memcpy(tmp, p, sizeof(T) * static_cast<size_t>(n));
  return load(tmp);
}
template <class T>
static inline void store_n(T* p, vf v, int n) {
  T tmp[kLanes];
  store(tmp, v);
  std::memcpy(p, tmp, sizeof(T) * static_cast<size_t>(n));
}

static inline vf select(vi mask, vf a, vf b) { return (vf)(((vi)a & mask) | ((vi)b & ~mask)); }
static inline vf max(vf a, vf b) { return select(a > b, a, b); }
static inline vf min(vf a, vf b) { return select(a < b, a, b); }

// Horizontal reductions in a fixed tree order.
static inline float sum(vf v) {
  float x[kLanes];
  store(x, v);
  for (int w = kLanes / 2; w > 0; w /= 2)
    for (int i = 0; i < w; ++i) x[i] += x[i + w];
  return x[0];
}
static inline float max_of(vf v) {
  float x[kLanes];
  store(x, v);
  for (int w = kLanes / 2; w > 0; w /= 2)
    for (int i = 0; i < w; ++i) x[i] = x[i] > x[i + w] ? x[i] : x[i + w];
  return x[0];
}

// 2^x, relative error below 1 ulp-ish (degree-6 minimax on [-1/2, 1/2]); x <= -126 gives 0, large x saturates at 2^127 * 2.
static inline vf exp2v(vf x) {
  const vf lo = splat(-126.0f), hi = splat(127.999f);
  const vi under = x <= lo;
  x = min(max(x, lo), hi);
  const vf magic = splat(12582912.0f);  // 1.5 * 2^23: adding rounds to nearest integer
  const vf n = (x + magic) - magic;
  const vf f = x - n;
  vf p = splat(1.535336188319500e-4f);
  p = fma(p, f, splat(1.339887440266574e-3f));
  p = fma(p, f, splat(9.618437357674640e-3f));
  p = fma(p, f, splat(5.550332471162809e-2f));
  p = fma(p, f, splat(2.402264791363012e-1f));
  p = fma(p, f, splat(6.931472028550421e-1f));
  p = fma(p, f, splat(1.0f));
  const vi e = __builtin_convertvector(n, vi);
  const vf scaled = (vf)((vi)p + (e << 23));
  return select(under, zero(), scaled);
}
static inline vf expv(vf x) { return exp2v(x * splat(1.44269504088896341f)); }

}  // namespace isr::cpu::ISR_NS
