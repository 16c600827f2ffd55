// The KV cache: a tree of pages over one pool. A page holds the keys and values of one logical key block (64 consecutive
// tokens of one branch) for all layers; a node is a page with its ids, so the tree is a trie of ids by blocks of 64.
// Full pages are shared by every branch that runs through them. A branch that diverges inside a page gets its own copy of
// that page, so sharing is exact to the token and nothing is computed twice. Pages that no branch uses stay as a cache,
// least recently used first in line for eviction. It knows nothing of models: only ids, bytes and counts.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "core/memory.h"
#include "kernels/attention_plan.h"

namespace isr {

class KvCache {
 public:
  // One sequence's way through the tree. Made by find() or fork(), filled by admit() and append(), ended by close().
  struct Branch {
    std::vector<int32_t> nodes;                // root first; all full but the last
    int32_t length = 0;                        // tokens that have a place in `nodes`
    int32_t cached = 0;                        // leading tokens that were found: nobody has to compute them again
    int32_t matched = 0;                       // leading nodes that were found
    int32_t source = -1, source_tokens = 0;    // page whose first tokens are copied into nodes[matched]; -1: none
    int64_t reserved = 0;                      // pages promised to this branch and not yet taken
  };

  // page_bytes: one layer of one page; pages are memory of `device`. budget: bytes of all pages of all layers. keep: the tree
  // outlives a call, so the pool grows up to the budget before it evicts; else it evicts first, and what a call touches
  // follows what is in flight.
  KvCache(int64_t layers, int64_t page_bytes, uint64_t budget, bool keep, Device& device = host_device());

  // The longest prefix of ids[0, n - 1) in the tree, computed or about to be. The last token is never taken from the tree:
  // its hidden row is needed.
  Branch find(std::span<const int32_t> ids);
  // A branch that shares the first `tokens` tokens of another.
  Branch fork(const Branch& from, int64_t tokens);
  // Reserves room for `total` tokens and `extra` pages beside, and places the tokens of ids that are not yet placed.
  // False: there is no room now (nothing has changed).
  bool admit(Branch& b, std::span<const int32_t> ids, int64_t total, int64_t extra);
  // True when what the branch shares is computed and copied: its own rows may be computed from now on.
  bool settle(Branch& b);
  // Does without the copied page; its tokens are computed again.
  void drop_source(Branch& b);
  // Places one more token, within the reservation.
  KvRow append(Branch& b, int32_t id);
  // Tokens [begin, end) of the branch are computed.
  void commit(const Branch& b, int64_t begin, int64_t end);
  // Gives everything back. What was computed stays in the tree until its page is wanted. Idempotent.
  void close(Branch& b);

  KvRow row(const Branch& b, int64_t token) const {
    return {b.nodes[static_cast<size_t>(token / kKeyBlock)], static_cast<int32_t>(token % kKeyBlock)};
  }
  static int64_t pages_for(int64_t tokens) { return (tokens + kKeyBlock - 1) / kKeyBlock; }

  void expect(int64_t pages);                  // a hint: so many more pages will be wanted soon
  void drop_idle();                            // drops every page that no branch uses
  void release_pool();                         // and gives the memory back; no branch may be open

  const KvStore& store() const { return store_; }
  int64_t budget_pages() const { return budget_pages_; }
  uint64_t page_bytes() const { return static_cast<uint64_t>(layers_ * page_bytes_); }   // of all layers
  uint64_t bytes() const { return static_cast<uint64_t>(store_.page_count) * page_bytes(); }   // of the pool
  int64_t cached_tokens() const { return cached_tokens_; }
  int64_t used_pages() const { return capacity_ - static_cast<int64_t>(free_.size()); }
  int64_t idle_pages() const { return idle_; }
  int64_t reserved_pages() const { return reserved_; }
  int64_t available() const { return budget_pages_ - used_pages() + idle_ - reserved_; }
  void check() const;                          // asserts every invariant of the tree (tests)

 private:
  struct Node {
    int32_t parent = -1, first_child = -1, previous = -1, next = -1;   // previous, next: among the children of one parent
    int32_t idle_previous = -1, idle_next = -1;
    int32_t refs = 0;                          // branches that run through it, or copy from it
    int32_t tokens = 0, computed = 0;          // ids known; keys and values in place
    bool used = false, idle = false;
    int32_t ids[kKeyBlock];
  };

  Node& node(int32_t i) { return nodes_[static_cast<size_t>(i)]; }
  const Node& node(int32_t i) const { return nodes_[static_cast<size_t>(i)]; }
  int32_t& children(int32_t parent) { return parent < 0 ? roots_ : node(parent).first_child; }
  int32_t new_node(int32_t parent);
  void free_node(int32_t i);
  void link(int32_t i, int32_t parent);
  void unlink(int32_t i);
  void retain(int32_t i);
  void release(int32_t i);
  void push_idle(int32_t i);
  void remove_idle(int32_t i);
  void fold(Branch& b);
  void grow(int64_t capacity);
  void add_block();

  Device& device_;
  int64_t layers_, page_bytes_, budget_pages_;
  bool keep_;
  int64_t capacity_ = 0, idle_ = 0, reserved_ = 0, cached_tokens_ = 0;
  std::vector<Buffer> pool_;                   // the store's blocks
  KvStore store_;                              // page_count >= capacity: blocks double the pool
  std::vector<Node> nodes_;                    // node i owns page i
  std::vector<int32_t> free_;                  // low pages last: they are taken first
  int32_t roots_ = -1;
  int32_t idle_first_ = -1, idle_last_ = -1;   // oldest first; a node always stands behind its children
};

}  // namespace isr
