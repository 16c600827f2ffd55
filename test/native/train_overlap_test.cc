// Messages of a step go across beside what a rank computes. Here they go across as late as they may: who reads what has not been
// waited for finds what was there before, and who writes what is on its way sends that.
#include <deque>
#include <optional>

#include "check.h"
#include "infer/generator.h"
#include "models/score.h"
#include "rank_models.h"

namespace isr::test {
namespace {

class ThroughComm : public Comm {
 public:
  explicit ThroughComm(Comm& comm) : comm_(comm) {}
  int rank() const override { return comm_.rank(); }
  int size() const override { return comm_.size(); }
  Device& device() override { return comm_.device(); }
  double seconds() const override { return comm_.seconds(); }
  void abort(std::string reason) noexcept override { comm_.abort(std::move(reason)); }
  void reserve() override { comm_.reserve(); }
  void exchange(std::span<const Message> sends, std::span<const Message> receives) override { comm_.exchange(sends, receives); }
  uint64_t start(std::span<const Message> sends, std::span<const Message> receives) override { return comm_.start(sends, receives); }
  void wait(uint64_t group) override { comm_.wait(group); }
  void finish() override { comm_.finish(); }

 protected:
  Comm& comm_;
};

// What was started goes across when somebody waits.
class LateComm final : public ThroughComm {
 public:
  using ThroughComm::ThroughComm;
  void reserve() override { reserved_ = true; }
  void exchange(std::span<const Message> sends, std::span<const Message> receives) override {
    carry(started_);
    comm_.exchange(sends, receives);
  }
  uint64_t start(std::span<const Message> sends, std::span<const Message> receives) override {
    ISR_ASSERT(reserved_, "start() without reserve()");
    waiting_.push_back({{sends.begin(), sends.end()}, {receives.begin(), receives.end()}});
    return ++started_;
  }
  void wait(uint64_t group) override {
    ISR_ASSERT(group == ++waited_, "groups are waited for in their order, once");
    carry(group);
  }
  void finish() override {
    carry(started_);
    comm_.finish();
  }
  uint64_t on_their_way() const { return started_ - waited_; }

 private:
  struct Group { std::vector<Message> sends, receives; };
  void carry(uint64_t until) {
    for (; carried_ < until; ++carried_) {
      const Group group = std::move(waiting_.front());
      waiting_.pop_front();
      comm_.exchange(group.sends, group.receives);
    }
  }
  std::deque<Group> waiting_;
  bool reserved_ = false;
  uint64_t started_ = 0, waited_ = 0, carried_ = 0;
};

// What is started has gone across at once.
class EarlyComm final : public ThroughComm {
 public:
  using ThroughComm::ThroughComm;
  uint64_t start(std::span<const Message> sends, std::span<const Message> receives) override { return comm_.exchange(sends, receives), ++started_; }
  void wait(uint64_t) override {}

