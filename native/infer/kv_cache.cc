#include "infer/kv_cache.h"

#include <algorithm>
#include <limits>

namespace isr {
namespace {

constexpr int kFirstBits = 4;
constexpr int64_t kFirstPages = int64_t{1} << kFirstBits;

int32_t common(const int32_t* a, const int32_t* b, int64_t n) {
  int32_t i = 0;
  while (i < n && a[i] == b[i]) ++i;
  return i;
}

}  // namespace

KvCache::KvCache(int64_t layers, int64_t page_bytes, uint64_t budget, bool keep, Device& device)
    : device_(device), layers_(layers), page_bytes_(page_bytes), keep_(keep) {
  ISR_ASSERT(layers > 0 && page_bytes > 0, "KV cache of ", layers, " layers, ", page_bytes, " bytes per page");
  budget_pages_ = static_cast<int64_t>(std::min<uint64_t>(budget / this->page_bytes(), std::numeric_limits<int32_t>::max()));
  store_.page_bytes = page_bytes;
  store_.first_bits = kFirstBits;
}

// ---- branches

KvCache::Branch KvCache::find(std::span<const int32_t> ids) {
  Branch b;
  const int64_t limit = static_cast<int64_t>(ids.size()) - 1;
  int32_t at = -1;
  while (b.cached < limit) {
    const int64_t left = std::min<int64_t>(limit - b.cached, kKeyBlock);
    int32_t best = -1, most = 0;
    for (int32_t i = children(at); i >= 0 && most < kKeyBlock; i = node(i).next) {
      const int32_t k = common(&ids[static_cast<size_t>(b.cached)], node(i).ids, std::min<int64_t>(left, node(i).tokens));
      if (k > most) most = k, best = i;
    }
    if (best < 0) break;
    // A page that ends where the match ends and that nobody uses is continued in place; any other is copied.
    const bool whole = most == kKeyBlock || (node(best).idle && node(best).tokens == most);
    b.cached += most;
    if (!whole) {
      b.source = best;
      b.source_tokens = most;
      break;
    }
    b.nodes.push_back(best);
    b.length = b.cached;
    if (most < kKeyBlock) break;
    at = best;
  }
  b.matched = static_cast<int32_t>(b.nodes.size());
  for (int32_t i : b.nodes) retain(i);
  if (b.source >= 0) retain(b.source);
  return b;
}

KvCache::Branch KvCache::fork(const Branch& from, int64_t tokens) {
  ISR_ASSERT(tokens <= from.length, "fork at token ", tokens, " of ", from.length);
  Branch b;   // given back by nobody should this throw: nothing is retained before all is allocated
  b.matched = static_cast<int32_t>(tokens / kKeyBlock);
  b.nodes.assign(from.nodes.begin(), from.nodes.begin() + b.matched);
  b.length = b.matched * kKeyBlock;
  b.cached = static_cast<int32_t>(tokens);
  for (int32_t i : b.nodes) retain(i);
  if (tokens % kKeyBlock) {
    b.source = from.nodes[static_cast<size_t>(b.matched)];
    b.source_tokens = static_cast<int32_t>(tokens % kKeyBlock);
    retain(b.source);
  }
  return b;
}

bool KvCache::admit(Branch& b, std::span<const int32_t> ids, int64_t total, int64_t extra) {
  const int64_t need = pages_for(total) + extra - static_cast<int64_t>(b.nodes.size());
  if (need > available()) return false;
  b.reserved = need;
  reserved_ += need;
  for (size_t i = static_cast<size_t>(b.length); i < ids.size(); ++i) append(b, ids[i]);
  return true;
}

bool KvCache::settle(Branch& b) {
  if (b.matched > 0) {
    const int32_t shared = std::min(b.cached - (b.matched - 1) * kKeyBlock, kKeyBlock);
    if (node(b.nodes[static_cast<size_t>(b.matched - 1)]).computed < shared) return false;
  }
  if (b.source < 0) return true;
  if (node(b.source).computed < b.source_tokens) return false;
  const int32_t own = b.nodes[static_cast<size_t>(b.matched)];
  for (int64_t layer = 0; layer < layers_; ++layer)
    device_.copy(store_.page(layer, own), store_.page(layer, b.source), static_cast<size_t>(page_bytes_));
  node(own).computed = b.source_tokens;
  cached_tokens_ += b.source_tokens;
  release(b.source);
  b.source = -1;
  return true;
}

void KvCache::drop_source(Branch& b) {
  if (b.source < 0) return;
  release(b.source);
  b.source = -1;
  b.cached = b.length;
}

KvRow KvCache::append(Branch& b, int32_t id) {
  if (b.length % kKeyBlock == 0) {
    ISR_ASSERT(b.reserved > 0, "a branch of ", b.length, " tokens has used up its reservation");
    if (b.nodes.size() == b.nodes.capacity()) b.nodes.reserve(std::max<size_t>(8, 2 * b.nodes.size()));   // before a page is taken
    const int32_t fresh = new_node(b.nodes.empty() ? -1 : b.nodes.back());
    b.nodes.push_back(fresh);
    --b.reserved;
    --reserved_;
  }
  Node& tail = node(b.nodes.back());
  tail.ids[tail.tokens++] = id;
  return {b.nodes.back(), b.length++ % kKeyBlock};
}

void KvCache::commit(const Branch& b, int64_t begin, int64_t end) {
  for (int64_t i = begin / kKeyBlock; i * kKeyBlock < end; ++i) {
    Node& n = node(b.nodes[static_cast<size_t>(i)]);
    const int32_t computed = static_cast<int32_t>(std::min<int64_t>(end - i * kKeyBlock, kKeyBlock));
    cached_tokens_ += computed - n.computed;
    n.computed = computed;
  }
}

void KvCache::close(Branch& b) {
  if (b.source >= 0) release(b.source);
  fold(b);
  for (size_t i = b.nodes.size(); i-- > 0;) release(b.nodes[i]);   // children before parents
  reserved_ -= b.reserved;
  b = Branch();
}

// Two branches may have computed the same tokens side by side (two draws that agree, the same prompt asked twice). Equal
// ids have equal bits, so one page is enough: the branch moves to the page that was there first.
void KvCache::fold(Branch& b) {
  for (int32_t& mine : b.nodes) {
    const Node& n = node(mine);
    if (n.refs != 1 || n.tokens != n.computed) continue;
    int32_t same = -1;
    for (int32_t i = children(n.parent), next; i >= 0; i = next) {
      const Node& other = node(i);
      next = other.next;
      if (i == mine || common(n.ids, other.ids, std::min(n.computed, other.computed)) < std::min(n.computed, other.computed)) continue;
      if (other.computed >= n.computed) {
        same = i;
        break;
      }
      if (other.idle) free_node(i);            // a shorter one: mine holds all that it holds
    }
    if (same < 0) continue;
    retain(same);
    for (int32_t child = n.first_child; child >= 0; child = n.first_child) {
      unlink(child);
      link(child, same);
    }
    free_node(mine);
    mine = same;
  }
}

// ---- nodes

int32_t KvCache::new_node(int32_t parent) {
  if (free_.empty() && capacity_ < budget_pages_ && (keep_ || idle_ == 0))
    grow(std::min(budget_pages_, std::max(kFirstPages, 2 * capacity_)));
  if (free_.empty()) {
    ISR_ASSERT(idle_first_ >= 0, "no page is free although room was reserved");
    free_node(idle_first_);
  }
  const int32_t i = free_.back();
  free_.pop_back();
  Node& n = node(i);
  n.refs = 1;
  n.tokens = n.computed = 0;
  n.first_child = -1;
  n.used = true;
  link(i, parent);
  return i;
}

void KvCache::free_node(int32_t i) {
  Node& n = node(i);
  ISR_ASSERT(n.first_child < 0, "page ", i, " still has children");
  if (n.idle) remove_idle(i);
  unlink(i);
  cached_tokens_ -= n.computed;
  n.used = false;
  free_.push_back(i);
}

void KvCache::link(int32_t i, int32_t parent) {
  int32_t& first = children(parent);
  Node& n = node(i);
  n.parent = parent;
  n.previous = -1;
  n.next = first;
  if (first >= 0) node(first).previous = i;
  first = i;
}

void KvCache::unlink(int32_t i) {
  Node& n = node(i);
  if (n.previous >= 0) node(n.previous).next = n.next;
  else children(n.parent) = n.next;
  if (n.next >= 0) node(n.next).previous = n.previous;
}

void KvCache::retain(int32_t i) {
  if (node(i).idle) remove_idle(i);
  ++node(i).refs;
}

void KvCache::release(int32_t i) {
  Node& n = node(i);
  if (--n.refs > 0) return;
  n.tokens = n.computed;                       // a cancelled call leaves ids without keys
  if (n.tokens == 0) return free_node(i);
  push_idle(i);
}

void KvCache::push_idle(int32_t i) {
  Node& n = node(i);
  n.idle = true;
  n.idle_previous = idle_last_;
  n.idle_next = -1;
  (idle_last_ >= 0 ? node(idle_last_).idle_next : idle_first_) = i;
  idle_last_ = i;
  ++idle_;
}

void KvCache::remove_idle(int32_t i) {
  Node& n = node(i);
  (n.idle_previous >= 0 ? node(n.idle_previous).idle_next : idle_first_) = n.idle_next;
  (n.idle_next >= 0 ? node(n.idle_next).idle_previous : idle_last_) = n.idle_previous;
  n.idle = false;
  --idle_;
}

// ---- the pool

void KvCache::expect(int64_t pages) {
  const int64_t wanted = std::min(budget_pages_, used_pages() - idle_ + pages);
  if (wanted > capacity_) grow(wanted);
}

// As many pages as all blocks before it, so that pages never move and no memory is taken twice. On the host memory is touched
// first when a page is written, so a large block costs nothing by itself.
void KvCache::add_block() {
  const int64_t count = std::min(budget_pages_ - store_.page_count, std::max(kFirstPages, store_.page_count));
  pool_.emplace_back(device_, static_cast<size_t>(count) * page_bytes());
  store_.blocks[pool_.size() - 1] = pool_.back().data<char>();
  store_.page_count += count;
}

// What can fail comes first; and as `free_` has room for every page, giving pages back allocates nothing.
void KvCache::grow(int64_t capacity) {
  std::vector<int32_t> free;
  free.reserve(static_cast<size_t>(capacity));
  nodes_.reserve(static_cast<size_t>(capacity));
  while (store_.page_count < capacity) add_block();
  nodes_.resize(static_cast<size_t>(capacity));
  for (int64_t i = capacity; i-- > capacity_;) free.push_back(static_cast<int32_t>(i));
  free.insert(free.end(), free_.begin(), free_.end());
  free_ = std::move(free);
  capacity_ = capacity;
}

void KvCache::drop_idle() {
  while (idle_first_ >= 0) free_node(idle_first_);
}

void KvCache::release_pool() {
  drop_idle();
  ISR_ASSERT(used_pages() == 0 && reserved_ == 0, used_pages(), " pages are still in use");
  pool_.clear();
  store_.page_count = 0;
  nodes_ = {};
  free_ = std::vector<int32_t>();
  capacity_ = 0;
}

void KvCache::check() const {
  int64_t used = 0, idle = 0, tokens = 0;
  std::vector<int32_t> order(nodes_.size(), -1);
  for (int32_t i = idle_first_, at = 0; i >= 0; i = node(i).idle_next) order[static_cast<size_t>(i)] = at++;
  for (size_t i = 0; i < nodes_.size(); ++i) {
    const Node& n = nodes_[i];
    if (!n.used) continue;
    ++used;
    idle += n.idle;
    tokens += n.computed;
    ISR_ASSERT(n.idle == (n.refs == 0) && n.idle == (order[i] >= 0), "page ", i, ": refs ", n.refs);
    ISR_ASSERT(n.computed <= n.tokens && n.tokens <= kKeyBlock, "page ", i, ": ", n.computed, " of ", n.tokens, " tokens");
    if (n.parent < 0) continue;
    const Node& parent = node(n.parent);
    ISR_ASSERT(parent.used && parent.tokens == kKeyBlock, "page ", i, " hangs below a page that is not full");
    ISR_ASSERT(n.computed == 0 || parent.computed == kKeyBlock, "page ", i, " was computed before its parent");
    ISR_ASSERT(n.idle || !parent.idle, "page ", i, " is in use below an idle page");
    ISR_ASSERT(!parent.idle || order[i] < order[static_cast<size_t>(n.parent)], "page ", i, " would be evicted after its parent");
  }
  ISR_ASSERT(used == used_pages() && idle == idle_ && tokens == cached_tokens_, "counts of pages or tokens");
  ISR_ASSERT(used + reserved_ - idle <= budget_pages_, "more than the budget is promised");
}

}  // namespace isr
