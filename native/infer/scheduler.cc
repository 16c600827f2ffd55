#include "infer/scheduler.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <memory>
#include <utility>

#include "core/rng.h"

namespace isr {

Scheduler::Scheduler(KvCache& cache, std::span<const int32_t> end_tokens, int64_t vocab, const Limits& limits) : limits(limits), cache_(cache) {
  for (int32_t id : end_tokens)
    if (id >= 0 && id < vocab) ends_.push_back(id);
}

Scheduler::~Scheduler() {
  for (Live& l : live_) cache_.close(l.branch);
  for (const auto& c : calls_)
    for (Live& l : c->copies) cache_.close(l.branch);
  for (Prompt& p : prompts_) cache_.close(p.branch);
}

void Scheduler::join(std::vector<GenerateRequest> requests, GenerateCallbacks callbacks, const std::atomic<bool>* cancel) {
  auto c = std::make_unique<Call>();
  c->requests = std::move(requests);
  c->callbacks = std::move(callbacks);
  c->cancel = cancel;
  c->rules.resize(c->requests.size());
  int64_t pages = 0, largest = 0;
  for (size_t r = 0; r < c->requests.size(); ++r) {
    const GenerateRequest& request = c->requests[r];
    const SamplingOptions& s = request.sampling;
    Rules& rules = c->rules[r];
    rules.stream = hash64(s.stream);
    batch_.positions.resize(static_cast<size_t>(request.positions.axes));
    rules.stops = s.stop_ids;
    rules.stops.insert(rules.stops.end(), ends_.begin(), ends_.end());
    std::sort(rules.stops.begin(), rules.stops.end());
    rules.early = s.suppress;
    if (s.min_tokens > 0) rules.early.insert(rules.early.end(), rules.stops.begin(), rules.stops.end());
    rules.first = c->results.size();
    for (int32_t copy = 0; copy < request.copies; ++copy) {
      c->results.emplace_back();
      c->results.back().request = static_cast<int32_t>(r);
      c->results.back().copy = copy;
    }
    const int64_t branch_pages = KvCache::pages_for(branch_tokens(request)) + extra_pages(request);
    largest = std::max(largest, branch_pages);
    pages = std::min(pages + request.copies * branch_pages, cache_.budget_pages());
  }
  c->open = static_cast<int64_t>(c->results.size());
  cache_.expect(std::min(pages, limits.branches * largest));
  calls_.push_back(std::move(c));
}

BatchLoad Scheduler::load() const {
  BatchLoad l{static_cast<int64_t>(calls_.size()), in_flight_, 0};
  for (const auto& c : calls_) l.waiting += c->open - c->in_flight;
  return l;
}

void Scheduler::step(Stepper& stepper, Counters& counters) {
  try {
    for (const auto& c : calls_)
      if (!c->failure && c->cancel && c->cancel->load(std::memory_order_relaxed)) c->failure = std::make_exception_ptr(Cancelled());
    drop_ended();
    part();
    admit();
    if (!calls_.empty()) compute(stepper, counters);
  } catch (...) {
    const std::exception_ptr all = std::current_exception();
    for (const auto& c : calls_)
      if (!c->failure) c->failure = all;
  }
  part();
}

void Scheduler::compute(Stepper& stepper, Counters& counters) {
  batch_.ids.clear();
  for (std::vector<int32_t>& axis : batch_.positions) axis.clear();
  batch_.plan.rows.clear();
  batch_.plan.sequences.clear();
  batch_.plan.page_list.clear();
  draws_.rows.clear();
  draws_.options.clear();
  draws_.suppress.clear();
  plan_decode();
  plan_prefill();
  if (batch_.ids.empty()) {                       // a host that ends waiting copies leaves a step without rows
    for (const auto& c : calls_) ISR_ASSERT(c->over(), "a step without rows");
    return;
  }
  ids_.resize(draws_.size());
  logp_.resize(draws_.size());
  stepper.step(ids_.data(), logp_.data(), batch_, draws_, cache_.store());
  take_decoded(counters);
  take_prompts(counters);
}

// ---- who comes in, and who goes

void Scheduler::enter(Call& c, int32_t request) {
  ++in_flight_;
  ++c.in_flight;
  ++c.rules[static_cast<size_t>(request)].in_flight;
}

void Scheduler::leave(Call& c, int32_t request) {
  --in_flight_;
  --c.in_flight;
  --c.rules[static_cast<size_t>(request)].in_flight;
}

void Scheduler::drop_ended() {
  for (Live& l : live_) {
    Call& c = *l.call;
    if (c.failure || !c.callbacks.ended || !c.callbacks.ended(l.request, l.copy)) continue;
    cache_.close(l.branch);
    l.over = true;
    leave(c, l.request);
    finish(c, l.request, l.copy, true);
  }
  std::erase_if(live_, [](const Live& l) { return l.over; });
}

// Calls that are over give everything back, and are told then. Allocates nothing.
void Scheduler::part() {
  if (std::none_of(calls_.begin(), calls_.end(), [](const auto& c) { return c->over(); })) return;
  for (Live& l : live_) {
    if (!l.call->over()) continue;
    cache_.close(l.branch);
    if (!std::exchange(l.over, true)) leave(*l.call, l.request);
  }
  bool unfinished = false;
  for (Prompt& p : prompts_) {
    if (p.request < 0 || !p.call->over()) continue;
    cache_.close(p.branch);
    leave(*p.call, std::exchange(p.request, -1));
    unfinished = true;
  }
  for (const auto& c : calls_)
    if (c->over())
      for (Live& l : c->copies) cache_.close(l.branch);
  std::erase_if(live_, [](const Live& l) { return l.over; });
  std::erase_if(prompts_, [](const Prompt& p) { return p.request < 0; });
  if (unfinished) restart_waiting();
  for (size_t i = 0; i < calls_.size();) {
    if (!calls_[i]->over()) {
      ++i;
      continue;
    }
    const std::unique_ptr<Call> c = std::move(calls_[i]);
    calls_.erase(calls_.begin() + static_cast<std::ptrdiff_t>(i));
    if (c->callbacks.end) c->callbacks.end(c->failure);
  }
}

// A prompt that waits for rows which the one that left would have computed begins again outside.
void Scheduler::restart_waiting() {
  for (size_t i = prompts_.size(); i-- > 0;) {
    Prompt& p = prompts_[i];
    if (cache_.settle(p.branch)) continue;
    cache_.close(p.branch);
    Call& c = *p.call;
    leave(c, p.request);
    c.rules[static_cast<size_t>(p.request)].outside = true;
    c.next = std::min(c.next, static_cast<size_t>(std::exchange(p.request, -1)));
  }
  std::erase_if(prompts_, [](const Prompt& p) { return p.request < 0; });
}

void Scheduler::admit() {
  for (const auto& c : calls_) revive(*c);
  for (;;) {
    Call* next = nullptr;
    for (const auto& c : calls_)
      if (c->waits() && (!next || c->in_flight < next->in_flight)) next = c.get();
    if (!next) return;
    // A call's first sequence has a place although another call has taken all: it shall not wait for that one's end.
    if (in_flight_ >= (next->in_flight == 0 ? 2 : 1) * limits.branches) return;
    if (!(next->copies.empty() ? admit_prompt(*next) : admit_copy(*next, 0))) return;
  }
}

// Copies that wait hold pages. So that nobody waits in a circle, one copy of each such request is always in flight: when the
// last one has ended, the next takes over its pages before anyone else.
void Scheduler::revive(Call& c) {
  for (size_t i = 0; i < c.copies.size();) {
    const bool alone = c.rules[static_cast<size_t>(c.copies[i].request)].in_flight == 0;
    if (!alone) {
      ++i;
      continue;
    }
    const bool admitted = admit_copy(c, i);
    ISR_ASSERT(admitted, "no room for a copy of a request that had it");
  }
}

bool Scheduler::admit_copy(Call& c, size_t index) {
  Live& l = c.copies[index];
  const GenerateRequest& r = c.request(l.request);
  const auto place = c.copies.begin() + static_cast<std::ptrdiff_t>(index);
  if (c.callbacks.ended && c.callbacks.ended(l.request, l.copy)) {
    cache_.close(l.branch);
    finish(c, l.request, l.copy, true);
    c.copies.erase(place);
    return true;
  }
  if (!cache_.admit(l.branch, r.ids, branch_tokens(r), 0)) return false;
  const bool settled = cache_.settle(l.branch);
  ISR_ASSERT(settled, "a copy of a prompt that is not computed");
  live_.push_back(std::move(l));
  enter(c, live_.back().request);
  c.copies.erase(place);
  return true;
}

bool Scheduler::admit_prompt(Call& c) {
  const auto index = static_cast<int32_t>(c.next);
  const GenerateRequest& r = c.request(index);
  prompts_.push_back({&c, index, 0, {}, false});   // in the list first, so that it is closed whatever happens
  enter(c, index);
  KvCache::Branch& branch = prompts_.back().branch;
  branch = cache_.find(r.ids);
  bool admitted = cache_.admit(branch, r.ids, branch_tokens(r), extra_pages(r));
  if (!admitted && branch.source >= 0) {                // the page to copy from may be the one that is missing
    cache_.drop_source(branch);
    admitted = cache_.admit(branch, r.ids, branch_tokens(r), extra_pages(r));
  }
  if (!admitted) {
    cache_.close(branch);
    leave(c, index);
    prompts_.pop_back();
    return false;
  }
  prompts_.back().done = branch.cached;
  c.rules[c.next].outside = false;
  while (c.next < c.rules.size() && !c.rules[c.next].outside) ++c.next;
  return true;
}

// ---- what a step computes

void Scheduler::plan_decode() {
  for (Live& l : live_) {
    const GeneratedSequence& so_far = l.call->result(l.request, l.copy);
    const int32_t row = static_cast<int32_t>(batch_.ids.size()), logical = l.branch.length;
    batch_.plan.rows.push_back(cache_.append(l.branch, so_far.ids.back()));
    batch_.ids.push_back(so_far.ids.back());
    const int32_t position = logical + l.call->request(l.request).positions.shift;
    for (std::vector<int32_t>& axis : batch_.positions) axis.push_back(position);
    const int32_t first = static_cast<int32_t>(batch_.plan.page_list.size());
    batch_.plan.page_list.insert(batch_.plan.page_list.end(), l.branch.nodes.begin(), l.branch.nodes.end());
    batch_.plan.sequences.push_back({row, 1, logical, first, static_cast<int32_t>(l.branch.nodes.size())});
    add_draw(row, *l.call, l.request, l.copy, so_far.ids.size());
  }
}

// Deals the step's rows of prompts out to the calls: equal shares, and what one does not need goes to the others. A prompt
// that shares pages with one that is still being computed waits for it; those behind it need not.
void Scheduler::share_rows() {
  for (const auto& c : calls_) c->wanted = c->share = 0;
  for (Prompt& p : prompts_) {
    p.ready = cache_.settle(p.branch);
    if (p.ready) p.call->wanted += static_cast<int64_t>(p.call->request(p.request).ids.size()) - p.done;
  }
  int64_t room = limits.prefill_rows;
  if (calls_.size() > 1 && !live_.empty()) room = std::min(room, std::max<int64_t>(limits.shared_rows, 1));
  for (int64_t asking; room > 0;) {
    asking = std::count_if(calls_.begin(), calls_.end(), [](const auto& c) { return c->share < c->wanted; });
    if (asking == 0) return;
    const int64_t each = std::max<int64_t>(room / asking, 1);
    for (const auto& c : calls_) {
      const int64_t rows = std::min({each, c->wanted - c->share, room});
      c->share += rows;
      room -= rows;
    }
  }
}

// Prompts in order of admission, each call's within its share.
void Scheduler::plan_prefill() {
  chunks_.clear();
  share_rows();
  for (size_t p = 0; p < prompts_.size(); ++p) {
    Prompt& prompt = prompts_[p];
    Call& c = *prompt.call;
    if (!prompt.ready || c.share == 0) continue;
    const std::vector<int32_t>& ids = c.request(prompt.request).ids;
    const SequencePositions& positions = c.request(prompt.request).positions;
    const int64_t size = static_cast<int64_t>(ids.size()), rows = std::min(c.share, size - prompt.done), end = prompt.done + rows;
    const int32_t row = static_cast<int32_t>(batch_.ids.size()), first = static_cast<int32_t>(batch_.plan.page_list.size());
    for (int64_t t = prompt.done; t < end; ++t) {
      batch_.ids.push_back(ids[static_cast<size_t>(t)]);
      for (size_t axis = 0; axis < batch_.positions.size(); ++axis) batch_.positions[axis].push_back(positions.at(static_cast<int64_t>(axis), t));
      batch_.plan.rows.push_back(cache_.row(prompt.branch, t));
    }
    const auto pages = prompt.branch.nodes.begin();
    batch_.plan.page_list.insert(batch_.plan.page_list.end(), pages, pages + KvCache::pages_for(end));
    batch_.plan.sequences.push_back({row, static_cast<int32_t>(rows), static_cast<int32_t>(prompt.done), first,
                                     static_cast<int32_t>(KvCache::pages_for(end))});
    chunks_.push_back({p, rows});
    c.share -= rows;
    if (end == size)
      for (int32_t copy = 0; copy < c.request(prompt.request).copies; ++copy)
        add_draw(row + static_cast<int32_t>(rows) - 1, c, prompt.request, copy, 0);
  }
}

void Scheduler::add_draw(int32_t row, Call& c, int32_t r, int32_t copy, size_t position) {
  const SamplingOptions& s = c.request(r).sampling;
  const Rules& rules = c.rules[static_cast<size_t>(r)];
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
    if (!take(*l.call, l.request, l.copy, i)) continue;
    cache_.close(l.branch);
    l.over = true;
    leave(*l.call, l.request);
  }
}

