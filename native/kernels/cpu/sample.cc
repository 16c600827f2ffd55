// One draw per row of logits. Candidates stand in one order, (probability desc, id asc): top_k keeps the first k of it, top_p
// the shortest prefix with mass >= top_p of what top_k kept, and the draw takes the first candidate at which the mass summed
// in this order exceeds uniform * (mass kept). All three are therefore one search, `locate`: a radix descent over the bits of
// the weights (11, 10 and 10 bits), without sorting. Weights are e^((l - max) / temperature), so the first is 1.
#include <bit>
#include <cmath>

#include "kernels/cpu/log_sum.h"

namespace isr::cpu::ISR_NS {
namespace {

constexpr float kInfinity = __builtin_inff();

float row_max(const float* x, int64_t n) {  // NaN never comes out
  vf m = splat(-kInfinity);
  for_lanes(n, [&](int64_t c, auto lanes) { m = max(keep_at(load_at(x + c, lanes), lanes, m), m); });
  return max_of(m);
}

int32_t first_equal(const float* x, float value, int64_t n, int64_t skip = 0) {  // index of the skip-th match; -1: none
  int32_t found = -1;
  for (int64_t c = 0; c < n && found < 0; c += kLanes) {
    const int count = n - c < kLanes ? static_cast<int>(n - c) : kLanes;
    unsigned hits = lanes_set(load_n(x + c, count) == splat(value)) & ((1u << count) - 1);
    for (; hits && skip > 0; --skip) hits &= hits - 1;
    if (hits) found = static_cast<int32_t>(c + __builtin_ctz(hits));
  }
  return found;
}

struct Bins {
  double mass[1024];
  int32_t count[1024];
};
struct Prefix {           // of the candidates in order
  uint32_t bits = 0;      // weight of its last candidate
  int64_t nth = 0;        // which of the candidates with this weight that is, from 1
  double mass = 0;        // of the whole prefix
  int64_t count = 0;
};

uint32_t bits_of(float w) { return std::bit_cast<uint32_t>(w); }

// Positive weights by their top 11 bits (a weight is at most 1, so the sign and the top bin index stay below 1024).
void fill_bins(Bins& bins, const float* weight, int64_t n) {
  bins = {};
  for (int64_t i = 0; i < n; ++i) {
    const float w = weight[i];
    if (w == 0) continue;
    const uint32_t b = bits_of(w) >> 20;
    bins.mass[b] += w;
    ++bins.count[b];
  }
}

// Weights whose bits above shift + 10 equal `high`, by the 10 bits from `shift` on.
void refine_bins(Bins& bins, const float* weight, int64_t n, uint32_t high, int shift) {
  bins = {};
  for (int64_t c = 0; c < n; c += kLanes) {
    const int count = n - c < kLanes ? static_cast<int>(n - c) : kLanes;
    const vf w = load_n(weight + c, count);
    unsigned hits = lanes_set(((vu)w >> (shift + 10)) == high) & ~lanes_set(w == zero());
    for (; hits; hits &= hits - 1) {
      const float hit = weight[c + __builtin_ctz(hits)];
      const uint32_t b = (bits_of(hit) >> shift) & 1023;
      bins.mass[b] += hit;
      ++bins.count[b];
    }
  }
}

// The bin in which reached(mass, count) of the running prefix turns true, walked from the top; the last one if none does.
template <class Reached>
uint32_t walk(const Bins& bins, Prefix& prefix, Reached&& reached) {
  uint32_t last = 0;
  double before = 0;
  for (int b = 1023; b >= 0; --b) {
    if (bins.count[b] == 0) continue;
    const double mass = prefix.mass;
    prefix.mass += bins.mass[b];
    prefix.count += bins.count[b];
    last = static_cast<uint32_t>(b);
    before = mass;
    if (reached(prefix.mass, prefix.count)) break;
  }
  prefix.mass = before;
  prefix.count -= bins.count[last];
  return last;
}

// The shortest prefix with reached(mass, count). Rounding differs between a bin and its parts; whoever calls bounds the
// count as well, so a prefix never runs into candidates that were cut off.
template <class Reached>
Prefix locate(const Bins& top, Bins& scratch, const float* weight, int64_t n, Reached&& reached) {
  Prefix prefix;
  uint32_t bits = walk(top, prefix, reached);
  for (int shift = 10; shift >= 0; shift -= 10) {
    refine_bins(scratch, weight, n, bits, shift);
    bits = bits << 10 | walk(scratch, prefix, reached);
  }
  const double w = std::bit_cast<float>(bits), mass = prefix.mass;
  const int64_t ties = scratch.count[bits & 1023], count = prefix.count;
  int64_t nth = 1;
  while (nth < ties && !reached(mass + static_cast<double>(nth) * w, count + nth)) ++nth;
  return {bits, nth, mass + static_cast<double>(nth) * w, count + nth};
}

struct RowScratch {
  float* weight = nullptr;  // (V)
  Bins* bins = nullptr;     // 2
};

int32_t draw(const float* logits, float top, int64_t V, const SampleOptions& o, const RowScratch& scratch) {
  float* const weight = scratch.weight;
  // At most the largest float: infinity times the best's own distance of 0 would be no number.
  const float steepness = 1.0f / o.temperature;
  const vf inverse = splat(steepness < __FLT_MAX__ ? steepness : __FLT_MAX__);
  for_lanes(V, [&](int64_t c, auto lanes) {
    store_at(weight + c, expv((load_at(logits + c, lanes) - splat(top)) * inverse), lanes);
  });
  Bins &bins = scratch.bins[0], &fine = scratch.bins[1];
  fill_bins(bins, weight, V);
  Prefix kept;
  for (int b = 1023; b >= 0; --b) {
    kept.mass += bins.mass[b];
    kept.count += bins.count[b];
  }
  if (o.top_k > 0 && o.top_k < kept.count)
    kept = locate(bins, fine, weight, V, [&](double, int64_t count) { return count >= o.top_k; });
  if (o.top_p < 1) {
    const double target = static_cast<double>(o.top_p) * kept.mass;
    const int64_t most = kept.count;
    kept = locate(bins, fine, weight, V, [&](double mass, int64_t count) { return mass >= target || count >= most; });
  }
  const double target = o.uniform * kept.mass;
  const Prefix drawn = locate(bins, fine, weight, V, [&](double mass, int64_t count) {
    return mass > target || count >= kept.count;
  });
  return first_equal(weight, std::bit_cast<float>(drawn.bits), V, drawn.nth - 1);
}

int32_t sample_row(float* logp, float* logits, int64_t V, const SampleOptions& o, std::span<const int32_t> suppress,
                   const RowScratch& scratch, int64_t row) {
  Online all;
  for (int64_t c = 0; c < V; c += kVocabChunk) update(all, logits + c, V - c < kVocabChunk ? V - c : kVocabChunk, -1);
  if (!(all.sum > 0) || std::isinf(all.sum))
    throw Error("NUMERIC", concat("[sample] expected finite logits, but row ", row, " holds NaN or infinity"));
  for (const int32_t id : suppress) {
    ISR_ASSERT(id >= 0 && id < V, "sample: suppressed id ", id, " of ", V);
    logits[id] = -kInfinity;
  }
  const float best = suppress.empty() ? all.top : row_max(logits, V);
  if (best == -kInfinity)
    throw Error("INVALID_ARGUMENT", concat("[sample] every token of row ", row, " is suppressed or has a probability of 0"));
  const int32_t id = o.temperature > 0 ? draw(logits, best, V, o, scratch) : first_equal(logits, best, V);
  all.target = logits[id];
  *logp = all.log_prob();
  return id;
}

}  // namespace

void CpuBackend::sample(int32_t* host_ids, float* host_logp, Tensor logits, std::span<const SampleOptions> options,
                        std::span<const std::span<const int32_t>> suppress) {
  const int64_t M = logits.rows, V = logits.cols;
  ISR_ASSERT(logits.dtype == DType::F32 && V > 0 && static_cast<int64_t>(options.size()) == M &&
             (suppress.empty() || static_cast<int64_t>(suppress.size()) == M), "sample: ", M, " rows, ", options.size(),
             " options, ", suppress.size(), " lists");
  ArenaScope scope(scratch);
  float* const weight = scratch.allocate_n<float>(threads * V);
  Bins* const bins = scratch.allocate_n<Bins>(2 * threads);
  parallel(threads, M, V < 8192 ? M : 1, [&](int64_t begin, int64_t end, int worker) {
    for (int64_t i = begin; i < end; ++i) {
      const auto k = static_cast<size_t>(i);
      const std::span<const int32_t> list = suppress.empty() ? std::span<const int32_t>{} : suppress[k];
      host_ids[i] = sample_row(host_logp + i, row_of<float>(logits, i), V, options[k], list, {weight + worker * V, bins + 2 * worker}, i);
    }
  });
}

}  // namespace isr::cpu::ISR_NS
