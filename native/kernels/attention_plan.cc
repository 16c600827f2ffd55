// Builds the plan of batched attention from spans. Everything here is integer bookkeeping, linear in what it writes.
// The rule that the rest follows: entry j of a span's block list holds the keys with logical index [64 j, 64 j + 64) of
// that span's root-to-span chain. Blocks that the parent already fills are shared with it; a block that the parent ends
// inside is listed anew, gathered from the parent's segments and the span's own rows.
#include "kernels/attention_plan.h"

#include <algorithm>

#include "core/error.h"

namespace isr {
namespace {

void check_spans(std::span<const Span> spans) {
  int32_t next = 0;
  for (size_t i = 0; i < spans.size(); ++i) {
    const Span& s = spans[i];
    if (s.begin != next || s.end <= s.begin)
      fail("INVALID_ARGUMENT", "[attention] span ", i, " is [", s.begin, ", ", s.end, "): expected a non-empty span that begins at row ",
           next, " (spans are disjoint, ordered and cover all rows)");
    if (s.parent < -1 || s.parent >= static_cast<int64_t>(i))
      fail("INVALID_ARGUMENT", "[attention] span ", i, " has parent ", s.parent, ": expected -1 or an earlier span");
    next = s.end;
  }
}

// Spans ordered by tree, and inside a tree by index (a parent stands before its children). Sets plan.trees.
std::vector<int32_t> tree_order(AttentionPlan& plan, std::vector<int32_t>& tree_of) {
  const size_t n = plan.spans.size();
  tree_of.resize(n);
  for (size_t i = 0; i < n; ++i) {
    const int32_t parent = plan.spans[i].parent;
    tree_of[i] = parent < 0 ? plan.trees++ : tree_of[static_cast<size_t>(parent)];
  }
  std::vector<int32_t> first(static_cast<size_t>(plan.trees) + 1, 0), order(n);
  for (int32_t t : tree_of) ++first[static_cast<size_t>(t) + 1];
  for (size_t t = 1; t < first.size(); ++t) first[t] += first[t - 1];
  for (size_t i = 0; i < n; ++i) order[static_cast<size_t>(first[static_cast<size_t>(tree_of[i])]++)] = static_cast<int32_t>(i);
  return order;
}

// One span's own key blocks, appended to plan.blocks; `list` starts as the blocks it shares with its parent.
void add_blocks(AttentionPlan& plan, std::vector<int32_t>& list, int32_t cut_block, int32_t span, int32_t tree, int32_t tree_row) {
  const Span& s = plan.spans[static_cast<size_t>(span)];
  const int32_t begin = plan.span_logical[static_cast<size_t>(span)], end = begin + s.end - s.begin;
  for (int32_t at = begin; at < end;) {
    const int32_t logical = at / kKeyBlock * kKeyBlock, stop = std::min(end, logical + kKeyBlock);
    KeyBlock block{static_cast<int32_t>(plan.segments.size()), 0, stop - logical, logical, tree, 0, 0, -1};
    if (at > logical) {  // the parent ends inside this block
      const KeyBlock& cut = plan.blocks[static_cast<size_t>(cut_block)];
      for (int32_t i = 0; i < cut.segments; ++i) {
        const KeySegment copy = plan.segments[static_cast<size_t>(cut.first_segment + i)];
        plan.segments.push_back(copy);
      }
    }
    plan.segments.push_back({s.begin + at - begin, stop - at, at - logical, tree_row + at - begin});
    block.segments = static_cast<int32_t>(plan.segments.size()) - block.first_segment;
    list.push_back(static_cast<int32_t>(plan.blocks.size()));
    plan.blocks.push_back(block);
    at = stop;
  }
}

// Tiles end where key blocks end, so a tile has one diagonal block: its last.
void add_tiles(AttentionPlan& plan, int32_t span, int32_t list_size, int32_t tree, int32_t tree_row) {
  const Span& s = plan.spans[static_cast<size_t>(span)];
  const int32_t begin = plan.span_logical[static_cast<size_t>(span)], end = begin + s.end - s.begin;
  for (int32_t at = begin; at < end;) {
    const int32_t stop = std::min(end, (at / kKeyBlock + 1) * kKeyBlock);
    const int32_t blocks = plan.causal ? at / kKeyBlock + 1 : list_size;
    plan.tiles.push_back({s.begin + at - begin, stop - at, at, span, tree, blocks, tree_row + at - begin});
    at = stop;
  }
}

const int32_t* blocks_of(const AttentionPlan& plan, const QueryTile& tile) {
  return plan.block_list.data() + plan.first_block[static_cast<size_t>(tile.span)];
}

void add_readers(AttentionPlan& plan) {
  for (const QueryTile& tile : plan.tiles)
    for (int32_t j = 0; j < tile.blocks; ++j) ++plan.blocks[static_cast<size_t>(blocks_of(plan, tile)[j])].readers;
  int32_t total = 0;
  for (KeyBlock& block : plan.blocks) {
    block.first_reader = total;
    total += block.readers;
    if (block.readers > 1) block.page = plan.shared_pages++;
    block.readers = 0;
  }
  plan.readers.resize(static_cast<size_t>(total));
  for (size_t i = 0; i < plan.tiles.size(); ++i)
    for (int32_t j = 0; j < plan.tiles[i].blocks; ++j) {
      KeyBlock& block = plan.blocks[static_cast<size_t>(blocks_of(plan, plan.tiles[i])[j])];
      plan.readers[static_cast<size_t>(block.first_reader + block.readers++)] = static_cast<int32_t>(i);
    }
}

}  // namespace

AttentionPlan plan_attention(std::span<const Span> spans, bool causal) {
  check_spans(spans);
  AttentionPlan plan;
  plan.causal = causal;
  plan.rows = spans.empty() ? 0 : spans.back().end;
  plan.spans.assign(spans.begin(), spans.end());
  plan.span_logical.assign(spans.size(), 0);
  std::vector<int32_t> tree_of;
  const std::vector<int32_t> order = tree_order(plan, tree_of);
  plan.tree_rows.assign(static_cast<size_t>(plan.trees), 0);
  std::vector<std::vector<int32_t>> lists(spans.size());
  for (int32_t i : order) {
    const size_t at = static_cast<size_t>(i);
    const Span& s = spans[at];
    const int32_t tree = tree_of[at];
    int32_t& rows = plan.tree_rows[static_cast<size_t>(tree)];
    if (rows == 0) {
      plan.tree_first_tile.push_back(static_cast<int32_t>(plan.tiles.size()));
      plan.tree_first_block.push_back(static_cast<int32_t>(plan.blocks.size()));
    }
    int32_t cut_block = -1;
    if (s.parent >= 0) {
      const size_t parent = static_cast<size_t>(s.parent);
      const int32_t logical = plan.span_logical[parent] + spans[parent].end - spans[parent].begin;
      plan.span_logical[at] = logical;
      lists[at].assign(lists[parent].begin(), lists[parent].begin() + logical / kKeyBlock);
      if (logical % kKeyBlock) cut_block = lists[parent].back();
    }
    add_blocks(plan, lists[at], cut_block, i, tree, rows);
    add_tiles(plan, i, static_cast<int32_t>(lists[at].size()), tree, rows);
    rows += s.end - s.begin;
  }
  plan.tree_first_tile.push_back(static_cast<int32_t>(plan.tiles.size()));
  plan.tree_first_block.push_back(static_cast<int32_t>(plan.blocks.size()));
  plan.first_block.push_back(0);
  for (const std::vector<int32_t>& list : lists) {
    plan.block_list.insert(plan.block_list.end(), list.begin(), list.end());
    plan.first_block.push_back(static_cast<int32_t>(plan.block_list.size()));
  }
  add_readers(plan);
  return plan;
}

}  // namespace isr