void Scheduler::take_prompts(Counters& counters) {
  size_t draw = live_.size();                  // draws stand in the order of rows: decoded sequences first
  for (const Chunk& chunk : chunks_) {
    Prompt& prompt = prompts_[chunk.prompt];
    cache_.commit(prompt.branch, prompt.done, prompt.done + chunk.rows);
    prompt.done += chunk.rows;
    counters.prefill_tokens += static_cast<uint64_t>(chunk.rows);
  }
  for (const Chunk& chunk : chunks_) {
    Prompt& prompt = prompts_[chunk.prompt];
    Call& c = *prompt.call;
    const GenerateRequest& r = c.request(prompt.request);
    if (prompt.done < static_cast<int64_t>(r.ids.size())) continue;
    const size_t first = draw;
    draw += static_cast<size_t>(r.copies);
    const bool over = take(c, prompt.request, 0, first);
    for (int32_t copy = 1; copy < r.copies; ++copy)
      if (!take(c, prompt.request, copy, first + static_cast<size_t>(copy))) {
        c.copies.push_back({&c, prompt.request, copy, {}, false});
        c.copies.back().branch = cache_.fork(prompt.branch, prompt.done);
      }
    if (over) {
      cache_.close(prompt.branch);
      leave(c, prompt.request);
    } else {
      live_.push_back({&c, prompt.request, 0, {}, false});
      std::swap(live_.back().branch, prompt.branch);
    }
    prompt.request = -1;
  }
  std::erase_if(live_, [](const Live& l) { return l.over; });
  std::erase_if(prompts_, [](const Prompt& p) { return p.request < 0; });
}

