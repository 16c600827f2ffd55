// Generation with small models: a completion is a function of its own request alone, bit for bit, however it is batched,
// chunked, cached or squeezed into pages; what it must equal is the model's plain forward, one token after another.
#include <algorithm>

#include "check.h"
#include "infer/generator.h"
#include "infer/kv_cache.h"
#include "models/score.h"
#include "seeded_model.h"

namespace isr {
namespace {

using test::ModelSpec;

ModelSpec small_spec(const std::string& dtype = "F32") {
  ModelSpec s;
  s.dtype = dtype;
  s.context = 640;
  return s;
}

std::unique_ptr<Model> small_model(const ModelSpec& spec = small_spec(), int threads = 2) {
  LoadOptions o;
  o.threads = threads;
  return test::seeded_model(spec, o);
}

GenerateRequest request_of(std::vector<int32_t> ids, int32_t copies, int64_t max_tokens, double temperature = 1.5) {
  GenerateRequest r;
  r.ids = std::move(ids);
  r.copies = copies;
  r.sampling.max_tokens = max_tokens;
  r.sampling.temperature = temperature;
  r.sampling.stream = "1/rsp/sample";
  return r;
}

// Prompts of 1 to 330 tokens, of which most begin alike; page borders, copies, greedy and filtered draws among them.
std::vector<GenerateRequest> eight_requests() {
  const std::vector<int32_t> common = test::random_ids(200, 160, 1);
  std::vector<GenerateRequest> all;
  for (const auto& [shared, own] : {std::pair<int64_t, int64_t>{0, 1}, {200, 1}, {128, 64}, {150, 180}, {63, 1}, {100, 130}, {200, 30}, {0, 77}}) {
    std::vector<int32_t> ids(common.begin(), common.begin() + shared);
    for (int32_t id : test::random_ids(own, 160, 100 + all.size())) ids.push_back(id);
    all.push_back(request_of(std::move(ids), 1 + static_cast<int32_t>(all.size() % 3), 20 + 9 * static_cast<int64_t>(all.size())));
  }
  all[2].sampling.temperature = 0;
  all[3].sampling.top_p = 0.8;
  all[4].sampling.top_k = 7;
  all[5].sampling.seed = 99;
  for (int32_t id = 10; id < 60; ++id) all[5].sampling.stop_ids.push_back(id);   // this one stops, whatever the level rounds
  all[6].sampling.suppress = {2, 5, 9};
  all[7].sampling.min_tokens = 60;
  return all;
}

using Results = std::vector<GeneratedSequence>;

Results generate(Generator& g, const std::vector<GenerateRequest>& requests) { return g.generate(requests, {}, nullptr); }

bool same(const GeneratedSequence& a, const GeneratedSequence& b) {
  return a.copy == b.copy && a.ids == b.ids && a.logp == b.logp && a.stopped == b.stopped;
}

bool same(const Results& a, const Results& b) {
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(), [](const auto& x, const auto& y) { return same(x, y); });
}

uint64_t pages_bytes(Model& m, int64_t pages) {
  return static_cast<uint64_t>(pages * m.config.layers) * m.backend->kv_page_bytes(attention_shape(m.config), m.dtype);
}

}  // namespace

TEST("infer: completions depend on their own request alone") {
  for (const char* dtype : {"F32", "BF16"}) {
    const auto model = small_model(small_spec(dtype));
    const std::vector<GenerateRequest> requests = eight_requests();
    Generator reference(*model, 0, false);
    const Results all = generate(reference, requests);
    size_t stopped = 0;
    for (const GeneratedSequence& g : all) stopped += g.stopped;
    CHECK(stopped > 0 && stopped < all.size(), stopped, " of ", all.size(), " stopped");
    size_t at = 0;
    for (const GenerateRequest& r : requests) {       // alone, and another chunk size
      Generator alone(*model, 0, false);
      alone.prefill_rows = 29;
      const Results own = generate(alone, {r});
      for (const GeneratedSequence& g : own) {
        CHECK(same(g, all[at]), dtype, ": request ", all[at].request, ", copy ", g.copy, " alone");
        ++at;
      }
    }
    for (int64_t pages : {8, 13, 40})                 // waiting for room
      for (int64_t rows : {1, 64, 100}) {
        Generator narrow(*model, pages_bytes(*model, pages), pages == 13);
        narrow.prefill_rows = rows;
        CHECK(same(generate(narrow, requests), all), dtype, ": ", pages, " pages, ", rows, " rows");
        CHECK(narrow.bytes() <= pages_bytes(*model, pages), narrow.bytes());
      }
    const auto single = small_model(small_spec(dtype), 1);
    Generator one(*single, 0, true);
    CHECK(same(generate(one, requests), all), dtype, ": one thread");
    const uint64_t computed = one.counters.prefill_tokens;
    CHECK(same(generate(one, requests), all), dtype, ": everything cached");
    CHECK(one.counters.prefill_tokens - computed == requests.size(), one.counters.prefill_tokens - computed, " prompt tokens again");
  }
}

