// A step among ranks is the step of one rank over all their items: the same figures on every rank, gradients and weights within
// float32 of it, and bits that depend on the number of ranks alone.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <optional>
#include <limits>

#include "check.h"
#include "rank_models.h"
#include "train/plan.h"
#include "train/shards.h"

namespace isr::test {
namespace {

// What one rank saw: figures and gradients of each step, and the weights behind the last.
struct Seen {
  std::vector<StepMetrics> metrics;
  Trainer::Gradients gradients;                  // of the first step
  std::vector<std::vector<float>> parameters;    // float32, on rank 0
  std::vector<std::vector<float>> values;        // what the model computes with, where masters are sharded
  std::string hash;                              // on rank 0
};

enum class Shared { Nothing, Masters, Gradients };

// The pairs begin with another one in every step, so that ranks have others each time.
Seen train_rank(const Setting& s, Comm* comm, Model* model, Shared shared, int steps) {
  const int rank = comm ? comm->rank() : 0, ranks = comm ? comm->size() : 1;
  Seen seen;
  const TrainerOptions o = options_of(s, shared != Shared::Nothing, shared == Shared::Gradients);
  std::optional<Trainer> trainer;
  if (comm) trainer.emplace(*model, o, *comm);
  else trainer.emplace(*model, o);
  std::vector<TrainPair> all = all_pairs(*trainer, *model);
  for (int i = 0; i < steps; ++i) {
    const std::vector<TrainPair> pairs = part_of(all, rank, ranks);
    const bool sft = s.loss == "sft";
    if (i == 0) sft ? trainer->gradients_sft(chosen_of(pairs), {}, seen.gradients, nullptr) : trainer->gradients(pairs, {}, seen.gradients, nullptr);
    seen.metrics.push_back(sft ? trainer->train_step_sft(chosen_of(pairs), nullptr) : trainer->train_step(pairs, nullptr));
    std::rotate(all.begin(), all.begin() + 1, all.end());
  }
  trainer->with_masters([&] {
    for (const Param& p : model->params) seen.parameters.push_back(model->parameter(p.name));
    seen.hash = model->hash();
  });
  for (const Param& p : model->params) seen.values.push_back(model->parameter(p.name));
  return seen;
}

std::vector<Seen> train_ranks(const Setting& s, int ranks, Shared shared, int steps = 3) {
  std::vector<Seen> seen(static_cast<size_t>(ranks));
  const Outcomes outcomes = with_models(s, ranks, [&](Comm& comm, Model& m) { seen[static_cast<size_t>(comm.rank())] = train_rank(s, &comm, &m, shared, steps); });
  CHECK(all_well(outcomes), s.name, ", ", ranks, " ranks: ", text(outcomes));
  for (Seen& one : seen) one.metrics.resize(static_cast<size_t>(steps));   // also of a rank that has failed
  return seen;
}

// The largest difference of gradients, as a share of the largest of that parameter.
double worst_gradient(const Trainer::Gradients& a, const Trainer::Gradients& b) {
  double worst = a.size() == b.size() ? 0 : std::numeric_limits<double>::infinity();
  for (const auto& [name, gradient] : a) {
    const auto found = b.find(name);
    if (found == b.end()) return std::numeric_limits<double>::infinity();
    double largest = 0, off = 0;
    for (size_t i = 0; i < gradient.second.size(); ++i) {
      largest = std::max(largest, std::abs(static_cast<double>(gradient.second[i])));
      off = std::max(off, std::abs(static_cast<double>(gradient.second[i]) - found->second.second[i]));
    }
    worst = std::max(worst, off / (largest + 1e-30));
  }
  return worst;
}

std::vector<double> figures_of(const StepMetrics& m) {
  return {m.loss, m.dpo_loss, m.sft_loss, m.grad_norm, m.learning_rate, m.accuracy, m.chosen_reward, m.rejected_reward, m.margin, m.chosen_logp, m.rejected_logp,
          m.length_margin_correlation, m.flops, static_cast<double>(m.step), static_cast<double>(m.chosen_tokens), static_cast<double>(m.rejected_tokens),
          static_cast<double>(m.tokens_computed)};
}

// Sums of float32 in another order: a few roundings of 2^-24 on what is added, which cancels at most to a tenth here.
constexpr double kSums = 1e-5;

void check_against_one(const Setting& s, int ranks, const Seen& one, const std::vector<Seen>& all) {
  for (size_t r = 0; r < all.size(); ++r)
    for (size_t i = 0; i < one.metrics.size(); ++i)
      CHECK(figures_of(all[r].metrics[i]) == figures_of(all[0].metrics[i]), s.name, ", ", ranks, " ranks: figures of step ", i, " on rank ", r, " and on rank 0");
  for (const Seen& seen : all) {
    CHECK(seen.values == all[0].values, s.name, ", ", ranks, " ranks: every rank has the same weights");
    CHECK(seen.metrics[0].ranks.size() == all.size(), s.name, ": figures of ", seen.metrics[0].ranks.size(), " of ", all.size(), " ranks");
  }
  const StepMetrics &mine = all[0].metrics[0], &theirs = one.metrics[0];
  CHECK(mine.tokens_computed == theirs.tokens_computed && mine.chosen_tokens == theirs.chosen_tokens, s.name, ": tokens of all ranks");
  CHECK(std::abs(mine.loss - theirs.loss) <= 1e-12 * std::abs(theirs.loss), s.name, ": loss ", mine.loss, " and ", theirs.loss);
  if (s.dtype == "f32") {   // a rounding of bfloat16 anywhere is larger than what the order of sums does
    CHECK(std::abs(mine.grad_norm - theirs.grad_norm) <= kSums * theirs.grad_norm, s.name, ": gradient norm ", mine.grad_norm, " and ", theirs.grad_norm);
    const double last = all[0].metrics.back().loss, of_one = one.metrics.back().loss;
    CHECK(std::abs(last - of_one) <= 1e-4 * std::abs(of_one), s.name, ": last loss ", last, " and ", of_one);
  }
  const double off = worst_gradient(one.gradients, all[0].gradients);
  CHECK(off <= kSums, s.name, ", ", ranks, " ranks: gradients differ by ", off);
}

std::vector<Setting> settings() {
  ModelSpec biased;
  biased.attention_bias = biased.tied = true;
  add_far_kind();
  const std::string sees = "test/golden/llava_hound/policy";
  return {{"f32"},
          {"bf16", {}, "bf16"},
          {"far", {}, "bf16", "sigmoid", 0, "far"},
          {"tied, with biases", biased},
          {"sft", {}, "f32", "sft"},
          {"aot", {}, "f32", "aot"},
          {"gamma", {}, "f32", "sigmoid", 0.5},
          {.name = "checkpointing", .checkpointing = 1},
          {.name = "all parts of a model that sees", .checkpoint = sees, .projector = true, .vision = true},
          {.name = "a frozen tower", .checkpoint = sees, .projector = true},
          {.name = "a frozen decoder", .checkpoint = sees, .decoder = false, .projector = true, .vision = true, .checkpointing = 1}};
}

TEST("train_ranks: figures, gradients and weights are those of one rank, with shards and without") {
  for (const Setting& s : settings()) {
    const Seen one = train_rank(s, nullptr, model_of(s).get(), Shared::Masters, 3);
    for (int ranks : {2, 3, 5}) {   // of four pairs: two each, ragged, and a rank without any
      const std::vector<Seen> sharded = train_ranks(s, ranks, Shared::Masters), whole = train_ranks(s, ranks, Shared::Nothing);
      check_against_one(s, ranks, one, sharded);
      CHECK(whole[0].parameters == sharded[0].parameters && whole[0].hash == sharded[0].hash, s.name, ", ", ranks, " ranks: bits with shards and without");
      CHECK(figures_of(whole[0].metrics.back()) == figures_of(sharded[0].metrics.back()), s.name, ", ", ranks, " ranks: figures with shards and without");
      CHECK(whole[0].gradients == sharded[0].gradients, s.name, ", ", ranks, " ranks: gradients with shards and without");
    }
  }
}

TEST("train_ranks: so they are with gradients by shards after every micro-batch, equal from run to run") {
  for (const Setting& s : settings()) {
    const Seen one = train_rank(s, nullptr, model_of(s).get(), Shared::Gradients, 3);
    for (int ranks : {2, 3, 4, 5}) {
      const std::vector<Seen> all = train_ranks(s, ranks, Shared::Gradients);
      check_against_one(s, ranks, one, all);
      if (ranks != 3) continue;
      const std::vector<Seen> again = train_ranks(s, ranks, Shared::Gradients);
      CHECK(all[0].parameters == again[0].parameters && all[0].hash == again[0].hash && all[0].gradients == again[0].gradients, s.name, ": bits of two runs");
    }
  }
}

TEST_CARRIED("train_ranks: equal bits from run to run") {
  const Setting s{"f32"};
  const std::vector<Seen> first = train_ranks(s, 4, Shared::Masters), second = train_ranks(s, 4, Shared::Masters);
  CHECK(first[0].parameters == second[0].parameters && first[0].metrics[2].loss == second[0].metrics[2].loss, "four ranks, twice");
}

TEST("train_ranks: shards are whole rows, in order, about equal, and hold everything once") {
  for (int ranks : {1, 2, 3, 7, 64}) {
    Param a, b, c;
    a.shape = {10, 7}, b.shape = {33}, c.shape = {1, 200};
    Group g;
    for (Param* p : {&a, &b, &c}) {
      p->offset = static_cast<size_t>(g.size);
      g.params.push_back(p);
      g.size += (p->size() + 63) / 64 * 64;
    }
    const std::vector<int64_t> cuts = shard_cuts(g, ranks);
    CHECK(cuts.size() == static_cast<size_t>(ranks) + 1 && cuts.front() == 0 && cuts.back() == g.size && std::is_sorted(cuts.begin(), cuts.end()), ranks, " ranks");
    for (const Param* p : g.params) {
      int64_t next = 0;
      for (size_t r = 0; r + 1 < cuts.size(); ++r) {
        const Rows rows = rows_within(*p, cuts[r], cuts[r + 1]);
        CHECK(rows.count == 0 || rows.first == next, "rank ", r, " of ", ranks, " begins at row ", rows.first, ", not ", next);
        next += rows.count;
      }
      CHECK(next == p->rows(), "rows of all ranks: ", next, " of ", p->rows());
    }
  }
  Param even;
  even.shape = {1000, 64};
  Group g;
  g.params = {&even};
  g.size = even.size();
  CHECK(shard_cuts(g, 4) == (std::vector<int64_t>{0, 16000, 32000, 48000, 64000}), "four equal parts");
}

TEST("train_ranks: what fails on one rank fails on all, and the weights stay") {
  struct Case { const char* name; const char* code; const char* item; std::function<void(std::vector<TrainPair>&)> spoil; const char* loss = "sigmoid"; };
  const auto outside = [](std::vector<TrainPair>& p) { p[0].chosen.ids[0] = 1 << 20; };
  const std::vector<Case> cases = {
      {"an id outside the vocabulary", "INVALID_ARGUMENT", "pairs[1].chosen", outside},
      {"of a loss that couples pairs", "INVALID_ARGUMENT", "pairs[1].chosen", outside, "aot"},
      {"of a sequence", "INVALID_ARGUMENT", "items[1]", outside, "sft"},
      {"a reference of another length", "INVALID_ARGUMENT", "pairs[1].reference", [](std::vector<TrainPair>& p) { p[0].ref_chosen->pop_back(); }},
      {"no reference", "INVALID_ARGUMENT", "pairs[1].reference", [](std::vector<TrainPair>& p) { p[0].ref_chosen.reset(); }},
      {"a reference that is not finite", "NUMERIC", "not finite", [](std::vector<TrainPair>& p) { p[0].ref_chosen->front() = std::numeric_limits<float>::quiet_NaN(); }}};
  for (const Case& c : cases) {
    std::vector<std::string> told(3), said(3);
    std::vector<std::vector<int64_t>> items(3);
    const Setting s{"f32", {}, "f32", c.loss};
    const Outcomes outcomes = with_models(s, 3, [&](Comm& comm, Model& model) {
      Trainer trainer(model, options_of(s, true), comm);
      const auto step = [&](const std::vector<TrainPair>& p) { return s.loss == "sft" ? trainer.train_step_sft(chosen_of(p), nullptr) : trainer.train_step(p, nullptr); };
      const std::vector<TrainPair> pairs = scored_part(trainer, model, comm.rank(), 3);
      step(pairs);
      const std::vector<float> before = model.parameter(model.params.front().name);
      std::vector<TrainPair> spoilt = pairs;
      if (comm.rank() == 1) c.spoil(spoilt);
      const auto me = static_cast<size_t>(comm.rank());
      try {
        step(spoilt);
      } catch (const Error& e) {
        told[me] = e.code, said[me] = e.what(), items[me] = e.items;
      }
      CHECK(model.parameter(model.params.front().name) == before, c.name, ": rank ", comm.rank(), " changed its weights");
      step(pairs);   // and they go on together
    });
    CHECK(all_well(outcomes), c.name, ": ", text(outcomes));
    for (size_t r = 0; r < told.size(); ++r) CHECK(told[r] == c.code && said[r].find(c.item) != std::string::npos, c.name, ": rank ", r, " was told ", told[r], ": ", said[r]);
    CHECK(items[0] == items[1] && items[2] == items[1], c.name, ": the same items on every rank");
    if (std::string(c.code) == "NUMERIC") CHECK(items[0] == std::vector<int64_t>{1}, c.name, ": the first pair of rank 1 is the second of the step");
  }
}

// Masters behind `steps` steps among so many ranks, from where a state in `from` stands, if any; saved into `to`, if any.
std::vector<std::vector<float>> masters_after(const Setting& s, int ranks, Shared shared, int steps, const std::string& from, const std::string& to) {
  std::vector<std::vector<float>> masters;
  const Outcomes outcomes = with_models(s, ranks, [&](Comm& comm, Model& model) {
    Trainer trainer(model, options_of(s, shared != Shared::Nothing, shared == Shared::Gradients), comm);
    const std::vector<TrainPair> pairs = scored_part(trainer, model, comm.rank(), ranks);   // of the start model
    if (!from.empty()) trainer.load(from);
    for (int i = 0; i < steps; ++i) trainer.train_step(pairs, nullptr);
    if (!to.empty()) trainer.save(to);
    trainer.with_masters([&] {
      for (const Param& p : model.params) masters.push_back(model.parameter(p.name));
    });
  });
  CHECK(all_well(outcomes), s.name, ", ", ranks, " ranks: ", text(outcomes));
  return masters;
}

TEST("train_ranks: save, load and one step give the bits of never having stopped") {
  for (const char* dtype : {"f32", "bf16"})
    for (const Shared shared : {Shared::Nothing, Shared::Masters, Shared::Gradients}) {
      const Setting s{dtype, {}, dtype};
      const ScratchFolder dir;
      const auto straight = masters_after(s, 3, shared, 3, "", "");
      masters_after(s, 3, shared, 2, "", dir.path);
      CHECK(masters_after(s, 3, shared, 1, dir.path, dir.path) == straight, dtype, ", ", static_cast<int>(shared), " shared");
      size_t files = 0;
      for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(dir.path)) ++files;
      CHECK(files == (shared == Shared::Nothing ? 1u : 3u), files, " files: those of the earlier state are gone");
    }
}

TEST("train_ranks: any number of ranks loads what any other saved, to the bit") {
  const Setting s{"bf16", {}, "bf16"};
  for (const int saved : {1, 2, 5}) {
    const ScratchFolder dir;
    const auto masters = masters_after(s, saved, saved == 5 ? Shared::Gradients : Shared::Masters, 2, "", dir.path);
    for (const int now : {1, 2, 3, 4}) CHECK(masters_after(s, now, now == 3 ? Shared::Gradients : Shared::Masters, 0, dir.path, "") == masters, "saved by ", saved, ", loaded by ", now);
  }
}

TEST("train_ranks: a state that is not whole is refused on every rank") {
  const Setting s{"f32"};
  struct Case { const char* name; const char* code; std::function<void(const std::string& a, const std::string& b)> spoil; };   // b: a later state's folder
  const auto name = [](const std::string& dir, int rank) { return concat(dir, "/trainer-", dir.back() == 'a' ? 1 : 2, "-0-", rank, "-of-3.safetensors"); };
  const Case cases[] = {
      {"a rank's file is missing", "NOT_FOUND", [&](const std::string& a, const std::string&) { std::filesystem::remove(name(a, 2)); }},
      {"of another step", "RUN_MISMATCH", [&](const std::string& a, const std::string& b) { std::filesystem::rename(name(b, 1), name(a, 1)); }},
      {"of another rank", "RUN_MISMATCH", [&](const std::string& a, const std::string&) { std::filesystem::rename(name(a, 1), name(a, 2)); std::filesystem::copy(name(a, 2), name(a, 1)); }},
      {"cut off", "CHECKPOINT_CORRUPT", [&](const std::string& a, const std::string&) { std::filesystem::resize_file(name(a, 1), 1000); }}};
  for (const Case& c : cases) {
    const ScratchFolder dir;
    const std::string a = dir.path + "/a", b = dir.path + "/b";
    masters_after(s, 3, Shared::Masters, 1, "", a);
    masters_after(s, 3, Shared::Masters, 2, "", b);
    c.spoil(a, b);
    std::vector<std::string> told(3);
    const Outcomes outcomes = with_models(s, 3, [&](Comm& comm, Model& model) {
      Trainer trainer(model, options_of(s, true), comm);
      told[static_cast<size_t>(comm.rank())] = thrown_code([&] { trainer.load(a); });
      CHECK(trainer.step() == 0, c.name, ": nothing is loaded");
    });
    CHECK(all_well(outcomes), c.name, ": ", text(outcomes));
    for (const std::string& code : told) CHECK(code == c.code, c.name, ": ", code);
  }
}

// What plans count of a rank's gradients (src/plan/byte-sizes.ts): shards as if they could be cut anywhere.
double planned_gradients(const PlanReport& plan, int ranks, Shared shared) {
  const auto d = [](auto n) { return static_cast<double>(n); };
  const double parts = shared == Shared::Gradients ? d(plan.block_elements) : 0, turns = shared == Shared::Gradients ? 2 * d(plan.largest_block) : 0;
  const double arriving = 2.0 * d(ranks - 1) * std::ceil(d(plan.largest_group) / d(ranks));
  return 4 * (d(plan.trained_elements) - parts + std::ceil(parts / d(ranks)) + turns + arriving);
}

TEST("train_ranks: what a rank keeps of gradients is what plans count") {
  ModelSpec deep;
  deep.layers = 8;
  for (const Setting& s : {Setting{.name = "text", .spec = deep}, Setting{.name = "all parts", .checkpoint = "test/golden/llava_hound/policy", .projector = true, .vision = true}}) {
    const ScratchFolder dir;
    write_model(dir.path, s.spec);
    for (const int ranks : {2, 3, 4})
      for (const Shared shared : {Shared::Masters, Shared::Gradients}) {
        PlanRequest q;
        q.trainer = options_of(s, true, shared == Shared::Gradients);
        const double planned = planned_gradients(plan_training(s.checkpoint.empty() ? dir.path : s.checkpoint, q), ranks, shared);
        std::vector<double> kept(static_cast<size_t>(ranks));
        with_models(s, ranks, [&](Comm& comm, Model& m) {
          Trainer trainer(m, q.trainer, comm);
          const std::vector<TrainPair> pairs = scored_part(trainer, m, comm.rank(), ranks);
          const uint64_t before = trainer.gradient_bytes();
          trainer.train_step(pairs, nullptr);
          CHECK(trainer.gradient_bytes() == before, s.name, ": a step took memory for gradients");
          kept[static_cast<size_t>(comm.rank())] = static_cast<double>(before);
        });
        const double most = *std::max_element(kept.begin(), kept.end());
        CHECK(std::abs(most - planned) <= 0.03 * planned, s.name, ", ", ranks, " ranks: ", most, " bytes, planned ", planned);
      }
  }
}

}  // namespace
}  // namespace isr::test
