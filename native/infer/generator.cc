// The Generator: checks requests, owns the cache, and computes the scheduler's steps with the model.
#include "infer/generator.h"

#include <algorithm>
#include <cmath>

#include "infer/scheduler.h"

namespace isr {
namespace {

constexpr size_t kDrawGroup = 64;                    // rows of logits at one time
constexpr uint64_t kIdlePool = uint64_t{64} << 20;   // a pool up to this size is not worth giving back after every call

class ModelStepper final : public Stepper {
 public:
  ModelStepper(Model& m, uint64_t generation, const std::atomic<bool>* cancel) : model_(m), generation_(generation), cancel_(cancel) {}

  void step(int32_t* ids, float* logp, const CachedBatch& batch, const Draws& draws, const KvStore& kv) override {
    ISR_ASSERT(generation_ == model_.generation, "the weights have changed under a running batch");
    ArenaScope scope(model_.arena());
    Tape tape(model_.arena(), false);
    Ctx c{*model_.backend, tape, cancel_, {}};
    const Tensor hidden = hidden_states(c, model_, batch, model_.media.rows_of(c, model_, batch.ids, false), kv);   // (T, C)
    for (size_t i = 0; i < draws.size(); i += kDrawGroup) draw(ids, logp, c, hidden, draws, i, std::min(kDrawGroup, draws.size() - i));
  }

 private:
  // Draws [first, first + n). Logits of a row are computed once, however many copies draw from it.
  void draw(int32_t* ids, float* logp, Ctx& c, Tensor hidden, const Draws& draws, size_t first, size_t n) {
    ArenaScope scope(model_.arena());
    rows_.clear();
    for (size_t i = first; i < first + n; ++i)
      if (rows_.empty() || rows_.back() != draws.rows[i]) rows_.push_back(draws.rows[i]);
    const int64_t count = static_cast<int64_t>(rows_.size());
    Tensor x;
    if (rows_.back() - rows_.front() + 1 == count) {
      x = hidden.row_range(rows_.front(), count);
    } else {
      x = c.tape.alloc(count, hidden.cols, hidden.dtype, false);
      c.be.gather_rows(x, false, hidden, resident(c.be, model_.arena(), rows_));
    }
    Tensor y = logits(c, model_, x);                 // (count, V)
    if (count < static_cast<int64_t>(n)) y = repeat(c, y, draws, first, n);
    c.be.sample(ids + first, logp + first, y, std::span(draws.options).subspan(first, n), std::span(draws.suppress).subspan(first, n));
  }

  // A row for each draw: sampling may overwrite its logits.
  Tensor repeat(Ctx& c, Tensor y, const Draws& draws, size_t first, size_t n) {
    std::vector<int32_t> from(n, 0);
    for (size_t i = 1; i < n; ++i) from[i] = from[i - 1] + (draws.rows[first + i] != draws.rows[first + i - 1]);
    const Tensor wide = c.tape.alloc(static_cast<int64_t>(n), y.cols, DType::F32, false);
    c.be.gather_rows(wide, false, y, resident(c.be, model_.arena(), from));
    return wide;
  }

