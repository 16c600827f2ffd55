// The far device is far, and the engine on it computes what it computes at home, bit for bit.
#include <algorithm>
#include <csignal>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "far.h"
#include "infer/generator.h"
#include "kernels/devices.h"
#include "models/score.h"
#include "seeded_model.h"
#include "train/trainer.h"

namespace isr::test {
namespace {

// Whether f, in a process of its own, ends by a fault of memory.
template <class F>
bool faults(F&& f) {
  const pid_t child = fork();
  if (child == 0) {
    signal(SIGSEGV, SIG_DFL);
    f();
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV;
}

TEST("far: the host can neither read nor write its memory; uploads are copies; what is called runs late and in order") {
  const auto be = make_far_backend(Isa::Generic, 1);
  Device& device = be->device();
  const Buffer a(device, 400), b(device, 400);
  CHECK(faults([&] { *a.data<volatile float>() = 1; }), "written by the host");
  CHECK(faults([&] { static_cast<void>(*a.data<volatile float>()); }), "read by the host");
  std::vector<float> source(100, 1), out(100, 7);
  device.upload(a.data(), source.data(), 400);
  std::fill(source.begin(), source.end(), 2.0f);
  be->add(view(b.data<float>(), 1, 100), false, view(a.data<float>(), 1, 100));
  device.upload(a.data(), source.data(), 400);
  device.download(out.data(), b.data(), 400);
  CHECK(out == std::vector<float>(100, 1), "b has ", out[0], ", not what a held when it was added");
  device.download(out.data(), a.data(), 400);
  CHECK(out == std::vector<float>(100, 2), "a has ", out[0]);
}

TEST("far: an address of the host's, or of a block given back, is refused") {
  const auto be = make_far_backend(Isa::Generic, 1);
  Device& device = be->device();
  std::vector<float> host(100);
  const Buffer a(device, 400);
  const Tensor there = view(a.data<float>(), 1, 100), here = view(host.data(), 1, 100);
  CHECK(thrown_code([&] { be->add(there, false, here); }) == "BUG", "host memory as an input");
  CHECK(thrown_code([&] { be->add(here, false, there); }) == "BUG", "host memory as an output");
  void* gone = nullptr;
  { gone = Buffer(device, 400).data(); }
  device.synchronize();
  CHECK(thrown_code([&] { device.zero(gone, 4); }) == "BUG", "a block that was given back");
}

LoadOptions on(const char* device) {
  LoadOptions o;
  o.device = device;
  o.threads = 2;
  return o;
}

struct Outcome {
  std::vector<float> logits, hidden, scores, parameters, masters;
  std::vector<std::vector<int32_t>> drawn;
  double loss = 0, norm = 0;
  bool operator==(const Outcome&) const = default;
};

// A model's whole life: outputs, scores, draws, steps, saving and loading, in this order.
Outcome life_of(const ModelSpec& spec, const char* device, const TrainerOptions& options) {
  Outcome all;
  const ScratchFolder folder;
  write_model(folder.path + "/model", spec);
  const auto m = Model::load(folder.path + "/model", on(device));
  const std::vector<int32_t> prompt = random_ids(150, spec.vocab, 1);
  const ForwardResult f = forward(*m, {prompt, 10, 90, true, true}, nullptr);
  all.logits = f.logits, all.hidden = f.hidden;

  Generator generator(*m, 0, false);
  std::vector<GenerateRequest> requests(2);
  for (size_t i = 0; i < requests.size(); ++i) {
    requests[i].ids.assign(prompt.begin(), prompt.begin() + (i == 0 ? 100 : 131));
    requests[i].copies = 3;
    requests[i].sampling.temperature = 1;
    requests[i].sampling.max_tokens = 80;
  }
  for (const GeneratedSequence& s : generator.generate(requests, {}, nullptr)) {
    all.drawn.push_back(s.ids);
    all.scores.insert(all.scores.end(), s.logp.begin(), s.logp.end());
  }

  const auto sequence = [&](uint64_t seed) {
    SequenceInput s;
    s.ids = prompt;
    const std::vector<int32_t> answer = random_ids(20, spec.vocab, seed);
    s.ids.insert(s.ids.end(), answer.begin(), answer.end());
    std::vector<uint8_t> scored(s.ids.size(), 0);
    std::fill(scored.end() - 20, scored.end(), 1);
    s.targets = targets_of(s.ids, scored);
    return s;
  };
  Trainer trainer(*m, options);
  for (uint64_t step = 0; step < 3; ++step) {
    std::vector<TrainPair> pairs;
    for (uint64_t i = 0; i < 3; ++i) pairs.push_back({"", sequence(10 * i + 3), sequence(10 * i + 4), {}, {}});
    const std::vector<float> zeros(20, -3.0f);
    for (TrainPair& p : pairs)
      if (step > 0) p.ref_chosen = p.ref_rejected = zeros;
    const StepMetrics metrics = trainer.train_step(std::move(pairs), nullptr);
    all.loss += metrics.loss, all.norm += metrics.grad_norm;
    if (step == 1) trainer.save(folder.path + "/trainer");
  }
  for (const Param& p : m->params) {
    const std::vector<float> values = m->parameter(p.name);
    all.masters.insert(all.masters.end(), values.begin(), values.end());
  }
  trainer.load(folder.path + "/trainer");
  m->save(folder.path + "/saved");
  const auto again = Model::load(folder.path + "/saved", on(device));
  for (const Param& p : again->params) {
    const std::vector<float> values = again->parameter(p.name);
    all.parameters.insert(all.parameters.end(), values.begin(), values.end());
  }
  return all;
}

TEST("far: outputs, draws, steps and saved files have the bits of the host") {
  add_far_kind();
  struct Row { const char* name; const char* dtype; bool tied, bias; int checkpointing; };
  for (const Row& row : {Row{"float32", "F32", false, false, 0}, Row{"float32, tied, checkpointing", "F32", true, true, 1},
                         Row{"bfloat16", "BF16", false, true, 1}, Row{"bfloat16, tied", "BF16", true, false, 0}}) {
    ModelSpec spec;
    spec.dtype = row.dtype, spec.tied = row.tied, spec.attention_bias = row.bias;
    TrainerOptions o;
    o.learning_rate = 1e-2, o.weight_decay = 0.1, o.clip_norm = 1, o.checkpointing = row.checkpointing, o.micro_batch_tokens = 400;
    const Outcome home = life_of(spec, "cpu", o), away = life_of(spec, "far", o);
    CHECK(home.logits == away.logits && home.hidden == away.hidden, row.name, ": outputs");
    CHECK(home.drawn == away.drawn && home.scores == away.scores, row.name, ": draws");
    CHECK(home.loss == away.loss && home.norm == away.norm, row.name, ": losses ", home.loss, " and ", away.loss, ", norms ", home.norm, " and ", away.norm);
    CHECK(home.masters == away.masters, row.name, ": masters");
    CHECK(home.parameters == away.parameters, row.name, ": saved values");
  }
}

}  // namespace
}  // namespace isr::test
