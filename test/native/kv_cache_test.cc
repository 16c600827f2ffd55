// The KV tree and the scheduler without a model. The stand-in for a model writes ids into the pages and draws from a hash
// of what it reads back through the page lists, so a wrong page, a missing copy or a stale token changes the draws; the
// oracle draws from the ids alone.
#include <algorithm>
#include <cstring>
#include <map>
#include <tuple>

#include "check.h"
#include "infer/scheduler.h"

namespace isr {
namespace {

constexpr int32_t kVocab = 50;
constexpr int64_t kLayers = 2, kPageBytes = kKeyBlock * sizeof(int32_t);
constexpr uint64_t kPage = kLayers * kPageBytes;

struct Random {
  Philox draw;
  uint64_t at = 0;
  explicit Random(uint64_t seed) : draw(seed) {}
  int64_t below(int64_t n) { return static_cast<int64_t>(draw(1, at++)[0] % static_cast<uint64_t>(n)); }
};

std::vector<int32_t> random_ids(Random& r, int64_t n, int64_t vocab = kVocab) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < n; ++i) ids.push_back(static_cast<int32_t>(r.below(vocab)));
  return ids;
}

// ---- the tree

int32_t* slot(const KvCache& cache, int64_t layer, KvRow row) {
  return reinterpret_cast<int32_t*>(cache.store().page(layer, row.page)) + row.slot;
}

void compute(KvCache& cache, const KvCache::Branch& b, const std::vector<int32_t>& ids, int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; ++t)
    for (int32_t layer = 0; layer < kLayers; ++layer) *slot(cache, layer, cache.row(b, t)) = ids[static_cast<size_t>(t)] + 1000 * layer;
  cache.commit(b, begin, end);
}

bool holds(const KvCache& cache, const KvCache::Branch& b, const std::vector<int32_t>& ids, int64_t tokens) {
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t layer = 0; layer < kLayers; ++layer)
      if (*slot(cache, layer, cache.row(b, t)) != ids[static_cast<size_t>(t)] + 1000 * layer) return false;
  return true;
}

int64_t common_prefix(const std::vector<int32_t>& a, const std::vector<int32_t>& b) {
  return std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin();
}

// A prompt that begins like one seen before, more often than not.
std::vector<int32_t> related_ids(Random& r, const std::vector<std::vector<int32_t>>& seen) {
  std::vector<int32_t> ids;
  if (!seen.empty() && r.below(4) > 0) {
    ids = seen[static_cast<size_t>(r.below(static_cast<int64_t>(seen.size())))];
    ids.resize(static_cast<size_t>(r.below(static_cast<int64_t>(ids.size()) + 1)));
  }
  const std::vector<int32_t> more = random_ids(r, 1 + r.below(100), 3);
  ids.insert(ids.end(), more.begin(), more.end());
  return ids;
}

}  // namespace

TEST("kv_cache: finds the longest prefix, one sequence after another") {
  KvCache cache(kLayers, kPageBytes, 100000 * kPage, true);
  Random r(1);
  std::vector<std::vector<int32_t>> seen;
  for (int round = 0; round < 300; ++round) {
    std::vector<int32_t> ids = related_ids(r, seen);
    int64_t longest = 0;
    for (const auto& s : seen) longest = std::max(longest, std::min<int64_t>(common_prefix(ids, s), static_cast<int64_t>(ids.size()) - 1));
    KvCache::Branch b = cache.find(ids);
    CHECK(b.cached == longest, "round ", round, ": found ", b.cached, ", longest ", longest);
    CHECK(cache.admit(b, ids, static_cast<int64_t>(ids.size()) + 70, 0) && cache.settle(b), "round ", round);
    CHECK(holds(cache, b, ids, b.cached), "round ", round);
    const bool cut = r.below(5) == 0;        // a cancelled call leaves a part
    const int64_t prompt = static_cast<int64_t>(ids.size()), end = cut ? b.cached + r.below(prompt - b.cached + 1) : prompt;
    compute(cache, b, ids, b.cached, end);
    if (!cut)
      for (int64_t i = r.below(70); i > 0; --i) {
        ids.push_back(static_cast<int32_t>(r.below(3)));
        cache.append(b, ids.back());
        compute(cache, b, ids, static_cast<int64_t>(ids.size()) - 1, static_cast<int64_t>(ids.size()));
      }
    CHECK(holds(cache, b, ids, cut ? end : static_cast<int64_t>(ids.size())), "round ", round);
    ids.resize(static_cast<size_t>(cut ? end : static_cast<int64_t>(ids.size())));
    if (!ids.empty()) seen.push_back(ids);
    cache.close(b);
    cache.check();
  }
  // The tree holds every distinct prefix once, up to the copies of partly shared pages.
  CHECK(cache.idle_pages() == cache.used_pages() && cache.reserved_pages() == 0, cache.used_pages());
  cache.clear();
  CHECK(cache.used_pages() == 0 && cache.cached_tokens() == 0, cache.cached_tokens());
}

