// FlashAttention forward over spans on the tensor cores (Dao 2023, with the plan's blocks in place of one sequence). Keys and
// values are first copied into pages of 64 tokens, so that segments, tails, strides and head sizes are nobody's concern after it.
// A block of threads owns two neighbouring tiles of a span: each of its 4 warps has 32 query rows, which read every fragment of
// keys and values once for two of queries; with 16 rows a warp, shared memory would bound the speed.
#include "kernels/cuda/attention_tile.h"

namespace isr::cuda {
namespace {

template <int kD>
__global__ void fill_pages(Bf16* pages_k, Bf16* pages_v, Rows<const Bf16> k, Rows<const Bf16> v, SpanTables p, int64_t total, Heads h) {
  constexpr int kPieces = kD / 8;
  const int64_t i = int64_t{blockIdx.x} * 256 + threadIdx.x;   // 8 columns of a key and its value
  if (i >= total) return;
  const int64_t piece = i % kPieces, key = i / kPieces % kKeyBlock, head = i / (kPieces * kKeyBlock) % h.kv_heads;
  const int64_t block = i / (kPieces * kKeyBlock * h.kv_heads), row = p.key_row[block * kKeyBlock + key];
  uint4 a{0, 0, 0, 0}, b{0, 0, 0, 0};
  if (row >= 0 && piece * 8 < h.size) {
    const int64_t column = head * h.size + piece * 8;
    a = *reinterpret_cast<const uint4*>(k.row(row) + column);
    b = *reinterpret_cast<const uint4*>(v.row(row) + column);
  }
  *reinterpret_cast<uint4*>(pages_k + i * 8) = a;
  *reinterpret_cast<uint4*>(pages_v + i * 8) = b;
}

template <int kD> constexpr size_t kForwardShared = sizeof(Bf16) * 4 * kTileSize<kD>;   // queries of two tiles, keys, values

// Scores of keys that rows do not see become -infinity. `position`: of the warp's first row.
__device__ __forceinline__ void hide_unseen(float (&score)[2][8][4], const KeyBlock& block, bool causal, int position, int lane) {
#pragma unroll
  for (int m = 0; m < 2; ++m)
#pragma unroll
    for (int n = 0; n < 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int key = n * 8 + lane % 4 * 2 + i % 2, row = position + m * 16 + lane / 4 + i / 2 * 8;
        if (key >= block.count || (causal && block.logical + key > row)) score[m][n][i] = -INFINITY;
      }
}

// Rows [first, first + 32) of a tile.
template <int kD>
__device__ __forceinline__ void store_rows(Rows<Bf16> out, float* lse, const TileSums<kD, 2>& sums, const QueryTile& tile, int first, int head, const Heads& h,
                                           float scale, int lane) {
#pragma unroll
  for (int m = 0; m < 2; ++m)
#pragma unroll
    for (int g = 0; g < 2; ++g) {
      const float all = sums.whole_mass(m, g);
      const int r = first + m * 16 + lane / 4 + g * 8;
      if (r >= tile.rows) continue;
      const int64_t row = tile.row + r;
      const float inverse = 1.0f / all;
#pragma unroll
      for (int n = 0; n < kD / 8; ++n) {
        const int column = n * 8 + lane % 4 * 2;
        if (column < h.size)
          *reinterpret_cast<uint32_t*>(out.row(row) + head * h.size + column) = pack_bf16(sums.values[m][n][2 * g] * inverse, sums.values[m][n][2 * g + 1] * inverse);
      }
      if (lane % 4 == 0) lse[row * h.heads + head] = (sums.top[m][g] * scale + log2f(all)) * kLn2;
    }
}

// Keys and values have one tile each: the next keys come while the softmax is computed, the next values during the next scores.
template <int kD>
__global__ void __launch_bounds__(kTileThreads) forward_tiles(Rows<Bf16> out, float* lse, Rows<const Bf16> q, KeyPages pages, SpanTables p, Heads h) {
  Bf16 *const queries = shared_as<Bf16>(), *const keys = queries + 2 * kTileSize<kD>, *const values = keys + kTileSize<kD>;
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32), first = warp % 2 * 32;
  const int head = static_cast<int>(blockIdx.y), kv_head = head / (h.heads / h.kv_heads);
  const TilePair pair = p.pairs[blockIdx.x];
  const QueryTile one = p.tiles[pair.first];
  QueryTile two = one;
  if (pair.second >= 0) two = p.tiles[pair.second];
  else two.rows = two.blocks = 0;
  const QueryTile mine = warp < 2 ? one : two;
  const int steps = max(one.blocks, two.blocks);
  const int32_t* const list = p.block_list + p.first_block[one.span];
  const auto page = [&](const Bf16* of, int step) { return of + (int64_t{list[step]} * h.kv_heads + kv_head) * kKeyBlock * kD; };