// Keeps a draw; true when it was the sequence's last, or the call has failed.
bool Scheduler::take(Call& c, int32_t r, int32_t copy, size_t draw) {
  if (c.failure) return true;
  GeneratedSequence& g = c.result(r, copy);
  const int32_t id = ids_[draw];
  try {
    if (std::isnan(logp_[draw]))
      fail("NUMERIC", "the model's output is not a number: request ", r, ", copy ", copy, ", position ", g.ids.size());
    g.ids.push_back(id);
    g.logp.push_back(logp_[draw]);
    if (c.callbacks.token) c.callbacks.token({r, copy, id, logp_[draw]});
  } catch (...) {
    c.failure = std::current_exception();
    return true;
  }
  const std::vector<int32_t>& stops = c.rules[static_cast<size_t>(r)].stops;
  const bool stopped = std::binary_search(stops.begin(), stops.end(), id);
  if (!stopped && static_cast<int64_t>(g.ids.size()) < c.request(r).sampling.max_tokens) return false;
  finish(c, r, copy, stopped);
  return true;
}

void Scheduler::finish(Call& c, int32_t r, int32_t copy, bool stopped) {
  GeneratedSequence& g = c.result(r, copy);
  g.stopped = stopped;
  try {
    if (c.callbacks.completion) c.callbacks.completion(g);
  } catch (...) {
    c.failure = std::current_exception();
  }
  --c.open;
  g = {};                                      // it was given away
}

}  // namespace isr
