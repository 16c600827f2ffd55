#include "train/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numbers>
#include <numeric>

#include "models/score.h"
#include "train/optimizer.h"
#include "train/pair_step.h"
#include "train/trainer_impl.h"

namespace isr {
using Clock = std::chrono::steady_clock;

void check_options(const TrainerOptions& o) {
  const auto number = [](const char* name, double v, double low, double high) {
    if (!(v >= low && v <= high)) fail("INVALID_ARGUMENT", name, ": expected a number from ", low, " to ", high, ", got ", v);
  };
  const auto count = [](const char* name, int64_t v, int64_t low) {
    if (v < low) fail("INVALID_ARGUMENT", name, ": expected an integer of ", low, " or more, got ", v);
  };
  if (o.loss.loss != "sft") check_loss_options(o.loss);
  number("learningRate", o.learning_rate, 0, 1e6);
  number("betas[0]", o.beta1, 0, 1 - 1e-12);
  number("betas[1]", o.beta2, 0, 1 - 1e-12);
  number("eps", o.eps, 0, 1);
  number("weightDecay", o.weight_decay, 0, 1e6);
  number("clipNorm", o.clip_norm, 0, 1e30);
  number("warmupRatio", o.warmup_ratio, 0, 1);
  count("warmupSteps", o.warmup_steps, 0);
  count("totalSteps", o.total_steps, 0);
  count("microBatchTokens", o.micro_batch_tokens, 1);
  if (o.schedule != "constant" && o.schedule != "linear" && o.schedule != "cosine")
    fail("INVALID_ARGUMENT", "schedule: expected constant, linear or cosine, got \"", o.schedule, "\"");
  if (o.schedule != "constant" && o.total_steps == 0)
    fail("INVALID_ARGUMENT", "totalSteps: the schedule \"", o.schedule, "\" needs it, got nothing");
  if (o.warmup_ratio > 0 && o.total_steps == 0) fail("INVALID_ARGUMENT", "totalSteps: warmupRatio needs it, got nothing");
  if (o.shard_gradients && !o.shard) fail("INVALID_ARGUMENT", "shardGradients: expected shard to be true beside it, got false");
  if (!o.train_decoder && !o.train_projector && !o.train_vision) fail("INVALID_ARGUMENT", "train: nothing is trained; set decoder, projector or vision");
}

std::vector<Model::Part> parts_of(const Model& m, const TrainerOptions& o) {
  if (!m.vision && (o.train_vision || o.train_projector))
    throw Error("INVALID_ARGUMENT", concat("train: ", m.family, " is a text model: it has no vision tower or projector"), "train the decoder");
  if (o.train_vision && !m.vision->image && !m.vision->video)
    throw Error("INVALID_ARGUMENT", "train.vision: this checkpoint has no tower", "train the decoder, or a checkpoint that holds its towers");
  if (o.train_vision && m.outside_towers())
    throw Error("INVALID_ARGUMENT", "train.vision: the towers came from another folder (visionTower) and could not be saved with the checkpoint",
                "train a checkpoint that holds its towers");
  std::vector<Model::Part> parts;
  if (o.train_vision) parts.push_back(Model::Part::Vision);
  if (o.train_projector) parts.push_back(Model::Part::Projector);
  if (o.train_decoder) parts.push_back(Model::Part::Decoder);
  return parts;
}

// What a batch keeps for backward, without checkpointing: bytes per token and layer.
static int64_t activation_bytes(const DecoderConfig& c, DType dtype) {
  const int64_t elements = 4 * c.width + (2 * c.heads + 2 * c.kv_heads) * c.head_size + 3 * c.mlp_width;
  return elements * static_cast<int64_t>(size_of(dtype));
}

bool checkpoints(const TrainerOptions& o, const DecoderConfig& config, DType dtype, int64_t tokens, size_t memory) {
  if (o.checkpointing >= 0) return o.checkpointing == 1;
  const double need = static_cast<double>(tokens) * static_cast<double>(activation_bytes(config, dtype) * config.layers);
  return need > static_cast<double>(memory) / 4;
}

double step_flops(const DecoderConfig& c, int64_t tokens, int64_t scored, double visible, bool trains) {
  const double block = static_cast<double>(c.width * (c.heads + 2 * c.kv_heads) * c.head_size + c.heads * c.head_size * c.width + 3 * c.width * c.mlp_width);
  const double attention = 2.0 * static_cast<double>(c.heads * c.head_size) * visible * 7;
  const double products = trains ? 6.0 : 4.0;
  return static_cast<double>(c.layers) * (products * block * static_cast<double>(tokens) + attention) + products * static_cast<double>(scored * c.width * c.vocab);
}

// Pairs of rows that see each other.
static double visible_pairs(const AttentionPlan& plan) {
  double sum = 0;
  for (size_t s = 0; s < plan.spans.size(); ++s) {
    const double n = plan.spans[s].end - plan.spans[s].begin;
    sum += n * plan.span_logical[s] + n * (n + 1) / 2;
  }
  return sum;
}

double learning_rate_at(const TrainerOptions& o, int64_t k) {
  const int64_t warmup = o.warmup_steps > 0 ? o.warmup_steps : static_cast<int64_t>(std::ceil(o.warmup_ratio * static_cast<double>(o.total_steps)));
  if (k < warmup) return o.learning_rate * static_cast<double>(k) / static_cast<double>(warmup);
  if (o.schedule == "constant") return o.learning_rate;
  const double progress = static_cast<double>(k - warmup) / static_cast<double>(std::max<int64_t>(1, o.total_steps - warmup));
  if (o.schedule == "linear") return o.learning_rate * std::max(0.0, 1 - progress);
  return o.learning_rate * std::max(0.0, 0.5 * (1 + std::cos(std::numbers::pi * progress)));
}

Trainer::Impl::Impl(Model& model, const TrainerOptions& options, std::unique_ptr<Comm> single, Comm* ranks)
    : alone(std::move(single)), comm(ranks ? *ranks : *alone), m(model), o(options), adapter(model, options), optimizer(model, parts_of(model, options), comm, {options.shard, options.shard_gradients}) {}

TrainedAdapter::TrainedAdapter(Model& model, const TrainerOptions& options) : model_(model) {
  if (!options.lora) {
    if (model.adapter)
      throw Error("INVALID_ARGUMENT", "lora: this model has an adapter, and nothing but that can be trained", "train it with `lora`, or save the model, which merges it, and load that");
    return;
  }
  if (options.train_vision || options.train_projector || !options.train_decoder)
    throw Error("INVALID_ARGUMENT", "lora: an adapter is trained alone, and it is the decoder's", "leave out train.projector and train.vision");
  made_ = !model.adapter;
  if (made_) model.adapter = Adapter::make(model, *options.lora);
  else model.adapter->check_same(*options.lora);
}

TrainedAdapter::~TrainedAdapter() {
  if (made_ && !model_.adapter->changed()) model_.adapter.reset();
}

// ---- one micro-batch: forward under a tape, the loss's answer, backward into the groups
void Trainer::Impl::micro_batch(std::span<const SequenceInput> sequences, bool last, const std::atomic<bool>* cancel, const Answer& answer) {
  const Batch batch = make_batch(sequences, o.share_prefix, m.positioner());
  tokens_computed += batch.tokens();
  flops += step_flops(m.config, batch.tokens(), static_cast<int64_t>(batch.scored.size()), visible_pairs(batch.plan), o.train_decoder && !o.lora);
  if (batch.scored.empty()) return;
  ArenaScope scope(m.arena());
  Tape tape(m.arena(), true);
  const bool reduces = comm.size() > 1 && (last || optimizer.reduction.by_micro_batch());
  Ctx c{*m.backend, tape, cancel, {}};
  if (reduces) c.ready = [this](Group& g) { optimizer.reduction.ready(g); };
  const bool again = checkpoints(o, m.config, m.dtype, batch.tokens(), m.backend->device().memory());
  const ResidentBatch there = make_resident(c, m, batch, m.media.rows_of(c, m, batch.ids, again));
  const Tensor hidden = hidden_states(c, m, there, again);
  const TokenLogp head = token_logp(c, gather_rows(c, hidden, there.scored), m.head, there.targets);
  answer(c, batch, head);
  c.check_cancel();
  tape.backward();
  if (reduces) optimizer.reduction.end_round();
}

// Errors name items by their place in the step, of which `first` are those of other ranks before them.
std::vector<SequenceInput> Trainer::Impl::sequences_of(const std::vector<TrainPair>& pairs, int64_t first) const {
  std::vector<SequenceInput> all;
  for (size_t i = 0; i < pairs.size(); ++i) {
    check_ids(m, pairs[i].chosen.ids, concat("pairs[", first + static_cast<int64_t>(i), "].chosen").c_str());
    check_ids(m, pairs[i].rejected.ids, concat("pairs[", first + static_cast<int64_t>(i), "].rejected").c_str());
    all.push_back(pairs[i].chosen);
    all.push_back(pairs[i].rejected);
  }
  return all;
}

// The gradients of a batch's log-probs, whose first pair is `first_pair` of the step.
static std::vector<float> gradients_of(const Batch& batch, const LossResult& loss, size_t first_pair) {
  std::vector<size_t> next(batch.rows.size(), 0);
  std::vector<float> dlogp;
  for (const ScoredRow& row : batch.scored) {
    const auto s = static_cast<size_t>(row.sequence);
    dlogp.push_back((s % 2 == 0 ? loss.d_chosen : loss.d_rejected)[first_pair + s / 2][next[s]++]);
  }
  return dlogp;
}

static void upload(Ctx& c, float* to, const std::vector<float>& from) { c.be.device().upload(to, from.data(), from.size() * sizeof(float)); }

template <class T>
T* Trainer::Impl::notes(size_t count) {
  count = std::max<size_t>(count, 1);   // a rank without items has an address, too
  if (notes_.bytes() < count * sizeof(T)) notes_ = Buffer(m.backend->device(), count * sizeof(T));
  return notes_.data<T>();
}

std::vector<PairReference> Trainer::Impl::score(const std::vector<TrainPair>& pairs, const std::atomic<bool>* cancel) {
  const AdapterOff base(m);
  return log_probs(pairs, cancel);
}

std::vector<PairReference> Trainer::Impl::log_probs(const std::vector<TrainPair>& pairs, const std::atomic<bool>* cancel) {
  const std::vector<SequenceInput> sequences = sequences_of(pairs, 0);
  std::vector<std::vector<float>> logps(sequences.size());
  uint64_t computed = 0;
  for (const auto& [begin, end] : micro_batches(sequences, 2, o.share_prefix, o.micro_batch_tokens)) {
    const std::vector<SequenceInput> part(sequences.begin() + static_cast<std::ptrdiff_t>(begin), sequences.begin() + static_cast<std::ptrdiff_t>(end));
    std::vector<std::vector<float>> got = sequence_log_probs(m, part, o.share_prefix, INT64_MAX, cancel, &computed);
    std::move(got.begin(), got.end(), logps.begin() + static_cast<std::ptrdiff_t>(begin));
  }
  std::vector<PairReference> out;
  for (size_t i = 0; i < pairs.size(); ++i) out.push_back({logps[2 * i], logps[2 * i + 1]});
  return out;
}

void Trainer::Impl::need_references(std::vector<TrainPair>& pairs, int64_t first, const std::atomic<bool>* cancel) {
  std::vector<TrainPair> without;
  for (size_t i = 0; i < pairs.size(); ++i) {
    TrainPair& p = pairs[i];
    const int64_t item = first + static_cast<int64_t>(i);
    if (!p.ref_chosen || !p.ref_rejected) {
      if (step > 0 && !m.adapter)
        throw Error("INVALID_ARGUMENT", concat("pairs[", item, "].reference: missing at step ", step, "; it can only be scored before the first update"),
                    "call trainer.score(pairs) first and pass its result with every later step");
      without.push_back(p);
      continue;
    }
    const auto length = [&](const char* side, const std::vector<float>& ref, const SequenceInput& s) {
      const auto scored = std::count_if(s.targets.begin(), s.targets.end(), [](int32_t t) { return t >= 0; });
      if (static_cast<int64_t>(ref.size()) != scored)
        fail("INVALID_ARGUMENT", "pairs[", item, "].reference.", side, ": expected ", scored, " values, one per scored token, got ", ref.size());
    };
    length("chosen", *p.ref_chosen, p.chosen);
    length("rejected", *p.ref_rejected, p.rejected);
  }
  if (without.empty()) return;
  std::vector<PairReference> scored = score(without, cancel);
  size_t next = 0;
  for (TrainPair& p : pairs) {
    if (p.ref_chosen && p.ref_rejected) continue;
    p.ref_chosen = std::move(scored[next].chosen);
    p.ref_rejected = std::move(scored[next++].rejected);
  }
}

// Gradients of the mean loss over all pairs, left in the groups.
StepMetrics Trainer::Impl::accumulate(std::vector<TrainPair>& pairs, const std::atomic<bool>* cancel) {
  const bool couples = loss_couples_pairs(o.loss);
  std::vector<SequenceInput> sequences;
  std::vector<std::pair<size_t, size_t>> parts;   // of micro-batches
  std::vector<PairTokens> tokens;   // of all ranks
  PairLoss loss;
  LossResult whole;
  std::vector<double> figures(pairs.size() * kPairFigures);
  Meeting meeting(comm, m, optimizer.reduction, pairs.size());
  const auto check = [&](int64_t first) {
    if (o.loss.loss == "sft") fail("INVALID_ARGUMENT", "items: this trainer's loss is \"sft\"; it takes sequences, not pairs");
    sequences = sequences_of(pairs, first);
    need_references(pairs, first, cancel);
    parts = micro_batches(sequences, 2, o.share_prefix, o.micro_batch_tokens);
  };
  const auto learn = [&] {   // what the loss needs of the other ranks' items
    if (!meeting.tell(parts.size(), token_counts(pairs))) return;
    if (meeting.total == 0) fail("INVALID_ARGUMENT", "items: expected at least one pair, got none");
    tokens = tokens_of(meeting.facts);
    loss = pair_loss_of(o.loss, meeting.total, std::accumulate(tokens.begin(), tokens.end(), int64_t{0}, [](int64_t n, const PairTokens& t) { return n + t.chosen; }));
  };
  meeting.hold(check, [&] {
    if (couples) {   // all log-probs first, then the loss, then each micro-batch again with its answer
      const std::vector<PairReference> now = log_probs(pairs, cancel);
      learn();
      or_abort(comm, [&] {
        const std::vector<PairLogps> all = logps_of_all(pairs, now, tokens);
        whole = preference_loss(all, o.loss);
        figures = figures_of(whole, all);
      });
    }
    double* const there = notes<double>(figures.size());
    m.backend->device().zero(there, figures.size() * sizeof(double));   // pairs of which nothing is scored tell nothing
    for (const auto& [begin, end] : parts) {
      const std::span<const TrainPair> part = std::span(pairs).subspan(begin / 2, (end - begin) / 2);
      micro_batch(std::span(sequences).subspan(begin, end - begin), end == sequences.size(), cancel, [&, begin = begin](Ctx& c, const Batch& batch, const TokenLogp& head) {
        learn();
        if (couples) upload(c, head.dlogp, gradients_of(batch, whole, static_cast<size_t>(meeting.first) + begin / 2));
        else pair_answer(c, batch, head, references_of(batch, part), there + begin / 2 * kPairFigures, loss);
      });
    }
    learn();
    if (!couples) m.backend->device().download(figures.data(), there, figures.size() * sizeof(double));
  });
  return pair_metrics(couples ? figures : of_all(figures), tokens, loss, o.loss.gamma, not_finite);
}

// The scored tokens of sequences, in their order: which sequence, and the token's weight in the loss.
struct ScoredTokens { std::vector<double> items, weights; };
static ScoredTokens scored_tokens(const std::vector<SequenceInput>& sequences) {
  ScoredTokens all;
  for (size_t i = 0; i < sequences.size(); ++i)
    for (size_t t = 0; t < sequences[i].targets.size(); ++t) {
      if (sequences[i].targets[t] < 0) continue;
      all.items.push_back(static_cast<double>(i));
      all.weights.push_back(sequences[i].weights.empty() ? 1 : sequences[i].weights[t]);
    }
  return all;
}

// As ranks tell them: the number of sequences, then item and weight of each token.
static std::vector<double> told_of(const ScoredTokens& mine, size_t sequences) {
  std::vector<double> facts{static_cast<double>(sequences)};
  for (size_t i = 0; i < mine.items.size(); ++i) facts.insert(facts.end(), {mine.items[i], mine.weights[i]});
  return facts;
}

static ScoredTokens of_ranks(const std::vector<std::vector<double>>& facts) {
  ScoredTokens all;
  double first = 0;
  for (const std::vector<double>& rank : facts) {
    for (size_t i = 1; i < rank.size(); i += 2) {
      all.items.push_back(first + rank[i]);
      all.weights.push_back(rank[i + 1]);
    }
    first += rank.front();
  }
  return all;
}

StepMetrics Trainer::Impl::accumulate_sft(const std::vector<SequenceInput>& sequences, const std::atomic<bool>* cancel) {
  std::vector<std::pair<size_t, size_t>> parts;   // of micro-batches
  ScoredTokens mine, all;
  double total = 0;   // weight
  std::vector<float> logp;
  Meeting meeting(comm, m, optimizer.reduction, sequences.size());
  const auto check = [&](int64_t first) {
    if (o.loss.loss != "sft") fail("INVALID_ARGUMENT", "items: sequences need a trainer with loss \"sft\"; this one's is \"", o.loss.loss, "\"");
    for (size_t i = 0; i < sequences.size(); ++i) check_ids(m, sequences[i].ids, concat("items[", first + static_cast<int64_t>(i), "]").c_str());
    parts = micro_batches(sequences, 1, o.share_prefix, o.micro_batch_tokens);
  };
  const auto learn = [&] {
    if (!meeting.tell(parts.size(), told_of(mine, sequences.size()))) return;
    if (meeting.total == 0) fail("INVALID_ARGUMENT", "items: expected at least one sequence, got none");
    all = of_ranks(meeting.facts);
    total = std::accumulate(all.weights.begin(), all.weights.end(), 0.0);
    if (!(total > 0)) fail("INVALID_ARGUMENT", "items: no scored token has a weight above 0");
  };
  meeting.hold(check, [&] {
    mine = scored_tokens(sequences);
    logp.resize(mine.items.size());
    float* const there = notes<float>(logp.size());
    size_t first = 0;
    for (const auto& [begin, end] : parts)
      micro_batch(std::span(sequences).subspan(begin, end - begin), end == sequences.size(), cancel, [&](Ctx& c, const Batch& batch, const TokenLogp& head) {
        learn();
        std::vector<float> dlogp;
        for (size_t i = 0; i < batch.scored.size(); ++i) dlogp.push_back(static_cast<float>(-(mine.weights[first + i] / total)));
        upload(c, head.dlogp, dlogp);
        c.be.device().copy(there + first, head.logp.data, dlogp.size() * sizeof(float));
        first += dlogp.size();
      });
    learn();
    m.backend->device().download(logp.data(), there, logp.size() * sizeof(float));
  });
  const std::vector<double> logps = of_all(std::vector<double>(logp.begin(), logp.end()));
  StepMetrics metrics;
  for (size_t i = 0; i < all.items.size(); ++i) {
    const auto item = static_cast<int64_t>(all.items[i]);
    if (!std::isfinite(logps[i]) && (not_finite.empty() || not_finite.back() != item)) not_finite.push_back(item);
    metrics.loss -= all.weights[i] / total * logps[i];
    metrics.chosen_logp += logps[i] / static_cast<double>(meeting.total);
    ++metrics.chosen_tokens;
  }
  metrics.sft_loss = metrics.loss;
  return metrics;
}

void Trainer::Impl::refuse_not_finite(const StepMetrics& metrics) const {
  std::string named;
  for (size_t i = 0; i < std::min<size_t>(not_finite.size(), 8); ++i) named += concat(i == 0 ? "; items " : ", ", not_finite[i]);
  if (not_finite.size() > 8) named += concat(" and ", not_finite.size() - 8, " more");
  Error e("NUMERIC", concat("step ", step, ": loss ", metrics.loss, ", gradient norm ", metrics.grad_norm, ": not finite", named),
          "the weights are unchanged; lower the learning rate, clip gradients, or look at this step's data");
  e.items = not_finite;
  throw e;
}

// The shared frame of a step: gradients by `work`, then the update (if any). Whatever is thrown leaves the weights as they were,
// but for a rank that is lost.
StepMetrics Trainer::Impl::run(const std::function<StepMetrics()>& work, bool update) {
  const auto start = Clock::now();
  const auto seconds = [&] { return std::chrono::duration<double>(Clock::now() - start).count(); };
  tokens_computed = 0;
  flops = 0;
  not_finite.clear();
  optimizer.zero();
  const double communicated = comm.seconds();
  StepMetrics metrics = work();
  metrics.step = step;
  metrics.compute_seconds = seconds() - (comm.seconds() - communicated);
  metrics.learning_rate = learning_rate_at(o, step);
  or_abort(comm, [&] {
    std::optional<CancelScope> whole;
    if (comm.size() > 1) whole.emplace(nullptr);   // who left here alone would be lost
    optimizer.end_reduction();
    metrics.grad_norm = optimizer.grad_norm();
  });
  if (!std::isfinite(metrics.loss) || !std::isfinite(metrics.grad_norm)) refuse_not_finite(metrics);
  add_ranks(metrics, comm.seconds() - communicated);   // before values are on their way, which it would wait for
  if (update) {
    const double scale = o.clip_norm > 0 ? std::min(1.0, o.clip_norm / (metrics.grad_norm + 1e-6)) : 1.0;
    or_abort(comm, [&] { optimizer.step(metrics.learning_rate, scale, {o.beta1, o.beta2, o.eps, o.weight_decay, o.decay_norms}); });
    ++step;
    m.backend->device().synchronize();   // the update is part of the step's time
  }
  metrics.seconds = seconds();
  return metrics;
}

void Trainer::Impl::copy_gradients(const std::vector<std::string>& names, Gradients& out) {
  for (const std::string& name : names)
    if (!m.by_name.count(name)) fail("NOT_FOUND", "names: no parameter \"", name, "\" in this model");
  or_abort(comm, [&] {
    optimizer.each_gradient([&](const Param& p, const float* gradient) {
      if (!names.empty() && std::find(names.begin(), names.end(), p.name) == names.end()) return;
      std::vector<float> values(static_cast<size_t>(p.size()));
      m.backend->device().download(values.data(), gradient, values.size() * sizeof(float));
      out[p.name] = {p.shape, std::move(values)};
    });
  });
}

// ---- the public face
Trainer::Trainer(Model& model, const TrainerOptions& options) {
  check_options(options);
  impl_ = std::make_unique<Impl>(model, options, make_single_rank(model.backend->device()), nullptr);
}
Trainer::Trainer(Model& model, const TrainerOptions& options, Comm& comm) {
  agree(comm, [&] {
    check_options(options);
    impl_ = std::make_unique<Impl>(model, options, nullptr, &comm);
  });
}
Trainer::~Trainer() = default;
int64_t Trainer::step() const { return impl_->step; }
std::vector<PairReference> Trainer::score(const std::vector<TrainPair>& pairs, const std::atomic<bool>* cancel) { return impl_->score(pairs, cancel); }
StepMetrics Trainer::train_step(std::vector<TrainPair> pairs, const std::atomic<bool>* cancel) {
  return impl_->run([&] { return impl_->accumulate(pairs, cancel); }, true);
}
StepMetrics Trainer::train_step_sft(const std::vector<SequenceInput>& sequences, const std::atomic<bool>* cancel) {
  return impl_->run([&] { return impl_->accumulate_sft(sequences, cancel); }, true);
}
StepMetrics Trainer::try_step(std::vector<TrainPair> pairs, const std::atomic<bool>* cancel) {
  return impl_->run([&] { return impl_->accumulate(pairs, cancel); }, false);
}
StepMetrics Trainer::try_step_sft(const std::vector<SequenceInput>& sequences, const std::atomic<bool>* cancel) {
  return impl_->run([&] { return impl_->accumulate_sft(sequences, cancel); }, false);
}
uint64_t Trainer::gradient_bytes() const { return impl_->optimizer.gradient_bytes(); }
void Trainer::with_masters(const std::function<void()>& work) { impl_->optimizer.with_masters(work); }
StepMetrics Trainer::gradients(std::vector<TrainPair> pairs, const std::vector<std::string>& names, Gradients& out, const std::atomic<bool>* cancel) {
  const StepMetrics metrics = try_step(std::move(pairs), cancel);
  impl_->copy_gradients(names, out);
  return metrics;
}
StepMetrics Trainer::gradients_sft(const std::vector<SequenceInput>& sequences, const std::vector<std::string>& names, Gradients& out, const std::atomic<bool>* cancel) {
  const StepMetrics metrics = try_step_sft(sequences, cancel);
  impl_->copy_gradients(names, out);
  return metrics;
}

}  // namespace isr