  load_tile<kD>(queries, q, one.row, one.rows, head * h.size, h.size);
  load_tile<kD>(queries + kTileSize<kD>, q, two.row, two.rows, head * h.size, h.size);
  load_page<kD>(keys, page(pages.k, 0));
  commit_copies();
  load_page<kD>(values, page(pages.v, 0));
  commit_copies();
  const float scale = h.scale * kLog2E;
  TileSums<kD, 2> sums;
  for (int step = 0; step < steps; ++step) {
    const bool works = step < mine.blocks;   // the same for a whole warp
    float score[2][8][4];
    wait_copies<1>();
    __syncthreads();
    if (works) score_keys<kD, 2>(score, queries, warp * 32, keys, lane);
    __syncthreads();
    if (step + 1 < steps) load_page<kD>(keys, page(pages.k, step + 1));
    commit_copies();
    if (works) {
      const KeyBlock block = p.blocks[list[step]];
      const int position = mine.logical + first;   // of the row that sees the fewest keys
      if (block.count < kKeyBlock || (p.causal && position < block.logical + kKeyBlock - 1)) hide_unseen(score, block, p.causal, position, lane);
      sums.weigh(score, scale);
    }
    wait_copies<1>();
    __syncthreads();
    if (works) multiply_rows<kD, 8, 2>(sums.values, score, values, 0, lane);
    __syncthreads();
    if (step + 1 < steps) load_page<kD>(values, page(pages.v, step + 1));
    commit_copies();
  }
  wait_copies<0>();
  store_rows<kD>(out, lse, sums, mine, first, head, h, scale, lane);
}

}  // namespace

KeyPages pack_keys(cudaStream_t stream, Arena& arena, Tensor k, Tensor v, const SpanPlan& plan, const Heads& h) {
  KeyPages pages{};
  with_columns(h.size, [&](auto columns) {
    const int64_t total = plan.blocks * h.kv_heads * kKeyBlock * columns.value;
    Bf16 *const to_k = arena.allocate_n<Bf16>(total), *const to_v = arena.allocate_n<Bf16>(total);
    launch(stream, {"pack_keys", ceil_div(total / 8, 256), 256}, fill_pages<columns.value>, to_k, to_v, rows_of<const Bf16>(k), rows_of<const Bf16>(v),
           plan.tables, total / 8, h);
    pages = {to_k, to_v};
  });
  return pages;
}

void tile_forward(cudaStream_t stream, Tensor out, float* lse, Tensor q, const KeyPages& pages, const SpanPlan& plan, const Heads& h) {
  with_columns(h.size, [&](auto columns) {
    constexpr size_t shared = kForwardShared<columns.value>;
    launch(stream, {"attention_forward", {static_cast<unsigned>(plan.pairs), static_cast<unsigned>(h.heads)}, kTileThreads, shared},
           forward_tiles<columns.value>, rows_of<Bf16>(out), lse, rows_of<const Bf16>(q), pages, plan.tables, h);
  });
}

}  // namespace isr::cuda
