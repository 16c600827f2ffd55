// Forward + backward and whole optimizer steps of the bench's decoder on one preference pair: prompt 560, answers 97 and 65
// tokens, packed with the shared prefix. FLOPs are counted on computed tokens; causal attention as half.
#include <cmath>

#include "bench.h"
#include "pairs.h"
#include "peak.h"

namespace isr::bench {
namespace {

void run(const char* dtype, double peak) {
  const test::ModelSpec spec = test::bench_spec(std::string(dtype) == "bf16" ? "BF16" : "F32");
  auto model = test::seeded_model(spec);
  TrainerOptions o;
  o.learning_rate = 1e-6;
  Trainer trainer(*model, o);
  std::vector<TrainPair> pairs;
  for (uint64_t i = 0; i < 4; ++i) pairs.push_back(make_pair(spec.vocab, 560, 97, 65, 10 + i));
  const std::vector<PairReference> references = trainer.score(pairs, nullptr);
  for (size_t i = 0; i < pairs.size(); ++i) {
    pairs[i].ref_chosen = references[i].chosen;
    pairs[i].ref_rejected = references[i].rejected;
  }
  for (size_t count : {size_t{1}, size_t{4}}) {
    const std::vector<TrainPair> part(pairs.begin(), pairs.begin() + static_cast<std::ptrdiff_t>(count));
    const double visible = 559.0 * 560 / 2 + (98.0 + 66) * 559 + 98.0 * 99 / 2 + 66.0 * 67 / 2;
    const double flops = step_flops(model->config, static_cast<int64_t>(count) * 723, static_cast<int64_t>(count) * 162, visible * static_cast<double>(count), true);
    // Wall time, and CPU time of all threads over their number: the second is hardly touched by other processes.
    double step = 1e30, gradients = 1e30, busy = 1e30;
    int64_t tokens = 0;
    for (int i = 0; i < (count == 1 ? 4 : 2); ++i) {
      double start = wall_seconds();
      tokens = trainer.train_step(part, nullptr).tokens_computed;
      step = std::min(step, wall_seconds() - start);
      Trainer::Gradients ignored;
      start = wall_seconds();
      const double cpu = process_cpu_seconds();
      trainer.gradients(part, {"model.norm.weight"}, ignored, nullptr);
      gradients = std::min(gradients, wall_seconds() - start);
      busy = std::min(busy, (process_cpu_seconds() - cpu) / machine_threads());
    }
    std::printf("step %-5s pairs %zu tokens %lld: forward+backward %.3f s = %.1f GFLOP/s = %.1f %% of peak (%.1f %% by CPU time); whole step %.3f s\n", dtype, count,
                static_cast<long long>(tokens), gradients, flops / gradients * 1e-9, 100e-9 * flops / gradients / peak, 100e-9 * flops / busy / peak, step);
    std::fflush(stdout);
  }
}

// ---- what sharing the prompt gains: forward + backward of one pair with and without, interleaved

double gradient_seconds(Trainer& trainer, const TrainPair& pair, double& cpu) {
  const double busy = process_cpu_seconds();
  const StepMetrics m = trainer.try_step({pair}, nullptr);
  cpu = std::min(cpu, (process_cpu_seconds() - busy) * m.compute_seconds / m.seconds);
  return m.compute_seconds;
}

void grid(const char* dtype) {
  const test::ModelSpec spec = test::bench_spec(std::string(dtype) == "bf16" ? "BF16" : "F32");
  TrainerOptions with, without;
  with.micro_batch_tokens = without.micro_batch_tokens = 1 << 20;
  without.share_prefix = false;
  auto a = test::seeded_model(spec), b = test::seeded_model(spec);
  Trainer shared(*a, with), separate(*b, without);
  for (int64_t prompt : {1, 128, 512, 1024, 2048})
    for (int64_t answer : {32, 128, 512}) {
      TrainPair pair = make_pair(spec.vocab, prompt, answer, answer, static_cast<uint64_t>(prompt + answer));
      pair.ref_chosen = pair.ref_rejected = std::vector<float>(static_cast<size_t>(answer), -10.0f);
      double wall[2] = {1e30, 1e30}, cpu[2] = {1e30, 1e30};
      for (int i = 0; i < 3; ++i) {
        wall[0] = std::min(wall[0], gradient_seconds(shared, pair, cpu[0]));
        wall[1] = std::min(wall[1], gradient_seconds(separate, pair, cpu[1]));
      }
      const Work one = shared_work(prompt, answer), two = separate_work(prompt, answer);
      const DecoderConfig& c = a->config;
      const double ideal = step_flops(c, two.tokens, 2 * answer, two.visible, true) / step_flops(c, one.tokens, 2 * answer, one.visible, true);
      const double gain = wall[1] / wall[0], by_cpu = cpu[1] / cpu[0];
      std::printf("share %-5s prefix %4lld response %3lld: %.3f s, separate %.3f s, gain by CPU time %.2f x = %.1f %% of the ideal %.2f x (by the clock %.2f x = %.1f %%)\n", dtype,
                  static_cast<long long>(prompt == 1 ? 0 : prompt), static_cast<long long>(answer), wall[0], wall[1], by_cpu, 100 * by_cpu / ideal, ideal, gain, 100 * gain / ideal);
      std::fflush(stdout);
    }
}

BENCH("grid") {
  grid("bf16");
  grid("f32");
}

BENCH("step") {
  const int threads = machine_threads();
  run("bf16", chosen_isa() == Isa::Avx512Bf16 ? peak_bf16(threads) : peak_fma_f32(threads));
  run("f32", peak_fma_f32(threads));
}

}  // namespace
}  // namespace isr::bench
