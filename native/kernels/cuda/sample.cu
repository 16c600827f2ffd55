// One draw per row of logits. Candidates stand in one order, (probability desc, id asc): top_k keeps the first k of it, top_p
// the shortest prefix with mass >= top_p of what top_k kept, and the draw takes the first candidate at which the mass summed
// in this order exceeds uniform * (mass kept). All three are one search, for the weight of the last candidate of a prefix:
// its 31 bits are found one by one, each by a sum over the row in one fixed order. Nothing is sorted.
// Weights are e^((l - max) / temperature), so the first is 1.
#include <cmath>
#include <vector>

#include "kernels/cuda/cuda_backend.h"

namespace isr::cuda {
namespace {

constexpr int kBlock = 512;
constexpr int64_t kChunk = 4096;       // logits whose sum of exponentials is one float32 sum, as the CPU has it

struct Draw { float temperature, top_p; int32_t top_k; double uniform; };
struct Drawn { int32_t id, fault; float logp; };   // fault 1: no finite logits; 2: every token is suppressed
struct Prefix { unsigned bits; int64_t nth; double mass; int64_t count; };   // up to the nth candidate of this weight
struct Sum { double mass; int64_t count; };

struct Row {
  const float* weight;
  int64_t n;
  double* masses;       // (kBlock / 32)
  int64_t* counts;

