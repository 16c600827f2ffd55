// A plan is what the run itself allocates: the same bytes in the same arenas, by the same code.
#include <algorithm>

#include "train/plan.h"

#include "check.h"
#include "host.h"
#include "kernels/devices.h"
#include "models/score.h"
#include "seeded_model.h"

namespace isr::test {
namespace {

SequenceInput sequence(int32_t first, int64_t prompt, int64_t answer, int32_t with) {
  SequenceInput s;
  s.ids.assign(static_cast<size_t>(prompt), 1);
  s.ids[0] = first;
  s.ids.resize(static_cast<size_t>(prompt + answer), with);
  std::vector<uint8_t> scored(s.ids.size(), 0);
  std::fill(scored.begin() + prompt, scored.end(), uint8_t{1});
  s.targets = targets_of(s.ids, scored);
  return s;
}

struct Row { const char* dtype; int checkpointing; bool supervised; int64_t tokens, answer, budget; };
constexpr Row kRows[] = {
    {"f32", 0, false, 200, 30, 450}, {"f32", 1, false, 200, 30, 450}, {"bf16", 0, false, 131, 17, 1000}, {"bf16", 1, true, 300, 100, 100}, {"f32", 0, true, 90, 60, 400},
};

void hold_plan_to_step(const std::string& device, const Row& row) {
  const ModelSpec spec;
  ScratchFolder dir;
  write_model(dir.path, spec);
  PlanRequest q;
  q.load.device = device;
  q.load.dtype = row.dtype;
  q.load.threads = 2;
  q.trainer.checkpointing = row.checkpointing;
  q.trainer.micro_batch_tokens = row.budget;
  q.supervised = row.supervised;
  if (row.supervised) q.trainer.loss.loss = "sft";
  q.items = 5;
  q.tokens = row.tokens;
  q.answer_tokens = row.answer;
  const PlanReport plan = plan_training(dir.path, q);

  auto model = Model::load(dir.path, q.load);
  const int64_t prompt = row.tokens - row.answer * (row.supervised ? 1 : 2);
  Trainer trainer(*model, q.trainer);
  if (row.supervised) {
    std::vector<SequenceInput> all;
    for (int32_t i = 0; i < q.items; ++i) all.push_back(sequence(i, prompt, row.answer, 2));
    trainer.train_step_sft(all, nullptr);
  } else {
    std::vector<TrainPair> all;
    for (int32_t i = 0; i < q.items; ++i) all.push_back({"", sequence(i, prompt, row.answer, 2), sequence(i, prompt, row.answer, 3), {}, {}});
    trainer.train_step(all, nullptr);
  }
  const std::string where = concat(device, ", ", row.dtype, row.checkpointing ? ", checkpointing" : "", row.supervised ? ", supervised" : "");
  CHECK(plan.activations == model->arena().peak(), where, ": planned ", plan.activations, ", took ", model->arena().peak());
  CHECK(plan.scratch == model->backend->workspace().peak(), where, ": planned ", plan.scratch, ", took ", model->backend->workspace().peak());
  uint64_t elements = 0;
  for (const Layer& l : model->layers) elements += static_cast<uint64_t>(l.group->size);
  elements += static_cast<uint64_t>(model->shared_group->size);
  CHECK(plan.trained_elements == elements, where, ": planned ", plan.trained_elements, ", took ", elements);
  CHECK(plan.device_measured, where);
  CHECK(plan.parameters == model->parameters && plan.trained == model->parameters, where);
}

constexpr const char* kDevices[] = {
    "cpu",
#if defined(ISR_CUDA_EMULATED)
    "cuda",
#endif
};

const bool registered = [] {
  for (const char* device : kDevices)
    for (const Row& row : kRows) {
      const std::string how = concat(row.dtype, row.checkpointing ? ", checkpointing" : "", row.supervised ? ", supervised" : "");
      cases().push_back({concat("plan: ", device, ", ", how, ": activations, scratch and optimizer are those of a real step"), [device, &row] { hold_plan_to_step(device, row); }});
    }
  return true;
}();

}  // namespace

TEST("plan: a backend whose device only counts takes the same scratch and computes nothing") {
  const std::unique_ptr<Device> counting = make_measuring_device();
  for (const Isa isa : levels()) {
    const std::unique_ptr<Backend> idle = make_cpu_backend(isa, 3, *counting), real = make_cpu_backend(isa, 3);
    std::vector<float> x(40 * 70, 1), w(30 * 70, 1), dy(40 * 30, 1), dw(30 * 70), y(40 * 30);
    for (Backend* be : {idle.get(), real.get()}) {
      const HostMatrix matrix(*be, view(w.data(), 30, 70));
      be->gemm_nt(view(y.data(), 40, 30), view(x.data(), 40, 70), matrix, {});
      const GradPart part{dw.data(), nullptr, 30, false, false};
      be->gemm_tn({&part, 1}, view(dy.data(), 40, 30), view(x.data(), 40, 70));
      const float product = be == idle.get() ? 0 : 70, gradient = be == idle.get() ? 0 : 40;
      CHECK(y == std::vector<float>(y.size(), product) && dw == std::vector<float>(dw.size(), gradient), name_of(isa), ": ", y[0], ", ", dw[0]);
    }
    CHECK(idle->workspace().peak() == real->workspace().peak() && idle->workspace().peak() > 0, idle->workspace().peak(), " and ", real->workspace().peak());
  }
}

TEST("plan: a measuring arena counts, marks and releases as one with memory does") {
  const std::unique_ptr<Device> counting = make_measuring_device();
  Arena counted(*counting), real;
  for (Arena* a : {&counted, &real}) {
    const Arena::Mark at = a->mark();
    CHECK(a->allocate(100) != nullptr, "no address");
    a->allocate(size_t{3} << 20);
    a->release(at);
    a->allocate(1);
  }
  CHECK(counted.peak() == real.peak() && counted.total() == real.total(), counted.peak(), " and ", real.peak());
}

}  // namespace isr::test
