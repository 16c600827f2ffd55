// Batches, scoring and the trainer on a tiny seeded model: what must not depend on packing, splitting, threads or a reload.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <limits>

#include "check.h"
#include "models/score.h"
#include "pairs.h"
#include "seeded_model.h"
#include "train/trainer.h"

namespace isr::test {
namespace {

TrainerOptions options() {
  TrainerOptions o;
  o.learning_rate = 1e-3;
  o.weight_decay = 0.01;
  o.clip_norm = 1;
  return o;
}

struct Trained { std::vector<double> losses; std::vector<std::vector<float>> parameters; StepMetrics first; };

Trained train(const ModelSpec& spec, const std::string& dtype, int threads, TrainerOptions o, int steps = 3) {
  LoadOptions load;
  load.dtype = dtype;
  load.threads = threads;
  auto model = seeded_model(spec, load);
  Trained out;
  {
    Trainer trainer(*model, o);
    std::vector<TrainPair> pairs = make_pairs(spec.vocab);
    const auto refs = trainer.score(pairs, nullptr);
    for (size_t i = 0; i < pairs.size(); ++i) {
      pairs[i].ref_chosen = refs[i].chosen;
      pairs[i].ref_rejected = refs[i].rejected;
    }
    for (int i = 0; i < steps; ++i) {
      const StepMetrics m = trainer.train_step(pairs, nullptr);
      if (i == 0) out.first = m;
      out.losses.push_back(m.loss);
    }
  }
  for (const Param& p : model->params) out.parameters.push_back(model->parameter(p.name));
  return out;
}

double worst_difference(const Trained& a, const Trained& b) {
  double worst = 0;
  for (size_t i = 0; i < a.parameters.size(); ++i)
    for (size_t j = 0; j < a.parameters[i].size(); ++j) worst = std::max(worst, std::abs(static_cast<double>(a.parameters[i][j]) - b.parameters[i][j]));
  return worst;
}

TEST("batch: a shared prefix stands once and never holds a row that predicts a scored token") {
  const std::vector<int32_t> prompt{5, 6, 7, 8};
  const std::vector<SequenceInput> pair{sequence(prompt, {9, 10}), sequence(prompt, {9, 11, 12})};
  const Batch b = make_batch(pair, true, by_index);
  CHECK(b.tokens() == 3 + 1 + 2 + 1 + 3, "c = min(LCP, first scored) - 1 = 3 rows shared, got ", b.tokens(), " rows");
  CHECK(b.tokens() == packed_tokens(pair, true), "packed_tokens agrees");
  CHECK(make_batch(pair, false, by_index).tokens() == 13 && packed_tokens(pair, false) == 13, "without sharing every sequence stands alone");
  CHECK(b.rows[0][2] == b.rows[1][2] && b.rows[0][3] != b.rows[1][3], "row 3 predicts 9 in both: each branch has its own");
  for (const ScoredRow& r : b.scored) CHECK(r.target == pair[static_cast<size_t>(r.sequence)].targets[static_cast<size_t>(b.positions[0][static_cast<size_t>(r.row)])], "targets go with their rows");
  CHECK(b.scored.size() == 5, "every scored token once");
  CHECK(micro_batches(pair, 2, true, 1).size() == 1 && micro_batches(pair, 1, true, 1).size() == 2, "an item stays whole");
}

TEST("batch: log-probs are the same bits alone, in a batch of eight, shared or not") {
  for (const char* dtype : {"f32", "bf16"}) {
    LoadOptions load;
    load.dtype = dtype;
    auto model = seeded_model({}, load);
    std::vector<SequenceInput> all;
    for (const TrainPair& p : make_pairs(model->config.vocab)) {
      all.push_back(p.chosen);
      all.push_back(p.rejected);
    }
    const auto together = sequence_log_probs(*model, all, true, 1 << 20, nullptr), apart = sequence_log_probs(*model, all, false, 1, nullptr);
    for (size_t i = 0; i < all.size(); ++i) CHECK(together[i] == apart[i] && !apart[i].empty(), "sequence ", i, " as ", dtype);
  }
}

TEST("train: the first step's margin is exactly zero and its loss ln 2") {
  for (const char* dtype : {"f32", "bf16"}) {
    const Trained t = train({}, dtype, 2, options(), 1);
    CHECK(t.first.margin == 0 && t.first.chosen_reward == 0, "margin ", t.first.margin, " as ", dtype);
    CHECK(std::abs(t.first.loss - std::log(2.0)) <= 1e-12, "loss ", t.first.loss);
  }
}

TEST("train: equal bits for 1, 2 and 3 threads, with and without checkpointing") {
  for (const char* dtype : {"f32", "bf16"}) {
    TrainerOptions plain = options(), replay = options();
    plain.checkpointing = 0;
    replay.checkpointing = 1;
    const Trained one = train({}, dtype, 1, plain);
    for (int threads : {2, 3}) CHECK(train({}, dtype, threads, plain).parameters == one.parameters, threads, " threads as ", dtype);
    CHECK(train({}, dtype, 2, replay).parameters == one.parameters, "checkpointing as ", dtype);
    CHECK(one.losses[2] < one.losses[0], "training lowers the loss: ", one.losses[0], " -> ", one.losses[2]);
  }
}

TEST("train: sharing prefixes and splitting into micro-batches change nothing beyond float32 tolerance") {
  const Trained whole = train({}, "f32", 2, options(), 1);
  TrainerOptions apart = options(), split = options();
  apart.share_prefix = false;
  split.micro_batch_tokens = 1;
  CHECK(worst_difference(train({}, "f32", 2, apart, 1), whole) < 3e-3, "sharePrefix false");   // one AdamW step moves by lr = 1e-3 at most
  const Trained parts = train({}, "f32", 2, split, 1);
  CHECK(worst_difference(parts, whole) < 3e-3, "a pair a micro-batch");
  CHECK(std::abs(parts.first.grad_norm - whole.first.grad_norm) < 1e-5 * whole.first.grad_norm, "gradient norms ", parts.first.grad_norm, " and ", whole.first.grad_norm);
  CHECK(parts.first.tokens_computed > whole.first.tokens_computed, "pairs of one prompt share it only inside a micro-batch");
}

TEST("train: save, load and one step give the bits of never having stopped") {
  for (const char* dtype : {"f32", "bf16"}) {
    LoadOptions load;
    load.dtype = dtype;
    ScratchFolder dir;
    std::vector<std::vector<float>> straight, resumed;
    const auto steps = [&](bool stop, std::vector<std::vector<float>>& out) {
      auto model = seeded_model({}, load);
      std::vector<TrainPair> pairs = make_pairs(model->config.vocab);
      auto trainer = std::make_unique<Trainer>(*model, options());
      const auto refs = trainer->score(pairs, nullptr);
      for (size_t i = 0; i < pairs.size(); ++i) {
        pairs[i].ref_chosen = refs[i].chosen;
        pairs[i].ref_rejected = refs[i].rejected;
      }
      trainer->train_step(pairs, nullptr);
      if (stop) {
        trainer->save(dir.path + "/state");
        trainer.reset();
        model = seeded_model({}, load);
        trainer = std::make_unique<Trainer>(*model, options());
        trainer->load(dir.path + "/state");
        CHECK(trainer->step() == 1, "the step comes back");
      }
      trainer->train_step(pairs, nullptr);
      for (const Param& p : model->params) out.push_back(model->parameter(p.name));
    };
    steps(false, straight);
    steps(true, resumed);
    CHECK(straight == resumed, "as ", dtype);

    auto model = seeded_model({}, load);
    TrainerOptions other = options();
    other.loss.beta = 0.2;
    Trainer trainer(*model, other);
    CHECK(thrown_code([&] { trainer.load(dir.path + "/state"); }) == "RUN_MISMATCH", "another beta is refused");
    ModelSpec wider;
    wider.mlp_width = 96;
    auto wide = seeded_model(wider, load);
    Trainer misfit(*wide, options());
    CHECK(thrown_code([&] { misfit.load(dir.path + "/state"); }) == "RUN_MISMATCH", "another shape is refused");
    CHECK(thrown_code([&] { misfit.load(dir.path + "/nothing"); }) == "NOT_FOUND", "a missing state");
  }
}

TEST("train: a cancelled or failed step leaves the weights as they were") {
  auto model = seeded_model({});
  Trainer trainer(*model, options());
  std::vector<TrainPair> pairs = make_pairs(model->config.vocab);
  const std::string before = model->hash();
  std::atomic<bool> cancel{true};
  CHECK(thrown_code([&] { trainer.train_step(pairs, &cancel); }) == "CANCELLED", "cancelled");
  std::vector<TrainPair> bad = pairs;
  const auto refs = trainer.score(pairs, nullptr);
  for (size_t i = 0; i < pairs.size(); ++i) {
    bad[i].ref_chosen = refs[i].chosen;
    bad[i].ref_rejected = refs[i].rejected;
  }
  (*bad[0].ref_chosen)[0] = std::numeric_limits<float>::quiet_NaN();
  CHECK(thrown_code([&] { trainer.train_step(bad, nullptr); }) == "NUMERIC", "a NaN reference");
  CHECK(model->hash() == before && trainer.step() == 0, "nothing moved");
  trainer.train_step(pairs, nullptr);
  CHECK(model->hash() != before && trainer.step() == 1, "a good step moves them");
  CHECK(thrown_code([&] { trainer.train_step(pairs, nullptr); }) == "INVALID_ARGUMENT", "references cannot be scored after the first step");
}

TEST("train: swapping chosen and rejected negates every margin") {
  auto model = seeded_model({});
  TrainerOptions o = options();
  Trainer trainer(*model, o);
  std::vector<TrainPair> pairs = make_pairs(model->config.vocab), swapped;
  const auto refs = trainer.score(pairs, nullptr);
  for (size_t i = 0; i < pairs.size(); ++i) {   // another reference than the start, so that margins are not zero
    pairs[i].ref_chosen = std::vector<float>(refs[i].chosen.size(), -3);
    pairs[i].ref_rejected = std::vector<float>(refs[i].rejected.size(), -2);
    swapped.push_back({"", pairs[i].rejected, pairs[i].chosen, pairs[i].ref_rejected, pairs[i].ref_chosen});
  }
  Trainer::Gradients g;
  const StepMetrics a = trainer.gradients(pairs, {}, g, nullptr), b = trainer.gradients(swapped, {}, g, nullptr);
  CHECK(a.margin == -b.margin && a.margin != 0, "margins ", a.margin, " and ", b.margin);
}

TEST("train: a saved checkpoint keeps what was not trained and loads again with what was") {
  ScratchFolder dir;
  write_model(dir.path + "/source", {});   // saving copies the source's other files too
  auto model = Model::load(dir.path + "/source", {});
  const std::string before = model->hash();
  CHECK(model->save(dir.path + "/same").hash == before && Model::load(dir.path + "/same", {})->hash() == before, "an untouched model");
  {
    Trainer trainer(*model, options());
    trainer.train_step(make_pairs(model->config.vocab), nullptr);
    CHECK(model->save(dir.path + "/live").hash == model->hash(), "saved while training");
  }
  CHECK(model->save(dir.path + "/after").hash == model->hash() && model->hash() != before, "saved after training");
  CHECK(Model::load(dir.path + "/live", {})->hash() == Model::load(dir.path + "/after", {})->hash(), "float32: disposing a trainer loses nothing");
}

TEST("train: the hash follows the weights when a bfloat16 trainer of a float32 file is disposed") {
  ScratchFolder dir;
  write_model(dir.path + "/source", {});
  LoadOptions load;
  load.dtype = "bf16";
  auto model = Model::load(dir.path + "/source", load);
  std::string live;
  {
    Trainer trainer(*model, options());
    trainer.train_step(make_pairs(model->config.vocab), nullptr);
    live = model->hash();   // of the float32 masters
  }
  const std::string rest = model->hash();
  CHECK(rest != live, "the masters are gone");
  model->save(dir.path + "/saved");
  CHECK(Model::load(dir.path + "/saved", {})->hash() == rest, "the hash is that of what is saved");
}

TEST("train: schedules") {
  TrainerOptions o;
  o.learning_rate = 1;
  o.total_steps = 10;
  o.warmup_ratio = 0.11;   // ceil(1.1) = 2 steps
  o.schedule = "linear";
  const double linear[] = {0, 0.5, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125};
  for (int k = 0; k < 10; ++k) CHECK(std::abs(learning_rate_at(o, k) - linear[k]) < 1e-12, "linear ", k);
  o.schedule = "cosine";
  CHECK(learning_rate_at(o, 0) == 0 && learning_rate_at(o, 2) == 1 && std::abs(learning_rate_at(o, 6) - 0.5) < 1e-12, "cosine");
  o.schedule = "constant";
  CHECK(learning_rate_at(o, 1) == 0.5 && learning_rate_at(o, 9) == 1, "constant after warm-up");
}

}  // namespace
}  // namespace isr::test
