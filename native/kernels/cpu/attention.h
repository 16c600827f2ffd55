// What the three attention sources share about plans and shapes: checks, who sees what, and sizes of tasks.
#pragma once
#include "kernels/cpu/simd.h"

namespace isr::cpu::ISR_NS {

static inline void check_shape(const AttentionShape& s) {
  ISR_ASSERT(s.kv_heads > 0 && s.heads % s.kv_heads == 0, s.heads, " heads, ", s.kv_heads, " kv heads");
  ISR_ASSERT(s.head_size >= 1 && s.head_size <= 256, "head size ", s.head_size);
  ISR_ASSERT(s.scale > 0, "scale ", s.scale);
}

static inline void check_attention(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionPlan& plan, const AttentionShape& s) {
  check_shape(s);
  ISR_ASSERT(q.rows == plan.rows && k.rows == plan.rows && v.rows == plan.rows, "plan of ", plan.rows, " rows, q ", q.rows, ", k ", k.rows, ", v ", v.rows);
  ISR_ASSERT(q.cols == s.heads * s.head_size && k.cols == s.kv_heads * s.head_size && v.cols == k.cols, "q ", q.cols, ", k ", k.cols, ", v ", v.cols);
  ISR_ASSERT((q.dtype == DType::F32 || q.dtype == DType::BF16) && k.dtype == q.dtype && v.dtype == q.dtype, "q ", name_of(q.dtype), ", k ", name_of(k.dtype), ", v ", name_of(v.dtype));
}

// Heads of a kv head that share a tile of 64 rows.
static inline int64_t heads_together(int64_t rows, int64_t group) {
  const int64_t fit = 64 / rows;
  return fit < 1 ? 1 : fit < group ? fit : group;
}

// Keys that each row of a tile sees, counted from logical 0 of its own sequence.
static inline void set_visible(int32_t* visible, const AttentionPlan& plan, const QueryTile& tile) {
  const Span& span = plan.spans[static_cast<size_t>(tile.span)];
  const int32_t all = plan.span_logical[static_cast<size_t>(tile.span)] + span.end - span.begin;
  for (int32_t r = 0; r < tile.rows; ++r) visible[r] = plan.causal ? tile.logical + r + 1 : all;
}

// Forward work of one (tile, kv head), on average.
static inline int64_t average_tile_flops(const AttentionPlan& plan, const AttentionShape& s) {
  if (plan.tiles.empty()) return 0;
  const int64_t pairs = static_cast<int64_t>(plan.readers.size()) * plan.rows / static_cast<int64_t>(plan.tiles.size());
  return 4 * pairs * kKeyBlock * s.head_size * (s.heads / s.kv_heads) / static_cast<int64_t>(plan.tiles.size());
}

// Under about 50 microseconds in all a region runs inline; above, a chunk is at least about 10.
static inline int64_t work_grain(int threads, int64_t n, int64_t flops_each) {
  if (n * flops_each < 4'000'000) return n > 0 ? n : 1;
  return grain_for(threads, n, 1 + 800'000 / (flops_each + 1));
}

}  // namespace isr::cpu::ISR_NS
