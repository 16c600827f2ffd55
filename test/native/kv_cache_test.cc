// The KV tree without a model: pages hold the ids that belong into them.
#include <algorithm>
#include <cstring>

#include "page_model.h"

namespace isr {
using namespace page_model;
namespace {

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
  cache.drop_idle();
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

}  // namespace isr
