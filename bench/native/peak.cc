// The machine's limits (peak.h): multiply-adds by the engine's own loops, memory by loops here.
#include "peak.h"

#include <immintrin.h>

#include "bench.h"
#include "core/memory.h"
#include "core/threads.h"
#include "kernels/peak.h"

namespace isr::bench {
namespace {

volatile float sink;

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

constexpr int64_t kFloats = int64_t{64} << 20;  // 256 MB: far beyond any cache

}  // namespace

double peak_fma_f32(int threads, double seconds) {
  return 1e-9 * peak_flops(machine_isa() == Isa::Avx512Bf16 ? Isa::Avx512 : machine_isa(), DType::F32, threads, seconds);
}

double peak_bf16(int threads, double seconds) {
  return machine_isa() == Isa::Avx512Bf16 ? 1e-9 * peak_flops(Isa::Avx512Bf16, DType::BF16, threads, seconds) : 0;
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
