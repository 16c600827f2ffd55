// Sampling against brute force: sort all candidates by (probability desc, id asc), cut, and walk.
#include <algorithm>
#include <memory>
#include <numeric>

#include "check.h"
#include "kernels/backend.h"

using namespace isr;
using namespace isr::test;

namespace {

struct Drawn { int32_t id; float logp; };

Drawn draw(Backend& backend, std::vector<float> logits, const SampleOptions& o, const std::vector<int32_t>& suppress = {}) {
  Drawn d{};
  const std::span<const int32_t> list = suppress;
  const int64_t V = static_cast<int64_t>(logits.size());
  backend.sample(&d.id, &d.logp, view(logits.data(), 1, V), {&o, 1}, {&list, 1});
  return d;
}

struct Expected {
  std::vector<int32_t> kept;  // in order
  std::vector<double> mass;   // running, of kept
  double cut_margin = 1;      // distance of top_p's target from the nearest running mass: below rounding, either cut is right
};

bool contains(const std::vector<int32_t>& ids, int32_t id) { return std::find(ids.begin(), ids.end(), id) != ids.end(); }

Expected brute_force(const std::vector<float>& logits, const SampleOptions& o, const std::vector<int32_t>& suppress) {
  std::vector<double> p(logits.size());
  double top = -INFINITY;
  const auto banned = [&](size_t i) { return contains(suppress, static_cast<int32_t>(i)); };
  for (size_t i = 0; i < p.size(); ++i)
    if (!banned(i)) top = std::max(top, static_cast<double>(logits[i]));
  Expected e;
  for (size_t i = 0; i < p.size(); ++i) {
    if (banned(i)) continue;
    p[i] = std::exp((static_cast<double>(logits[i]) - top) / static_cast<double>(o.temperature));
    e.kept.push_back(static_cast<int32_t>(i));
  }
  const auto at = [&](int32_t id) { return p[static_cast<size_t>(id)]; };
  std::stable_sort(e.kept.begin(), e.kept.end(), [&](int32_t a, int32_t b) { return at(a) > at(b); });
  if (o.top_k > 0 && static_cast<size_t>(o.top_k) < e.kept.size()) e.kept.resize(static_cast<size_t>(o.top_k));
  double total = 0, mass = 0;
  for (const int32_t id : e.kept) total += at(id);
  const double target = static_cast<double>(o.top_p) * total;
  size_t count = 0;
  while (count < e.kept.size() && (count == 0 || mass < target)) {
    mass += at(e.kept[count++]);
    e.mass.push_back(mass);
    if (o.top_p < 1) e.cut_margin = std::min(e.cut_margin, std::abs(mass - target) / total);
  }
  e.kept.resize(count);
  return e;
}

double exact_logp(const std::vector<float>& logits, int32_t id) {
  double sum = 0;
  for (const float l : logits) sum += std::exp(static_cast<double>(l));
  return static_cast<double>(logits[static_cast<size_t>(id)]) - std::log(sum);
}

}  // namespace

TEST("sample: greedy takes the lowest id on ties, and never a suppressed one") {
  for (const Isa isa : levels()) {
    const auto backend = make_cpu_backend(isa, 1);
    for (const int64_t V : {1, 2, 15, 16, 17, 33, 1000}) {
      std::vector<float> logits = random_values(V, 1);
      logits[static_cast<size_t>(V / 2)] = logits[static_cast<size_t>(V - 1)] = 5;
      const auto first = static_cast<int32_t>(V / 2), last = static_cast<int32_t>(V - 1);
      CHECK(draw(*backend, logits, {}).id == first, name_of(isa), " V ", V);
      if (V > 2) CHECK(draw(*backend, logits, {}, {first}).id == last, name_of(isa), " V ", V);
      CHECK(std::abs(draw(*backend, logits, {}).logp - exact_logp(logits, first)) < 1e-5, name_of(isa), " V ", V);
      for (float& l : logits) l -= 100;  // below the zeros that a tail could bring in
      CHECK(draw(*backend, logits, {}).id == first, name_of(isa), " V ", V);
    }
  }
}

