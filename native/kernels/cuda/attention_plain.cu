// Attention over spans in float32: every product on the plain units, for models of float32 and for whatever the tensor cores'
// kernels do not take. A warp owns a query row (or, for dK and dV, a key) and walks its list of blocks: lanes stand along the
// 64 keys (or rows) for the dot products, and along the columns for what is summed. No atomics: each sum has one owner.
#include "kernels/cuda/attention_row.h"

namespace isr::cuda {

namespace {

constexpr int kWarps = kRowWarps, kColumns = kRowColumns;

// Keys of a block that the row with this position sees: the first ones.
__device__ int visible(const SpanTables& p, const KeyBlock& block, int logical) {
  const int until = logical - block.logical + 1;
  return p.causal && until < block.count ? until : block.count;
}

template <class T>
__global__ void forward_rows(Rows<T> out, float* lse, Rows<const T> q, Rows<const T> k, Rows<const T> v, SpanTables p, Heads h) {
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32), D = h.size;
  float *const query = shared_as<float>() + warp * (D + kKeyBlock), *const weight = query + D;
  const QueryTile tile = p.tiles[blockIdx.x];
  const int head = static_cast<int>(blockIdx.y), kv = head / (h.heads / h.kv_heads) * D;
  for (int i = warp; i < tile.rows; i += kWarps) {
    const int64_t row = tile.row + i;
    keep(query, q.row(row) + head * D, D, lane);
    __syncwarp();
    RowSums sums;
    for (int b = 0; b < tile.blocks; ++b) {
      const int index = p.block_list[p.first_block[tile.span] + b];
      const int32_t* const keys = p.key_row + static_cast<int64_t>(index) * kKeyBlock;
      sums.add(query, weight, visible(p, p.blocks[index], tile.logical + i), h, lane, [&](int j) { return k.row(keys[j]) + kv; },
               [&](int j) { return v.row(keys[j]) + kv; });
    }
    sums.store(out.row(row) + head * D, h, lane);
    if (lane == 0) lse[row * h.heads + head] = sums.top + logf(sums.mass);
  }
}

// delta = rowsum(dO * O), of each row and head.
template <class T>
__global__ void sum_products(float* delta, Rows<const T> dout, Rows<const T> out, int64_t rows, Heads h) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int64_t i = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  if (i >= rows * h.heads) return;
  const int64_t row = i / h.heads, column = i % h.heads * h.size;
  float sum = 0;
  for (int d = lane; d < h.size; d += 32) sum += to_float(dout.row(row)[column + d]) * to_float(out.row(row)[column + d]);
  sum = warp_sum(sum);
  if (lane == 0) delta[i] = sum;
}

template <class T>
__global__ void query_gradients(Rows<T> dq, Rows<const T> dout, Rows<const T> q, Rows<const T> k, Rows<const T> v, const float* lse, const float* delta,
                                SpanTables p, Heads h) {
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32), D = h.size;
  float *const query = shared_as<float>() + warp * (2 * D + kKeyBlock), *const above = query + D, *const slope = above + D;
  const QueryTile tile = p.tiles[blockIdx.x];
  const int head = static_cast<int>(blockIdx.y), kv = head / (h.heads / h.kv_heads) * D;
  for (int i = warp; i < tile.rows; i += kWarps) {
    const int64_t row = tile.row + i, at = row * h.heads + head;
    keep(query, q.row(row) + head * D, D, lane);
    keep(above, dout.row(row) + head * D, D, lane);
    __syncwarp();
    float sums[kColumns] = {};
    for (int b = 0; b < tile.blocks; ++b) {
      const int index = p.block_list[p.first_block[tile.span] + b];
      const int n = visible(p, p.blocks[index], tile.logical + i);
      const int32_t* const keys = p.key_row + static_cast<int64_t>(index) * kKeyBlock;
      for (int key = lane; key < n; key += 32) {
        const float weight = expf(h.scale * dot(query, k.row(keys[key]) + kv, D) - lse[at]);
        slope[key] = h.scale * weight * (dot(above, v.row(keys[key]) + kv, D) - delta[at]);
      }
      __syncwarp();
      for (int c = 0; c < kColumns && lane + 32 * c < D; ++c)
        for (int j = 0; j < n; ++j) sums[c] += slope[j] * to_float(k.row(keys[j])[kv + lane + 32 * c]);
      __syncwarp();
    }
    for (int c = 0; c < kColumns && lane + 32 * c < D; ++c) from_float(dq.row(row)[head * D + lane + 32 * c], sums[c]);
  }
}