  // Of candidates whose weight has bits of at least `least`.
  __device__ Sum from(unsigned least) const {
    double mass = 0;
    int64_t count = 0;
    for (int64_t c = threadIdx.x; c < n; c += kBlock) {
      const float w = weight[c];
      if (w > 0 && __float_as_uint(w) >= least) mass += w, ++count;
    }
    return {block_sum(mass, masses), block_sum(count, counts)};
  }
};

// The shortest prefix with reached(mass, count); all that there is, where none has.
template <class Reached>
__device__ Prefix locate(const Row& row, Reached reached) {
  unsigned bits = 0;   // the largest for which the candidates from it on reach
  for (int bit = 30; bit >= 0; --bit) {
    const Sum at = row.from(bits | 1u << bit);
    if (reached(at.mass, at.count)) bits |= 1u << bit;
  }
  const Sum above = row.from(bits + 1), whole = row.from(bits);
  const double w = __uint_as_float(bits);
  const int64_t ties = whole.count - above.count;
  int64_t nth = 1;
  while (nth < ties && !reached(above.mass + static_cast<double>(nth) * w, above.count + nth)) ++nth;
  return {bits, nth, above.mass + static_cast<double>(nth) * w, above.count + nth};
}

// Index of the nth value, from 1, of those that are equal to `value`. `scratch`: a value per warp, and one.
__device__ int64_t nth_equal(const float* x, float value, int64_t n, int64_t nth, int32_t* scratch) {
  int64_t seen = 0;
  for (int64_t c0 = 0; c0 < n; c0 += kBlock) {
    const int64_t c = c0 + threadIdx.x;
    const bool hit = c < n && x[c] == value;
    const Rank rank = block_rank(hit, scratch);
    if (hit && seen + rank.before + 1 == nth) scratch[kBlock / 32] = static_cast<int32_t>(c);
    __syncthreads();
    if (seen + rank.all >= nth) return scratch[kBlock / 32];
    seen += rank.all;
  }
  return -1;
}

__device__ float row_top(const float* x, int64_t n, float* scratch) {
  float top = -INFINITY;
  for (int64_t c = threadIdx.x; c < n; c += kBlock) top = fmaxf(top, x[c]);
  return block_max(top, scratch);
}

__global__ void draw_rows(Drawn* drawn, Rows<float> logits, Rows<float> weights, const Draw* draws, const int32_t* suppressed, const int32_t* lists,
                          int64_t n) {
  char* const shared = shared_as<char>();
  const int64_t r = blockIdx.x;
  float *const row = logits.row(r), *const weight = weights.row(r);
  const Row candidates{weight, n, reinterpret_cast<double*>(shared), reinterpret_cast<int64_t*>(shared) + kBlock / 32};
  float* const scratch = reinterpret_cast<float*>(shared);
  const Draw o = draws[r];

  const float top = row_top(row, n, scratch);
  double sum = 0;
  for (int64_t c0 = 0; c0 < n; c0 += kChunk) {
    float part = 0;
    for (int64_t c = c0 + threadIdx.x; c < n && c < c0 + kChunk; c += kBlock) part += expf(row[c] - top);
    sum += block_sum(static_cast<double>(part), candidates.masses);
  }
  if (!(sum > 0 && sum < INFINITY)) {
    if (threadIdx.x == 0) drawn[r] = {0, 1, 0};
    return;
  }
  // The drawn token's own logit, which is never suppressed, is read after this.
  for (int64_t i = lists[r] + static_cast<int64_t>(threadIdx.x); i < lists[r + 1]; i += kBlock) row[suppressed[i]] = -INFINITY;
  __syncthreads();
  const float best = row_top(row, n, scratch);
  if (best == -INFINITY) {
    if (threadIdx.x == 0) drawn[r] = {0, 2, 0};
    return;
  }
  int64_t id;
  if (o.temperature > 0) {
    const float steepness = fminf(1.0f / o.temperature, 3.402823466e38f);   // infinity times the best's own distance of 0 would be no number
    for (int64_t c = threadIdx.x; c < n; c += kBlock) weight[c] = expf((row[c] - best) * steepness);
    __syncthreads();
    const Sum all = candidates.from(0);
    Prefix kept{0, 0, all.mass, all.count};
    if (o.top_k > 0 && o.top_k < kept.count)
      kept = locate(candidates, [&](double, int64_t count) { return count >= o.top_k; });
    if (o.top_p < 1) {
      const double target = static_cast<double>(o.top_p) * kept.mass;
      const int64_t most = kept.count;
      kept = locate(candidates, [&](double mass, int64_t count) { return mass >= target || count >= most; });
    }
    const double target = o.uniform * kept.mass;
    const Prefix last = locate(candidates, [&](double mass, int64_t count) { return mass > target || count >= kept.count; });
    id = nth_equal(weight, __uint_as_float(last.bits), n, last.nth, reinterpret_cast<int32_t*>(shared));
  } else {
    id = nth_equal(row, best, n, 1, reinterpret_cast<int32_t*>(shared));
  }
  if (threadIdx.x == 0) drawn[r] = {static_cast<int32_t>(id), 0, static_cast<float>(static_cast<double>(row[id]) - top - log(sum))};
}

}  // namespace

void CudaBackend::sample(int32_t* host_ids, float* host_logp, Tensor logits, std::span<const SampleOptions> options,
                         std::span<const std::span<const int32_t>> suppress) {
  const int64_t M = logits.rows, V = logits.cols;
  ISR_ASSERT(logits.dtype == DType::F32 && V > 0 && static_cast<int64_t>(options.size()) == M &&
             (suppress.empty() || static_cast<int64_t>(suppress.size()) == M), "sample: ", M, " rows, ", options.size(), " options, ", suppress.size(), " lists");
  if (M == 0) return;
  std::vector<Draw> draws;
  for (const SampleOptions& o : options) draws.push_back({o.temperature, o.top_p, o.top_k, o.uniform});
  std::vector<int32_t> ids, lists{0};
  for (int64_t i = 0; i < M; ++i) {
    if (!suppress.empty()) ids.insert(ids.end(), suppress[static_cast<size_t>(i)].begin(), suppress[static_cast<size_t>(i)].end());
    lists.push_back(static_cast<int32_t>(ids.size()));
  }
  for (const int32_t id : ids) ISR_ASSERT(id >= 0 && id < V, "sample: suppressed id ", id, " of ", V);
  const ArenaScope scope(scratch_);
  Uploads uploads(device_, scratch_);
  const Tensor weights = view(scratch_.allocate_n<float>(M * V), M, V);
  Drawn* const there = scratch_.allocate_n<Drawn>(M);
  launch(stream(), {"sample", static_cast<unsigned>(M), kBlock, 2 * sizeof(double) * kBlock / 32}, draw_rows, there, rows_of<float>(logits),
         rows_of<float>(weights), uploads.array(draws), uploads.array(ids), uploads.array(lists), V);
  std::vector<Drawn> drawn(static_cast<size_t>(M));
  device_.download(drawn.data(), there, drawn.size() * sizeof(Drawn));
  for (size_t i = 0; i < drawn.size(); ++i) {
    if (drawn[i].fault == 1) throw Error("NUMERIC", concat("[sample] expected finite logits, but row ", i, " holds NaN or infinity"));
    if (drawn[i].fault == 2)
      throw Error("INVALID_ARGUMENT", concat("[sample] every token of row ", i, " is suppressed or has a probability of 0"));
    host_ids[i] = drawn[i].id;
    host_logp[i] = drawn[i].logp;
  }
}

}  // namespace isr::cuda
