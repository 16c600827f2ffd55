// The trainer: takes a model's weights, computes gradients over micro-batches, updates masters with AdamW. trainStep is
// atomic: weights change only in the optimizer phase, which is not cancelled.
// Among several ranks a step's items are those of rank 0, then those of rank 1, and so on; any rank but not all may have none.
// Every rank calls the same methods in the same order, gets the same figures, and fails alike.
#pragma once
#include <map>
#include <memory>
#include <optional>

#include "dist/comm.h"
#include "models/adapter.h"
#include "models/decoder.h"
#include "train/losses.h"

namespace isr {

struct TrainerOptions {
  LossOptions loss;                        // loss.loss == "sft": supervised
  double learning_rate = 5e-7;
  std::string schedule = "constant";       // constant | linear | cosine
  int64_t warmup_steps = 0;
  double warmup_ratio = 0;                 // ceil(ratio * total_steps) when warmup_steps is 0
  int64_t total_steps = 0;
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0;
  bool decay_norms = true;
  double clip_norm = 0;                    // 0: off
  bool train_decoder = true, train_projector = false, train_vision = false;
  std::optional<LoraOptions> lora;         // the decoder's adapter in place of its parameters; the one that the model has, or a new one
  int64_t micro_batch_tokens = 4096;
  int checkpointing = -1;                  // -1 auto, 0 off, 1 on
  bool share_prefix = true;
  bool shard = true;                       // among several ranks: masters and moments by shards; false: each keeps all
  bool shard_gradients = false;            // with shard: gradients of the decoder's blocks, too, after every micro-batch
};

struct TrainPair {
  std::string id;
  SequenceInput chosen, rejected;
  std::optional<std::vector<float>> ref_chosen, ref_rejected;
};
struct PairReference { std::vector<float> chosen, rejected; };

// Communication: what messages kept the rank waiting. Of values that go out at the end of a step, that is a part of the next one.
struct RankFigures { int64_t tokens_computed = 0; double compute_seconds = 0, communication_seconds = 0; };

struct StepMetrics {
  int64_t step = 0, chosen_tokens = 0, rejected_tokens = 0, tokens_computed = 0;
  double loss = 0, dpo_loss = 0, sft_loss = 0, grad_norm = 0, learning_rate = 0, accuracy = 0, chosen_reward = 0, rejected_reward = 0,
         margin = 0, chosen_logp = 0, rejected_logp = 0, seconds = 0;
  double compute_seconds = 0;             // forward and backward alone, and adding what ranks send meanwhile: without the norm and the update
  std::vector<RankFigures> ranks;         // of a step among several: waiting for others is communication. Tokens and flops are of all
  double flops = 0;                       // of the decoder's forward and backward on computed tokens (step_flops)
  double length_margin_correlation = 0;   // Pearson's r of (chosen - rejected tokens) and margin over the pairs; 0 where it has no value
};

class Trainer {
 public:
  Trainer(Model& model, const TrainerOptions& options);   // INVALID_ARGUMENT for bad options
  Trainer(Model& model, const TrainerOptions& options, Comm& comm);   // `comm` lives longer
  ~Trainer();                                             // trained weights stay in the model

  int64_t step() const;
  // Log-probs of the reference: the model as it is; where an adapter trains, the model without it.
  std::vector<PairReference> score(const std::vector<TrainPair>& pairs, const std::atomic<bool>* cancel);
  // Pairs without reference are scored first, while step is 0; later INVALID_ARGUMENT, but where an adapter trains.
  StepMetrics train_step(std::vector<TrainPair> pairs, const std::atomic<bool>* cancel);
  StepMetrics train_step_sft(const std::vector<SequenceInput>& sequences, const std::atomic<bool>* cancel);
  // Mean loss's gradient before clipping, in the file's shape; `names` empty: all that got one.
  using Gradients = std::map<std::string, std::pair<std::vector<int64_t>, std::vector<float>>>;
  StepMetrics gradients(std::vector<TrainPair> pairs, const std::vector<std::string>& names, Gradients& out, const std::atomic<bool>* cancel);
  StepMetrics gradients_sft(const std::vector<SequenceInput>& sequences, const std::vector<std::string>& names, Gradients& out, const std::atomic<bool>* cancel);
  StepMetrics try_step(std::vector<TrainPair> pairs, const std::atomic<bool>* cancel);   // all of a step but its update
  StepMetrics try_step_sft(const std::vector<SequenceInput>& sequences, const std::atomic<bool>* cancel);
  // Among several ranks: rank 0 does `work`, in which the model saves, hashes and tells the float32 values of all shards.
  void with_masters(const std::function<void()>& work);
  uint64_t gradient_bytes() const;                        // that this rank holds, with what arrives of the others
  void save(const std::string& dir);                      // masters, moments, step; atomic
  void load(const std::string& dir);                      // RUN_MISMATCH for another architecture, tensor set or options

  struct Impl;

 private:
  std::unique_ptr<Impl> impl_;
};

// Whether a micro-batch of so many tokens keeps only block inputs for backward. Unless told, it does where all it would keep
// takes more than a quarter of `memory`.
bool checkpoints(const TrainerOptions& o, const DecoderConfig& config, DType dtype, int64_t tokens, size_t memory);
void check_options(const TrainerOptions& o);              // INVALID_ARGUMENT
// The trained parts, in the order of the forward pass; INVALID_ARGUMENT for parts that the model lacks.
std::vector<Model::Part> parts_of(const Model& m, const TrainerOptions& o);

// FLOPs of a step's forward and backward through decoder and head: two per weight and token, three times (forward, dX, dW), the
// head on scored rows; attention 2 + 5 products over the pairs of rows that see each other. What checkpointing or the head
// computes again, norms and the vision tower are not counted. A frozen decoder has no dW.
double step_flops(const DecoderConfig& c, int64_t tokens, int64_t scored, double visible, bool trains);

// lr(k) of optimizer step k = 0, 1, ...
double learning_rate_at(const TrainerOptions& o, int64_t k);

}  // namespace isr