TEST("kv_cache: branches side by side keep their own tokens") {
  for (int64_t budget : {6, 12, 40}) {
    for (bool keep : {false, true}) {
      KvCache cache(kLayers, kPageBytes, static_cast<uint64_t>(budget) * kPage, keep);
      Random r(static_cast<uint64_t>(budget));
      struct Open { KvCache::Branch b; std::vector<int32_t> ids; int64_t total, done; };
      std::vector<Open> open;
      std::vector<std::vector<int32_t>> seen;
      int64_t refused = 0, settled = 0, forks = 0;
      for (int round = 0; round < 3000; ++round) {
        const int64_t what = r.below(10);
        if (what < 2) {
          Open o{{}, related_ids(r, seen), 0, 0};
          if (o.ids.size() > 300) o.ids.resize(300);
          o.total = static_cast<int64_t>(o.ids.size()) + r.below(80);
          o.b = cache.find(o.ids);
          if (!cache.admit(o.b, o.ids, o.total, 0)) {
            ++refused;
            cache.close(o.b);
          } else {
            o.done = -1;
            open.push_back(std::move(o));
          }
        } else if (!open.empty()) {
          const size_t i = static_cast<size_t>(r.below(static_cast<int64_t>(open.size())));
          Open& o = open[i];
          const int64_t n = static_cast<int64_t>(o.ids.size());
          if (o.done < 0) {
            if (!cache.settle(o.b)) {           // what it waits for may never come: the other branch was closed
              cache.close(o.b);
              open.erase(open.begin() + static_cast<std::ptrdiff_t>(i));
              cache.check();
              continue;
            }
            ++settled;
            o.done = o.b.cached;
          }
          CHECK(holds(cache, o.b, o.ids, o.done), "round ", round);
          if (what < 6 && o.done < n) {
            const int64_t end = std::min(n, o.done + 1 + r.below(100));
            compute(cache, o.b, o.ids, o.done, end);
            o.done = end;
          } else if (what < 8 && o.done == n && n < o.total) {
            o.ids.push_back(static_cast<int32_t>(r.below(3)));
            cache.append(o.b, o.ids.back());
            compute(cache, o.b, o.ids, n, n + 1);
            o.done = n + 1;
          } else if (what == 8 && o.done > 0) {
            Open f{{}, o.ids, o.total, 0};
            f.ids.resize(static_cast<size_t>(1 + r.below(o.done)));
            f.done = static_cast<int64_t>(f.ids.size());
            f.b = cache.fork(o.b, f.done);
            if (cache.admit(f.b, f.ids, f.total, 0)) {
              CHECK(cache.settle(f.b), "round ", round);
              ++forks;
              open.push_back(std::move(f));
            } else {
              cache.close(f.b);
            }
          } else if (what == 9) {
            if (seen.size() < 30 && o.done > 0) seen.push_back({o.ids.begin(), o.ids.begin() + o.done});
            cache.close(o.b);
            open.erase(open.begin() + static_cast<std::ptrdiff_t>(i));
          }
        }
        cache.check();
      }
      CHECK(settled > 100 && forks > 10, settled, " settled, ", forks, " forks");
      CHECK(budget > 12 || refused > 0, "nothing had to wait with ", budget, " pages");
      for (Open& o : open) cache.close(o.b);
      cache.check();
      CHECK(cache.idle_pages() == cache.used_pages(), cache.used_pages());
      cache.release_pool();
      CHECK(cache.bytes() == 0, cache.bytes());
    }
  }
}