// dk, dv of the keys of a block, (blocks, kv heads, 64, D) in float32: over the heads of the group and the tiles that read it.
template <class T>
__global__ void key_gradients(float* dk, float* dv, Rows<const T> dout, Rows<const T> q, Rows<const T> k, Rows<const T> v, const float* lse,
                              const float* delta, SpanTables p, Heads h) {
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32), D = h.size, group = h.heads / h.kv_heads;
  float *const key = shared_as<float>() + warp * (2 * D + 2 * kKeyBlock), *const value = key + D, *const weight = value + D, *const slope = weight + kKeyBlock;
  const int64_t index = blockIdx.x;
  const KeyBlock block = p.blocks[index];
  const int kv_head = static_cast<int>(blockIdx.y);
  for (int j = warp; j < block.count; j += kWarps) {
    const int64_t from = p.key_row[index * kKeyBlock + j];
    keep(key, k.row(from) + kv_head * D, D, lane);
    keep(value, v.row(from) + kv_head * D, D, lane);
    __syncwarp();
    float sum_k[kColumns] = {}, sum_v[kColumns] = {};
    for (int head = kv_head * group; head < (kv_head + 1) * group; ++head)
      for (int reader = 0; reader < block.readers; ++reader) {
        const QueryTile tile = p.tiles[p.readers[block.first_reader + reader]];
        const int first = p.causal ? max(0, block.logical + j - tile.logical) : 0;   // the first of its rows that sees this key
        for (int i = first + lane; i < tile.rows; i += 32) {
          const int64_t row = tile.row + i, at = row * h.heads + head;
          weight[i] = expf(h.scale * dot(key, q.row(row) + head * D, D) - lse[at]);
          slope[i] = h.scale * weight[i] * (dot(value, dout.row(row) + head * D, D) - delta[at]);
        }
        __syncwarp();
        for (int c = 0; c < kColumns && lane + 32 * c < D; ++c)
          for (int i = first; i < tile.rows; ++i) {
            const int64_t at = head * D + lane + 32 * c;
            sum_v[c] += weight[i] * to_float(dout.row(tile.row + i)[at]);
            sum_k[c] += slope[i] * to_float(q.row(tile.row + i)[at]);
          }
        __syncwarp();
      }
    const int64_t to = ((index * h.kv_heads + kv_head) * kKeyBlock + j) * D;
    for (int c = 0; c < kColumns && lane + 32 * c < D; ++c) dk[to + lane + 32 * c] = sum_k[c], dv[to + lane + 32 * c] = sum_v[c];
  }
}

// A row's gradient is the sum over the blocks that hold it, ascending.
template <class T>
__global__ void add_places(Rows<T> dk, Rows<T> dv, const float* dk_blocks, const float* dv_blocks, SpanTables p, int64_t rows, Heads h) {
  const int64_t width = int64_t{h.kv_heads} * h.size, i = int64_t{blockIdx.x} * (32 * kWarps) + threadIdx.x;
  if (i >= rows * width) return;
  const int64_t row = i / width, column = i % width, head = column / h.size, d = column % h.size;
  float sum_k = 0, sum_v = 0;
  for (int32_t at = p.first_place[row]; at < p.first_place[row + 1]; ++at) {
    const int64_t block = p.place[at] / kKeyBlock, j = p.place[at] % kKeyBlock, from = ((block * h.kv_heads + head) * kKeyBlock + j) * h.size + d;
    sum_k += dk_blocks[from];
    sum_v += dv_blocks[from];
  }
  from_float(dk.row(row)[column], sum_k);
  from_float(dv.row(row)[column], sum_v);
}

}  // namespace

void plain_forward(cudaStream_t stream, Tensor out, float* lse, Tensor q, Tensor k, Tensor v, const SpanPlan& plan, const Heads& h) {
  const dim3 grid(static_cast<unsigned>(plan.tiles), static_cast<unsigned>(h.heads));
  with_type(q.dtype, [&](auto type) {
    using T = decltype(type);
    launch(stream, {"attention_forward_plain", grid, 32 * kWarps, sizeof(float) * static_cast<size_t>(kWarps * (h.size + kKeyBlock))}, forward_rows<T>,
           rows_of<T>(out), lse, rows_of<const T>(q), rows_of<const T>(k), rows_of<const T>(v), plan.tables, h);
  });
}

void plain_backward(cudaStream_t stream, Tensor dq, const KeySums& sums, Tensor dout, Tensor q, Tensor k, Tensor v, const float* lse, const float* delta,
                    const SpanPlan& plan, const Heads& h) {
  const unsigned threads = 32 * kWarps;
  const auto shared = [&](int floats) { return sizeof(float) * static_cast<size_t>(kWarps * floats); };
  with_type(q.dtype, [&](auto type) {
    using T = decltype(type);
    const Rows<const T> to = rows_of<const T>(dout), qs = rows_of<const T>(q), ks = rows_of<const T>(k), vs = rows_of<const T>(v);
    launch(stream, {"attention_dq_plain", {static_cast<unsigned>(plan.tiles), static_cast<unsigned>(h.heads)}, threads, shared(2 * h.size + kKeyBlock)},
           query_gradients<T>, rows_of<T>(dq), to, qs, ks, vs, lse, delta, plan.tables, h);
    launch(stream, {"attention_dkv_plain", {static_cast<unsigned>(plan.blocks), static_cast<unsigned>(h.kv_heads)}, threads,
           shared(2 * h.size + 2 * kKeyBlock)}, key_gradients<T>, sums.dk, sums.dv, to, qs, ks, vs, lse, delta, plan.tables, h);
  });
}

void row_deltas(cudaStream_t stream, float* delta, Tensor dout, Tensor out, const Heads& h) {
  with_type(out.dtype, [&](auto type) {
    using T = decltype(type);
    launch(stream, {"attention_delta", ceil_div(out.rows * h.heads, kWarps), 32 * kWarps}, sum_products<T>, delta, rows_of<const T>(dout),
           rows_of<const T>(out), out.rows, h);
  });
}

void gather_keys(cudaStream_t stream, Tensor dk, Tensor dv, const KeySums& sums, const SpanPlan& plan, const Heads& h) {
  with_type(dk.dtype, [&](auto type) {
    using T = decltype(type);
    launch(stream, {"attention_gather", ceil_div(plan.rows * h.kv_heads * h.size, 32 * kWarps), 32 * kWarps}, add_places<T>, rows_of<T>(dk),
           rows_of<T>(dv), sums.dk, sums.dv, plan.tables, plan.rows, h);
  });
}

}  // namespace isr::cuda