TEST("infer: sampling equals the plain forward, bit for bit") {
  for (const char* dtype : {"F32", "BF16"}) {
    const auto model = small_model(small_spec(dtype));
    Generator generator(*model, 0, false);
    std::vector<GenerateRequest> requests = eight_requests();
    const Results all = generate(generator, requests);
    std::vector<SequenceInput> scored;
    for (const GeneratedSequence& g : all) {
      const GenerateRequest& r = requests[static_cast<size_t>(g.request)];
      SequenceInput s;
      s.ids = r.ids;
      s.ids.insert(s.ids.end(), g.ids.begin(), g.ids.end());
      std::vector<uint8_t> mask(s.ids.size(), 0);
      std::fill(mask.begin() + static_cast<std::ptrdiff_t>(r.ids.size()), mask.end(), uint8_t{1});
      s.targets = targets_of(s.ids, mask);
      scored.push_back(std::move(s));
    }
    const auto logp = sequence_log_probs(*model, scored, true, 4096, nullptr);
    for (size_t i = 0; i < all.size(); ++i) CHECK(logp[i] == all[i].logp, dtype, ": sequence ", i);

    // Greedy draws are the plain forward's maxima.
    const GenerateRequest greedy = request_of(requests[3].ids, 1, 12, 0);
    std::vector<int32_t> ids = greedy.ids;
    const std::vector<int32_t> drawn = generate(generator, {greedy})[0].ids;
    for (int32_t id : drawn) {
      ForwardRequest f;
      f.ids = ids;
      f.begin = static_cast<int64_t>(ids.size()) - 1;
      f.end = f.begin + 1;
      f.logits = true;
      const std::vector<float> row = forward(*model, f, nullptr).logits;
      CHECK(std::max_element(row.begin(), row.end()) - row.begin() == id, dtype, ": after ", ids.size(), " tokens");
      ids.push_back(id);
    }
  }
}

TEST("infer: draws are keyed by seed, stream, copy and position") {
  const auto model = small_model();
  Generator g(*model, 0, false);
  GenerateRequest r = request_of(test::random_ids(40, 160, 3), 6, 30);
  r.sampling.suppress = {2};
  const Results base = generate(g, {r});
  for (size_t i = 0; i < base.size(); ++i)
    for (size_t j = 0; j < i; ++j) CHECK(base[i].ids != base[j].ids, "copies ", j, " and ", i, " are alike");
  GenerateRequest fewer = r;
  fewer.copies = 2;
  const Results two = generate(g, {request_of(test::random_ids(9, 160, 4), 3, 5), fewer});
  CHECK(same(two[3], base[0]) && same(two[4], base[1]), "a copy does not depend on the number of copies or the request's place");
  GenerateRequest seeded = r, streamed = r;
  seeded.sampling.seed = 1;
  streamed.sampling.stream = "1/ctx/sample";
  CHECK(generate(g, {seeded})[0].ids != base[0].ids && generate(g, {streamed})[0].ids != base[0].ids, "seed and stream");
  GenerateRequest longer = r;
  longer.sampling.max_tokens = 60;
  const Results l = generate(g, {longer});
  CHECK(std::equal(base[0].ids.begin(), base[0].ids.end(), l[0].ids.begin()), "max_tokens only cuts");
}

