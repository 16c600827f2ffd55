// The scheduler without a model (page_model.h): what a call gets is a function of its own requests, whoever is beside it,
// whoever leaves, and however little room there is; and nobody waits longer than the rules say.
#include <algorithm>
#include <map>
#include <memory>
#include <new>

#include "page_model.h"

namespace isr {
using namespace page_model;
namespace {

struct Ran { std::vector<GeneratedSequence> results; Counters counters; };

Ran run(KvCache& cache, const std::vector<GenerateRequest>& requests, Scheduler::Limits limits = {}, const GenerateCallbacks& callbacks = {},
        const std::atomic<bool>* cancel = nullptr, PageReader* reader = nullptr) {
  PageReader own;
  Ran r;
  std::vector<size_t> first;
  for (const GenerateRequest& q : requests) {
    first.push_back(r.results.size());
    r.results.resize(r.results.size() + static_cast<size_t>(q.copies));
  }
  std::exception_ptr failure;
  GenerateCallbacks told = callbacks;
  told.completion = [&](const GeneratedSequence& g) {
    r.results[first[static_cast<size_t>(g.request)] + static_cast<size_t>(g.copy)] = g;
    if (callbacks.completion) callbacks.completion(g);
  };
  told.end = [&](std::exception_ptr e) { failure = std::move(e); };
  Scheduler scheduler(cache, kEnd, kVocab, limits);
  scheduler.join(requests, told, cancel);
  while (!scheduler.idle()) scheduler.step(reader ? *reader : own, r.counters);
  if (failure) std::rethrow_exception(failure);
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

// ---- calls that share a batch

namespace {

// Calls of one scheduler: what each was told.
struct Shared {
  struct Told {
    std::vector<GenerateRequest> requests;
    std::vector<GeneratedSequence> results;
    std::atomic<bool> cancel{false};
    int64_t tokens = 0, fails_at = -1;      // fails_at: the host throws at this token
    int ends = 0;
    std::exception_ptr failure;
    bool waits() const { return ends == 0; }
  };

  KvCache cache;
  Scheduler scheduler;
  PageReader reader;
  Counters counters;
  std::vector<std::unique_ptr<Told>> calls;
  int64_t steps = 0;

  Shared(int64_t pages, bool keep, Scheduler::Limits limits)
      : cache(kLayers, kPageBytes, static_cast<uint64_t>(pages) * kPage, keep), scheduler(cache, kEnd, kVocab, limits) {}

  Told& join(std::vector<GenerateRequest> requests, int64_t fails_at = -1) {
    calls.push_back(std::make_unique<Told>());
    Told& t = *calls.back();
    t.requests = requests;
    t.fails_at = fails_at;
    GenerateCallbacks told;
    told.token = [&t](const GeneratedToken&) {
      if (t.tokens++ == t.fails_at) fail("INVALID_ARGUMENT", "from the host");
    };
    told.completion = [&t](const GeneratedSequence& g) { t.results.push_back(g); };
    told.end = [&t](std::exception_ptr e) { ++t.ends, t.failure = std::move(e); };
    scheduler.join(std::move(requests), std::move(told), &t.cancel);
    return t;
  }

  void step() {
    ++steps;
    scheduler.step(reader, counters);
    cache.check();
  }

  int64_t steps_until_end(const Told& t) {
    const int64_t before = steps;
    while (t.waits()) step();
    return steps - before;
  }
};

std::string code_of(const std::exception_ptr& e) {
  return e ? test::thrown_code([&] { std::rethrow_exception(e); }) : "";
}

std::vector<GeneratedSequence> sorted(std::vector<GeneratedSequence> all) {
  std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return std::tie(a.request, a.copy) < std::tie(b.request, b.copy); });
  return all;
}

std::vector<int32_t> numbered(int64_t n, int32_t salt) {      // a prompt that shares nothing with one of another salt
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < n; ++i) ids.push_back(static_cast<int32_t>((i * 7 + salt) % kVocab));
  return ids;
}

GenerateRequest endless(std::vector<int32_t> ids, int32_t copies, int64_t max_tokens) {
  GenerateRequest r = request_of(std::move(ids), copies, max_tokens);
  r.sampling.suppress = kEnd;
  return r;
}

}  // namespace

