// Plans of attention as kernels read them, and what all attention kernels share.
#pragma once
#include <cstring>
#include <initializer_list>

#include "kernels/attention_plan.h"
#include "kernels/cuda/device.h"

namespace isr::cuda {

// Copies of arrays in one block of memory that lives as long as the plan.
class Resident {
 public:
  explicit Resident(CudaDevice& device) : device_(device) {}
  ~Resident() { device_.give(std::move(memory_)); }
  Resident(const Resident&) = delete;
  template <class T>
  void add(const T*& to, const std::vector<T>& from) {
    const size_t at = (host_.size() + 63) / 64 * 64, bytes = from.size() * sizeof(T);
    host_.resize(at + bytes);
    if (bytes > 0) std::memcpy(host_.data() + at, from.data(), bytes);
    places_.push_back({reinterpret_cast<const void**>(&to), at});
  }
  void upload();
  const void* place() const { return memory_.data(); }

 private:
  struct Place { const void** to; size_t at; };
  CudaDevice& device_;
  Buffer memory_;
  std::vector<char> host_;
  std::vector<Place> places_;
};

struct TilePair { int32_t first, second; };   // tiles of one span; second: -1 where there is none

struct SpanTables {               // resident; see AttentionPlan
  const QueryTile* tiles;
  const KeyBlock* blocks;
  const int32_t *first_block, *block_list, *readers;
  const int32_t* key_row;         // (blocks, 64): the batch row of each key; -1: none
  const int32_t *first_place, *place;   // where keys of a row stand, as block * 64 + offset: CSR over rows, ascending
  const TilePair* pairs;          // most work first
  int32_t causal;
};

struct SpanPlan final : Prepared {
  SpanPlan(CudaDevice& device, const AttentionPlan& plan);
  SpanTables tables{};
  int64_t rows = 0, tiles = 0, blocks = 0, pairs = 0;
  Resident memory;
};

struct CachedRow {                // of a new row: its position, and the pages of its sequence
  int32_t logical, first_page;
  int32_t page, slot;             // where its key and value go
};

struct CachedTile {               // new rows of one sequence, at most 64
  int32_t row, rows;              // batch rows
  int32_t logical;                // of the first
  int32_t first_page;             // of the sequence
};

constexpr int kChunkPages = 8;    // what a row sums over so many pages is folded into one; counted from its sequence's first page

struct PagePlan final : Prepared {
  PagePlan(CudaDevice& device, const CachedPlan& plan);
  void add_to(std::vector<uint64_t>& key) const override;
  const CachedRow* row = nullptr;
  const CachedTile* tile = nullptr;
  const int32_t* page_list = nullptr;
  int64_t rows = 0, tiles = 0, most_rows = 0;   // most_rows: of a tile
  int64_t chunks = 0;                           // of the longest sequence
  Resident memory;
};

struct Heads { int heads, kv_heads, size; float scale; };
inline Heads heads_of(const AttentionShape& s) {
  ISR_ASSERT(s.head_size >= 1 && s.head_size <= 256, "attention: a head of ", s.head_size);
  return {static_cast<int>(s.heads), static_cast<int>(s.kv_heads), static_cast<int>(s.head_size), s.scale};
}

// attention.cu: whether the tensor cores' kernels take these.
bool takes_tiles(const AttentionShape& s, std::initializer_list<Tensor> all);

struct KeyPages { const Bf16 *k, *v; };   // (blocks, kv heads, 64, columns): zeros behind the keys that there are and behind D
struct KeySums { float *dk, *dv; };       // (blocks, kv heads, 64, D): of the keys of a block, by all tiles that read it

// attention_plain.cu
void plain_forward(cudaStream_t stream, Tensor out, float* lse, Tensor q, Tensor k, Tensor v, const SpanPlan& plan, const Heads& h);
void plain_backward(cudaStream_t stream, Tensor dq, const KeySums& sums, Tensor dout, Tensor q, Tensor k, Tensor v, const float* lse, const float* delta,
                    const SpanPlan& plan, const Heads& h);
void row_deltas(cudaStream_t stream, float* delta, Tensor dout, Tensor out, const Heads& h);
void gather_keys(cudaStream_t stream, Tensor dk, Tensor dv, const KeySums& sums, const SpanPlan& plan, const Heads& h);
// attention_forward.cu, attention_backward.cu: bfloat16, D a multiple of 8 up to 128
KeyPages pack_keys(cudaStream_t stream, Arena& arena, Tensor k, Tensor v, const SpanPlan& plan, const Heads& h);
void tile_forward(cudaStream_t stream, Tensor out, float* lse, Tensor q, const KeyPages& pages, const SpanPlan& plan, const Heads& h);
void tile_backward(cudaStream_t stream, Tensor dq, const KeySums& sums, Tensor dout, Tensor q, const KeyPages& pages, const float* lse, const float* delta,
                   const SpanPlan& plan, const Heads& h);

}  // namespace isr::cuda