TEST("kv_cache: the least recently used prefix leaves first, equal pages are kept once") {
  KvCache cache(kLayers, kPageBytes, 6 * kPage, true);
  Random r(3);
  const auto use = [&](const std::vector<int32_t>& ids) {
    KvCache::Branch b = cache.find(ids);
    const int64_t found = b.cached;
    CHECK(cache.admit(b, ids, static_cast<int64_t>(ids.size()), 0) && cache.settle(b), "no room");
    compute(cache, b, ids, found, static_cast<int64_t>(ids.size()));
    cache.close(b);
    cache.check();
    return found;
  };
  const std::vector<int32_t> a = random_ids(r, 128), b = random_ids(r, 128), c = random_ids(r, 128);
  for (const auto& ids : {a, b, c}) CHECK(use(ids) == 0, "found what was never computed");
  CHECK(cache.used_pages() == 6, cache.used_pages());
  CHECK(use(a) == 127, "a is kept");       // its last page is copied and folded again, which takes a page of b's: the oldest
  CHECK(cache.cached_tokens() <= 384 && use(c) == 127, "c is kept");
  CHECK(use(a) == 127, "a is kept");
  CHECK(use(b) <= 64, "b was the oldest");

  KvCache large(kLayers, kPageBytes, 1000 * kPage, true);
  for (int i = 0; i < 20; ++i) {                    // two branches that compute the same tokens side by side, then again
    KvCache::Branch one = large.find(a), two = large.find(a);
    for (KvCache::Branch* branch : {&one, &two}) {
      CHECK(large.admit(*branch, a, 200, 0) && large.settle(*branch), "room for all");
      compute(large, *branch, a, branch->cached, 128);
      for (int32_t id = 0; id < 72; ++id) {
        large.append(*branch, id % 5);
        large.commit(*branch, 128 + id, 129 + id);
      }
    }
    large.close(one);
    large.close(two);
    large.check();
    CHECK(large.used_pages() == 4 && large.cached_tokens() == 200, "round ", i, ": ", large.used_pages(), " pages, ", large.cached_tokens(), " tokens");
  }
}

// ---- the scheduler

namespace {

uint64_t mix(uint64_t h, uint64_t x) {
  h ^= x + 0x9E3779B97F4A7C15ull + (h << 6) + (h >> 2);
  return h * 0xBF58476D1CE4E5B9ull;
}

// Id and log-prob from the sequence so far and the draw.
std::pair<int32_t, float> draw_of(uint64_t history, const SampleOptions& o, std::span<const int32_t> suppress) {
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
      for (int64_t layer = 0; layer < kLayers; ++layer) *at(layer, batch.rows[i].page, batch.rows[i].slot) = batch.ids[i];
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
        CHECK(batch.positions[row] == t, "position ", batch.positions[row], " at token ", t);
      }
    }
    for (size_t i = 0; i < draws.size(); ++i)
      std::tie(ids[i], logp[i]) = draw_of(history[static_cast<size_t>(draws.rows[i])], draws.options[i], draws.suppress[i]);
  }
};

const std::vector<int32_t> kEnd = {7};

