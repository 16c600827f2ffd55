// Attention: forward and backward over one causal span, a shared-prefix pair and a tower's frames, and cached decode.
// Causal work is counted as half of the square: forward 2 T^2 D H, backward (five products) 5 T^2 D H.
#include <cmath>
#include <vector>

#include "bench.h"
#include "core/bf16.h"
#include "core/rng.h"
#include "kernels/backend.h"
#include "peak.h"

namespace isr::bench {
namespace {

struct Size {
  const char* what;
  std::vector<Span> spans;
  int64_t heads, kv_heads, d;
  bool causal = true;
};

std::vector<Span> frames(int count, int rows) {
  std::vector<Span> spans;
  for (int i = 0; i < count; ++i) spans.push_back({i * rows, (i + 1) * rows, -1});
  return spans;
}

struct Values {  // small random values
  std::vector<uint16_t> memory;
  Tensor t;
  Values(DType type, int64_t rows, int64_t cols) : memory(static_cast<size_t>(rows * cols) * size_of(type) / 2), t(view(memory.data(), type, rows, cols)) {
    const Philox draw(7);
    for (int64_t i = 0; i < rows * cols; ++i) {
      const float x = 2 * unit_float(draw(0, static_cast<uint64_t>(i))[0]) - 1;
      if (type == DType::F32) t.f32()[i] = x;
      else t.bf16()[i] = f32_to_bf16(x);
    }
  }
};

// Key-query pairs that are visible; a causal span's own are counted as T^2 / 2.
double pairs_of(const Size& size) {
  double pairs = 0;
  for (const Span& s : size.spans) {
    const double own = s.end - s.begin;
    pairs += own * own / (size.causal ? 2 : 1);
    for (int p = s.parent; p >= 0; p = size.spans[static_cast<size_t>(p)].parent)
      pairs += own * (size.spans[static_cast<size_t>(p)].end - size.spans[static_cast<size_t>(p)].begin);
  }
  return pairs;
}

void report(const char* kernel, const Backend& backend, int threads, DType type, const Size& size, double flops, double seconds) {
  // Below the bf16 level both types run on float32 units.
  const bool dots = type == DType::BF16 && std::string(backend.level()) == "avx512bf16";
  const double peak = dots ? peak_bf16(threads) : peak_fma_f32(threads);
  std::printf("%-9s %-5s %-11s threads %d  %-22s D %3d  H/K %2d/%-2d  %8.1f us  %7.1f GFLOP/s  %5.1f %% of %.0f\n", kernel, name_of(type), backend.level(),
              threads, size.what, static_cast<int>(size.d), static_cast<int>(size.heads), static_cast<int>(size.kv_heads), seconds * 1e6,
              flops / seconds * 1e-9, flops / seconds * 1e-7 / peak, peak);
  std::fflush(stdout);
}

void run(Isa level, DType type, int threads, const Size& size) {
  const auto backend = make_cpu_backend(level, threads);
  const AttentionPlan plan = plan_attention(size.spans, size.causal);
  const auto prepared = backend->prepare(plan);
  const AttentionShape s{size.heads, size.kv_heads, size.d, 1 / std::sqrt(static_cast<float>(size.d))};
  const int64_t rows = plan.rows, wide = s.heads * s.head_size, narrow = s.kv_heads * s.head_size;
  Values qkv(type, rows, wide + 2 * narrow), dqkv(type, rows, wide + 2 * narrow), out(type, rows, wide), dout(type, rows, wide);
  std::vector<float> lse(static_cast<size_t>(rows * s.heads));
  const auto part = [&](Values& m, int i) { return i == 0 ? m.t.columns(0, wide) : m.t.columns(wide + (i - 1) * narrow, narrow); };
  const double flops = 4 * pairs_of(size) * static_cast<double>(wide);
  report("forward", *backend, threads, type, size, flops, best_seconds([&] {
           backend->attention_forward(out.t, lse.data(), part(qkv, 0), part(qkv, 1), part(qkv, 2), *prepared, s);
         }, threads));
  report("backward", *backend, threads, type, size, 2.5 * flops, best_seconds([&] {
           backend->attention_backward(part(dqkv, 0), part(dqkv, 1), part(dqkv, 2), dout.t, part(qkv, 0), part(qkv, 1), part(qkv, 2), out.t, lse.data(), *prepared, s);
         }, threads));
}

// One new row for each of `branches` sequences that share `keys` tokens: time a call, and the rate at which pages are read.
void decode(Isa level, DType type, int threads, int branches, int keys, int64_t heads, int64_t kv_heads, int64_t d) {
  const auto backend = make_cpu_backend(level, threads);
  const AttentionShape s{heads, kv_heads, d, 1 / std::sqrt(static_cast<float>(d))};
  const int shared = keys / kKeyBlock, pages = shared + branches;
  const int64_t bytes = static_cast<int64_t>(backend->kv_page_bytes(s, type));
  std::vector<char> memory(static_cast<size_t>(pages * bytes));
  const KvStore store{memory.data(), bytes, pages};
  CachedPlan plan;
  for (int p = 0; p < pages; ++p)
    for (int slot = 0; slot < kKeyBlock; ++slot) plan.rows.push_back({p, slot});
  for (int b = 0; b < branches; ++b) {
    plan.sequences.push_back({b, 1, keys + kKeyBlock / 2, static_cast<int32_t>(plan.page_list.size()), shared + 1});
    for (int p = 0; p < shared; ++p) plan.page_list.push_back(p);
    plan.page_list.push_back(shared + b);
  }
  Values k(type, pages * kKeyBlock, kv_heads * d), q(type, branches, heads * d), out(type, branches, heads * d);
  const auto prepared = backend->prepare(plan);
  backend->kv_append(store, 0, k.t, k.t, *prepared, s);
  const double seconds = best_seconds([&] { backend->attention_cached(out.t, q.t, store, 0, *prepared, s); }, threads, 0.05);
  std::printf("%-9s %-5s %-11s threads %d  %d x %d keys  D %3d  H/K %2d/%-2d  %8.1f us  %6.1f GB/s of pages\n", "decode", name_of(type), backend->level(), threads,
              branches, keys, static_cast<int>(d), static_cast<int>(heads), static_cast<int>(kv_heads), seconds * 1e6,
              static_cast<double>(pages * bytes) / seconds * 1e-9);
  std::fflush(stdout);
}

const std::vector<Span> kLong = {{0, 2048, -1}}, kPair = {{0, 559, -1}, {559, 656, 0}, {656, 721, 0}};

BENCH("attention") {
  const std::vector<Size> sizes = {{"2048", kLong, 12, 12, 64}, {"2048", kLong, 12, 12, 128}, {"2048", kLong, 32, 8, 64}, {"pair 559 + 97 | 65", kPair, 12, 12, 64},
                                   {"8 frames of 257", frames(8, 257), 16, 16, 64, false}, {"257 patches x 8", frames(257, 8), 16, 16, 64, false}};
  for (const Size& size : sizes)
    for (DType type : {DType::F32, DType::BF16})
      for (int threads : {1, 2}) run(chosen_isa(), type, threads, size);
  for (DType type : {DType::F32, DType::BF16}) {
    if (isa_supported(Isa::Avx2)) run(Isa::Avx2, type, 1, sizes[0]);
    run(Isa::Generic, type, 1, sizes[3]);
  }
}

BENCH("attention decode") {
  for (DType type : {DType::F32, DType::BF16})
    for (int threads : {1, 2}) {
      decode(chosen_isa(), type, threads, 1, 2048, 12, 12, 64);
      decode(chosen_isa(), type, threads, 8, 2048, 12, 12, 64);
      decode(chosen_isa(), type, threads, 8, 2048, 32, 8, 128);
    }
}

}  // namespace
}  // namespace isr::bench