TEST("infer: prefixes are prefilled once, in a call and in a session") {
  const auto model = small_model();
  const std::vector<int32_t> common = test::random_ids(100, 160, 7);
  std::vector<GenerateRequest> requests;
  uint64_t own = 0;
  for (int32_t i = 0; i < 4; ++i) {
    std::vector<int32_t> ids = common;
    ids.insert(ids.end(), static_cast<size_t>(5 + i), 10 + i);
    own += static_cast<uint64_t>(5 + i);
    requests.push_back(request_of(std::move(ids), 2, 10));
    requests.back().sampling.suppress = {2};
  }
  Generator once(*model, 0, false);
  const Results results = generate(once, requests);
  CHECK(once.counters.prefill_tokens == 100 + own, once.counters.prefill_tokens);
  CHECK(once.counters.decode_tokens == 4 * 2 * 9, once.counters.decode_tokens);
  CHECK(once.cached_tokens() == 0, once.cached_tokens());

  Generator session(*model, 0, true);
  CHECK(same(generate(session, requests), results), "in a session");
  const uint64_t cached = session.cached_tokens(), before = session.counters.prefill_tokens;
  CHECK(cached >= 100 + own + 8 * 9 && session.bytes() > 0, cached);
  GenerateRequest turn = request_of(requests[2].ids, 1, 10);   // a chat's next turn: prompt, answer, question
  turn.ids.insert(turn.ids.end(), results[4].ids.begin(), results[4].ids.end());
  turn.ids.insert(turn.ids.end(), {20, 21, 22});
  Generator fresh(*model, 0, false);
  CHECK(same(generate(session, {turn}), generate(fresh, {turn})), "next turn");
  CHECK(session.counters.prefill_tokens - before == 4, session.counters.prefill_tokens - before, ": the last answer token and three more");
  for (int i = 0; i < 20; ++i) generate(session, requests);
  CHECK(session.cached_tokens() <= cached + 64, "the same prompts grow the session from ", cached, " to ", session.cached_tokens());

  ++model->generation;                                         // as training does
  CHECK(session.cached_tokens() == 0, "kept keys of other weights");
  const uint64_t stale = session.counters.prefill_tokens;
  generate(session, {turn});
  CHECK(session.counters.prefill_tokens - stale == turn.ids.size(), "a prefix of other weights was used");
}

TEST("infer: end tokens, stop ids, min_tokens, length") {
  const auto model = small_model();
  Generator g(*model, 0, false);
  int ended = 0;
  for (uint64_t seed = 0; seed < 12; ++seed) {
    GenerateRequest r = request_of(test::random_ids(20, 160, seed), 1, 80, 3);
    r.sampling.seed = seed;
    const GeneratedSequence plain = generate(g, {r})[0];
    CHECK(plain.ids.size() == plain.logp.size() && plain.stopped == (plain.ids.back() == 2), "ends by id 2 or by length");
    CHECK(plain.stopped ? std::count(plain.ids.begin(), plain.ids.end(), 2) == 1 : plain.ids.size() == 80, plain.ids.size());
    ended += plain.stopped;
    GenerateRequest stop = r;
    stop.sampling.stop_ids = {plain.ids[plain.ids.size() / 2]};
    const GeneratedSequence s = generate(g, {stop})[0];
    CHECK(s.stopped && s.ids.back() == stop.sampling.stop_ids[0] && s.ids.size() <= plain.ids.size() / 2 + 1, "stop id");
    GenerateRequest least = stop;
    least.sampling.min_tokens = 80;
    const GeneratedSequence m = generate(g, {least})[0];
    CHECK(!m.stopped && m.ids.size() == 80, m.ids.size());
    for (int32_t id : {2, stop.sampling.stop_ids[0]}) CHECK(std::count(m.ids.begin(), m.ids.end(), id) == 0, "id ", id, " before min_tokens");
  }
  CHECK(ended > 0, "no sequence met its end token");
}

