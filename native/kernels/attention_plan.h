// Structure of attention, built once per batch on the host (models/batch.cc, infer/), read by every layer.
// Causal, bidirectional, packed, shared-prefix and cached attention are one operation: a query row walks its own list of
// key blocks in logical order. A key block holds the keys with logical index [64 j, 64 j + 64) of one sequence (index
// counted from the sequence's root), so the arithmetic of a row is a function of its own tokens alone, wherever spans
// begin and end and whether keys come from the batch or from cache pages.
#pragma once
#include <bit>
#include <cstdint>
#include <span>
#include <vector>

namespace isr {

constexpr int kKeyBlock = 64;

struct AttentionShape {
  int64_t heads = 0, kv_heads = 0, head_size = 0;  // H, K, D; H a multiple of K; D in [1, 256]
  float scale = 0;                                  // usually 1/sqrt(D)
};

// ---- batch mode: keys are rows of this batch
struct Span {                    // rows [begin, end); spans are disjoint, ordered and cover all T rows
  int32_t begin = 0, end = 0;
  int32_t parent = -1;           // earlier span; a row sees all rows of every ancestor, then its own span
};

struct KeySegment {               // `count` batch rows from `row` sit at [offset, offset+count) of the block
  int32_t row, count, offset;
  int32_t tree_row;               // place of `row` among the rows of its tree
};

struct KeyBlock {
  int32_t first_segment, segments;  // into AttentionPlan::segments
  int32_t count;                    // keys present, 1..64; the block is full unless it ends its span's sequence
  int32_t logical;                  // logical index of the block's first key: a multiple of 64
  int32_t tree;                     // root tree it belongs to
  int32_t first_reader, readers;    // tiles that read it, ascending (backward)
  int32_t page;                     // index among blocks that several tiles read; -1: one tile reads it, as its last block
};

struct QueryTile {                  // rows of one span whose logical indices lie in one [64 j, 64 j + 64)
  int32_t row, rows;                // batch rows [row, row + rows)
  int32_t logical;                  // logical index of its first row
  int32_t span;
  int32_t tree;
  int32_t blocks;                   // leading entries of the span's block list that it reads (causal: up to the diagonal)
  int32_t tree_row;                 // place of `row` among the rows of its tree
};

struct AttentionPlan {
  bool causal = true;               // of the own span only; false: the whole own span
  int32_t rows = 0;                 // T
  std::vector<Span> spans;
  std::vector<int32_t> span_logical;              // logical index of each span's first row
  std::vector<KeySegment> segments;
  std::vector<KeyBlock> blocks;                   // grouped by tree, ascending
  std::vector<int32_t> first_block, block_list;   // CSR: blocks of span s, root first; entry j starts at logical 64 j
  std::vector<QueryTile> tiles;                   // grouped by tree, ascending row
  std::vector<int32_t> readers;                   // tile indices, by block
  std::vector<int32_t> tree_first_tile, tree_first_block;  // size trees + 1
  std::vector<int32_t> tree_rows;                 // rows of each tree (they need not be contiguous in the batch)
  int32_t trees = 0, shared_pages = 0;            // shared_pages: blocks with page >= 0
};

// Throws INVALID_ARGUMENT for spans that are empty, not disjoint, ordered and covering, or whose parent is not earlier.
AttentionPlan plan_attention(std::span<const Span> spans, bool causal);

// ---- cached mode: keys are pages of a pool. A page is one key block of one branch: 64 logical tokens.
// A page taken from the pool may hold anything: appending slot 0 opens it, and the backend then clears whatever its
// attention could read beyond the tokens present. A branch that starts inside a page copies its parent's whole page and
// appends at the next slot; what the copy holds from there on is overwritten or masked, never seen. Rows of one page are
// listed in ascending slot order.
//
// A pool is one block of memory, or blocks that double it: pages [0, 2^first_bits) stand in the first, and each further one
// holds as many pages as all before it; the last may be cut short. So a pool grows without moving a page. A block is
// (layers, its pages) of page_bytes, whose layout is the backend's.
struct KvStore {
  static constexpr int kBlocks = 32;
  char* blocks[kBlocks] = {};
  int64_t page_bytes = 0, page_count = 0;   // of a page of one layer; pages of all blocks
  int first_bits = 62;

  KvStore() = default;
  KvStore(char* pages, int64_t page_bytes, int64_t page_count) : blocks{pages}, page_bytes(page_bytes), page_count(page_count) {}
  char* page(int64_t layer, int64_t index) const {
    const int block = std::bit_width(static_cast<uint64_t>(index >> first_bits));
    const int64_t begin = block == 0 ? 0 : int64_t{1} << (first_bits + block - 1), size = block == 0 ? int64_t{1} << first_bits : begin;
    return blocks[block] + (layer * (size < page_count - begin ? size : page_count - begin) + index - begin) * page_bytes;
  }
};

struct KvRow { int32_t page, slot; };   // where a batch row's key and value go: slot = logical index % 64

struct CachedSequence {             // new rows of one branch
  int32_t row, rows;                // batch rows
  int32_t logical;                  // logical index of its first new row; its keys [0, logical + rows) are all in pages
  int32_t first_page, pages;        // into CachedPlan::page_list, in logical order
};

struct CachedPlan {                 // causal
  std::vector<KvRow> rows;          // (T)
  std::vector<CachedSequence> sequences;
  std::vector<int32_t> page_list;
};

}  // namespace isr
