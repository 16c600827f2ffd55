// Hand-written loops for the machine's limits (peak.h).
#include "peak.h"

#include <immintrin.h>

#include "bench.h"
#include "core/memory.h"
#include "core/threads.h"

namespace isr::bench {
namespace {

volatile float sink;

// Twelve chains of sums cover the latency of two units. Every loop returns the multiply-adds it did.
__attribute__((target("avx512f"))) double fma_512() {
  constexpr int kSteps = 200000;
  __m512 s[12];
  for (auto& v : s) v = _mm512_set1_ps(1);
  __m512 a = _mm512_set1_ps(0.999f);
  const __m512 b = _mm512_set1_ps(1e-3f);
  for (int i = 0; i < kSteps; ++i) {
    for (auto& v : s) v = _mm512_fmadd_ps(v, a, b);
    asm volatile("" : "+v"(a));
  }
  __m512 total = s[0];
  for (auto& v : s) total = _mm512_add_ps(total, v);
  sink = total[0];
  return 12.0 * 16 * kSteps;
}

__attribute__((target("avx2,fma"))) double fma_256() {
  constexpr int kSteps = 200000;
  __m256 s[12];
  for (auto& v : s) v = _mm256_set1_ps(1);
  __m256 a = _mm256_set1_ps(0.999f);
  const __m256 b = _mm256_set1_ps(1e-3f);
  for (int i = 0; i < kSteps; ++i) {
    for (auto& v : s) v = _mm256_fmadd_ps(v, a, b);
    asm volatile("" : "+x"(a));
  }
  __m256 total = s[0];
  for (auto& v : s) total = _mm256_add_ps(total, v);
  sink = total[0];
  return 12.0 * 8 * kSteps;
}

__attribute__((target("avx512f,avx512bf16"))) double dot_bf16() {
  constexpr int kSteps = 200000;
  __m512 s[12];
  for (auto& v : s) v = _mm512_setzero_ps();
  __m512 a = _mm512_set1_ps(0.5f);
  const __m512 b = _mm512_set1_ps(0.25f);
  for (int i = 0; i < kSteps; ++i) {
    for (auto& v : s) v = _mm512_dpbf16_ps(v, (__m512bh)a, (__m512bh)b);
    asm volatile("" : "+v"(a));
  }
  __m512 total = s[0];
  for (auto& v : s) total = _mm512_add_ps(total, v);
  sink = total[0];
  return 12.0 * 32 * kSteps;
}

// A sum of one sequential stream; four chains, no prefetch.
template <class V>
__attribute__((always_inline)) inline float read_vectors(const float* p, int64_t n) {
  constexpr int kLanes = sizeof(V) / 4;
  V s[4] = {};
  for (int64_t i = 0; i + 4 * kLanes <= n; i += 4 * kLanes)
    for (int j = 0; j < 4; ++j) s[j] += *reinterpret_cast<const V*>(p + i + kLanes * j);
  const V total = (s[0] + s[1]) + (s[2] + s[3]);
  return total[0];
}
typedef float v4 __attribute__((vector_size(16), aligned(4), may_alias));
typedef float v16 __attribute__((vector_size(64), aligned(4), may_alias));
__attribute__((target("avx512f"))) float read_512(const float* p, int64_t n) { return read_vectors<v16>(p, n); }
float read_128(const float* p, int64_t n) { return read_vectors<v4>(p, n); }
float read_all(const float* p, int64_t n) {
  return __builtin_cpu_supports("avx512f") ? read_512(p, n) : read_128(p, n);
}

void copy_streaming(float* to, const float* from, int64_t n) {
  for (int64_t i = 0; i + 4 <= n; i += 4) _mm_stream_ps(to + i, _mm_load_ps(from + i));
  _mm_sfence();
}

// Best rate of `work` (which returns its multiply-adds) with every thread running it at once.
double flops(int threads, double seconds, double (*work)()) {
  double done = 0;
  const double best = best_seconds(
      [&] { parallel(threads, threads, 1, [&](int64_t begin, int64_t end, int) { for (; begin < end; ++begin) done = work(); }); },
      threads, seconds);
  return 2e-9 * done * threads / best;
}

constexpr int64_t kFloats = int64_t{64} << 20;  // 256 MB: far beyond any cache

}  // namespace

double peak_fma_f32(int threads, double seconds) {
  if (__builtin_cpu_supports("avx512f")) return flops(threads, seconds, fma_512);
  return __builtin_cpu_supports("avx2") ? flops(threads, seconds, fma_256) : 0;
}

double peak_bf16(int threads, double seconds) {
  return __builtin_cpu_supports("avx512bf16") ? flops(threads, seconds, dot_bf16) : 0;
}

double read_rate(int threads, double seconds) {
  static const Buffer memory = [] {
    Buffer b(kFloats * 4);
    for (int64_t i = 0; i < kFloats; ++i) b.data<float>()[i] = 1;
    return b;
  }();
  const int64_t share = kFloats / threads;
  const double best = best_seconds(
      [&] {
        parallel(threads, threads, 1, [&](int64_t begin, int64_t end, int) {
          for (; begin < end; ++begin) sink = read_all(memory.data<float>() + begin * share, share);
        });
      },
      threads, seconds);
  return 4e-9 * static_cast<double>(share * threads) / best;
}

double copy_rate(int threads, double seconds) {
  static const Buffer from(kFloats * 2), to(kFloats * 2);
  std::fill_n(from.data<float>(), kFloats / 2, 1.0f);  // else all its pages are one page of zeros
  const int64_t share = kFloats / 2 / threads / 4 * 4;
  const double best = best_seconds(
      [&] {
        parallel(threads, threads, 1, [&](int64_t begin, int64_t end, int) {
          for (; begin < end; ++begin) copy_streaming(to.data<float>() + begin * share, from.data<float>() + begin * share, share);
        });
      },
      threads, seconds);
  return 8e-9 * static_cast<double>(share * threads) / best;
}

}  // namespace isr::bench
