// The trainer's inside, shared by trainer.cc (steps) and trainer_state.cc (save and load).
#pragma once
#include <functional>
#include <span>
#include <vector>

#include "autograd/ops.h"
#include "models/batch.h"
#include "train/optimizer.h"
#include "train/pair_step.h"
#include "train/trainer.h"

namespace isr {

struct Trainer::Impl {
  Impl(Model& model, const TrainerOptions& options, std::unique_ptr<Comm> alone, Comm* ranks);

  StepMetrics run(const std::function<StepMetrics()>& work, bool update);
  StepMetrics accumulate(std::vector<TrainPair>& pairs, const std::atomic<bool>* cancel);
  StepMetrics accumulate_sft(const std::vector<SequenceInput>& sequences, const std::atomic<bool>* cancel);
  std::vector<PairReference> score(const std::vector<TrainPair>& pairs, const std::atomic<bool>* cancel);
  void copy_gradients(const std::vector<std::string>& names, Gradients& out);

  // What makes the gradients of a micro-batch's log-probs (head.dlogp), without waiting for them.
  using Answer = std::function<void(Ctx&, const Batch&, const TokenLogp& head)>;
  void micro_batch(std::span<const SequenceInput> sequences, const std::atomic<bool>* cancel, const Answer& answer);
  template <class T>
  T* notes(size_t count);                                 // resident memory that lives as long as the trainer
  // What a rank tells the others of a step, and they tell it. It is said when the first loss needs it, after the forward pass of a first
  // micro-batch: until then this rank waits for nobody, and values of the last update come in.
  struct Round {
    int64_t first = 0, total = 0;         // this rank's items among those of the step: how many stand before them, and how many there are
    std::vector<double> all;              // the numbers of all ranks, one behind another
    bool said = false;
  };
  struct Work {
    size_t items;                                           // of this rank
    std::function<void(int64_t first)> prepare;             // what is refused with the place of an item in the step
    std::function<std::vector<double>()> numbers;           // that this rank tells; any number of them
    std::function<void(const Round&)> told;                 // they are there
    std::function<void(const std::function<void()>& say)> compute;   // say() comes before what needs the others'; again, it does nothing
  };
  // Does a step's work on every rank, and makes all fail alike. A rank that fails before it has said anything tells that instead.
  void together(const Work& work);
  bool say(Round& round, const Work& work, bool failed);    // whether no rank has failed
  void need_references(std::vector<TrainPair>& pairs, int64_t first, const std::atomic<bool>* cancel);
  std::vector<SequenceInput> sequences_of(const std::vector<TrainPair>& pairs, int64_t first) const;
  [[noreturn]] void refuse_not_finite(const StepMetrics& metrics) const;

  std::vector<double> of_all(std::span<const double> mine);   // of all ranks, one behind another
  std::vector<PairLogps> logps_of_all(const std::vector<TrainPair>& pairs, const std::vector<PairReference>& now, std::span<const PairTokens> tokens);
  void add_ranks(StepMetrics& metrics);

  const std::unique_ptr<Comm> alone;
  Comm& comm;
  Model& m;
  TrainerOptions o;
  Optimizer optimizer;
  int64_t step = 0, tokens_computed = 0;
  double flops = 0, told_seconds = 0;                     // told_seconds: of communication that metrics have told
  std::vector<int64_t> not_finite;                        // items of this step whose log-probs or margin are not finite
  Buffer notes_;                                          // what a step tells of its pairs or tokens, until its end
};

}  // namespace isr