  Model& model_;
  uint64_t generation_;                              // of the weights that the pages were computed with
  const std::atomic<bool>* cancel_;
  std::vector<int32_t> rows_;
};

template <class... Parts>
[[noreturn]] void invalid(size_t request, const char* field, const Parts&... parts) {
  throw Error("INVALID_ARGUMENT", concat("requests[", request, "].", field, ": ", parts...));
}

void check_vocabulary(const std::vector<int32_t>& ids, int64_t vocab, size_t request, const char* field) {
  for (size_t i = 0; i < ids.size(); ++i)
    if (ids[i] < 0 || ids[i] >= vocab) invalid(request, field, "expected ids in [0, ", vocab, "), got ", ids[i], " at index ", i);
}

// Ids that no draw of this request may have, counted once each, at the positions where there are most of them.
int64_t suppressed(const SamplingOptions& s, const DecoderConfig& config) {
  std::vector<int32_t> all = s.suppress;
  if (s.min_tokens > 0) {
    all.insert(all.end(), s.stop_ids.begin(), s.stop_ids.end());
    for (int32_t id : config.end_tokens)
      if (id >= 0 && id < config.vocab) all.push_back(id);
  }
  std::sort(all.begin(), all.end());
  return std::unique(all.begin(), all.end()) - all.begin();
}

void check_request(const GenerateRequest& r, size_t i, const Model& m) {
  const DecoderConfig& config = m.config;
  const SamplingOptions& s = r.sampling;
  if (r.ids.empty()) invalid(i, "prompt", "expected at least one token, got none");
  for (size_t t = 0; t < r.ids.size(); ++t)
    if (r.ids[t] < 0 || (r.ids[t] >= config.vocab && !m.media.holds(r.ids[t])))
      invalid(i, "prompt", "expected ids in [0, ", config.vocab, "), got ", r.ids[t], " at index ", t);
  if (r.copies < 1) invalid(i, "copies", "expected at least 1, got ", r.copies);
  if (!(s.temperature >= 0) || !std::isfinite(s.temperature))
    invalid(i, "temperature", "expected a finite number, 0 or more, got ", s.temperature);
  if (!(s.top_p > 0) || s.top_p > 1) invalid(i, "topP", "expected a number in (0, 1], got ", s.top_p);
  if (s.top_k < 0) invalid(i, "topK", "expected 0 (all) or more, got ", s.top_k);
  if (s.max_tokens < 1) invalid(i, "maxTokens", "expected at least 1, got ", s.max_tokens);
  if (s.min_tokens < 0) invalid(i, "minTokens", "expected 0 or more, got ", s.min_tokens);
  check_vocabulary(s.suppress, config.vocab, i, "suppress");
  check_vocabulary(s.stop_ids, config.vocab, i, "stopIds");
  if (suppressed(s, config) >= config.vocab)
    invalid(i, "suppress", "all ", config.vocab, " ids of the vocabulary are suppressed: nothing is left to draw");
  const int64_t prompt = static_cast<int64_t>(r.ids.size());
  if (prompt > config.context)
    throw Error("CONTEXT_OVERFLOW", concat("requests[", i, "].prompt: ", prompt, " tokens, but the model's context holds ", config.context),
                "shorten the prompt, or use fewer frames");
  if (s.max_tokens > config.context - prompt)
    throw Error("CONTEXT_OVERFLOW",
                concat("requests[", i, "]: ", prompt, " prompt tokens and maxTokens ", s.max_tokens, " are more than the model's context of ",
                       config.context),
                concat("set maxTokens to at most ", config.context - prompt, ", or shorten the prompt"));
}

void check_room(const GenerateRequest& r, size_t i, const KvCache& cache) {
  const int64_t pages = KvCache::pages_for(Scheduler::branch_tokens(r)) + Scheduler::extra_pages(r);
  if (pages <= cache.budget_pages()) return;
  throw Error("OUT_OF_MEMORY",
              concat("requests[", i, "]: ", r.ids.size(), " prompt tokens and maxTokens ", r.sampling.max_tokens, " need ",
                     static_cast<uint64_t>(pages) * cache.page_bytes(), " bytes of KV cache, but its budget holds ",
                     static_cast<uint64_t>(cache.budget_pages()) * cache.page_bytes()),
              "raise maxBytes, lower maxTokens, or shorten the prompt");
}

}  // namespace

Generator::Generator(Model& model, uint64_t max_bytes, bool keep) : model_(model), keep_(keep), generation_(model.generation), epoch_(model.media.epoch) {
  const size_t page = model.backend->kv_page_bytes(attention_shape(model.config), model.dtype);
  cache_ = std::make_unique<KvCache>(model.config.layers, static_cast<int64_t>(page), max_bytes ? max_bytes : model.backend->device().memory() / 4, keep,
                                     model.backend->device());
  scheduler_ = std::make_unique<Scheduler>(*cache_, model.config.end_tokens, model.config.vocab, Scheduler::Limits());
}

Generator::~Generator() = default;

void Generator::join(std::vector<GenerateRequest> requests, GenerateCallbacks callbacks, const std::atomic<bool>* cancel) {
  for (size_t i = 0; i < requests.size(); ++i) {
    try {
      check_request(requests[i], i, model_);
      check_room(requests[i], i, *cache_);
      requests[i].positions = model_.positions(requests[i].ids);
    } catch (Error& e) {
      e.items = {static_cast<int64_t>(i)};
      throw;
    }
  }
  // Keys and values of other weights, or of ids that mean other media: only pages that nobody uses can be such, for weights
  // stay while a call is in, and a call's media keep their ids.
  if (generation_ != model_.generation || epoch_ != model_.media.epoch) cache_->drop_idle();
  generation_ = model_.generation;
  epoch_ = model_.media.epoch;
  try {
    scheduler_->join(std::move(requests), std::move(callbacks), cancel);
  } catch (...) {
    rest();                                          // the pool may have grown
    throw;
  }
}

void Generator::step(const std::atomic<bool>* cancel) {
  ModelStepper stepper(model_, generation_, cancel);
  scheduler_->limits.prefill_rows = std::max<int64_t>(prefill_rows, 1);
  scheduler_->step(stepper, counters);
  rest();
}

// When the last call has ended: a session keeps the tree, others at most a small pool.
void Generator::rest() {
  if (keep_ || !scheduler_->idle()) return;
  cache_->bytes() > kIdlePool ? cache_->release_pool() : cache_->drop_idle();
}

bool Generator::idle() const { return scheduler_->idle(); }

BatchLoad Generator::load() const { return scheduler_->load(); }

std::vector<GeneratedSequence> Generator::generate(const std::vector<GenerateRequest>& requests, const GenerateCallbacks& callbacks,
                                                   const std::atomic<bool>* cancel) {
  ISR_ASSERT(idle(), "a call alone beside others");
  std::vector<size_t> first;
  size_t sequences = 0;
  for (const GenerateRequest& r : requests) {
    first.push_back(sequences);
    sequences += static_cast<size_t>(std::max(r.copies, 0));
  }
  std::vector<GeneratedSequence> results(sequences);
  std::exception_ptr failure;
  GenerateCallbacks told = callbacks;
  told.completion = [&](const GeneratedSequence& g) {
    results[first[static_cast<size_t>(g.request)] + static_cast<size_t>(g.copy)] = g;
    if (callbacks.completion) callbacks.completion(g);
  };
  told.end = [&](std::exception_ptr e) { failure = std::move(e); };
  join(requests, std::move(told), cancel);
  while (!idle()) step(cancel);
  if (failure) std::rethrow_exception(failure);
  return results;
}

uint64_t Generator::cached_tokens() const {
  return generation_ == model_.generation ? static_cast<uint64_t>(cache_->cached_tokens()) : 0;
}

uint64_t Generator::bytes() const { return cache_->bytes(); }

}  // namespace isr
