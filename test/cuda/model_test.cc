// Models on the emulated card: what they take of its memory, and that a step is the same twice.
#include <cstdlib>

#include "check.h"
#include "emulated.h"
#include "fibers.h"
#include "infer/generator.h"
#include "models/model.h"
#include "runtime.h"
#include "train/trainer.h"

namespace isr::test {
namespace {

const bool plugged_in = [] {   // for the other files of this program too
  device_kinds().push_back(emulated_kind());
  return true;
}();

LoadOptions on_the_card(const char* dtype) {
  LoadOptions o;
  o.device = "cuda";
  o.dtype = dtype;
  return o;
}

std::string golden(const char* family) { return concat(ISR_TEST_FOLDER, "/golden/", family, "/policy"); }

// Products read rows as they stand in the checkpoint, and a tied head is the table itself.
TEST("cuda model: weights stand on the card once") {
  for (const char* family : {"text_llama_gqa_tied", "text_qwen2", "llava_hound"})
    for (const char* dtype : {"f32", "bf16"}) {
      size_t before = 0;
      {
        const auto backend = make_emulated_cuda();
        before = emulated::device_memory_used();   // with what a backend takes for itself
      }
      const size_t others = emulated::device_memory_used();
      const auto model = Model::load(golden(family), on_the_card(dtype));
      size_t weights = 0;
      for (const Param& p : model->params) weights += static_cast<size_t>(p.size()) * size_of(p.stored());
      const size_t own = emulated::device_memory_used() - others, room = model->params.size() * 64;
      CHECK(own >= before - others + weights && own <= before - others + weights + room, family, " ", dtype, ": ", own, " bytes for ", weights, " of weights");
    }
}

TEST("cuda model: what a model and a backend take, they give back") {
  const size_t held = emulated::things_held(), used = emulated::device_memory_used();
  {
    const auto model = Model::load(golden("text_llama"), on_the_card("f32"));
    CHECK(emulated::things_held() > held, "a model holds something");
  }
  CHECK(emulated::things_held() == held && emulated::device_memory_used() == used, emulated::things_held(), " things, ", held, " before");
}

// More than the ring of pinned memory holds, so that each of its slots is used again while its copies wait in the stream.
TEST("cuda model: uploads of many megabytes arrive as they were sent") {
  const auto backend = make_emulated_cuda();
  constexpr size_t n = (size_t{27} << 20) / sizeof(uint32_t) + 3;
  std::vector<uint32_t> sent(n), back(n);
  for (size_t i = 0; i < n; ++i) sent[i] = static_cast<uint32_t>(i * 2654435761u);
  const Buffer there(backend->device(), n * sizeof(uint32_t));
  backend->device().upload(there.data(), sent.data(), n * sizeof(uint32_t));
  const std::vector<uint32_t> kept = sent;
  std::fill(sent.begin(), sent.end(), 0);   // the caller's again
  backend->device().download(back.data(), there.data(), n * sizeof(uint32_t));
  CHECK(back == kept, "all of it");
}

// The next micro-batch is made and queued while the card computes this one, so that a step of many waits no more often.
TEST("cuda model: a step of many micro-batches waits as often as a step of one") {
  size_t waits[2];
  for (const bool many : {false, true}) {
    const auto model = Model::load(golden("text_llama_gqa_tied"), on_the_card("bf16"));
    TrainerOptions o;
    o.micro_batch_tokens = many ? 1 : 100000;
    Trainer trainer(*model, o);
    std::vector<TrainPair> pairs;
    for (int32_t i = 0; i < 5; ++i) {
      const auto side = [&](int32_t answer) {
        SequenceInput s;
        s.ids = {1, 4 + i, 7, answer, answer + 1};
        s.targets = {-1, -1, answer, answer + 1, -1};
        return s;
      };
      pairs.push_back({"", side(9), side(12), std::vector<float>{-1, -1}, std::vector<float>{-1, -1}});
    }
    for (int i = 0; i < 3; ++i) trainer.train_step(pairs, nullptr);   // arenas have grown
    const size_t before = emulated::waits();
    trainer.train_step(pairs, nullptr);
    waits[many] = emulated::waits() - before;
  }
  CHECK(waits[0] == waits[1] && waits[0] > 0, waits[0], " waits, ", waits[1], " with 5 micro-batches");
}

// What a model answers, and what a step of DPO makes of it; of a video model with a clip of noise. Bytes of all of it.
std::string life_of(const std::string& family, const char* dtype, unsigned schedule) {
  emulated::set_schedule(schedule);
  const auto model = Model::load(golden(family.c_str()), on_the_card(dtype));
  std::vector<int32_t> prompt{1, 5, 9};
  if (model->vision) {
    const TowerConfig& t = model->vision->tower(false)->config;
    const int64_t frames = t.frames > 0 ? t.frames : 2;
    const Medium& clip = model->media.add_pixels(*model, false, frames, random_values(frames * t.frame.values(), 7));
    for (int32_t i = 0; i < clip.rows; ++i) prompt.push_back(clip.first_id + i);
  }
  prompt.push_back(11);
  std::string all;
  const auto add = [&](const void* p, size_t bytes) { all.append(static_cast<const char*>(p), bytes); };
  GenerateRequest ask;
  ask.ids = prompt, ask.copies = 2, ask.sampling.max_tokens = ask.sampling.min_tokens = 5;
  for (const GeneratedSequence& g : Generator(*model, 0, false).generate({ask}, {}, nullptr)) {
    add(g.ids.data(), g.ids.size() * sizeof(int32_t));
    add(g.logp.data(), g.logp.size() * sizeof(float));
  }
  TrainerOptions o;
  o.learning_rate = 1e-3, o.checkpointing = 1;
  Trainer trainer(*model, o);
  const auto side = [&](int32_t answer) {
    SequenceInput s;
    s.ids = prompt;
    s.targets.assign(prompt.size() - 1, -1);
    for (int32_t i = 0; i < 3; ++i) s.ids.push_back(answer + i), s.targets.push_back(answer + i);
    s.targets.push_back(-1);
    return s;
  };
  const StepMetrics step = trainer.train_step({{"", side(20), side(30), {}, {}}}, nullptr);
  add(&step.loss, sizeof step.loss);
  add(&step.grad_norm, sizeof step.grad_norm);
  for (const Param& p : model->params) {
    const std::vector<float> values = model->parameter(p.name);
    add(values.data(), values.size() * sizeof(float));
  }
  emulated::set_schedule(0);
  return all;
}

// The op table holds every call to this; here whole models, whose calls follow each other. ISR_DPO_LONG: more of them, and video models.
const bool lives_registered = [] {
  std::vector<std::string> families{"text_llama_gqa_tied"};
  if (std::getenv("ISR_DPO_LONG")) families.insert(families.end(), {"text_qwen2", "llava_hound", "llava_next_video"});
  for (const std::string& family : families)
    for (const char* dtype : {"f32", "bf16"})
      cases().push_back({concat("cuda model: ", family, " in ", dtype, " has the same bits twice and under every schedule"), [family, dtype] {
                           const std::string once = life_of(family, dtype, 0);
                           for (unsigned schedule = 0; schedule < emulated::kSchedules; ++schedule)
                             CHECK(life_of(family, dtype, schedule) == once, schedule == 0 ? "twice" : concat("schedule ", schedule));
                         }});
  return true;
}();

// Steps in both types, whose products are of all kinds: forward, both gradients, accumulating ones, and the head's in chunks.
std::vector<std::string> parameters_after_steps(const char* dtype) {
  const auto model = Model::load(golden("text_llama_gqa_tied"), on_the_card(dtype));
  TrainerOptions o;
  o.learning_rate = 1e-2, o.loss.loss = "sft", o.micro_batch_tokens = 16;
  Trainer trainer(*model, o);
  SequenceInput s;
  for (int32_t i = 0; i < 24; ++i) s.ids.push_back(3 + i), s.targets.push_back(4 + i);
  for (int i = 0; i < 2; ++i) trainer.train_step_sft({s, s}, nullptr);
  std::vector<std::string> all;
  for (const Param& p : model->params) {
    const std::vector<float> values = model->parameter(p.name);
    all.emplace_back(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
  }
  return all;
}

TEST("cuda model: products are described to the installed cuBLASLt as to its double") {
  for (const char* dtype : {"f32", "bf16"}) {
    const std::vector<std::string> want = parameters_after_steps(dtype);
    try {
      describe_to_installed();
    } catch (const Error& e) {
      describe_to_double();
      CHECK(e.code == "DEVICE_UNAVAILABLE", e.code);
      skipped() = "no cuBLASLt is installed (pip install nvidia-cublas-cu12, or ISR_DPO_CUBLASLT)";
      return;
    }
    const std::vector<std::string> got = parameters_after_steps(dtype);
    describe_to_double();
    CHECK(got == want, dtype, ": in every bit");
  }
}

TEST("cuda model: a device is known by its kind and number") {
  for (const char* name : {"cuda", "cuda:0"}) CHECK(std::string(make_backend(name, 1)->level()) == "cuda", name);
  for (const char* name : {"cuda:1", "cuda:", "cuda:-1", "cuda:0x", "cpu:0", "gpu", ""}) CHECK(thrown_code([&] { make_backend(name, 1); }) == "DEVICE_UNAVAILABLE", name);
}

}  // namespace
}  // namespace isr::test
