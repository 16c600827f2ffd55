// Attention of new rows over the pages of their sequences. A page of one layer is (K then V, kv heads, 64 tokens, D) in the
// model's type. Rows walk their sequence's pages in logical order, and what they sum is folded at places that the logical index alone
// decides, so that a row's bits are those of its own tokens, whatever else is in the batch.
#include <algorithm>

#include "kernels/cuda/attention_row.h"
#include "kernels/cuda/attention_tile.h"
#include "kernels/cuda/cuda_backend.h"

namespace isr::cuda {

PagePlan::PagePlan(CudaDevice& device, const CachedPlan& plan) : memory(device) {
  std::vector<CachedRow> all(plan.rows.size());
  std::vector<CachedTile> parts;
  for (size_t t = 0; t < all.size(); ++t) all[t].page = plan.rows[t].page, all[t].slot = plan.rows[t].slot;
  for (const CachedSequence& s : plan.sequences) {
    for (int32_t i = 0; i < s.rows; ++i) {
      CachedRow& row = all[static_cast<size_t>(s.row + i)];
      row.logical = s.logical + i, row.first_page = s.first_page;
    }
    for (int32_t i = 0; i < s.rows; i += kKeyBlock) {
      parts.push_back({s.row + i, std::min(s.rows - i, kKeyBlock), s.logical + i, s.first_page});
      most_rows = std::max<int64_t>(most_rows, parts.back().rows);
    }
    chunks = std::max<int64_t>(chunks, (s.logical + s.rows - 1) / (kKeyBlock * kChunkPages) + 1);
  }
  rows = static_cast<int64_t>(all.size()), tiles = static_cast<int64_t>(parts.size());
  memory.add(row, all);
  memory.add(tile, parts);
  memory.add(page_list, plan.page_list);
  memory.upload();
}

void PagePlan::add_to(std::vector<uint64_t>& key) const {
  for (const int64_t n : {rows, tiles, most_rows, chunks}) key.push_back(static_cast<uint64_t>(n));
  key.push_back(reinterpret_cast<uintptr_t>(memory.place()));
}

namespace {

constexpr int kWarps = kRowWarps;

struct Pages {                    // KvStore, as kernels read it
  KvStore store;
  int64_t layer;
  __device__ char* page(int64_t index) const {
    const int64_t beyond = index >> store.first_bits;
    int block = 0;
    while (block < KvStore::kBlocks - 1 && beyond >> block) ++block;   // the width of `beyond` in bits
    const int64_t begin = block == 0 ? 0 : int64_t{1} << (store.first_bits + block - 1), size = block == 0 ? int64_t{1} << store.first_bits : begin;
    const int64_t here = size < store.page_count - begin ? size : store.page_count - begin;
    return store.blocks[block] + (layer * here + index - begin) * store.page_bytes;
  }
};

template <class T>
__global__ void append_rows(Pages pages, Rows<const T> k, Rows<const T> v, const CachedRow* rows, int64_t total, Heads h) {
  const int64_t width = int64_t{h.kv_heads} * h.size, i = int64_t{blockIdx.x} * (32 * kWarps) + threadIdx.x;
  if (i >= total) return;
  const int64_t t = i / width, column = i % width, head = column / h.size, d = column % h.size;
  T* const page = reinterpret_cast<T*>(pages.page(rows[t].page));
  const int64_t at = (head * kKeyBlock + rows[t].slot) * h.size + d;
  page[at] = k.row(t)[column];
  page[width * kKeyBlock + at] = v.row(t)[column];
}

// ---- the plain one: a warp owns a row and a head
template <class T>
__global__ void cached_rows(Rows<T> out, Rows<const T> q, Pages pages, const CachedRow* rows, const int32_t* page_list, Heads h) {
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32), D = h.size;
  const int head = static_cast<int>(blockIdx.y) * kWarps + warp;
  if (head >= h.heads) return;   // whole warps
  float *const query = shared_as<float>() + warp * (D + kKeyBlock), *const weight = query + D;
  const int64_t row = blockIdx.x;
  const CachedRow at = rows[row];
  const int64_t kv = int64_t{head / (h.heads / h.kv_heads)} * kKeyBlock * D, values = int64_t{h.kv_heads} * kKeyBlock * D;
  keep(query, q.row(row) + head * D, D, lane);
  __syncwarp();
  RowSums sums;
  for (int begin = 0; begin <= at.logical; begin += kKeyBlock) {
    const T* const keys = reinterpret_cast<const T*>(pages.page(page_list[at.first_page + begin / kKeyBlock])) + kv;
    sums.add(query, weight, min(kKeyBlock, at.logical + 1 - begin), h, lane, [&](int j) { return keys + j * D; },
             [&](int j) { return keys + values + j * D; });
  }
  sums.store(out.row(row) + head * D, h, lane);
}

// ---- on the tensor cores: bfloat16, D a multiple of 8 up to 128. A block of threads owns 64 queries, 16 a warp: new rows of a
// sequence times the heads that read one kv head, so that a page is read once for all of them. With few rows there is a block for
// each chunk of pages besides (kSplit), whose sums merge_chunks folds as a block that walks all chunks does: the bits are the same.

// Two sums over different keys become one. `top` in units of log2; no operation may be contracted with another one, as that would
// differ between the kernels.
class Fold {
 public:
  __device__ __forceinline__ Fold(float& top, float& mass, float next_top, float next_mass) {
    const float best = fmaxf(top, next_top);
    before_ = exp2f(top - best), next_ = exp2f(next_top - best);
    top = best;
    mass = (*this)(mass, next_mass);
  }
  __device__ __forceinline__ float operator()(float sum, float next) const { return __fmaf_rn(sum, before_, __fmul_rn(next, next_)); }