TEST("scheduler: calls that join, leave and fail at any time each get what they would get alone") {
  int64_t together = 0;
  for (uint64_t seed = 0; seed < 120; ++seed) {
    Random r(1000 + seed);
    const int count = 2 + static_cast<int>(r.below(6));
    std::vector<std::vector<GenerateRequest>> calls;
    int64_t least = 0;
    for (int i = 0; i < count; ++i) {
      calls.push_back(random_requests(r, 1 + static_cast<int>(r.below(4))));
      if (i > 0 && r.below(2)) calls.back()[0].ids = calls[0][0].ids;      // the same prompt asked by two
      least = std::max(least, largest(calls.back()));
    }
    const int64_t rows[] = {512, 1, 37, 128}, branches[] = {64, 1, 3, 9}, more[] = {0, 1, 7, 10000};
    Shared s(least + more[r.below(4)], r.below(2) > 0, {rows[r.below(4)], branches[r.below(4)], rows[r.below(4)]});
    size_t next = 0;
    while (next < calls.size() || !s.scheduler.idle()) {
      if (next < calls.size() && (s.scheduler.idle() || r.below(6) == 0)) s.join(calls[next++], r.below(5) == 0 ? r.below(60) : -1);
      if (r.below(40) == 0) s.calls[static_cast<size_t>(r.below(static_cast<int64_t>(s.calls.size())))]->cancel = true;
      s.step();
      together += s.scheduler.load().calls > 1;
      CHECK(s.steps < 100000, "seed ", seed, ": the calls stand still");
    }
    CHECK(s.cache.idle_pages() == s.cache.used_pages() && s.cache.reserved_pages() == 0, "seed ", seed, ": pages are left in use");
    const BatchLoad l = s.scheduler.load();
    CHECK(l.calls == 0 && l.sequences == 0 && l.waiting == 0, "seed ", seed, ": ", l.sequences, " sequences in flight of nobody");
    for (size_t i = 0; i < s.calls.size(); ++i) {
      const Shared::Told& t = *s.calls[i];
      const std::string what = concat("seed ", seed, ", call ", i);
      CHECK(t.ends == 1, what, " was told its end ", t.ends, " times");
      if (!t.failure) check_against_oracle(t.requests, sorted(t.results), what);
      else CHECK(code_of(t.failure) == (t.fails_at >= 0 && t.tokens > t.fails_at ? "INVALID_ARGUMENT" : "CANCELLED"), what, ": ", code_of(t.failure));
      for (const GeneratedSequence& g : t.results)
        CHECK(same(g, oracle(t.requests[static_cast<size_t>(g.request)], g.request, g.copy)), what, ": a completion before the failure");
    }
  }
  CHECK(together > 1000, together, " steps with several calls");
}

TEST("scheduler: a prompt that waits for another call's rows goes on by itself when that call leaves") {
  for (int64_t after : {1, 2, 5})
    for (int64_t shared : {40, 64, 150, 300}) {
      Shared s(1000, false, {20, 64, 20});
      const std::vector<int32_t> prompt = numbered(300, 3);
      std::vector<int32_t> second(prompt.begin(), prompt.begin() + shared), third = prompt;
      second.push_back(1);
      third.push_back(2);
      Shared::Told& first = s.join({endless(prompt, 1, 5)});
      Shared::Told& waiting = s.join({endless(second, 2, 5)});
      Shared::Told& chained = s.join({endless(third, 1, 5)});
      for (int64_t i = 0; i < after; ++i) s.step();
      first.cancel = true;
      s.steps_until_end(waiting);
      s.steps_until_end(chained);
      CHECK(code_of(first.failure) == "CANCELLED", "shared ", shared);
      for (const Shared::Told* t : {&waiting, &chained}) check_against_oracle(t->requests, sorted(t->results), concat("shared ", shared));
    }
}