GeneratedSequence oracle(const GenerateRequest& r, int32_t request, int32_t copy) {
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

bool same(const GeneratedSequence& a, const GeneratedSequence& b) {
  return a.request == b.request && a.copy == b.copy && a.ids == b.ids && a.logp == b.logp && a.stopped == b.stopped;
}

GenerateRequest request_of(std::vector<int32_t> ids, int32_t copies, int64_t max_tokens, double temperature = 1) {
  GenerateRequest r;
  r.ids = std::move(ids);
  r.copies = copies;
  r.sampling.max_tokens = max_tokens;
  r.sampling.temperature = temperature;
  r.sampling.stream = "a/b";
  return r;
}

std::vector<GenerateRequest> random_requests(Random& r, int count) {
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

int64_t largest(const std::vector<GenerateRequest>& requests) {
  int64_t pages = 0;
  for (const GenerateRequest& r : requests) pages = std::max(pages, KvCache::pages_for(Scheduler::branch_tokens(r)) + Scheduler::extra_pages(r));
  return pages;
}

struct Ran { std::vector<GeneratedSequence> results; Counters counters; };

Ran run(KvCache& cache, const std::vector<GenerateRequest>& requests, Scheduler::Limits limits = {}, const GenerateCallbacks& callbacks = {},
        const std::atomic<bool>* cancel = nullptr, PageReader* reader = nullptr) {
  PageReader own;
  Ran r;
  Scheduler scheduler(cache, reader ? *reader : own, requests, kEnd, kVocab, callbacks, limits);
  r.results = scheduler.run(cancel, r.counters);
  return r;
}

void check_against_oracle(const std::vector<GenerateRequest>& requests, const std::vector<GeneratedSequence>& results, const std::string& what) {
  size_t at = 0;
  for (size_t i = 0; i < requests.size(); ++i)
    for (int32_t copy = 0; copy < requests[i].copies; ++copy, ++at)
      CHECK(at < results.size() && same(results[at], oracle(requests[i], static_cast<int32_t>(i), copy)), what, ": request ", i, ", copy ", copy);
  CHECK(at == results.size(), what, ": ", results.size(), " results");
}

}  // namespace

TEST("scheduler: completions do not depend on budget, chunks, batch or what is cached") {
  for (uint64_t seed = 0; seed < 12; ++seed) {
    Random r(seed);
    const std::vector<GenerateRequest> requests = random_requests(r, 12);
    const int64_t least = largest(requests);
    for (int64_t pages : {least, least + 1, least + 7, int64_t{10000}})
      for (const auto& [rows, branches] : {std::pair<int64_t, int64_t>{512, 64}, {1, 3}, {37, 1}, {64, 9}})
        for (bool keep : {false, true}) {
          KvCache cache(kLayers, kPageBytes, static_cast<uint64_t>(pages) * kPage, keep);
          PageReader reader;
          for (int call = 0; call < (keep ? 2 : 1); ++call) {
            const std::string what = concat("seed ", seed, ", ", pages, " pages, ", rows, " rows, ", branches, " branches, call ", call);
            check_against_oracle(requests, run(cache, requests, {rows, branches}, {}, nullptr, &reader).results, what);
            cache.check();
            CHECK(cache.idle_pages() == cache.used_pages() && cache.reserved_pages() == 0, what);
          }
          CHECK(reader.most_rows <= rows + branches && reader.most_sequences <= 2 * branches, reader.most_rows, " rows");
        }
  }
}

TEST("scheduler: a common prefix is prefilled once, and copies share their prompt") {
  Random r(5);
  const std::vector<int32_t> prefix = random_ids(r, 150);
  std::vector<GenerateRequest> requests;
  for (int32_t i = 0; i < 4; ++i) {
    std::vector<int32_t> ids = prefix;
    ids.insert(ids.end(), static_cast<size_t>(10 + i), i);
    requests.push_back(request_of(ids, 3, 5));
    requests.back().sampling.suppress = kEnd;
  }
  KvCache cache(kLayers, kPageBytes, 1000 * kPage, true);
  Ran first = run(cache, requests);
  check_against_oracle(requests, first.results, "shared");
  CHECK(first.counters.prefill_tokens == 150 + 10 + 11 + 12 + 13, first.counters.prefill_tokens);
  CHECK(first.counters.decode_tokens == 4 * 3 * 4, first.counters.decode_tokens);
  // The next turn of a chat continues what was generated; only its last generated token was never computed.
  GenerateRequest turn = request_of(requests[1].ids, 1, 5);
  turn.ids.insert(turn.ids.end(), first.results[3].ids.begin(), first.results[3].ids.end());
  turn.ids.insert(turn.ids.end(), {1, 2, 3});
  const Ran second = run(cache, {turn});
  check_against_oracle({turn}, second.results, "next turn");
  CHECK(second.counters.prefill_tokens == 4, second.counters.prefill_tokens);
  // One at a time, because there is no room for two: still one prefill of what they share.
  KvCache small(kLayers, kPageBytes, static_cast<uint64_t>(largest(requests)) * kPage, false);
  const Ran narrow = run(small, requests);
  check_against_oracle(requests, narrow.results, "narrow");
  CHECK(narrow.counters.prefill_tokens <= 150 + 46 + 3 * 22, narrow.counters.prefill_tokens);   // at most the partial page again
}

TEST("scheduler: end, stop ids, min_tokens and suppress") {
  Random r(6);
  for (int i = 0; i < 40; ++i) {
    GenerateRequest plain = request_of(random_ids(r, 20), 1, 300);
    plain.sampling.seed = static_cast<uint64_t>(i);
    KvCache cache(kLayers, kPageBytes, 100 * kPage, false);
    const GeneratedSequence g = run(cache, {plain}).results[0];
    CHECK(g.stopped == (g.ids.back() == 7) && std::count(g.ids.begin(), g.ids.end(), 7) == g.stopped, "the end id is kept and ends it");
    GenerateRequest longer = plain;
    longer.sampling.min_tokens = static_cast<int64_t>(g.ids.size());
    const GeneratedSequence l = run(cache, {longer}).results[0];
    CHECK(l.ids.size() > g.ids.size() || !g.stopped, "min_tokens ", g.ids.size());
    CHECK(std::equal(g.ids.begin(), g.ids.end() - 1, l.ids.begin()), "draws before are the same");
    GenerateRequest cut = plain;
    cut.sampling.stop_ids = {g.ids[g.ids.size() / 2]};
    const GeneratedSequence c = run(cache, {cut}).results[0];
    CHECK(c.stopped && c.ids.size() <= g.ids.size() / 2 + 1 && c.ids.back() == cut.sampling.stop_ids[0], "stop id");
    GenerateRequest without = plain;
    without.sampling.suppress = {7, 8, 9};
    const GeneratedSequence w = run(cache, {without}).results[0];
    CHECK(!w.stopped && w.ids.size() == 300, w.ids.size());
    for (int32_t id : {7, 8, 9}) CHECK(std::count(w.ids.begin(), w.ids.end(), id) == 0, id);
  }
}

TEST("scheduler: callbacks, a host that ends branches, cancel and exceptions") {
  Random r(8);
  const std::vector<GenerateRequest> requests = random_requests(r, 8);
  KvCache cache(kLayers, kPageBytes, static_cast<uint64_t>(largest(requests) + 3) * kPage, true);
  const std::vector<GeneratedSequence> all = run(cache, requests).results;
  std::map<std::pair<int32_t, int32_t>, std::vector<int32_t>> told;
  int completions = 0;
  GenerateCallbacks callbacks;
  callbacks.token = [&](const GeneratedToken& t) { told[{t.request, t.copy}].push_back(t.id); };
  callbacks.completion = [&](const GeneratedSequence& g) {
    CHECK(told[std::make_pair(g.request, g.copy)] == g.ids, "completion before its tokens");
    ++completions;
  };
  callbacks.ended = [&](int32_t request, int32_t copy) { return told[{request, copy}].size() >= 6; };
  const std::vector<GeneratedSequence> cut = run(cache, requests, {}, callbacks).results;
  CHECK(completions == static_cast<int>(all.size()), completions, " completions");
  for (size_t i = 0; i < all.size(); ++i) {
    CHECK(cut[i].ids.size() == std::min<size_t>(all[i].ids.size(), 6) && std::equal(cut[i].ids.begin(), cut[i].ids.end(), all[i].ids.begin()), "sequence ", i);
    CHECK(cut[i].stopped == (all[i].stopped || all[i].ids.size() > 6), "sequence ", i);
  }
  for (int when : {0, 1, 5, 40, 100}) {
    std::atomic<bool> cancel{when == 0};
    int tokens = 0;
    GenerateCallbacks stop;
    stop.token = [&](const GeneratedToken&) { if (++tokens == when) cancel = true; };
    CHECK(test::thrown_code([&] { run(cache, requests, {20, 5}, stop, &cancel); }) == "CANCELLED", "after ", when);
    cache.check();
    CHECK(cache.idle_pages() == cache.used_pages() && cache.reserved_pages() == 0, "after ", when);
    tokens = 0;
    stop.token = [&](const GeneratedToken&) { if (++tokens == when) fail("INVALID_ARGUMENT", "from the host"); };
    if (when) CHECK(test::thrown_code([&] { run(cache, requests, {20, 5}, stop); }) == "INVALID_ARGUMENT", "after ", when);
    cache.check();
    CHECK(cache.idle_pages() == cache.used_pages() && cache.reserved_pages() == 0, "after ", when);
  }
  KvCache large(kLayers, kPageBytes, 10000 * kPage, true);
  for (int when = 1; when < 60; ++when) {               // all prompts end in one step, and the host throws among their first tokens
    int tokens = 0;
    GenerateCallbacks stop;
    stop.token = [&](const GeneratedToken&) { if (++tokens == when) fail("INVALID_ARGUMENT", "from the host"); };
    CHECK(test::thrown_code([&] { run(large, requests, {10000, 64}, stop); }) == "INVALID_ARGUMENT", "after ", when);
    large.check();
    CHECK(large.idle_pages() == large.used_pages() && large.reserved_pages() == 0, "after ", when);
  }
  check_against_oracle(requests, run(cache, requests).results, "after all that");
}

}  // namespace isr
