// Products against the machine's limits. Peak and product alternate, so a busy neighbour or a lower clock hits both alike.
// ISR_BENCH_THREADS: threads (2 if unset); ISR_BENCH_SECONDS: time a row.
#include <cstdlib>
#include <memory>

#include "../../test/native/host.h"
#include "bench.h"
#include "core/bf16.h"
#include "core/cpu.h"
#include "kernels/backend.h"
#include "peak.h"

using namespace isr;
using namespace isr::bench;

namespace {

struct Shape { int64_t m, n, k; };
const Shape kForward[] = {{512, 768, 768},   {512, 2048, 768},   {2048, 2048, 768},
                          {2048, 768, 2048}, {2048, 4096, 4096}, {512, 11008, 4096}};
const Shape kBackward[] = {{720, 768, 768}, {720, 2304, 768}, {720, 4096, 768}, {720, 768, 2048}, {2048, 2048, 768}, {2048, 4096, 4096}};
const Shape kDecode[] = {{1, 768, 768}, {1, 2048, 768}, {1, 4096, 4096}, {1, 11008, 4096},
                         {8, 4096, 4096}, {9, 2048, 768}, {16, 768, 2048}, {24, 4096, 4096}};

int bench_threads() {
  const char* s = std::getenv("ISR_BENCH_THREADS");
  return s ? std::atoi(s) : 2;
}
double row_seconds() {
  const char* s = std::getenv("ISR_BENCH_SECONDS");
  return s ? std::atof(s) : 0.5;
}

struct Values {
  Buffer memory;
  Tensor t;
  Values(DType dtype, int64_t rows, int64_t cols) : memory(static_cast<size_t>(rows * cols) * size_of(dtype)) {
    t = view(memory.data(), dtype, rows, cols);
    for (int64_t i = 0; i < rows * cols; ++i) {  // small numbers, none of them subnormal
      const float v = static_cast<float>((i * 37 + i / cols) % 101 - 50) / 64;
      if (dtype == DType::F32) t.f32()[i] = v;
      else t.bf16()[i] = f32_to_bf16(v);
    }
  }
};

struct Setting { Isa level; DType dtype; };
std::vector<Setting> settings() {
  std::vector<Setting> all;
  for (Setting s : {Setting{Isa::Avx512Bf16, DType::BF16}, {Isa::Avx512, DType::F32}, {Isa::Avx512, DType::BF16},
                    {Isa::Avx2, DType::F32}, {Isa::Avx2, DType::BF16}, {Isa::Generic, DType::F32}})
    if (isa_supported(s.level)) all.push_back(s);
  return all;
}

// Alternates slices of the peak loop and of `run`, and prints the best of both: by wall time, and by CPU time of all
// threads against one thread's peak, which neighbours disturb less (it leaves out waiting).
template <class F>
void report(const char* kernel, const Setting& s, const Shape& shape, F&& run) {
  const int threads = bench_threads();
  const bool pairs = s.level == Isa::Avx512Bf16 && s.dtype == DType::BF16;
  const auto peak_of = [&](int n) { return pairs ? peak_bf16(n, 0.01) : peak_fma_f32(n, 0.01); };
  double peak = 0, peak_one = 0, wall = 1e30, cpu = 1e30;
  for (const double stop = wall_seconds() + row_seconds(); wall_seconds() < stop || wall == 1e30;) {
    peak = std::max(peak, peak_of(threads));
    peak_one = std::max(peak_one, peak_of(1));
    for (const double pause = wall_seconds() + 0.03; wall_seconds() < pause;) {
      const double wall0 = wall_seconds(), cpu0 = process_cpu_seconds();
      run();
      cpu = std::min(cpu, process_cpu_seconds() - cpu0);
      wall = std::min(wall, wall_seconds() - wall0);
    }
  }
  const double work = 2e-9 * static_cast<double>(shape.m) * static_cast<double>(shape.n) * static_cast<double>(shape.k);
  std::printf("%-8s %-4s %-10s %5ld x %5ld x %4ld %8.1f GFLOP/s  %5.1f %% of %.0f   by CPU time %5.1f %%\n", kernel,
              name_of(s.dtype), name_of(s.level), shape.m, shape.n, shape.k, work / wall, 100 * work / wall / peak, peak,
              100 * work / cpu / peak_one);
  std::fflush(stdout);
}

}  // namespace