 private:
  uint64_t started_ = 0;
};

// Sets a flag at the n-th group, or exchange, from now.
class TrippingComm final : public ThroughComm {
 public:
  using ThroughComm::ThroughComm;
  void exchange(std::span<const Message> sends, std::span<const Message> receives) override {
    comm_.exchange(sends, receives);
    if (exchanges > 0 && --exchanges == 0) flag = true;
  }
  uint64_t start(std::span<const Message> sends, std::span<const Message> receives) override {
    if (groups > 0 && --groups == 0) flag = true;
    return comm_.start(sends, receives);
  }
  int exchanges = 0, groups = 0;
  std::atomic<bool> flag{false};
};

// One rank behind its first step.
struct Rig {
  Model& model;
  std::optional<Trainer>& trainer;
  std::vector<TrainPair> pairs;
  std::string state;    // of the start
};

std::vector<float> all_values(Model& m) {
  std::vector<float> all;
  for (const Param& p : m.params) {
    const std::vector<float> one = m.parameter(p.name);
    all.insert(all.end(), one.begin(), one.end());
  }
  return all;
}

std::vector<float> log_probs(Rig& r) {
  std::vector<float> all;
  for (const std::vector<float>& one : sequence_log_probs(r.model, {make_pairs(r.model.config.vocab)[0].chosen}, true, INT64_MAX, nullptr)) all.insert(all.end(), one.begin(), one.end());
  return all;
}

std::vector<float> next_step(Rig& r) {
  const StepMetrics m = r.trainer->train_step(r.pairs, nullptr);
  std::vector<float> all = all_values(r.model);
  all.push_back(static_cast<float>(m.loss));
  return all;
}

std::vector<float> generated(Rig& r) {
  GenerateRequest request;
  request.ids = random_ids(20, r.model.config.vocab, 5);
  request.sampling.max_tokens = 12;
  std::vector<float> all;
  for (const GeneratedSequence& s : Generator(r.model, 0, false).generate({request}, {}, nullptr)) all.insert(all.end(), s.logp.begin(), s.logp.end());
  return all;
}

struct Reader {
  const char* name;
  std::function<std::vector<float>(Rig&)> read;
  bool sees = false;   // by a model with towers
  int ranks = 2;
};

std::vector<Reader> readers() {
  return {{"a parameter", [](Rig& r) { return all_values(r.model); }},
          {"log-probs", log_probs},
          {"a trainer's score", [](Rig& r) { return r.trainer->score(r.pairs, nullptr).at(0).chosen; }},
          {"generation", generated},
          {"the next step", next_step},
          {"the next step, one rank without pairs", next_step, false, 5},
          {"a state that is loaded", [](Rig& r) { return r.trainer->load(r.state), all_values(r.model); }},
          {"the trainer's end", [](Rig& r) { return r.trainer.reset(), all_values(r.model); }},
          {"features", [](Rig& r) { return r.model.media.features(r.model, r.pairs[0].chosen.ids[0], MediaStore::Stage::Projected, nullptr); }, true},
          {"log-probs of an image", [](Rig& r) { return r.trainer->score(r.pairs, nullptr).at(0).chosen; }, true},
          {"the next step of an image", next_step, true}};
}

// What each rank read behind its first step.
std::vector<std::vector<float>> read_behind_a_step(const Reader& reader, bool late, const std::string& state) {
  const Setting s{.name = reader.name, .dtype = reader.sees ? "f32" : "bf16", .checkpoint = reader.sees ? "test/golden/llava_hound/policy" : "", .projector = reader.sees, .vision = reader.sees};
  std::vector<std::vector<float>> read(static_cast<size_t>(reader.ranks));
  const Outcomes outcomes = with_models(s, reader.ranks, [&](Comm& comm, Model& m) {
    LateComm slow(comm);
    Comm& carrier = late ? static_cast<Comm&>(slow) : comm;
    std::optional<Trainer> trainer;
    trainer.emplace(m, options_of(s, true), carrier);
    Rig rig{m, trainer, {}, state};
    rig.pairs = scored_part(*trainer, m, comm.rank(), comm.size());
    trainer->save(state);
    trainer->train_step(rig.pairs, nullptr);
    if (late) CHECK(slow.on_their_way() > 0, reader.name, ": values are on their way when the step is over");
    else m.settle();
    read[static_cast<size_t>(comm.rank())] = reader.read(rig);
    trainer.reset();
    if (late) CHECK(slow.on_their_way() == 0, reader.name, ": nothing is on its way when the trainer is gone");
  });
  CHECK(all_well(outcomes), reader.name, late ? ", late: " : ": ", text(outcomes));
  return read;
}

TEST("train_overlap: whoever reads values behind a step waits for them") {
  for (const Reader& reader : readers()) {
    const ScratchFolder folder;
    CHECK(read_behind_a_step(reader, true, folder.path) == read_behind_a_step(reader, false, folder.path), reader.name);
  }
}

TEST("train_overlap: a rank that is lost while values are on their way is told by the next call") {
  const Setting s{.name = "f32"};
  std::vector<std::string> told(2);
  const Outcomes outcomes = with_models(s, 2, [&](Comm& comm, Model& m) {
    LateComm late(comm);
    Trainer trainer(m, options_of(s, true), late);
    const std::vector<TrainPair> pairs = scored_part(trainer, m, comm.rank(), 2);
    trainer.train_step(pairs, nullptr);
    if (comm.rank() == 1) comm.abort("it has gone");
    const auto me = static_cast<size_t>(comm.rank());
    told[me] = thrown_code([&] { all_values(m); });
    CHECK(thrown_code([&] { trainer.train_step(pairs, nullptr); }) == "RANK_LOST", "and by every later one, on rank ", me);
  });
  CHECK(all_well(outcomes), text(outcomes));
  CHECK(told == (std::vector<std::string>{"RANK_LOST", "RANK_LOST"}), told[0], ", ", told[1]);
}

// Values behind three steps, of which each has other pairs.
template <class Carrier>
std::vector<std::vector<float>> trained(const Setting& s, int ranks, bool gradients) {
  std::vector<std::vector<float>> values(static_cast<size_t>(ranks));
  const Outcomes outcomes = with_models(s, ranks, [&](Comm& comm, Model& m) {
    Carrier carrier(comm);
    Trainer trainer(m, options_of(s, true, gradients), carrier);
    std::vector<TrainPair> all = all_pairs(trainer, m);
    for (int i = 0; i < 3; ++i, std::rotate(all.begin(), all.begin() + 1, all.end())) trainer.train_step(part_of(all, comm.rank(), ranks), nullptr);
    values[static_cast<size_t>(comm.rank())] = all_values(m);
  });
  CHECK(all_well(outcomes), s.name, ": ", text(outcomes));
  return values;
}

TEST("train_overlap: bits do not hang on when messages go across") {
  ModelSpec deep;
  deep.layers = 5;   // more than are on their way at one time
  for (const Setting& s : {Setting{.name = "bf16", .spec = deep, .dtype = "bf16"}, Setting{.name = "checkpointing", .spec = deep, .checkpointing = 1}})
    for (const bool gradients : {false, true})
      for (const int ranks : {2, 3}) {
        const auto usual = trained<ThroughComm>(s, ranks, gradients);
        CHECK(trained<LateComm>(s, ranks, gradients) == usual, s.name, ", late, ", ranks, " ranks, gradients by shards: ", gradients);
        CHECK(trained<EarlyComm>(s, ranks, gradients) == usual, s.name, ", early, ", ranks, " ranks, gradients by shards: ", gradients);
      }
}

TEST("train_overlap: a rank that is cancelled inside of a step takes part in its exchanges to the end; weights stay, and all go on") {
  struct Case { const char* name; bool gradients; int exchanges, groups; };
  const Case cases[] = {{"before its first gradient", false, 2, 0},
                        {"in its last backward", false, 0, 1},
                        {"before its first gradient, by shards", true, 2, 0},
                        {"in its first backward, by shards", true, 0, 1},
                        {"in its second backward, by shards", true, 0, 3}};
  for (const Case& c : cases) {
    const Setting s{.name = c.name, .checkpointing = 1};
    std::vector<std::string> told(3);
    const Outcomes outcomes = with_models(s, 3, [&](Comm& comm, Model& m) {
      TrippingComm carrier(comm);
      Trainer trainer(m, options_of(s, true, c.gradients), carrier);
      const std::vector<TrainPair> pairs = scored_part(trainer, m, 2 - comm.rank(), 3);   // rank 0 has two
      trainer.train_step(pairs, nullptr);
      const std::vector<float> before = all_values(m);
      if (comm.rank() == 0) carrier.exchanges = c.exchanges, carrier.groups = c.groups;
      try {
        trainer.train_step(pairs, &carrier.flag);
      } catch (const Cancelled&) {
        told[static_cast<size_t>(comm.rank())] = "cancelled";
      } catch (const Error& e) {
        told[static_cast<size_t>(comm.rank())] = concat(e.code, ": ", e.what());
      }
      CHECK(all_values(m) == before && trainer.step() == 1, c.name, ": rank ", comm.rank(), " changed its weights");
      const double loss = trainer.train_step(pairs, nullptr).loss;
      CHECK(std::isfinite(loss) && trainer.step() == 2, c.name, ": and all go on, on rank ", comm.rank());
    });
    CHECK(all_well(outcomes), c.name, ": ", text(outcomes));
    const std::string theirs = "RANK_LOST: rank 0: its work was cancelled";
    CHECK(told == (std::vector<std::string>{"cancelled", theirs, theirs}), c.name, ": ", told[0], "; ", told[1], "; ", told[2]);
  }
}

}  // namespace
}  // namespace isr::test
