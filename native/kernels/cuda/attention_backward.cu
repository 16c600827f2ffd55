// FlashAttention backward over spans on the tensor cores, as two kernels that recompute the scores: dK and dV by key block over
// the tiles that read it, dQ by tile over its key blocks. That is 7 products instead of 5, and no atomics: every sum has one owner
// and one order. P and dS go from the accumulators of one product into the fragments of the next, and never through shared memory.
#include "kernels/cuda/attention_tile.h"

namespace isr::cuda {
namespace {

constexpr int kN = kKeyBlock / 8;   // groups of 8 rows, or of 8 keys, whose scores a warp has in registers
template <int kD> constexpr size_t kBackwardShared = sizeof(Bf16) * 4 * kTileSize<kD> + sizeof(float) * 2 * kKeyBlock;

// acc (16 x 64) = rows [row, row + 16) of `left` * (the rows of `right`)^T, over all columns.
template <int kD>
__device__ __forceinline__ void scores_of(float (&acc)[1][kN][4], const Bf16* left, int row, const Bf16* right, int lane) {
  clear(acc);
#pragma unroll
  for (int k = 0; k < kD / 16; ++k) {
    uint32_t a[1][4];
    left_fragment<kD>(a[0], left, row, k, lane);
    multiply_transposed<kD, kN, 1>(acc, a, right, 0, k, lane);
  }
}

// What stands in shared memory of the two kernels: what belongs to the block of threads, and what goes by.
template <int kD>
struct Tiles {
  Bf16 *keys, *values, *queries, *above;
  float *logs, *deltas;   // of the tile's rows; log-sums in base 2
  __device__ __forceinline__ Tiles() {
    keys = shared_as<Bf16>(), values = keys + kTileSize<kD>, queries = values + kTileSize<kD>, above = queries + kTileSize<kD>;
    logs = reinterpret_cast<float*>(above + kTileSize<kD>), deltas = logs + kKeyBlock;
  }
};

// Adds what the rows of a tile give to the gradients of a warp's 16 keys.
template <int kD>
__device__ __forceinline__ void add_to_keys(float (&dk)[1][kD / 8][4], float (&dv)[1][kD / 8][4], const Tiles<kD>& t, const QueryTile& tile,
                                            const KeyBlock& block, bool causal, float scale, int warp, int lane) {
  float weight[1][kN][4], slope[1][kN][4];
  scores_of<kD>(weight, t.keys, warp * 16, t.queries, lane);
#pragma unroll
  for (int n = 0; n < kN; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int r = n * 8 + lane % 4 * 2 + i % 2, key = warp * 16 + lane / 4 + i / 2 * 8;
      const bool seen = key < block.count && !(causal && block.logical + key > tile.logical + r);
      weight[0][n][i] = seen ? exp2f(weight[0][n][i] * scale - t.logs[r]) : 0;
    }
  multiply_rows<kD, kN, 1>(dv, weight, t.above, 0, lane);
  scores_of<kD>(slope, t.values, warp * 16, t.above, lane);
#pragma unroll
  for (int n = 0; n < kN; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) slope[0][n][i] = weight[0][n][i] * (slope[0][n][i] - t.deltas[n * 8 + lane % 4 * 2 + i % 2]);
  multiply_rows<kD, kN, 1>(dk, slope, t.queries, 0, lane);
}

// A block of threads per key block and kv head; a warp has 16 keys.
template <int kD>
__global__ void __launch_bounds__(kTileThreads) key_tiles(KeySums sums, Rows<const Bf16> dout, Rows<const Bf16> q, KeyPages pages, const float* lse,
                                                          const float* delta, SpanTables p, Heads h) {
  const Tiles<kD> t;
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32), group = h.heads / h.kv_heads;
  const int64_t index = blockIdx.x, kv_head = blockIdx.y, page = (index * h.kv_heads + kv_head) * kKeyBlock;
  const KeyBlock block = p.blocks[index];
  load_page<kD>(t.keys, pages.k + page * kD);
  load_page<kD>(t.values, pages.v + page * kD);
  float dk[1][kD / 8][4], dv[1][kD / 8][4];
  clear(dk), clear(dv);
  for (int step = 0; step < group * block.readers; ++step) {
    const int head = static_cast<int>(kv_head) * group + step / block.readers;
    const QueryTile tile = p.tiles[p.readers[block.first_reader + step % block.readers]];
    load_tile<kD>(t.queries, q, tile.row, tile.rows, head * h.size, h.size);
    load_tile<kD>(t.above, dout, tile.row, tile.rows, head * h.size, h.size);
    commit_copies();
    if (threadIdx.x < kKeyBlock) {   // rows that are not there have weight 0
      const int r = static_cast<int>(threadIdx.x);
      const int64_t at = (tile.row + r) * int64_t{h.heads} + head;
      t.logs[r] = r < tile.rows ? lse[at] * kLog2E : INFINITY;
      t.deltas[r] = r < tile.rows ? delta[at] : 0;
    }
    wait_copies<0>();
    __syncthreads();
    add_to_keys<kD>(dk, dv, t, tile, block, p.causal, h.scale * kLog2E, warp, lane);
    __syncthreads();
  }
  commit_copies();   // of a block that nobody reads
  wait_copies<0>();
#pragma unroll
  for (int n = 0; n < kD / 8; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int key = warp * 16 + lane / 4 + i / 2 * 8, column = n * 8 + lane % 4 * 2 + i % 2;
      if (key >= block.count || column >= h.size) continue;
      sums.dk[(page + key) * h.size + column] = dk[0][n][i] * h.scale;
      sums.dv[(page + key) * h.size + column] = dv[0][n][i];
    }
}

// A block of threads per tile and head; a warp has 16 query rows.
template <int kD>
__device__ __forceinline__ void add_to_queries(float (&sums)[1][kD / 8][4], const Tiles<kD>& t, const QueryTile& tile, const KeyBlock& block, bool causal,
                                               float scale, const float (&logs)[2], const float (&deltas)[2], int warp, int lane) {
  float weight[1][kN][4], slope[1][kN][4];
  scores_of<kD>(weight, t.queries, warp * 16, t.keys, lane);
  scores_of<kD>(slope, t.above, warp * 16, t.values, lane);
#pragma unroll
  for (int n = 0; n < kN; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int key = n * 8 + lane % 4 * 2 + i % 2, r = warp * 16 + lane / 4 + i / 2 * 8;
      const bool seen = key < block.count && !(causal && block.logical + key > tile.logical + r);
      slope[0][n][i] = seen ? exp2f(weight[0][n][i] * scale - logs[i / 2]) * (slope[0][n][i] - deltas[i / 2]) : 0;
    }
  multiply_rows<kD, kN, 1>(sums, slope, t.keys, 0, lane);
}

template <int kD>
__global__ void __launch_bounds__(kTileThreads) query_tiles(Rows<Bf16> dq, Rows<const Bf16> dout, Rows<const Bf16> q, KeyPages pages, const float* lse,
                                                            const float* delta, SpanTables p, Heads h) {
  const Tiles<kD> t;
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const int head = static_cast<int>(blockIdx.y), kv_head = head / (h.heads / h.kv_heads);
  const QueryTile tile = p.tiles[blockIdx.x];
  const int32_t* const list = p.block_list + p.first_block[tile.span];
  load_tile<kD>(t.queries, q, tile.row, tile.rows, head * h.size, h.size);
  load_tile<kD>(t.above, dout, tile.row, tile.rows, head * h.size, h.size);
  float logs[2], deltas[2];
#pragma unroll
  for (int g = 0; g < 2; ++g) {
    const int r = warp * 16 + lane / 4 + g * 8;
    const int64_t at = (tile.row + r) * int64_t{h.heads} + head;
    logs[g] = r < tile.rows ? lse[at] * kLog2E : INFINITY;
    deltas[g] = r < tile.rows ? delta[at] : 0;
  }
  float sums[1][kD / 8][4];
  clear(sums);
  for (int step = 0; step < tile.blocks; ++step) {
    const KeyBlock block = p.blocks[list[step]];
    const int64_t page = (int64_t{list[step]} * h.kv_heads + kv_head) * kKeyBlock * kD;
    load_page<kD>(t.keys, pages.k + page);
    load_page<kD>(t.values, pages.v + page);
    commit_copies();
    wait_copies<0>();
    __syncthreads();
    add_to_queries<kD>(sums, t, tile, block, p.causal, h.scale * kLog2E, logs, deltas, warp, lane);
    __syncthreads();
  }
#pragma unroll
  for (int n = 0; n < kD / 8; ++n)
#pragma unroll
    for (int g = 0; g < 2; ++g) {
      const int r = warp * 16 + lane / 4 + g * 8, column = n * 8 + lane % 4 * 2;
      if (r < tile.rows && column < h.size)
        *reinterpret_cast<uint32_t*>(dq.row(tile.row + r) + head * h.size + column) = pack_bf16(sums[0][n][2 * g] * h.scale, sums[0][n][2 * g + 1] * h.scale);
    }
}

}  // namespace

void tile_backward(cudaStream_t stream, Tensor dq, const KeySums& sums, Tensor dout, Tensor q, const KeyPages& pages, const float* lse, const float* delta,
                   const SpanPlan& plan, const Heads& h) {
  with_columns(h.size, [&](auto columns) {
    constexpr int kD = columns.value;
    constexpr size_t shared = kBackwardShared<kD>;
    launch(stream, {"attention_dkv", {static_cast<unsigned>(plan.blocks), static_cast<unsigned>(h.kv_heads)}, kTileThreads, shared}, key_tiles<kD>, sums,
           rows_of<const Bf16>(dout), rows_of<const Bf16>(q), pages, lse, delta, plan.tables, h);
    launch(stream, {"attention_dq", {static_cast<unsigned>(plan.tiles), static_cast<unsigned>(h.heads)}, kTileThreads, shared}, query_tiles<kD>,
           rows_of<Bf16>(dq), rows_of<const Bf16>(dout), rows_of<const Bf16>(q), pages, lse, delta, plan.tables, h);
  });
}

}  // namespace isr::cuda
