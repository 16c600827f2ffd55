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

// What was started goes across when somebody waits.
class LateComm final : public Comm {
 public:
  explicit LateComm(Comm& comm) : comm_(comm) {}
  int rank() const override { return comm_.rank(); }
  int size() const override { return comm_.size(); }
  Device& device() override { return comm_.device(); }
  double seconds() const override { return comm_.seconds(); }
  void abort(std::string reason) noexcept override { comm_.abort(std::move(reason)); }
  void reserve() override { reserved = true; }
  void exchange(std::span<const Message> sends, std::span<const Message> receives) override {
    carry(started_);
    comm_.exchange(sends, receives);
  }
  uint64_t start(std::span<const Message> sends, std::span<const Message> receives) override {
    ISR_ASSERT(reserved, "start() without reserve()");
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
  bool reserved = false;
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
  Comm& comm_;
  std::deque<Group> waiting_;
  uint64_t started_ = 0, waited_ = 0, carried_ = 0;
};

// One rank behind its first step.
struct Rig {
  Model& model;
  std::optional<Trainer>& trainer;
  std::vector<TrainPair> pairs;
  int32_t image = -1;   // its first id
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

// Pairs of one rank; those of a video model are about one image.
std::vector<TrainPair> pairs_of(Model& m, Trainer& trainer, int32_t image, int rank, int ranks) {
  std::vector<TrainPair> pairs = part_of(make_pairs(m.config.vocab), rank, ranks);
  for (TrainPair& p : pairs)
    for (SequenceInput* s : {&p.chosen, &p.rejected})
      for (int32_t i = 0; image >= 0 && i < m.media.get(image).rows; ++i) s->ids[static_cast<size_t>(i)] = image + i;
  const auto refs = trainer.score(pairs, nullptr);
  for (size_t i = 0; i < pairs.size(); ++i) pairs[i].ref_chosen = refs[i].chosen, pairs[i].ref_rejected = refs[i].rejected;
  return pairs;
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
          {"features", [](Rig& r) { return r.model.media.features(r.model, r.image, MediaStore::Stage::Projected, nullptr); }, true},
          {"log-probs of an image", [](Rig& r) { return r.trainer->score(r.pairs, nullptr).at(0).chosen; }, true},
          {"the next step of an image", next_step, true}};
}

// What each rank read behind its first step.
std::vector<std::vector<float>> read_behind_a_step(const Reader& reader, bool late, const std::string& state) {
  const Setting s{.name = reader.name, .dtype = reader.sees ? "f32" : "bf16", .checkpoint = reader.sees ? "test/golden/llava_hound/policy" : ""};
  std::vector<std::vector<float>> read(static_cast<size_t>(reader.ranks));
  const Outcomes outcomes = with_models(s, reader.ranks, [&](Comm& comm, Model& m) {
    LateComm slow(comm);
    Comm& carrier = late ? static_cast<Comm&>(slow) : comm;
    TrainerOptions o = options_of(s, true);
    o.train_vision = o.train_projector = reader.sees;
    std::optional<Trainer> trainer;
    trainer.emplace(m, o, carrier);
    Rig rig{m, trainer, {}, -1, state};
    if (reader.sees) rig.image = m.media.add_pixels(m, true, 1, random_values(m.vision->image->config.frame.values(), 3)).first_id;
    rig.pairs = pairs_of(m, *trainer, rig.image, comm.rank(), comm.size());
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
    const std::vector<TrainPair> pairs = pairs_of(m, trainer, -1, comm.rank(), 2);
    trainer.train_step(pairs, nullptr);
    if (comm.rank() == 1) comm.abort("it has gone");
    const auto me = static_cast<size_t>(comm.rank());
    told[me] = thrown_code([&] { all_values(m); });
    CHECK(thrown_code([&] { trainer.train_step(pairs, nullptr); }) == "RANK_LOST", "and by every later one, on rank ", me);
  });
  CHECK(all_well(outcomes), text(outcomes));
  CHECK(told == (std::vector<std::string>{"RANK_LOST", "RANK_LOST"}), told[0], ", ", told[1]);
}

}  // namespace
}  // namespace isr::test
