// A tile of query rows that walks key pages with an online softmax (Milakov & Gimelshein 2018; Dao et al. 2022) in base 2.
// A tile row is one head of one batch row: the heads of a kv head and the branches that share a page lie side by side.
// Each row carries its own state (largest score, sum, output), and what happens to it on a page is a function of the row and
// the page alone: masked keys give probability zero, and a page that adds no larger score scales by exactly one.
#pragma once
#include <cmath>

#include "kernels/cpu/attention_pack.h"

namespace isr::cpu::ISR_NS {

constexpr int kTileRows = 64;
constexpr int kSoftRows = 12;  // rows whose softmax is done together: enough to hide its latencies, few enough to stay in L1

template <class P>
struct RowTile {
  using Num = typename P::Num;
  int dp = 0;
  float scale2 = 0;       // scale * log2(e)
  Num* q;                 // (64, dp)
  float* out;             // (64, dp), not yet divided by the sum
  float* sum;             // (64, kLanes): one partial sum a lane
  float* top;             // (64 + 16): largest unscaled score
  int32_t* visible;       // (64): keys that the row sees, counted from logical 0
  float* scores;          // (kSoftRows, 64)
  Num* prob;              // (kSoftRows, 64)
  typename P::In* stage;  // (64, dp)
  uint32_t* page;         // a page of the tile's own

  static int64_t bytes(int dp) {
    return int64_t{kTileRows} * (dp * 24 + kLanes * 4 + 8) + 64 + kSoftRows * kKeyBlock * 8;
  }
  RowTile(char* memory, int dp, float scale) : dp(dp), scale2(scale * 1.44269504088896341f) {
    auto take = [&memory](auto*& p, int64_t n) {
      p = reinterpret_cast<std::remove_reference_t<decltype(p)>>(memory);
      memory += n * static_cast<int64_t>(sizeof(*p));
    };
    take(out, kTileRows * dp);
    take(scores, kSoftRows * kKeyBlock);
    take(sum, kTileRows * kLanes);
    take(page, 2 * page_part_words<P>(dp));
    take(q, kTileRows * dp);
    take(prob, kSoftRows * kKeyBlock);
    take(stage, kTileRows * dp);
    take(top, kTileRows + 16);
    take(visible, kTileRows);
  }

  void begin(int rows) {
    zero_rows(out, 0, rows, dp);
    std::memset(sum, 0, sizeof(float) * static_cast<size_t>(rows * kLanes));
    for (int r = 0; r < kTileRows + 16; ++r) top[r] = kMasked;
  }

  // Rows [row, row + rows) meet the page whose first key has logical index first_key.
  void attend(int row, int rows, const uint32_t* page_words, int first_key) {
    const uint32_t* values = page_words + page_part_words<P>(dp);
    for (int end = row + rows; row < end; row += kSoftRows) {
      const int n = end - row < kSoftRows ? end - row : kSoftRows;
      int least = kKeyBlock, most = 0;
      for (int r = 0; r < n; ++r) {
        const int seen = visible[row + r] - first_key;
        least = seen < least ? seen : least;
        most = seen > most ? seen : most;
      }
      if (most <= 0) continue;
      if (most > kKeyBlock) most = kKeyBlock;
      const int cols = padded(most, 2 * kLanes > 16 ? 2 * kLanes : 16);
      product<P>(Into::Set, {scores, kKeyBlock, q + row * dp, dp, page_words, kKeyBlock, dp / P::kPerWord}, n, cols);
      if (least < cols) mask(row, n, cols, first_key);
      float shrink[kSoftRows + 16];
      raise_top(shrink, row, n, cols);
      probabilities(shrink, row, n, cols);
      const int words = (most + P::kPerWord - 1) / P::kPerWord;
      product<P>(Into::ScaleAdd, {out + row * dp, dp, prob, kKeyBlock, values, dp, words, shrink}, n, dp);
    }
  }

  // Row r's output to dst (d numbers); returns the natural log of the sum of exponentials of its scores.
  template <class T>
  float finish(T* dst, int r, int d) const {
    const float total = ISR_NS::sum(load(sum + r * kLanes));
    const vf inverse = broadcast(1.0f / total);
    const float* o = out + r * dp;
    for_lanes(d, [&](int64_t i, auto lanes) { store_at(dst + i, load_at(o + i, lanes) * inverse, lanes); });
    return (top[r] * scale2 + std::log2(total)) * 0.693147180559945309f;
  }

 private:
  void mask(int row, int n, int cols, int first_key) {
    const vi lanes = lane_index();
    for (int r = 0; r < n; ++r) {
      const vi seen = vi{} + (visible[row + r] - first_key);
      for (int c = 0; c < cols; c += kLanes) {
        float* s = scores + r * kKeyBlock + c;
        store(s, select(lanes + c < seen, load(s), broadcast(kMasked)));
      }
    }
  }

  // New largest scores; shrink[r] = 2^(old - new).
  void raise_top(float* shrink, int row, int n, int cols) {
    float best[kSoftRows + 16];
    for (int r = 0; r < kSoftRows + 16; ++r) best[r] = kMasked;
    for (int r = 0; r < n; ++r) {
      const float* s = scores + r * kKeyBlock;
      vf m = load(s);
      for (int c = kLanes; c < cols; c += kLanes) m = max(m, load(s + c));
      best[r] = max_of(m);
    }
    for (int r = 0; r < n; r += kLanes) {  // lanes past n keep their value: best is kMasked there
      const vf old = load(top + row + r), now = max(load(best + r), old);
      store(shrink + r, exp2_of<P>((old - now) * broadcast(scale2)));
      store(top + row + r, now);
    }
  }

  void probabilities(const float* shrink, int row, int n, int cols) {
    const vf scale = broadcast(scale2);
    for (int r = 0; r < n; ++r) {
      const float* s = scores + r * kKeyBlock;
      Num* p = prob + r * kKeyBlock;
      const vf shift = broadcast(-top[row + r] * scale2);
      vf total = load(sum + (row + r) * kLanes) * broadcast(shrink[r]);
      for (int c = 0; c < cols; c += 2 * kLanes) {
        const vf x = exp2_of<P>(fma(load(s + c), scale, shift)), y = exp2_of<P>(fma(load(s + c + kLanes), scale, shift));
        total = total + x + y;
        store_nums(p + c, x, y);
      }
      store(sum + (row + r) * kLanes, total);
    }
  }
};

}  // namespace isr::cpu::ISR_NS
