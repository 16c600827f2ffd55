// Attention over spans, forward: every key block that several tiles read is packed into a page once for each kv head; then
// each (tile, kv head) walks its pages (attention_tile.h) exactly as cached attention walks the cache's.
#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/cpu/attention_tile.h"
#include "kernels/cpu/attention.h"

namespace isr::cpu::ISR_NS {
namespace {

struct ForwardCall {
  Tensor out;
  float* lse;
  Tensor q, k, v;
  const AttentionPlan& plan;
  const AttentionShape& s;
};

template <class P>
void pack_block(const ForwardCall& f, uint32_t* page, typename P::In* stage, const KeyBlock& block, int64_t head) {
  using In = typename P::In;
  const int64_t d = f.s.head_size;
  pack_page<P>(page, stage, f.plan, block, f.k.as<In>() + head * d, f.k.stride, f.v.as<In>() + head * d, f.v.stride,
               static_cast<int>(d), head_padded(f.s));
}

// All heads of one kv head, as many at a time as fit into a tile.
template <class P>
void forward_tile(const ForwardCall& f, RowTile<P>& t, const QueryTile& tile, const uint32_t* pages, int64_t kv_head) {
  using In = typename P::In;
  const AttentionPlan& plan = f.plan;
  const int64_t d = f.s.head_size, group = f.s.heads / f.s.kv_heads, page_words = 2 * page_part_words<P>(t.dp);
  const int32_t* list = plan.block_list.data() + plan.first_block[static_cast<size_t>(tile.span)];
  const KeyBlock& last = plan.blocks[static_cast<size_t>(list[tile.blocks - 1])];
  if (last.page < 0) pack_block<P>(f, t.page, t.stage, last, kv_head);
  const int64_t together = heads_together(tile.rows, group);
  for (int64_t g = 0; g < group; g += together) {
    const int heads = static_cast<int>(together < group - g ? together : group - g), rows = heads * tile.rows;
    t.begin(rows);
    for (int h = 0; h < heads; ++h) {
      const int64_t head = kv_head * group + g + h;
      stage_rows(t.q + h * tile.rows * t.dp, f.q.as<In>() + tile.row * f.q.stride + head * d, f.q.stride, tile.rows,
                 static_cast<int>(d), t.dp);
      set_visible(t.visible + h * tile.rows, plan, tile);
    }
    for (int32_t j = 0; j < tile.blocks; ++j) {
      const KeyBlock& block = plan.blocks[static_cast<size_t>(list[j])];
      t.attend(0, rows, block.page < 0 ? t.page : pages + block.page * page_words, block.logical);
    }
    for (int r = 0; r < rows; ++r) {
      const int64_t row = tile.row + r % tile.rows, head = kv_head * group + g + r / tile.rows;
      f.lse[row * f.s.heads + head] = t.finish(f.out.as<In>() + row * f.out.stride + head * d, r, static_cast<int>(d));
    }
  }
}

// Task i of (items x heads), items grouped by tree: trees outside, then heads, then a tree's items. So one head's pages are used
// while they are in cache, and with many small trees the heads of a row follow each other through memory.
struct Order { int64_t item, head; };
Order order_of(int64_t i, int64_t heads, int64_t tree_begin, int64_t tree_end) {
  const int64_t n = tree_end - tree_begin, j = i - tree_begin * heads;
  return {tree_begin + j % n, j / n};
}

template <class P>
void forward(const ForwardCall& f, const Crew& threads, Arena& scratch) {
  const AttentionPlan& plan = f.plan;
  const int dp = head_padded(f.s);
  const int64_t tiles = static_cast<int64_t>(plan.tiles.size()), blocks = static_cast<int64_t>(plan.blocks.size());
  const int64_t heads = f.s.kv_heads, page_words = 2 * page_part_words<P>(dp), tile_bytes = RowTile<P>::bytes(dp);
  ArenaScope scope(scratch);
  char* memory = scratch.allocate_n<char>(threads * tile_bytes);
  uint32_t* pages = scratch.allocate_n<uint32_t>(heads * plan.shared_pages * page_words);
  const int64_t pack_flops = int64_t{40} * kKeyBlock * dp;
  parallel(threads, heads * blocks, work_grain(threads, heads * blocks, pack_flops), [&](int64_t begin, int64_t end, int worker) {
    RowTile<P> t(memory + worker * tile_bytes, dp, f.s.scale);
    for (int64_t i = begin; i < end; ++i) {
      const int32_t* first = plan.tree_first_block.data() + plan.blocks[static_cast<size_t>(i / heads)].tree;
      const auto [item, head] = order_of(i, heads, first[0], first[1]);
      const KeyBlock& block = plan.blocks[static_cast<size_t>(item)];
      if (block.page >= 0) pack_block<P>(f, pages + (head * plan.shared_pages + block.page) * page_words, t.stage, block, head);
    }
  });
  const int64_t flops = average_tile_flops(plan, f.s);
  parallel(threads, heads * tiles, work_grain(threads, heads * tiles, flops), [&](int64_t begin, int64_t end, int worker) {
    RowTile<P> t(memory + worker * tile_bytes, dp, f.s.scale);
    for (int64_t i = begin; i < end; ++i) {
      const int32_t* first = plan.tree_first_tile.data() + plan.tiles[static_cast<size_t>(i / heads)].tree;
      const auto [item, head] = order_of(i, heads, first[0], first[1]);
      forward_tile<P>(f, t, plan.tiles[static_cast<size_t>(item)], pages + head * plan.shared_pages * page_words, head);
    }
  });
}

}  // namespace

void CpuBackend::attention_forward(Tensor out, float* lse, Tensor q, Tensor k, Tensor v, const Prepared& prepared, const AttentionShape& s) {
  const AttentionPlan& plan = plan_of(prepared);
  check_attention(q, k, v, plan, s);
  ISR_ASSERT(out.rows == q.rows && out.dtype == q.dtype, "out is ", out.rows, " rows of ", name_of(out.dtype));
  if (q.dtype == DType::BF16) forward<Bfloat16>({out, lse, q, k, v, plan, s}, threads, scratch);
  else forward<Float32>({out, lse, q, k, v, plan, s}, threads, scratch);
}

}  // namespace isr::cpu::ISR_NS