 private:
  float before_, next_;
};

struct ChunkSums {                // of a chunk: by chunk, row and head
  float *values, *top_mass;       // D; 2
};

template <int kD> constexpr size_t kCachedShared = sizeof(Bf16) * 3 * kTileSize<kD>;   // queries, keys, values

template <int kD>
__device__ __forceinline__ void fold_chunk(float (&all)[kD / 8][4], float (&top)[2], float (&mass)[2], const TileSums<kD, 1>& sums, const bool (&sees)[2], float scale) {
#pragma unroll
  for (int g = 0; g < 2; ++g) {
    const float next = sums.whole_mass(0, g);
    if (!sees[g]) continue;
    const Fold fold(top[g], mass[g], __fmul_rn(sums.top[0][g], scale), next);
#pragma unroll
    for (int n = 0; n < kD / 8; ++n)
#pragma unroll
      for (int i = 2 * g; i < 2 * g + 2; ++i) all[n][i] = fold(all[n][i], sums.values[0][n][i]);
  }
}

template <int kD, bool kSplit>
__global__ void __launch_bounds__(kTileThreads) cached_tiles(Rows<Bf16> out, ChunkSums chunks, int64_t rows, Rows<const Bf16> q, Pages pages, const CachedTile* tiles,
                                                             const int32_t* page_list, Heads h) {
  Bf16 *const queries = shared_as<Bf16>(), *const keys = queries + kTileSize<kD>, *const values = keys + kTileSize<kD>;
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32), group = h.heads / h.kv_heads;
  const int kv_head = static_cast<int>(blockIdx.y) % h.kv_heads, first = static_cast<int>(blockIdx.y) / h.kv_heads * kKeyBlock;
  const CachedTile tile = tiles[blockIdx.x];
  const int count = tile.rows * group - first;   // queries from `first` on: query i is row i / group, head i % group
  if (count <= 0) return;
  const int last = tile.logical + (first + min(count, kKeyBlock) - 1) / group, begin = kSplit ? static_cast<int>(blockIdx.z) * kChunkPages : 0;
  const int end = kSplit ? min(last / kKeyBlock + 1, begin + kChunkPages) : last / kKeyBlock + 1;
  if (begin >= end) return;

  const auto row_of = [&](int i) { return (first + i) / group; };
  const auto head_of = [&](int i) { return kv_head * group + (first + i) % group; };
  const int64_t key_offset = int64_t{kv_head} * kKeyBlock * h.size, value_offset = key_offset + int64_t{h.kv_heads} * kKeyBlock * h.size;
  const auto load_keys = [&](Bf16* to, int page, int64_t offset) {   // of a page: zeros behind the last key that is seen
    const auto* const from = reinterpret_cast<const Bf16*>(pages.page(page_list[tile.first_page + page])) + offset;
    load_tile<kD>(to, Rows<const Bf16>{from, h.size}, 0, last + 1 - page * kKeyBlock, 0, h.size);
  };
  for (int i = static_cast<int>(threadIdx.x); i < kKeyBlock * (kD / 8); i += kTileThreads) {
    const int r = i / (kD / 8), c = i % (kD / 8) * 8;
    const bool valid = r < count && c < h.size;
    copy_async(queries + r * kRow<kD> + c, valid ? q.row(tile.row + row_of(r)) + head_of(r) * h.size + c : q.data, valid);
  }
  load_keys(keys, begin, key_offset);
  commit_copies();
  load_keys(values, begin, value_offset);
  commit_copies();

