#include "infer/scheduler.h"

#include <algorithm>
#include <cfloat>
#include <cmath>

#include "core/rng.h"

namespace isr {

Scheduler::Scheduler(KvCache& cache, Stepper& stepper, const std::vector<GenerateRequest>& requests, std::span<const int32_t> end_tokens,
                     int64_t vocab, const GenerateCallbacks& callbacks, const Limits& limits)
    : cache_(cache), stepper_(stepper), requests_(requests), callbacks_(callbacks), limits_(limits) {
  rules_.resize(requests.size());
  int64_t pages = 0, largest = 0;
  for (size_t r = 0; r < requests.size(); ++r) {
    const SamplingOptions& s = requests[r].sampling;
    Rules& rules = rules_[r];
    rules.stream = hash64(s.stream);
    rules.stops = s.stop_ids;
    for (int32_t id : end_tokens)
      if (id >= 0 && id < vocab) rules.stops.push_back(id);
    std::sort(rules.stops.begin(), rules.stops.end());
    rules.early = s.suppress;
    if (s.min_tokens > 0) rules.early.insert(rules.early.end(), rules.stops.begin(), rules.stops.end());
    rules.first = results_.size();
    for (int32_t copy = 0; copy < requests[r].copies; ++copy) {
      results_.emplace_back();
      results_.back().request = static_cast<int32_t>(r);
      results_.back().copy = copy;
    }
    const int64_t branch_pages = KvCache::pages_for(branch_tokens(requests[r])) + extra_pages(requests[r]);
    largest = std::max(largest, branch_pages);
    pages = std::min(pages + requests[r].copies * branch_pages, cache.budget_pages());
  }
  cache.expect(std::min(pages, limits.branches * largest));
}

Scheduler::~Scheduler() {
  for (Live& l : live_) cache_.close(l.branch);
  for (Live& l : copies_) cache_.close(l.branch);
  for (Prompt& p : prompts_) cache_.close(p.branch);
}

std::vector<GeneratedSequence> Scheduler::run(const std::atomic<bool>* cancel, Counters& counters) {
  for (;;) {
    if (cancel && cancel->load(std::memory_order_relaxed)) throw Cancelled();
    drop_ended();
    admit();
    batch_.ids.clear();
    batch_.positions.clear();
    batch_.rows.clear();
    batch_.plan.sequences.clear();
    batch_.plan.page_list.clear();
    draws_.rows.clear();
    draws_.options.clear();
    draws_.suppress.clear();
    plan_decode();
    plan_prefill();
    if (batch_.ids.empty()) break;
    ids_.resize(draws_.size());
    logp_.resize(draws_.size());
    stepper_.step(ids_.data(), logp_.data(), batch_, draws_, cache_.store());
    take_decoded(counters);
    take_prompts(counters);
  }
  ISR_ASSERT(copies_.empty() && prompts_.empty() && next_ == static_cast<int32_t>(requests_.size()), "a step without rows");
  return std::move(results_);
}

// ---- who comes in

void Scheduler::drop_ended() {
  if (!callbacks_.ended) return;
  for (Live& l : live_)
    if (callbacks_.ended(l.request, l.copy)) {
      cache_.close(l.branch);
      l.over = true;
      finish(l.request, l.copy, true);
    }
  std::erase_if(live_, [](const Live& l) { return l.over; });
}

// Copies of a prompt that is computed come before requests that are still outside.
void Scheduler::admit() {
  while (static_cast<int64_t>(live_.size() + prompts_.size()) < limits_.branches)
    if (!(copies_.empty() ? admit_prompt() : admit_copy())) return;
}

bool Scheduler::admit_copy() {
  Live& l = copies_.front();
  const GenerateRequest& r = request(l.request);
  if (callbacks_.ended && callbacks_.ended(l.request, l.copy)) {
    cache_.close(l.branch);
    finish(l.request, l.copy, true);
    copies_.pop_front();
    return true;
  }
  if (!cache_.admit(l.branch, r.ids, branch_tokens(r), 0)) return false;
  const bool settled = cache_.settle(l.branch);
  ISR_ASSERT(settled, "a copy of a prompt that is not computed");
  live_.push_back(std::move(l));
  copies_.pop_front();
  return true;
}

bool Scheduler::admit_prompt() {
  if (next_ == static_cast<int32_t>(requests_.size())) return false;
  const GenerateRequest& r = request(next_);
  prompts_.push_back({next_, 0, {}});   // in the list first, so that it is closed whatever happens
  KvCache::Branch& branch = prompts_.back().branch;
  branch = cache_.find(r.ids);
  bool admitted = cache_.admit(branch, r.ids, branch_tokens(r), extra_pages(r));
  if (!admitted && branch.source >= 0) {                // the page to copy from may be the one that is missing
    cache_.drop_source(branch);
    admitted = cache_.admit(branch, r.ids, branch_tokens(r), extra_pages(r));
  }
  if (!admitted) {
    cache_.close(branch);
    prompts_.pop_back();
    return false;
  }
  prompts_.back().done = branch.cached;
  ++next_;
  return true;
}

// ---- what a step computes

void Scheduler::plan_decode() {
  for (Live& l : live_) {
    const GeneratedSequence& so_far = result(l.request, l.copy);
    const int32_t row = static_cast<int32_t>(batch_.ids.size()), logical = l.branch.length;
    batch_.rows.push_back(cache_.append(l.branch, so_far.ids.back()));
    batch_.ids.push_back(so_far.ids.back());
    batch_.positions.push_back(logical);
    const int32_t first = static_cast<int32_t>(batch_.plan.page_list.size());
    batch_.plan.page_list.insert(batch_.plan.page_list.end(), l.branch.nodes.begin(), l.branch.nodes.end());
    batch_.plan.sequences.push_back({row, 1, logical, first, static_cast<int32_t>(l.branch.nodes.size())});
    add_draw(row, l.request, l.copy, so_far.ids.size());
  }
}

// Prompts in order of admission, up to a fixed number of rows. A prompt that shares pages with one that is still being
// computed waits for it; those behind it need not.
void Scheduler::plan_prefill() {
  chunks_.clear();
  int64_t room = limits_.prefill_rows;
  for (size_t p = 0; p < prompts_.size() && room > 0; ++p) {
    Prompt& prompt = prompts_[p];
    if (!cache_.settle(prompt.branch)) continue;
    const std::vector<int32_t>& ids = request(prompt.request).ids;
    const int64_t size = static_cast<int64_t>(ids.size()), rows = std::min(room, size - prompt.done), end = prompt.done + rows;
    const int32_t row = static_cast<int32_t>(batch_.ids.size()), first = static_cast<int32_t>(batch_.plan.page_list.size());
    for (int64_t t = prompt.done; t < end; ++t) {
      batch_.ids.push_back(ids[static_cast<size_t>(t)]);
      batch_.positions.push_back(static_cast<int32_t>(t));
      batch_.rows.push_back(cache_.row(prompt.branch, t));
    }
    const auto pages = prompt.branch.nodes.begin();
    batch_.plan.page_list.insert(batch_.plan.page_list.end(), pages, pages + KvCache::pages_for(end));
    batch_.plan.sequences.push_back({row, static_cast<int32_t>(rows), static_cast<int32_t>(prompt.done), first,
                                     static_cast<int32_t>(KvCache::pages_for(end))});
    chunks_.push_back({p, rows});
    room -= rows;
    if (end == size)
      for (int32_t copy = 0; copy < request(prompt.request).copies; ++copy)
        add_draw(row + static_cast<int32_t>(rows) - 1, prompt.request, copy, 0);
  }
}

void Scheduler::add_draw(int32_t row, int32_t r, int32_t copy, size_t position) {
  const SamplingOptions& s = request(r).sampling;
  const Rules& rules = rules_[static_cast<size_t>(r)];
  SampleOptions o;
  // Beyond float32's range the draw is as good as at its ends: only equals of the best are left, or all are equal.
  if (s.temperature > 0) o.temperature = static_cast<float>(std::clamp(s.temperature, double{FLT_MIN}, double{FLT_MAX}));
  o.top_p = std::max(static_cast<float>(s.top_p), FLT_MIN);
  o.top_k = s.top_k;
  if (s.temperature > 0) {
    const auto draw = Philox(s.seed)(rules.stream, (static_cast<uint64_t>(copy) << 32) | position);
    o.uniform = unit_double(draw[0], draw[1]);
  }
  draws_.rows.push_back(row);
  draws_.options.push_back(o);
  draws_.suppress.push_back(static_cast<int64_t>(position) < s.min_tokens ? std::span<const int32_t>(rules.early) : s.suppress);
}

// ---- what becomes of the draws

void Scheduler::take_decoded(Counters& counters) {
  counters.decode_tokens += live_.size();
  for (Live& l : live_) cache_.commit(l.branch, l.branch.length - 1, l.branch.length);
  for (size_t i = 0; i < live_.size(); ++i) {
    Live& l = live_[i];
    if (!take(l.request, l.copy, i)) continue;
    cache_.close(l.branch);
    l.over = true;
  }
}

void Scheduler::take_prompts(Counters& counters) {
  size_t draw = live_.size();                  // draws stand in the order of rows: decoded sequences first
  for (const Chunk& c : chunks_) {
    Prompt& prompt = prompts_[c.prompt];
    cache_.commit(prompt.branch, prompt.done, prompt.done + c.rows);
    prompt.done += c.rows;
    counters.prefill_tokens += static_cast<uint64_t>(c.rows);
  }
  for (const Chunk& c : chunks_) {
    Prompt& prompt = prompts_[c.prompt];
    const GenerateRequest& r = request(prompt.request);
    if (prompt.done < static_cast<int64_t>(r.ids.size())) continue;
    const size_t first = draw;
    draw += static_cast<size_t>(r.copies);
    const bool over = take(prompt.request, 0, first);
    for (int32_t copy = 1; copy < r.copies; ++copy)
      if (!take(prompt.request, copy, first + static_cast<size_t>(copy))) {
        copies_.push_back({prompt.request, copy, {}, false});
        copies_.back().branch = cache_.fork(prompt.branch, prompt.done);
      }
    if (over) {
      cache_.close(prompt.branch);
    } else {
      live_.push_back({prompt.request, 0, {}, false});
      std::swap(live_.back().branch, prompt.branch);
    }
    prompt.request = -1;
  }
  std::erase_if(live_, [](const Live& l) { return l.over; });
  std::erase_if(prompts_, [](const Prompt& p) { return p.request < 0; });
}

// Keeps a draw; true when it was the sequence's last.
bool Scheduler::take(int32_t r, int32_t copy, size_t draw) {
  GeneratedSequence& g = result(r, copy);
  const int32_t id = ids_[draw];
  if (std::isnan(logp_[draw]))
    fail("NUMERIC", "the model's output is not a number: request ", r, ", copy ", copy, ", position ", g.ids.size());
  g.ids.push_back(id);
  g.logp.push_back(logp_[draw]);
  if (callbacks_.token) callbacks_.token({r, copy, id, logp_[draw]});
  const std::vector<int32_t>& stops = rules_[static_cast<size_t>(r)].stops;
  const bool stopped = std::binary_search(stops.begin(), stops.end(), id);
  if (!stopped && static_cast<int64_t>(g.ids.size()) < request(r).sampling.max_tokens) return false;
  finish(r, copy, stopped);
  return true;
}

void Scheduler::finish(int32_t r, int32_t copy, bool stopped) {
  GeneratedSequence& g = result(r, copy);
  g.stopped = stopped;
  if (callbacks_.completion) callbacks_.completion(g);
}

}  // namespace isr