TEST("infer: cancel and the host's callbacks") {
  const auto model = small_model();
  const std::vector<GenerateRequest> requests = eight_requests();
  for (bool keep : {false, true}) {
    Generator g(*model, 0, keep);
    const Results all = generate(g, requests);
    for (int when : {1, 30, 150}) {
      std::atomic<bool> cancel{false};
      int tokens = 0;
      GenerateCallbacks callbacks;
      callbacks.token = [&](const GeneratedToken&) { if (++tokens == when) cancel = true; };
      CHECK(test::thrown_code([&] { g.generate(requests, callbacks, &cancel); }) == "CANCELLED", "after ", when, " tokens");
      CHECK(keep || g.cached_tokens() == 0, g.cached_tokens());
      CHECK(same(generate(g, requests), all), "after a cancel at ", when);
    }
    std::vector<std::vector<int32_t>> told(all.size());
    size_t completions = 0;
    const auto index = [&](int32_t request, int32_t copy) {
      return static_cast<size_t>(std::find_if(all.begin(), all.end(), [&](const auto& s) { return s.request == request && s.copy == copy; }) - all.begin());
    };
    GenerateCallbacks callbacks;
    callbacks.token = [&](const GeneratedToken& t) { told[index(t.request, t.copy)].push_back(t.id); };
    callbacks.completion = [&](const GeneratedSequence& s) { completions += told[index(s.request, s.copy)] == s.ids; };
    callbacks.ended = [&](int32_t request, int32_t copy) { return request % 2 == 1 && told[index(request, copy)].size() >= 3; };
    const Results cut = g.generate(requests, callbacks, nullptr);
    CHECK(completions == all.size(), completions);
    for (size_t i = 0; i < all.size(); ++i) {
      const bool shorter = all[i].request % 2 == 1 && all[i].ids.size() > 3;
      const bool right = shorter ? cut[i].stopped && cut[i].ids.size() == 3 && std::equal(cut[i].ids.begin(), cut[i].ids.end(), all[i].ids.begin())
                                 : same(cut[i], all[i]);
      CHECK(right, "sequence ", i);
    }
  }
}

TEST("infer: calls that join at any step have the bits that they have alone") {
  for (const char* dtype : {"F32", "BF16"})
    for (int threads : {1, 3}) {
      const auto model = small_model(small_spec(dtype), threads);
      const std::vector<GenerateRequest> requests = eight_requests();
      std::vector<Results> alone;
      for (const GenerateRequest& r : requests) {
        Generator fresh(*model, 0, false);
        alone.push_back(generate(fresh, {r}));
      }
      for (int apart : {0, 1, 7})
        for (bool keep : {false, true}) {
          Generator g(*model, pages_bytes(*model, 24), keep);
          g.prefill_rows = 100;
          std::vector<Results> found(requests.size());
          size_t ends = 0, most = 0;
          const auto join = [&](size_t i) {
            GenerateCallbacks told;
            told.completion = [&found, i](const GeneratedSequence& s) { found[i].push_back(s); };
            told.end = [&ends](std::exception_ptr e) { ends += e == nullptr; };
            g.join({requests[i]}, std::move(told), nullptr);
          };
          for (size_t i = 0; i < requests.size(); ++i) {
            join(i);
            for (int step = 0; step < apart && !g.idle(); ++step) g.step(nullptr);
            most = std::max(most, static_cast<size_t>(g.load().calls));
          }
          while (!g.idle()) g.step(nullptr);
          CHECK(ends == requests.size() && most > 1, ends, " ends, ", most, " at once");
          for (size_t i = 0; i < requests.size(); ++i) {
            std::sort(found[i].begin(), found[i].end(), [](const auto& a, const auto& b) { return a.copy < b.copy; });
            CHECK(same(found[i], alone[i]), dtype, ", ", threads, " threads, ", apart, " steps apart: request ", i);
          }
        }
    }
}

TEST("infer: the ends of temperature and share") {
  auto model = isr::test::seeded_model({});
  const auto drawn = [&](double temperature, double top_p) {
    Generator generator(*model, 0, false);
    GenerateRequest r;
    r.ids = {5, 6, 7};
    r.copies = 3;
    r.sampling.max_tokens = 6;
    r.sampling.temperature = temperature;
    r.sampling.top_p = top_p;
    std::vector<std::vector<int32_t>> all;
    for (const GeneratedSequence& g : generator.generate({r}, {}, nullptr)) {
      for (float x : g.logp) CHECK(std::isfinite(x) && x <= 0, "T ", temperature, " p ", top_p, ": log-prob ", x);
      all.push_back(g.ids);
    }
    return all;
  };
  const auto greedy = drawn(0, 1);
  for (double t : {4.9e-324, 1e-308, 1e-40, 1e-30, 1e-6}) CHECK(drawn(t, 1) == greedy, "T ", t, " leaves the best alone");
  for (double p : {4.9e-324, 1e-300, 1e-40}) CHECK(drawn(1, p) == greedy, "a share of ", p, " leaves the best alone");
  const auto flat = drawn(1e300, 1);
  CHECK(flat != greedy && drawn(1e30, 1) == flat && drawn(1.7e308, 1) == flat, "very hot: all are equal");
}

