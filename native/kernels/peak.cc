#include "kernels/peak.h"

#include <immintrin.h>
#include <time.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "core/threads.h"

namespace isr {
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

// Without fused multiply-adds: a product and a sum.
double mul_add_128() {
  constexpr int kSteps = 200000;
  __m128 s[12];
  for (auto& v : s) v = _mm_set1_ps(1);
  __m128 a = _mm_set1_ps(0.999f);
  const __m128 b = _mm_set1_ps(1e-3f);
  for (int i = 0; i < kSteps; ++i) {
    for (auto& v : s) v = _mm_add_ps(_mm_mul_ps(v, a), b);
    asm volatile("" : "+x"(a));
  }
  __m128 total = s[0];
  for (auto& v : s) total = _mm_add_ps(total, v);
  sink = total[0];
  return 12.0 * 4 * kSteps;
}

double seconds_of(clockid_t clock) {
  timespec t;
  clock_gettime(clock, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

double (*loop_of(Isa level, DType dtype))() {
  switch (level) {
    case Isa::Avx512Bf16: return dtype == DType::BF16 ? dot_bf16 : fma_512;
    case Isa::Avx512: return fma_512;
    case Isa::Avx2: return fma_256;
    default: return mul_add_128;
  }
}

// FLOP/s of the calling thread. The first quarter is not counted: the others may not have begun yet.
double thread_rate(double (*loop)(), double seconds) {
  const double start = seconds_of(CLOCK_MONOTONIC);
  double best = 0, spent = 0;
  do {
    const double busy = seconds_of(CLOCK_THREAD_CPUTIME_ID), done = loop();
    spent = seconds_of(CLOCK_MONOTONIC) - start;
    if (spent > seconds / 4) best = std::max(best, 2 * done / (seconds_of(CLOCK_THREAD_CPUTIME_ID) - busy));
  } while (spent < seconds);
  return best;
}

}  // namespace

double peak_flops(Isa level, DType dtype, int threads, double seconds) {
  double (*const loop)() = loop_of(level, dtype);
  std::vector<double> rates(static_cast<size_t>(threads));
  parallel(threads, threads, 1, [&](int64_t begin, int64_t end, int) {
    for (; begin < end; ++begin) rates[static_cast<size_t>(begin)] = thread_rate(loop, seconds);
  });
  return std::accumulate(rates.begin(), rates.end(), 0.0);
}

}  // namespace isr
