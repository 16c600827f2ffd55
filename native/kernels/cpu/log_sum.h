// log of a sum of exponentials over a row of logits that goes by in chunks (online softmax, Milakov & Gimelshein 2018).
// Training and sampling share it, so that a sampled token's log-prob has the bits that scoring gives it.
#pragma once
#include <cmath>

#include "kernels/cpu/simd.h"

namespace isr::cpu::ISR_NS {

constexpr int64_t kVocabChunk = 4096;  // fixed: a row's result is a function of the row alone

struct Online {                        // over the chunks seen so far
  float top = -__builtin_inff();       // largest logit; NaN never comes in
  float target = 0;                    // the target's logit
  double sum = 0;                      // of e^(logit - top); NaN if a logit is NaN or +infinity, or if all are -infinity

  float log_prob() const { return static_cast<float>(static_cast<double>(target) - top - std::log(sum)); }
};

// The next n logits, at most kVocabChunk; `target` counts from the first of them and may lie outside.
static inline void update(Online& o, const float* logits, int64_t n, int64_t target) {
  vf m = splat(-__builtin_inff());
  for_lanes(n, [&](int64_t c, auto lanes) { m = max(keep_at(load_at(logits + c, lanes), lanes, m), m); });
  const float top = max_of(m) > o.top ? max_of(m) : o.top;
  vf s = zero();
  for_lanes(n, [&](int64_t c, auto lanes) { s += keep_at(expv(load_at(logits + c, lanes) - splat(top)), lanes); });
  o.sum = o.sum * std::exp(static_cast<double>(o.top) - top) + sum(s);
  o.top = top;
  if (target >= 0 && target < n) o.target = logits[target];
}

}  // namespace isr::cpu::ISR_NS
