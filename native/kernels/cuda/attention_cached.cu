// Attention of new rows over the pages of their sequences. A page of one layer is (K then V, kv heads, 64 tokens, D) in the
// model's type. A warp owns a row and a head, and walks the sequence's pages in logical order, so that a row's bits are those of
// its own tokens, whatever else is in the batch.
#include <cstring>

#include "kernels/cuda/attention_row.h"
#include "kernels/cuda/cuda_backend.h"

namespace isr::cuda {

PagePlan::PagePlan(CudaDevice& device, const CachedPlan& plan) : memory(device) {
  std::vector<CachedRow> all(plan.rows.size());
  for (size_t t = 0; t < all.size(); ++t) all[t].page = plan.rows[t].page, all[t].slot = plan.rows[t].slot;
  for (const CachedSequence& s : plan.sequences)
    for (int32_t i = 0; i < s.rows; ++i) {
      CachedRow& row = all[static_cast<size_t>(s.row + i)];
      row.logical = s.logical + i, row.first_page = s.first_page;
    }
  rows = static_cast<int64_t>(all.size());
  memory.add(row, all);
  memory.add(page_list, plan.page_list);
  memory.upload();
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
  const size_t shared = sizeof(float) * static_cast<size_t>(kWarps * (s.head_size + kKeyBlock));
  with_type(q.dtype, [&](auto type) {
    using T = decltype(type);
    launch(stream(), {"attention_cached", {static_cast<unsigned>(plan.rows), ceil_div(s.heads, kWarps)}, 32 * kWarps, shared}, cached_rows<T>,
           rows_of<T>(out), rows_of<const T>(q), Pages{kv, layer}, plan.row, plan.page_list, heads_of(s));
  });
}

}  // namespace isr::cuda