  const bool works = warp * 16 < count;   // the same for a whole warp
  const int mine[2] = {warp * 16 + lane / 4, warp * 16 + lane / 4 + 8};
  const int logical[2] = {tile.logical + row_of(mine[0]), tile.logical + row_of(mine[1])}, lowest = tile.logical + row_of(warp * 16);
  const float scale = h.scale * kLog2E;
  TileSums<kD, 1> sums;
  float all[kD / 8][4] = {}, top[2] = {-INFINITY, -INFINITY}, mass[2] = {};
  for (int page = begin; page < end; ++page) {
    float score[1][8][4];
    wait_copies<1>();
    __syncthreads();
    if (works) score_keys<kD, 1>(score, queries, warp * 16, keys, lane);
    __syncthreads();
    if (page + 1 < end) load_keys(keys, page + 1, key_offset);
    commit_copies();
    if (works) {
      if (lowest < (page + 1) * kKeyBlock - 1) {
#pragma unroll
        for (int n = 0; n < 8; ++n)
#pragma unroll
          for (int i = 0; i < 4; ++i)
            if (page * kKeyBlock + n * 8 + lane % 4 * 2 + i % 2 > logical[i / 2]) score[0][n][i] = -INFINITY;
      }
      sums.weigh(score, scale);
    }
    wait_copies<1>();
    __syncthreads();
    if (works) multiply_rows<kD, 8, 1>(sums.values, score, values, 0, lane);
    __syncthreads();
    if (page + 1 < end) load_keys(values, page + 1, value_offset);
    commit_copies();
    if constexpr (!kSplit) {
      if (!works || (page + 1 < end && (page + 1) % kChunkPages != 0)) continue;
      const int chunk = page / kChunkPages * kChunkPages * kKeyBlock;   // its first key
      fold_chunk<kD>(all, top, mass, sums, {logical[0] >= chunk, logical[1] >= chunk}, scale);
      sums.reset();
    }
  }
  wait_copies<0>();
  if (!works) return;
#pragma unroll
  for (int g = 0; g < 2; ++g) {
    const float sum = kSplit ? sums.whole_mass(0, g) : mass[g];
    if (mine[g] >= count) continue;
    const int64_t row = tile.row + row_of(mine[g]), head = head_of(mine[g]), at = (int64_t{blockIdx.z} * rows + row) * h.heads + head;
    const float inverse = 1.0f / sum;
#pragma unroll
    for (int n = 0; n < kD / 8; ++n) {
      const int column = n * 8 + lane % 4 * 2;
      if (column >= h.size) continue;
      if constexpr (kSplit)
        *reinterpret_cast<float2*>(chunks.values + at * h.size + column) = make_float2(sums.values[0][n][2 * g], sums.values[0][n][2 * g + 1]);
      else
        *reinterpret_cast<uint32_t*>(out.row(row) + head * h.size + column) = pack_bf16(all[n][2 * g] * inverse, all[n][2 * g + 1] * inverse);
    }
    if (kSplit && lane % 4 == 0) *reinterpret_cast<float2*>(chunks.top_mass + 2 * at) = make_float2(__fmul_rn(sums.top[0][g], scale), sum);
  }
}

// A warp owns a row and a head.
__global__ void merge_chunks(Rows<Bf16> out, ChunkSums chunks, const CachedRow* rows, int64_t total, Heads h) {
  constexpr int kColumns = 4;   // of a lane: D up to 128
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int64_t pair = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32, row = pair / h.heads, head = pair % h.heads;
  if (row >= total) return;
  const int mine = rows[row].logical / (kChunkPages * kKeyBlock) + 1;
  float top = -INFINITY, mass = 0, values[kColumns] = {};
  for (int chunk = 0; chunk < mine; ++chunk) {
    const int64_t at = chunk * total * h.heads + pair;
    const Fold fold(top, mass, chunks.top_mass[2 * at], chunks.top_mass[2 * at + 1]);
#pragma unroll
    for (int c = 0; c < kColumns; ++c)
      if (lane + 32 * c < h.size) values[c] = fold(values[c], chunks.values[at * h.size + lane + 32 * c]);
  }
  const float inverse = 1.0f / mass;
#pragma unroll
  for (int c = 0; c < kColumns; ++c)
    if (lane + 32 * c < h.size) from_float(out.row(row)[head * h.size + lane + 32 * c], values[c] * inverse);
}