TEST("infer: what cannot be asked") {
  const auto model = small_model();
  Generator g(*model, pages_bytes(*model, 4), false);
  const auto code = [&](auto&& change) {
    GenerateRequest r = request_of({5, 6, 7}, 1, 10);
    change(r);
    return test::thrown_code([&] { generate(g, {request_of({3}, 1, 2), r}); });
  };
  using R = GenerateRequest&;
  const std::string invalid = "INVALID_ARGUMENT";
  CHECK(code([](R r) { r.ids.clear(); }) == invalid, "no prompt");
  CHECK(code([](R r) { r.ids[1] = 160; }) == invalid, "id too large");
  CHECK(code([](R r) { r.ids[1] = -1; }) == invalid, "negative id");
  CHECK(code([](R r) { r.copies = 0; }) == invalid, "copies");
  CHECK(code([](R r) { r.sampling.temperature = -1; }) == invalid, "temperature");
  CHECK(code([](R r) { r.sampling.temperature = NAN; }) == invalid, "temperature");
  CHECK(code([](R r) { r.sampling.temperature = INFINITY; }) == invalid, "temperature");
  CHECK(code([](R r) { r.sampling.top_p = 0; }) == invalid, "top_p");
  CHECK(code([](R r) { r.sampling.top_p = 1.5; }) == invalid, "top_p");
  CHECK(code([](R r) { r.sampling.top_p = NAN; }) == invalid, "top_p");
  CHECK(code([](R r) { r.sampling.top_k = -1; }) == invalid, "top_k");
  CHECK(code([](R r) { r.sampling.max_tokens = 0; }) == invalid, "max_tokens");
  CHECK(code([](R r) { r.sampling.min_tokens = -1; }) == invalid, "min_tokens");
  CHECK(code([](R r) { r.sampling.suppress = {160}; }) == invalid, "suppress");
  CHECK(code([](R r) { r.sampling.stop_ids = {-3}; }) == invalid, "stop_ids");
  CHECK(code([](R r) { for (int32_t i = 0; i < 160; ++i) r.sampling.suppress.push_back(i); }) == invalid, "everything suppressed");
  CHECK(code([](R r) { r.ids.assign(641, 5); }) == "CONTEXT_OVERFLOW", "prompt");
  CHECK(code([](R r) { r.sampling.max_tokens = 638; }) == "CONTEXT_OVERFLOW", "prompt + max_tokens");
  CHECK(code([](R r) { r.sampling.max_tokens = INT64_MAX; }) == "CONTEXT_OVERFLOW", "max_tokens");
  CHECK(code([](R r) { r.sampling.max_tokens = 300; }) == "OUT_OF_MEMORY", "five pages of four");
  CHECK(code([](R r) { r.sampling.max_tokens = 254; r.sampling.temperature = 1e-300; r.sampling.top_p = 1e-300; }).empty(), "exactly four pages");
  CHECK(code([](R r) { r.copies = 2; r.sampling.max_tokens = 254; }) == "OUT_OF_MEMORY", "copies hold the prompt's page");
  try {
    GenerateRequest r = request_of({5, 6}, 1, 3);
    r.sampling.top_p = 7;
    generate(g, {request_of({3}, 1, 2), r});
  } catch (const Error& e) {
    CHECK(std::string(e.what()) == "requests[1].topP: expected a number in (0, 1], got 7", e.what());
  }
  CHECK(generate(g, {}).empty(), "no requests");
  CHECK(g.generate({request_of({5}, 1, 640 - 1 - 390)}, {}, nullptr).size() == 1, "usable after errors");
  Generator whole(*model, 0, false);
  GenerateRequest r = request_of(test::random_ids(600, 160, 2), 1, 40);
  r.sampling.suppress = {2};
  CHECK(generate(whole, {r})[0].ids.size() == 40, "up to the last token of the context");
}

}  // namespace isr
