// The trainer's inside, shared by trainer.cc (steps) and trainer_state.cc (save and load).
#pragma once
#include <functional>
#include <span>

#include "autograd/ops.h"
#include "models/batch.h"
#include "train/meeting.h"
#include "train/optimizer.h"
#include "train/pair_step.h"
#include "train/trainer.h"

namespace isr {

// Scored tokens of both sides of pairs, as a rank tells them, and those of all ranks.
std::vector<double> token_counts(const std::vector<TrainPair>& pairs);
std::vector<PairTokens> tokens_of(const std::vector<std::vector<double>>& counts);

// The adapter that is to be trained: the model's, or one that is made, and goes again with a trainer that has not changed it.
class TrainedAdapter {
 public:
  TrainedAdapter(Model& model, const TrainerOptions& options);   // INVALID_ARGUMENT
  ~TrainedAdapter();
  TrainedAdapter(const TrainedAdapter&) = delete;

 private:
  Model& model_;
  bool made_ = false;
};

struct Trainer::Impl {
  Impl(Model& model, const TrainerOptions& options, std::unique_ptr<Comm> alone, Comm* ranks);

  StepMetrics run(const std::function<StepMetrics()>& work, bool update);
  StepMetrics accumulate(std::vector<TrainPair>& pairs, const std::atomic<bool>* cancel);
  StepMetrics accumulate_sft(const std::vector<SequenceInput>& sequences, const std::atomic<bool>* cancel);
  std::vector<PairReference> score(const std::vector<TrainPair>& pairs, const std::atomic<bool>* cancel);       // the reference's
  std::vector<PairReference> log_probs(const std::vector<TrainPair>& pairs, const std::atomic<bool>* cancel);   // of the model as it is
  void copy_gradients(const std::vector<std::string>& names, Gradients& out);

  // What makes the gradients of a micro-batch's log-probs (head.dlogp), without waiting for them.
  using Answer = std::function<void(Ctx&, const Batch&, const TokenLogp& head)>;
  void micro_batch(std::span<const SequenceInput> sequences, bool last, const std::atomic<bool>* cancel, const Answer& answer);
  template <class T>
  T* notes(size_t count);                                 // resident memory that lives as long as the trainer
  void need_references(std::vector<TrainPair>& pairs, int64_t first, const std::atomic<bool>* cancel);
  std::vector<SequenceInput> sequences_of(const std::vector<TrainPair>& pairs, int64_t first) const;
  [[noreturn]] void refuse_not_finite(const StepMetrics& metrics) const;

  std::vector<double> of_all(std::span<const double> mine);   // of all ranks, one behind another
  std::vector<PairLogps> logps_of_all(const std::vector<TrainPair>& pairs, const std::vector<PairReference>& now, std::span<const PairTokens> tokens);
  void add_ranks(StepMetrics& metrics, double communication_seconds);

  const std::unique_ptr<Comm> alone;
  Comm& comm;
  Model& m;
  TrainerOptions o;
  const TrainedAdapter adapter;                               // before the optimizer, which takes its parameters
  Optimizer optimizer;
  int64_t step = 0, tokens_computed = 0;
  double flops = 0;
  std::vector<int64_t> not_finite;                        // items of this step whose log-probs or margin are not finite
  Buffer notes_;                                          // what a step tells of its pairs or tokens, until its end
};

}  // namespace isr