TEST("sample: a sweep of uniform gives each id its probability, in order") {
  const std::vector<float> logits = {0.5f, -1, 2, 0.5f, -3, 1, 0.25f};
  constexpr int N = 4000;
  for (const Isa isa : levels())
    for (const float temperature : {0.5f, 1.0f, 2.0f}) {
      const auto backend = make_cpu_backend(isa, 1);
      SampleOptions o{.temperature = temperature};
      const Expected want = brute_force(logits, o, {});
      std::vector<int> hits(logits.size());
      size_t rank = 0;
      for (int i = 0; i < N; ++i) {
        o.uniform = (i + 0.5) / N;
        const int32_t id = draw(*backend, logits, o).id;
        ++hits[static_cast<size_t>(id)];
        while (rank + 1 < want.kept.size() && want.kept[rank] != id) ++rank;
        CHECK(want.kept[rank] == id, name_of(isa), " id ", id, " out of order at ", o.uniform);
      }
      for (size_t k = 0; k < want.kept.size(); ++k) {
        const double p = (want.mass[k] - (k ? want.mass[k - 1] : 0)) / want.mass.back();
        const int got = hits[static_cast<size_t>(want.kept[k])];
        CHECK(std::abs(got - N * p) <= 1.01, name_of(isa), " id ", want.kept[k], ": ", got, " of ", N * p);
      }
    }
}

TEST("sample: top-k and top-p against brute force, with ties and suppressed ids") {
  const Philox random(11);
  for (const Isa isa : levels()) {
    const auto backend = make_cpu_backend(isa, 1);
    int decided = 0;
    for (uint64_t n = 0; n < 3000; ++n) {
      const auto r = random(0, n), s = random(1, n);
      const int64_t V = std::vector<int64_t>{1, 5, 37, 64, 300}[r[0] % 5];
      std::vector<float> logits = random_values(V, n, 4);
      if (r[1] % 3) for (float& l : logits) l = std::round(4 * l) / 4;  // many equal ones
      if (r[1] % 5 == 0) logits[r[2] % static_cast<uint32_t>(V)] = -INFINITY;
      std::vector<int32_t> suppress;
      const auto below_V = [&](uint32_t x) { return static_cast<int32_t>(x % static_cast<uint32_t>(V)); };
      for (uint32_t i = 0; V > 1 && i < s[1] % 4; ++i) suppress.push_back(below_V(random(2 + i, n)[0]));
      const SampleOptions o{.temperature = 0.3f + unit_float(r[2]) * 2, .top_p = s[2] % 3 ? unit_float(s[2]) : 1,
                            .top_k = s[3] % 2 ? 1 + below_V(s[3]) : 0, .uniform = unit_double(r[3], s[0])};
      bool any = false;
      for (int32_t i = 0; i < V; ++i) any |= !contains(suppress, i) && logits[static_cast<size_t>(i)] > -INFINITY;
      if (!any) continue;
      const Drawn got = draw(*backend, logits, o, suppress);
      const Expected want = brute_force(logits, o, suppress);
      const std::string name = concat(name_of(isa), " case ", n, " V ", V, " k ", o.top_k, " p ", o.top_p, " T ",
                                      o.temperature, " u ", o.uniform);
      CHECK(std::abs(got.logp - exact_logp(logits, got.id)) < 1e-5, name, ": logp ", got.logp);
      double margin = want.cut_margin;
      const double target = o.uniform * want.mass.back();
      size_t k = 0;
      while (k + 1 < want.kept.size() && want.mass[k] <= target) ++k;
      for (const double m : want.mass) margin = std::min(margin, std::abs(m - target) / want.mass.back());
      if (margin < 2e-6) continue;  // rounding of the weights decides
      ++decided;
      CHECK(got.id == want.kept[k], name, ": ", got.id, ", not ", want.kept[k]);
    }
    CHECK(decided > 2500, name_of(isa), ": only ", decided, " cases were decided");
  }
}

TEST("sample: large vocabularies, flat and peaked") {
  constexpr int64_t V = 40001;
  for (const Isa isa : levels()) {
    const auto backend = make_cpu_backend(isa, 1);
    const std::vector<float> flat(V, 1.5f);
    for (const double u : {0.0, 0.25, 0.999999})  // all equal: the order is by id
      CHECK(draw(*backend, flat, {.temperature = 1, .uniform = u}).id == static_cast<int32_t>(u * V), name_of(isa), " u ", u);
    CHECK(draw(*backend, flat, {.temperature = 1, .top_p = 0.5f, .uniform = 0.9999999}).id == V / 2, name_of(isa));
    CHECK(draw(*backend, flat, {.temperature = 1, .top_k = 7, .uniform = 0.9999999}).id == 6, name_of(isa));
    std::vector<float> peaked = random_values(V, 3, 200);
    peaked[12345] = 500;
    for (const double u : {0.0, 0.5, 1 - 0x1p-53})
      CHECK(draw(*backend, peaked, {.temperature = 1, .uniform = u}).id == 12345, name_of(isa), " u ", u);
    peaked.assign(V, -INFINITY);
    peaked[77] = -1e30f, peaked[V - 1] = -1e30f;
    CHECK(draw(*backend, peaked, {.temperature = 1, .uniform = 0.75}).id == V - 1, name_of(isa), ": nothing of probability 0");
  }
}

