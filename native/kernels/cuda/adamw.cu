// The optimizer's passes: AdamW (Loshchilov & Hutter 2019, the order of operations of PyTorch's torch.optim.AdamW) over all
// parameters in one launch, and the sum of squares behind the gradient norm. Both run at the speed of memory.
#include <cmath>
#include <vector>

#include "kernels/cuda/cuda_backend.h"

namespace isr::cuda {
namespace {

constexpr int kBlock = 256, kChunk = 4096;   // values of a block

struct Item {
  float *master, *m, *v;
  const float* grad;
  void *value, *matrix;                      // where the master goes, cast; null: nowhere
  int64_t n, first_block;
  float decay, step, root;                   // 1 - lr * weight decay; lr over the first bias correction; 1 / sqrt of the second
  bool value_is_bf16, matrix_is_bf16, rounded;
};

__device__ float rounded_bf16(float x) { return __bfloat162float(__float2bfloat16_rn(x)); }

__device__ void put(void* to, bool is_bf16, int64_t i, float x) {
  if (is_bf16) static_cast<Bf16*>(to)[i] = __float2bfloat16_rn(x);
  else static_cast<float*>(to)[i] = x;
}

// The item of a block: the last one that begins at it or before it.
__device__ const Item& item_of(const Item* items, int count) {
  int low = 0, high = count - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (items[middle].first_block <= static_cast<int64_t>(blockIdx.x)) low = middle;
    else high = middle - 1;
  }
  return items[low];
}

template <bool kUpdate>
__global__ void update_values(const Item* items, int count, AdamW o) {
  const Item item = item_of(items, count);
  const int64_t begin = (int64_t{blockIdx.x} - item.first_block) * kChunk, end = begin + kChunk < item.n ? begin + kChunk : item.n;
  const float c1 = 1.0f - o.beta1, c2 = 1.0f - o.beta2;
  for (int64_t i = begin + threadIdx.x; i < end; i += kBlock) {
    float master = item.master[i];
    if (kUpdate) {
      const float g = item.grad[i] * o.grad_scale;
      const float m = o.beta1 * item.m[i] + c1 * g, v = o.beta2 * item.v[i] + c2 * g * g;
      master = master * item.decay - item.step * m / (sqrtf(v) * item.root + o.eps);
      item.m[i] = m;
      item.v[i] = v;
      item.master[i] = master;
    }
    const float value = item.rounded ? rounded_bf16(master) : master;
    if (item.value) put(item.value, item.value_is_bf16, i, value);
    if (item.matrix) put(item.matrix, item.matrix_is_bf16, i, value);
  }
}

struct Array { const float* data; int64_t n, first_block; };

__global__ void square_chunks(double* sums, const Array* arrays, int count) {
  double* const scratch = shared_as<double>();
  int at = 0;
  while (at + 1 < count && arrays[at + 1].first_block <= static_cast<int64_t>(blockIdx.x)) ++at;
  const Array x = arrays[at];
  const int64_t begin = (int64_t{blockIdx.x} - x.first_block) * kChunk, end = begin + kChunk < x.n ? begin + kChunk : x.n;
  double sum = 0;
  for (int64_t i = begin + threadIdx.x; i < end; i += kBlock) sum += static_cast<double>(x.data[i]) * x.data[i];
  sum = block_sum(sum, scratch);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

Item item_from(const AdamWItem& from, const AdamW* o, int64_t first_block) {
  Item item{};
  item.master = from.master, item.m = from.m, item.v = from.v, item.grad = from.grad;
  item.n = from.rows * from.cols, item.first_block = first_block;
  item.value = from.value.data, item.value_is_bf16 = from.value.dtype == DType::BF16, item.rounded = from.rounded;
  if (from.matrix) {
    const Tensor& rows = static_cast<RowMatrix*>(from.matrix)->rows;
    item.matrix = rows.at(from.matrix_row), item.matrix_is_bf16 = rows.dtype == DType::BF16;
  }
  if (!o) return item;
  const auto step = static_cast<double>(from.step);
  item.decay = static_cast<float>(1 - static_cast<double>(o->lr) * from.weight_decay);
  item.step = static_cast<float>(o->lr / (1 - std::pow(static_cast<double>(o->beta1), step)));
  item.root = static_cast<float>(1 / std::sqrt(1 - std::pow(static_cast<double>(o->beta2), step)));
  return item;
}

}  // namespace

void CudaBackend::update(std::span<const AdamWItem> items, const AdamW* o) {
  std::vector<Item> all;
  int64_t blocks = 0;
  for (const AdamWItem& item : items) {
    if (item.rows * item.cols == 0) continue;
    all.push_back(item_from(item, o, blocks));
    blocks += ceil_div(all.back().n, kChunk);
  }
  if (all.empty()) return;
  const ArenaScope scope(scratch_);
  const Item* const there = Uploads(device_, scratch_).array(all);
  const Launch l{o ? "adamw" : "write_values", static_cast<unsigned>(blocks), kBlock};
  if (o) launch(stream(), l, update_values<true>, there, static_cast<int>(all.size()), *o);
  else launch(stream(), l, update_values<false>, there, static_cast<int>(all.size()), AdamW{});
}

void CudaBackend::adamw(std::span<const AdamWItem> items, const AdamW& o) { update(items, &o); }
void CudaBackend::write_values(std::span<const AdamWItem> items) { update(items, nullptr); }

double CudaBackend::sum_squares(std::span<const Flat> arrays) {
  std::vector<Array> all;
  int64_t blocks = 0;
  for (const Flat& x : arrays) {
    if (x.n == 0) continue;
    all.push_back({x.data, x.n, blocks});
    blocks += ceil_div(x.n, kChunk);
  }
  if (all.empty()) return 0;
  const ArenaScope scope(scratch_);
  const Array* const there = Uploads(device_, scratch_).array(all);
  double* const sums = scratch_.allocate_n<double>(blocks);
  launch(stream(), {"sum_squares", static_cast<unsigned>(blocks), kBlock, sizeof(double) * kBlock / 32}, square_chunks, sums, there,
         static_cast<int>(all.size()));
  std::vector<double> host(static_cast<size_t>(blocks));
  device_.download(host.data(), sums, host.size() * sizeof(double));
  double total = 0;
  for (size_t i = 0, block = 0; i < all.size(); ++i) {
    double sum = 0;
    for (; block < host.size() && (i + 1 == all.size() || static_cast<int64_t>(block) < all[i + 1].first_block); ++block) sum += host[block];
    total += sum;
  }
  return total;
}

}  // namespace isr::cuda