TEST("scheduler: who is short does not wait for who is long") {
  struct Row { const char* what; std::vector<GenerateRequest> before; GenerateRequest late; int64_t most; };
  const Row rows[] = {
      {"one token behind one sequence", {endless(numbered(30, 1), 1, 100)}, endless(numbered(30, 2), 1, 1), 1},
      {"one token behind 200 sequences", {endless(numbered(30, 1), 200, 100)}, endless(numbered(30, 2), 1, 1), 1},
      {"one token behind 200 requests", std::vector<GenerateRequest>(200, endless(numbered(30, 1), 1, 100)), endless(numbered(30, 2), 1, 1), 1},
      {"a short prompt behind one of ten steps", {endless(numbered(5120, 1), 1, 5)}, endless(numbered(60, 2), 1, 1), 1},
      {"a prompt of three shares behind one of ten steps", {endless(numbered(5120, 1), 1, 5)}, endless(numbered(700, 2), 1, 1), 3},
      {"ten tokens behind a hundred", {endless(numbered(30, 1), 1, 100)}, endless(numbered(30, 2), 1, 10), 10},
  };
  for (const Row& row : rows) {
    Shared s(10000, false, {});
    Shared::Told& before = s.join(row.before);
    for (int i = 0; i < 3; ++i) s.step();
    const int64_t took = s.steps_until_end(s.join({row.late}));
    CHECK(took <= row.most && before.waits(), row.what, ": ", took, " steps");
    while (!s.scheduler.idle()) s.step();
    check_against_oracle(row.before, sorted(before.results), row.what);
  }
}

TEST("scheduler: tokens of a call wait for few rows of another call's prompt, and for all the step holds of its own") {
  for (bool own : {false, true}) {
    Shared s(1000, false, {512, 64, 128});
    std::vector<GenerateRequest> first = {endless(numbered(10, 1), 1, 200)};
    if (own) first.push_back(endless(numbered(2000, 2), 1, 2));
    s.join(std::move(first));
    if (!own) {
      s.step();
      s.join({endless(numbered(2000, 2), 1, 2)});
    }
    s.reader.most_rows = 0;
    for (int i = 0; i < 3; ++i) s.step();
    CHECK(s.reader.most_rows == (own ? 513 : 129), s.reader.most_rows, " rows");
  }
}

TEST("scheduler: where there is room for one sequence, calls take turns and none is left out") {
  const GenerateRequest r = endless(numbered(100, 1), 3, 30);
  Shared s(KvCache::pages_for(Scheduler::branch_tokens(r)) + Scheduler::extra_pages(r), false, {});
  std::vector<Shared::Told*> calls;
  for (int32_t i = 0; i < 4; ++i) calls.push_back(&s.join({endless(numbered(100, i), 3, 30), endless(numbered(90, i), 2, 30)}));
  const BatchLoad l = s.scheduler.load();
  CHECK(l.calls == 4 && l.sequences == 0 && l.waiting == 20, l.waiting, " wait");
  s.step();
  CHECK(s.scheduler.load().sequences == 1, s.scheduler.load().sequences, " in flight");
  for (const Shared::Told* t : calls) {
    s.steps_until_end(*t);
    check_against_oracle(t->requests, sorted(t->results), "one at a time");
  }
}

TEST("scheduler: a step that cannot be computed ends every call, and the next ones are as if nothing had been") {
  struct Refusing final : Stepper {
    void step(int32_t*, float*, const CachedBatch&, const Draws&, const KvStore&) override { throw std::bad_alloc(); }
  } refusing;
  Shared s(1000, true, {});
  Shared::Told& a = s.join({endless(numbered(100, 1), 2, 30)});
  Shared::Told& b = s.join({endless(numbered(100, 1), 1, 30)});
  s.step();
  s.scheduler.step(refusing, s.counters);
  s.cache.check();
  for (const Shared::Told* t : {&a, &b}) {
    bool told = false;
    try {
      if (t->failure) std::rethrow_exception(t->failure);
    } catch (const std::bad_alloc&) {
      told = true;
    }
    CHECK(told && t->ends == 1, t->ends, " ends");
  }
  CHECK(s.scheduler.idle() && s.cache.idle_pages() == s.cache.used_pages() && s.cache.reserved_pages() == 0, "pages are left in use");
  Shared::Told& again = s.join({endless(numbered(100, 1), 2, 30)});
  s.steps_until_end(again);
  check_against_oracle(again.requests, sorted(again.results), "afterwards");
}

}  // namespace isr