TEST("sample: bad rows") {
  for (const Isa isa : levels()) {
    const auto backend = make_cpu_backend(isa, 1);
    for (const float bad : {NAN, INFINITY})
      for (const size_t at : {size_t{0}, size_t{16}, size_t{18}})
        for (const float temperature : {0.0f, 1.0f}) {
          std::vector<float> logits(19, 1.0f);
          logits[at] = bad;
          const std::string code = thrown_code([&] { draw(*backend, logits, {.temperature = temperature}); });
          CHECK(code == "NUMERIC", name_of(isa), " ", bad, " at ", at);
        }
    CHECK(thrown_code([&] { draw(*backend, std::vector<float>(19, -INFINITY), {}); }) == "NUMERIC", name_of(isa));
    for (const float temperature : {0.0f, 1.0f}) {
      const std::string code = thrown_code([&] { draw(*backend, {1, 2, 3}, {.temperature = temperature}, {2, 0, 1}); });
      CHECK(code == "INVALID_ARGUMENT", name_of(isa));
    }
  }
}

TEST("sample: rows of a batch are drawn alone, for any number of threads") {
  constexpr int64_t M = 9, V = 10000;
  const std::vector<float> logits = random_values(M * V, 4, 3);
  std::vector<SampleOptions> options(M);
  std::vector<std::vector<int32_t>> lists(M);
  for (size_t i = 0; i < M; ++i) {
    options[i] = {.temperature = i == 3 ? 0 : 0.5f + static_cast<float>(i) / 8, .top_p = i % 2 ? 0.9f : 1,
                  .top_k = i % 3 ? 0 : 50, .uniform = static_cast<double>(i) / M};
    lists[i].assign(i, static_cast<int32_t>(i * 3));
  }
  for (const Isa isa : levels())
    for (const int threads : {1, 2, 3}) {
      const auto backend = make_cpu_backend(isa, threads);
      std::vector<float> batch = logits;
      std::vector<std::span<const int32_t>> suppress(lists.begin(), lists.end());
      std::vector<int32_t> ids(M);
      std::vector<float> logp(M);
      backend->sample(ids.data(), logp.data(), view(batch.data(), M, V), options, suppress);
      for (size_t i = 0; i < M; ++i) {
        const auto row = logits.begin() + static_cast<std::ptrdiff_t>(i * V);
        const Drawn one = draw(*backend, {row, row + V}, options[i], lists[i]);
        CHECK(one.id == ids[i] && one.logp == logp[i], name_of(isa), " threads ", threads, " row ", i);
      }
    }
}

TEST("sample: every finite temperature above 0, and every share in (0, 1]") {
  const std::vector<float> logits = {1, 3, -INFINITY, 3, 2.5f, 0};   // two equals at the top, one of probability 0
  const std::vector<int32_t> others = {0, 1, 3, 4, 5};
  for (const Isa isa : levels()) {
    const auto backend = make_cpu_backend(isa, 1);
    for (const float temperature : {1e-45f, 1e-40f, 1.1754944e-38f, 1e-30f, 1e-3f, 1.0f, 1e3f, 1e30f, 3.4e38f})
      for (const float top_p : {1e-45f, 1e-38f, 0.5f, 1.0f})
        for (const double u : {0.0, 0.3, 0.49, 0.51, 0.75, 1 - 0x1p-53}) {
          const Drawn got = draw(*backend, logits, {.temperature = temperature, .top_p = top_p, .uniform = u});
          const std::string name = concat(name_of(isa), " T ", temperature, " p ", top_p, " u ", u, ": ", got.id);
          CHECK(got.id != 2 && got.id >= 0 && got.id < 6 && std::abs(got.logp - exact_logp(logits, got.id)) < 1e-5, name);
          if (temperature <= 1e-3f) CHECK(got.id == (top_p < 0.4f || u < 0.5 ? 1 : top_p < 0.6f ? 1 : 3), name, ", of two equals at the top");
          if (temperature >= 1e30f && top_p == 1) CHECK(got.id == others[static_cast<size_t>(u * 5)], name, ", of five equals");
        }
  }
}
