// Generation with the bench's decoder: prefill of a 560-token prompt, then decoding one sequence and two together.
// Decoding reads every weight once per step, so its limit is the machine's read rate, measured in the same run. The first
// lines are what the scheduler costs a step when computing costs nothing.
#include <algorithm>

#include "../../test/native/seeded_model.h"
#include "bench.h"
#include "infer/scheduler.h"
#include "peak.h"

namespace isr::bench {
namespace {

constexpr int64_t kPrompt = 560, kTokens = 65;

GenerateRequest request_of(int64_t prompt, int32_t copies, int64_t vocab, uint64_t seed) {
  GenerateRequest r;
  r.ids = test::random_ids(prompt, vocab, seed);
  r.copies = copies;
  r.sampling.temperature = 0.7;
  r.sampling.top_p = 0.9;
  r.sampling.max_tokens = kTokens;
  r.sampling.min_tokens = kTokens;
  return r;
}

struct Times { double first = 1e30, step = 1e30; };   // seconds to the first token; a decode step

// The best of several runs; a step is the mean over one run's decode steps. One thread is timed by its CPU time.
Times measure(Model& model, int32_t copies, int runs) {
  Generator generator(model, 0, false);
  const auto now = [&] { return model.threads == 1 ? thread_cpu_seconds() : wall_seconds(); };
  Times best;
  for (int run = 0; run < runs; ++run) {
    const GenerateRequest r = request_of(kPrompt, copies, model.config.vocab, static_cast<uint64_t>(run));
    int64_t tokens = 0;
    double first = 0;
    GenerateCallbacks callbacks;
    callbacks.token = [&](const GeneratedToken&) {
      if (++tokens == copies) first = now();
    };
    const double start = now();
    generator.generate({r}, callbacks, nullptr);
    best.first = std::min(best.first, first - start);
    best.step = std::min(best.step, (now() - first) / static_cast<double>(kTokens - 1));
  }
  return best;
}

// Bytes of the matrices that a decode step reads: all but the embedding table.
double weight_bytes(Model& m) {
  double bytes = 0;
  for (const Weight* w : m.weights()) bytes += static_cast<double>(w->n() * w->k()) * static_cast<double>(size_of(m.dtype));
  return bytes;
}

void report(const char* dtype, int threads) {
  LoadOptions options;
  options.threads = threads;
  const auto model = test::seeded_model(test::bench_spec(std::string(dtype) == "bf16" ? "BF16" : "F32"), options);
  const double peak = read_rate(threads), bytes = weight_bytes(*model);
  for (int32_t copies : {1, 2}) {
    const Times t = measure(*model, copies, 3);
    std::printf("decode %-4s threads %d sequences %d: prefill %.3f s = %6.0f tok/s; decode %6.1f tok/s, weights at %5.1f GB/s = %3.0f %% of the read rate of %.1f\n",
                dtype, threads, copies, t.first, kPrompt / t.first, copies / t.step, bytes / t.step * 1e-9, bytes / t.step * 1e-7 / peak, peak);
    std::fflush(stdout);
  }
}

struct NoModel final : Stepper {
  int64_t steps = 0;
  void step(int32_t* ids, float* logp, const CachedBatch&, const Draws& draws, const KvStore&) override {
    ++steps;
    for (size_t i = 0; i < draws.size(); ++i) ids[i] = 5, logp[i] = -1;
  }
};

void report_host(int32_t copies) {
  KvCache cache(12, 64, uint64_t{1} << 20, false);
  NoModel none;
  const std::vector<GenerateRequest> requests = {request_of(kPrompt, copies, 1000, 1)};
  Counters counters;
  const double seconds = best_seconds([&] {
    Scheduler scheduler(cache, {}, 1000, {});
    scheduler.join(requests, {}, nullptr);
    while (!scheduler.idle()) scheduler.step(none, counters);
  });
  std::printf("decode: the scheduler alone, %d sequences: %.2f us a step\n", copies, seconds * 1e6 / static_cast<double>(kTokens + 1));
}

BENCH("decode") {
  report_host(1);
  report_host(64);
  const int all = machine_threads();
  for (const char* dtype : {"bf16", "f32"})
    for (int threads : {1, all}) {
      report(dtype, threads);
      if (all == 1) break;
    }
}

}  // namespace
}  // namespace isr::bench