BENCH("gemm_nt") {
  for (const Setting& s : settings())
    for (const Shape& shape : kForward) {
      if (s.level == Isa::Generic && shape.m * shape.n > 1 << 20) continue;
      auto b = make_cpu_backend(s.level, bench_threads());
      const Values x(s.dtype, shape.m, shape.k), w(s.dtype, shape.n, shape.k), y(s.dtype, shape.m, shape.n);
      const test::HostMatrix packed(*b, w.t);
      report("gemm_nt", s, shape, [&] { b->gemm_nt(y.t, x.t, packed, {}); });
    }
}

BENCH("gemm_nn") {
  for (const Setting& s : settings())
    for (const Shape& shape : kBackward) {
      if (s.level == Isa::Generic && shape.m * shape.n > 1 << 20) continue;
      auto b = make_cpu_backend(s.level, bench_threads());
      const Values dy(s.dtype, shape.m, shape.n), w(s.dtype, shape.n, shape.k), dx(s.dtype, shape.m, shape.k);
      report("gemm_nn", s, shape, [&] { b->gemm_nn(dx.t, false, dy.t, {&w.t, 1}); });
    }
}

BENCH("gemm_tn") {
  for (const Setting& s : settings())
    for (const Shape& shape : kBackward) {
      if (s.level == Isa::Generic && shape.m * shape.n > 1 << 20) continue;
      auto b = make_cpu_backend(s.level, bench_threads());
      const Values dy(s.dtype, shape.m, shape.n), x(s.dtype, shape.m, shape.k), dw(DType::F32, shape.n, shape.k);
      const GradPart part{dw.t.f32(), nullptr, shape.n, false, false};
      report("gemm_tn", s, shape, [&] { b->gemm_tn({&part, 1}, dy.t, x.t); });
    }
}

// Decoding: the weights of many layers in turn, so that they come from memory.
BENCH("gemv") {
  const int threads = bench_threads();
  for (const Setting& s : settings())
    for (const Shape& shape : kDecode) {
      if (s.level == Isa::Generic) continue;
      auto b = make_cpu_backend(s.level, threads);
      const Values x(s.dtype, shape.m, shape.k), y(s.dtype, shape.m, shape.n), w(s.dtype, shape.n, shape.k);
      const MatrixShape matrix{shape.n, shape.k, s.dtype, false};
      const size_t bytes = b->matrix_bytes(matrix);
      const int64_t layers = static_cast<int64_t>((size_t{220} << 20) / bytes) + 1;
      const Buffer memory(bytes * static_cast<size_t>(layers));
      std::vector<std::unique_ptr<Matrix>> all;
      for (int64_t i = 0; i < layers; ++i) {
        all.push_back(b->matrix(matrix, memory.data<char>() + static_cast<size_t>(i) * bytes));
        all.back()->write_rows(0, w.t);
      }
      double peak = 0, seconds = 1e30;
      for (const double stop = wall_seconds() + row_seconds(); wall_seconds() < stop || seconds == 1e30;) {
        peak = std::max(peak, read_rate(threads, 0.03));
        seconds = std::min(seconds, best_seconds([&] { for (const auto& layer : all) b->gemm_nt(y.t, x.t, *layer, {}); }, threads, 0.05, 1));
      }
      const double rate = 1e-9 * static_cast<double>(bytes) * static_cast<double>(layers) / seconds;
      std::printf("gemv     %-4s %-10s %5ld x %5ld x %4ld %8.1f GB/s     %5.1f %% of %.1f\n", name_of(s.dtype), name_of(s.level), shape.m,
                  shape.n, shape.k, rate, 100 * rate / peak, peak);
      std::fflush(stdout);
    }
}

BENCH("pack") {
  for (const Setting& s : settings())
    for (bool back : {false, true}) {
      auto b = make_cpu_backend(s.level, 1);
      const int64_t n = 4096, k = 4096;
      const Values w(s.dtype, n, k);
      const test::HostMatrix packed(*b, w.t);
      const double seconds = best_seconds([&] {
        if (back) packed.matrix->read_rows(w.t, 0);
        else packed.matrix->write_rows(0, w.t);
      }, 1, row_seconds());
      std::printf("%-8s %-4s %-10s %5ld x %5ld %8.1f GB/s of weights, 1 thread\n", back ? "unpack" : "pack", name_of(s.dtype),
                  name_of(s.level), n, k, 1e-9 * static_cast<double>(n * k) * static_cast<double>(size_of(s.dtype)) / seconds);
    }
}

BENCH("limits") {
  for (int threads : {1, 2})
    std::printf("%d threads: f32 %.0f GFLOP/s, bf16 %.0f GFLOP/s, read %.1f GB/s, copy %.1f GB/s\n", threads,
                peak_fma_f32(threads, 0.3), peak_bf16(threads, 0.3), read_rate(threads, 1), copy_rate(threads, 1));
}
