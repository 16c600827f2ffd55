// Plans on the device, and which kernels attention over spans takes: those of the tensor cores for bfloat16 with aligned rows,
// the plain ones otherwise.
#include "kernels/cuda/attention.h"

#include <algorithm>
#include <cstring>

#include "kernels/cuda/cuda_backend.h"

namespace isr::cuda {

void Resident::upload() {
  memory_ = device_.take(host_.size());
  device_.upload(memory_.data(), host_.data(), host_.size());
  for (const Place& p : places_) *p.to = memory_.data<char>() + p.at;
  host_ = {};
}

// Neighbouring tiles of a span share a block of threads; those with the most to do begin first.
static std::vector<TilePair> pairs_of(const AttentionPlan& plan) {
  std::vector<TilePair> all;
  for (size_t i = 0; i < plan.tiles.size(); ++i) {
    const bool two = i + 1 < plan.tiles.size() && plan.tiles[i + 1].span == plan.tiles[i].span;
    all.push_back({static_cast<int32_t>(i), two ? static_cast<int32_t>(i + 1) : -1});
    i += two ? 1 : 0;
  }
  const auto work = [&](const TilePair& p) { return std::max(plan.tiles[static_cast<size_t>(p.first)].blocks, p.second < 0 ? 0 : plan.tiles[static_cast<size_t>(p.second)].blocks); };
  std::stable_sort(all.begin(), all.end(), [&](const TilePair& a, const TilePair& b) { return work(a) > work(b); });
  return all;
}

SpanPlan::SpanPlan(CudaDevice& device, const AttentionPlan& plan) : memory(device) {
  rows = plan.rows, tiles = static_cast<int64_t>(plan.tiles.size()), blocks = static_cast<int64_t>(plan.blocks.size());
  std::vector<int32_t> key_row(plan.blocks.size() * kKeyBlock, -1), first(static_cast<size_t>(plan.rows) + 1), place;
  for (size_t b = 0; b < plan.blocks.size(); ++b)
    for (int32_t i = 0; i < plan.blocks[b].segments; ++i) {
      const KeySegment& s = plan.segments[static_cast<size_t>(plan.blocks[b].first_segment + i)];
      for (int32_t j = 0; j < s.count; ++j) key_row[b * kKeyBlock + static_cast<size_t>(s.offset + j)] = s.row + j;
    }
  for (const int32_t row : key_row)
    if (row >= 0) ++first[static_cast<size_t>(row) + 1];
  for (size_t t = 0; t < static_cast<size_t>(plan.rows); ++t) first[t + 1] += first[t];
  place.resize(static_cast<size_t>(first.back()));
  std::vector<int32_t> next(first.begin(), first.end() - 1);
  for (size_t i = 0; i < key_row.size(); ++i)
    if (key_row[i] >= 0) place[static_cast<size_t>(next[static_cast<size_t>(key_row[i])]++)] = static_cast<int32_t>(i);
  memory.add(tables.tiles, plan.tiles);
  memory.add(tables.blocks, plan.blocks);
  memory.add(tables.first_block, plan.first_block);
  memory.add(tables.block_list, plan.block_list);
  memory.add(tables.readers, plan.readers);
  memory.add(tables.key_row, key_row);
  memory.add(tables.first_place, first);
  memory.add(tables.place, place);
  const std::vector<TilePair> all = pairs_of(plan);
  pairs = static_cast<int64_t>(all.size());
  memory.add(tables.pairs, all);
  memory.upload();
  tables.causal = plan.causal;
}

// Copies of 16 bytes need rows and heads that begin at a multiple of 16.
bool takes_tiles(const AttentionShape& s, std::initializer_list<Tensor> all) {
  if (s.head_size % 8 != 0 || s.head_size > 128) return false;
  return std::all_of(all.begin(), all.end(), [](const Tensor& t) {
    return t.dtype == DType::BF16 && reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && t.stride % 8 == 0;
  });
}

std::unique_ptr<Prepared> CudaBackend::prepare(const AttentionPlan& plan) { return std::make_unique<SpanPlan>(device_, plan); }

void CudaBackend::attention_forward(Tensor out, float* lse, Tensor q, Tensor k, Tensor v, const Prepared& prepared, const AttentionShape& s) {
  const auto& plan = static_cast<const SpanPlan&>(prepared);
  const Heads h = heads_of(s);
  if (plan.tiles == 0) return;
  if (!takes_tiles(s, {out, q, k, v})) return plain_forward(stream(), out, lse, q, k, v, plan, h);
  const ArenaScope scope(scratch_);
  const KeyPages pages = pack_keys(stream(), scratch_, k, v, plan, h);
  tile_forward(stream(), out, lse, q, pages, plan, h);
}

void CudaBackend::attention_backward(Tensor dq, Tensor dk, Tensor dv, Tensor dout, Tensor q, Tensor k, Tensor v, Tensor out, const float* lse,
                                     const Prepared& prepared, const AttentionShape& s) {
  const auto& plan = static_cast<const SpanPlan&>(prepared);
  const Heads h = heads_of(s);
  if (plan.tiles == 0) return;
  const ArenaScope scope(scratch_);
  float* const delta = scratch_.allocate_n<float>(plan.rows * s.heads);
  const int64_t sums = plan.blocks * s.kv_heads * kKeyBlock * s.head_size;
  const KeySums keys{scratch_.allocate_n<float>(sums), scratch_.allocate_n<float>(sums)};
  row_deltas(stream(), delta, dout, out, h);
  if (takes_tiles(s, {dq, dout, q, k, v}))
    tile_backward(stream(), dq, keys, dout, q, pack_keys(stream(), scratch_, k, v, plan, h), lse, delta, plan, h);
  else
    plain_backward(stream(), dq, keys, dout, q, k, v, lse, delta, plan, h);
  gather_keys(stream(), dk, dv, keys, plan, h);
}

}  // namespace isr::cuda
