// A stand-in for a model, for tests of who computes what when. It writes ids into the pages and draws from a hash of what it
// reads back through the page lists, so a wrong page, a missing copy or a stale token changes the draws; the oracle draws
// from the ids alone.
#pragma once
#include <algorithm>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "check.h"
#include "core/rng.h"
#include "infer/scheduler.h"

namespace isr::page_model {

constexpr int32_t kVocab = 50;
constexpr int64_t kLayers = 2, kPageBytes = kKeyBlock * sizeof(int32_t);
constexpr uint64_t kPage = kLayers * kPageBytes;

struct Random {
  Philox draw;
  uint64_t at = 0;
  explicit Random(uint64_t seed) : draw(seed) {}
  int64_t below(int64_t n) { return static_cast<int64_t>(draw(1, at++)[0] % static_cast<uint64_t>(n)); }
};

inline std::vector<int32_t> random_ids(Random& r, int64_t n, int64_t vocab = kVocab) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < n; ++i) ids.push_back(static_cast<int32_t>(r.below(vocab)));
  return ids;
}

// A prompt that begins like one seen before, more often than not.
inline std::vector<int32_t> related_ids(Random& r, const std::vector<std::vector<int32_t>>& seen) {
  std::vector<int32_t> ids;
  if (!seen.empty() && r.below(4) > 0) {
    ids = seen[static_cast<size_t>(r.below(static_cast<int64_t>(seen.size())))];
    ids.resize(static_cast<size_t>(r.below(static_cast<int64_t>(ids.size()) + 1)));
  }
  const std::vector<int32_t> more = random_ids(r, 1 + r.below(100), 3);
  ids.insert(ids.end(), more.begin(), more.end());
  return ids;
}

inline uint64_t mix(uint64_t h, uint64_t x) {
  h ^= x + 0x9E3779B97F4A7C15ull + (h << 6) + (h >> 2);
  return h * 0xBF58476D1CE4E5B9ull;
}

// Id and log-prob from the sequence so far and the draw.
inline std::pair<int32_t, float> draw_of(uint64_t history, const SampleOptions& o, std::span<const int32_t> suppress) {
  uint64_t h = mix(history, static_cast<uint64_t>(o.uniform * 1e15));
  h = mix(h, h >> 31);
  int32_t id = static_cast<int32_t>((h >> 20) % kVocab);
  while (std::find(suppress.begin(), suppress.end(), id) != suppress.end()) id = (id + 1) % kVocab;
  return {id, -static_cast<float>(h % 1000) / 100};
}

class PageReader final : public Stepper {
 public:
  int64_t steps = 0, most_rows = 0, most_sequences = 0;
  void step(int32_t* ids, float* logp, const CachedBatch& batch, const Draws& draws, const KvStore& kv) override {
    ++steps;
    most_rows = std::max<int64_t>(most_rows, static_cast<int64_t>(batch.ids.size()));
    most_sequences = std::max<int64_t>(most_sequences, static_cast<int64_t>(batch.plan.sequences.size()));
    const auto at = [&](int64_t layer, int32_t page, int64_t s) { return reinterpret_cast<int32_t*>(kv.page(layer, page)) + s; };
    for (size_t i = 0; i < batch.ids.size(); ++i)
      for (int64_t layer = 0; layer < kLayers; ++layer) *at(layer, batch.plan.rows[i].page, batch.plan.rows[i].slot) = batch.ids[i];
    std::vector<uint64_t> history(batch.ids.size(), 0);
    for (const CachedSequence& s : batch.plan.sequences) {
      CHECK(s.pages == KvCache::pages_for(s.logical + s.rows), s.pages, " pages");
      uint64_t h = 0;
      for (int64_t t = 0; t < s.logical + s.rows; ++t) {
        const int32_t page = batch.plan.page_list[static_cast<size_t>(s.first_page + t / kKeyBlock)];
        CHECK(*at(0, page, t % kKeyBlock) == *at(1, page, t % kKeyBlock), "layers differ");
        h = mix(h, static_cast<uint64_t>(*at(1, page, t % kKeyBlock)));
        if (t < s.logical) continue;
        const size_t row = static_cast<size_t>(s.row + t - s.logical);
        history[row] = h;
        CHECK(batch.positions[0][row] == t, "position ", batch.positions[0][row], " at token ", t);
      }
    }
    for (size_t i = 0; i < draws.size(); ++i)
      std::tie(ids[i], logp[i]) = draw_of(history[static_cast<size_t>(draws.rows[i])], draws.options[i], draws.suppress[i]);
  }
};

inline const std::vector<int32_t> kEnd = {7};

inline GeneratedSequence oracle(const GenerateRequest& r, int32_t request, int32_t copy) {
  GeneratedSequence g;
  g.request = request;
  g.copy = copy;
  std::vector<int32_t> stops = r.sampling.stop_ids;
  stops.insert(stops.end(), kEnd.begin(), kEnd.end());
  uint64_t h = 0;
  for (int32_t id : r.ids) h = mix(h, static_cast<uint64_t>(id));
  for (int64_t position = 0; position < r.sampling.max_tokens && !g.stopped; ++position) {
    std::vector<int32_t> suppress = r.sampling.suppress;
    if (position < r.sampling.min_tokens) suppress.insert(suppress.end(), stops.begin(), stops.end());
    SampleOptions o;
    if (r.sampling.temperature > 0) {
      const auto x = Philox(r.sampling.seed)(hash64(r.sampling.stream), (static_cast<uint64_t>(copy) << 32) | static_cast<uint64_t>(position));
      o.uniform = unit_double(x[0], x[1]);
    }
    const auto [id, logp] = draw_of(h, o, suppress);
    g.ids.push_back(id);
    g.logp.push_back(logp);
    g.stopped = std::find(stops.begin(), stops.end(), id) != stops.end();
    h = mix(h, static_cast<uint64_t>(id));
  }
  return g;
}

inline bool same(const GeneratedSequence& a, const GeneratedSequence& b) {
  return a.request == b.request && a.copy == b.copy && a.ids == b.ids && a.logp == b.logp && a.stopped == b.stopped;
}

inline GenerateRequest request_of(std::vector<int32_t> ids, int32_t copies, int64_t max_tokens, double temperature = 1) {
  GenerateRequest r;
  r.ids = std::move(ids);
  r.copies = copies;
  r.sampling.max_tokens = max_tokens;
  r.sampling.temperature = temperature;
  r.sampling.stream = "a/b";
  return r;
}

inline std::vector<GenerateRequest> random_requests(Random& r, int count) {
  std::vector<GenerateRequest> all;
  std::vector<std::vector<int32_t>> seen;
  for (int i = 0; i < count; ++i) {
    std::vector<int32_t> ids = related_ids(r, seen);
    if (ids.size() > 250) ids.resize(250);
    seen.push_back(ids);
    all.push_back(request_of(ids, static_cast<int32_t>(1 + r.below(4)), 1 + r.below(100), r.below(2) ? 0.7 : 0));
    SamplingOptions& s = all.back().sampling;
    s.seed = static_cast<uint64_t>(r.below(3));
    s.min_tokens = r.below(2) ? r.below(40) : 0;
    if (r.below(2)) s.suppress = random_ids(r, 5);
    if (r.below(2)) s.stop_ids = random_ids(r, 2);
  }
  return all;
}

inline int64_t largest(const std::vector<GenerateRequest>& requests) {
  int64_t pages = 0;
  for (const GenerateRequest& r : requests) pages = std::max(pages, KvCache::pages_for(Scheduler::branch_tokens(r)) + Scheduler::extra_pages(r));
  return pages;
}

}  // namespace isr::page_model