// Chunks have blocks of their own where tiles have few rows, as in a step of decoding: prompts have blocks enough without. The sums that
// wait to be folded shall not take too much memory either.
constexpr int64_t kFewRows = 8, kMostSums = int64_t{256} << 20;   // bytes

void tile_cached(cudaStream_t stream, Arena& arena, Tensor out, Tensor q, const Pages& pages, const PagePlan& plan, const Heads& h) {
  const ArenaScope scope(arena);
  const int64_t sums = plan.chunks * plan.rows * h.heads;
  const bool split = plan.chunks > 1 && plan.most_rows <= kFewRows && sums * (h.size + 2) * static_cast<int64_t>(sizeof(float)) <= kMostSums;
  ChunkSums chunks{};
  if (split) chunks = {arena.allocate_n<float>(sums * h.size), arena.allocate_n<float>(sums * 2)};
  const auto queries = ceil_div(plan.most_rows * (h.heads / h.kv_heads), kKeyBlock);
  const auto run = [&](auto columns, auto kernel) {
    constexpr size_t shared = kCachedShared<columns.value>;
    const dim3 grid{static_cast<unsigned>(plan.tiles), static_cast<unsigned>(h.kv_heads) * queries, split ? static_cast<unsigned>(plan.chunks) : 1};
    launch(stream, {"attention_cached", grid, kTileThreads, shared}, kernel, rows_of<Bf16>(out), chunks, plan.rows, rows_of<const Bf16>(q), pages, plan.tile,
           plan.page_list, h);
  };
  with_columns(h.size, [&](auto columns) {
    if (split) run(columns, cached_tiles<columns.value, true>);
    else run(columns, cached_tiles<columns.value, false>);
  });
  if (split)
    launch(stream, {"merge_chunks", ceil_div(plan.rows * h.heads, kWarps), 32 * kWarps}, merge_chunks, rows_of<Bf16>(out), chunks, plan.row, plan.rows, h);
}

}  // namespace

size_t CudaBackend::kv_page_bytes(const AttentionShape& s, DType dtype) const {
  return static_cast<size_t>(2 * kKeyBlock * s.kv_heads * s.head_size) * size_of(dtype);
}

std::unique_ptr<Prepared> CudaBackend::prepare(const CachedPlan& plan) { return std::make_unique<PagePlan>(device_, plan); }

void CudaBackend::kv_append(const KvStore& kv, int64_t layer, Tensor k, Tensor v, const Prepared& prepared, const AttentionShape& s) {
  const auto& plan = static_cast<const PagePlan&>(prepared);
  const int64_t total = plan.rows * s.kv_heads * s.head_size;
  if (total == 0) return;
  with_type(k.dtype, [&](auto type) {
    using T = decltype(type);
    launch(stream(), {"kv_append", ceil_div(total, 32 * kWarps), 32 * kWarps}, append_rows<T>, Pages{kv, layer}, rows_of<const T>(k), rows_of<const T>(v),
           plan.row, total, heads_of(s));
  });
}

void CudaBackend::attention_cached(Tensor out, Tensor q, const KvStore& kv, int64_t layer, const Prepared& prepared, const AttentionShape& s) {
  const auto& plan = static_cast<const PagePlan&>(prepared);
  if (plan.rows == 0) return;
  const Heads h = heads_of(s);
  if (takes_tiles(s, {out, q})) return tile_cached(stream(), scratch_, out, q, {kv, layer}, plan, h);
  const size_t shared = sizeof(float) * static_cast<size_t>(kWarps * (s.head_size + kKeyBlock));
  with_type(q.dtype, [&](auto type) {
    using T = decltype(type);
    launch(stream(), {"attention_cached", {static_cast<unsigned>(plan.rows), ceil_div(s.heads, kWarps)}, 32 * kWarps, shared}, cached_rows<T>,
           rows_of<T>(out), rows_of<const T>(q), Pages{kv, layer}, plan.row, plan.page_list, h);
  });
}

}  // namespace isr::cuda
