// Decoders of known sizes with random weights: loading, generation and a DPO step.
#include <cstring>
#include <optional>

#include "../native/pairs.h"
#include "infer/generator.h"
#include "sections.h"

namespace isr::gpu {
namespace {

using test::ModelSpec;

// Any values do: the steps' time does not depend on them. A pattern of a prime length, repeated, is written as fast as memory is.
void write_weights(const std::string& dir, const ModelSpec& spec) {
  test::make_config(dir, spec);
  std::vector<uint16_t> pattern(1000003), ones(pattern.size(), f32_to_bf16(1));
  const Philox draw(spec.seed);
  for (size_t i = 0; i < pattern.size(); ++i) pattern[i] = f32_to_bf16(spec.scale * (2 * unit_float(draw(0, i)[0]) - 1));
  std::vector<NewTensor> tensors;
  const Config config = read_config(dir);
  for (const TensorSpec& t : expected_tensors(*config.family, default_names(*config.family), config.model)) {
    const bool norm = t.shape.size() == 1 && t.name.find("norm") != std::string::npos;
    tensors.push_back({t.name, FileDType::BF16, t.shape, nullptr, [&, norm](uint64_t begin, uint64_t count, void* dst) {
      const std::vector<uint16_t>& from = norm ? ones : pattern;
      const uint64_t first = begin / 2, n = count / 2;
      for (uint64_t done = 0; done < n;) {
        const uint64_t at = (first + done) % from.size(), some = std::min(n - done, from.size() - at);
        std::memcpy(static_cast<uint16_t*>(dst) + done, from.data() + at, some * 2);
        done += some;
      }
    }});
  }
  write_safetensors(dir + "/model.safetensors", tensors, {{"format", "pt"}});
}

std::unique_ptr<Model> load(const std::string& dir, const char* device) {
  LoadOptions options;
  options.device = device;
  options.dtype = "bf16";
  return Model::load(dir, options);
}

std::unique_ptr<Model> load_timed(const char* name, const std::string& dir, const ModelSpec& spec) {
  double start = bench::wall_seconds();
  write_weights(dir, spec);
  const double written = bench::wall_seconds() - start;
  start = bench::wall_seconds();
  auto model = load(dir, "cuda");
  const double seconds = bench::wall_seconds() - start;
  Line(concat(name, ": loading")).number("parameters", static_cast<double>(model->parameters)).number("seconds", seconds)
      .number("gb_per_s", 2e-9 * static_cast<double>(model->parameters) / seconds).number("written_in", written);
  return model;
}

// Samples of one prompt: each step reads every weight once, whatever the number of sequences.
void generate(const char* name, Model& model, int64_t prompt, int64_t tokens, int32_t copies) {
  Generator generator(model, 0, true);   // keeps its pages: they are asked for once, outside of what is timed
  double first = 0, step = 1e30, to_first = 1e30;
  for (int round = 0; round < 3; ++round) {
    GenerateRequest r;
    r.ids = test::random_ids(prompt, model.config.vocab, 40 + static_cast<uint64_t>(round));
    r.copies = copies;
    r.sampling.temperature = 0.7;
    r.sampling.top_p = 0.9;
    r.sampling.max_tokens = r.sampling.min_tokens = tokens;
    int64_t drawn = 0;
    GenerateCallbacks callbacks;
    callbacks.token = [&](const GeneratedToken&) {
      if (++drawn == copies) first = bench::wall_seconds();
    };
    const double start = bench::wall_seconds();
    generator.generate({r}, callbacks, nullptr);
    if (round == 0) continue;
    to_first = std::min(to_first, first - start);
    step = std::min(step, (bench::wall_seconds() - first) / static_cast<double>(tokens - 1));
  }
  double bytes = 0;
  for (const Weight* w : model.weights()) bytes += static_cast<double>(w->n() * w->k()) * 2;
  Line(concat(name, ": generation, ", copies, " of one prompt of ", prompt)).number("prefill_tokens_per_s", static_cast<double>(prompt) / to_first)
      .number("tokens_per_s", copies / step).number("weights_gb_per_s", bytes / step * 1e-9);
}

std::vector<TrainPair> pairs_of(Model& model, Trainer& trainer, int count, int64_t prompt, int64_t answer, double* seconds) {
  std::vector<TrainPair> pairs;
  for (int i = 0; i < count; ++i) pairs.push_back(bench::make_pair(model.config.vocab, prompt, answer, answer, 70 + static_cast<uint64_t>(i)));
  const double start = bench::wall_seconds();
  const std::vector<PairReference> references = trainer.score(pairs, nullptr);
  if (seconds) *seconds = bench::wall_seconds() - start;
  for (size_t i = 0; i < pairs.size(); ++i) pairs[i].ref_chosen = references[i].chosen, pairs[i].ref_rejected = references[i].rejected;
  return pairs;
}

void steps(const char* name, Model& model, Trainer& trainer, int64_t prompt, int64_t answer, int count) {
  pairs_of(model, trainer, count, prompt, answer, nullptr);   // kernels are loaded, memory has its place
  double scored = 0;
  const std::vector<TrainPair> pairs = pairs_of(model, trainer, count, prompt, answer, &scored);
  StepMetrics best, first;
  for (int i = 0; i < 3; ++i) {
    const StepMetrics m = trainer.train_step(pairs, nullptr);
    if (i == 0) first = m;
    if (i == 0 || m.seconds < best.seconds) best = m;
  }
  // Policy and reference are one before a step that follows their scoring.
  Line(concat(name, ": DPO step, ", count, " pairs ", prompt, " + ", answer, " | ", answer))
      .flag("ok", std::abs(first.loss - std::log(2.0)) < 1e-3).number("seconds", best.seconds).number("computing_seconds", best.compute_seconds)
      .number("tokens", static_cast<double>(best.tokens_computed)).number("tflops", best.flops / best.seconds * 1e-12).number("score_seconds", scored)
      .number("first_loss", first.loss);
}

// Log-probs of two answers, and the loss and gradient of their step, beside the CPU's: bfloat16 rounds each activation on both, in another
// order of sums, so that they agree to some hundredths of a nat and of the norm.
void compare(const char* name, Model& model, const std::string& dir, int64_t prompt, int64_t answer) {
  struct Told { std::vector<float> logp; StepMetrics step; };
  const auto ask = [&](Model& m) {
    Trainer trainer(m, {});
    std::vector<TrainPair> pairs = pairs_of(m, trainer, 1, prompt, answer, nullptr);
    std::vector<float> logp = *pairs[0].ref_chosen;
    logp.insert(logp.end(), pairs[0].ref_rejected->begin(), pairs[0].ref_rejected->end());
    for (float& x : *pairs[0].ref_chosen) x -= 0.5f;   // so that the loss has a slope
    return Told{logp, trainer.try_step(pairs, nullptr)};
  };
  const auto cpu = load(dir, "cpu");
  const Told here = ask(model), there = ask(*cpu);
  double far = 0;
  for (size_t i = 0; i < here.logp.size(); ++i) far = std::max(far, std::isfinite(here.logp[i]) ? std::abs(double{here.logp[i]} - there.logp[i]) : INFINITY);
  const double loss = std::abs(here.step.loss - there.step.loss), norm = std::abs(here.step.grad_norm / there.step.grad_norm - 1);
  Line(concat(name, ": beside the CPU")).flag("ok", far < 0.1 && loss < 0.05 && norm < 0.05).number("largest_difference_of_a_logp", far)
      .number("difference_of_losses", loss).number("difference_of_gradient_norms", norm);
}

struct Plan {
  ModelSpec spec;
  int64_t prompt, answer;
  std::vector<int> counts;
};

void check(const char* name, const Plan& plan, const Options& o, bool beside_cpu = false) {
  const Plan small{{64, 2, 4, 2, 96, 200, 512, "BF16", 0.1f, false, false, 1}, 20, 6, {1, 2}};
  const Plan& p = o.small ? small : plan;
  const test::ScratchFolder dir;
  const auto model = load_timed(name, dir.path, p.spec);
  Device& device = model->backend->device();
  if (beside_cpu) attempt(device, concat(name, ": beside the CPU"), [&] { compare(name, *model, dir.path, p.prompt, p.answer); });
  for (const int32_t copies : {1, 8, 64})
    attempt(device, concat(name, ": generation, ", copies), [&] { generate(name, *model, p.prompt, o.small ? 3 : 64, o.small ? copies / 8 + 1 : copies); });
  TrainerOptions options;
  options.learning_rate = 1e-6;
  std::optional<Trainer> trainer;
  attempt(device, concat(name, ": a trainer"), [&] { trainer.emplace(*model, options); });
  for (const int count : p.counts)
    if (trainer) attempt(device, concat(name, ": DPO step, ", count), [&] { steps(name, *model, *trainer, p.prompt, p.answer, count); });
}

}  // namespace

// width, layers, heads, kv heads, mlp width, vocabulary, context
void model_134m(const Options& o) { check("134 M", {test::bench_spec("BF16"), 560, 96, {1, 16}}, o, true); }
void model_1b(const Options& o) { check("1.3 B", {{2048, 24, 16, 16, 5504, 32000, 4096, "BF16", 0.02f, false, false, 1}, 2048, 128, {1, 8}}, o); }
void model_7b(const Options& o) { check("6.7 B", {{4096, 32, 32, 32, 11008, 32000, 4096, "BF16", 0.02f, false, false, 1}, 2048, 128, {1, 4}}, o); }

}  // namespace isr::gpu
