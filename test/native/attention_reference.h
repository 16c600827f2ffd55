// Attention straight from the definition of spans, in any number type: a row sees every row of every ancestor, then its own
// span (causal: up to itself). Float64 is the oracle; a complex step through the forward checks the oracle's own gradient.
// `Rounding` mimics a naive bfloat16 run, in which every intermediate matrix is stored in bfloat16.
#pragma once
#include <algorithm>
#include <cmath>
#include <complex>
#include <vector>

#include "core/bf16.h"
#include "kernels/attention_plan.h"

namespace isr::test {

struct AttentionProblem {
  std::vector<Span> spans;
  bool causal = true;
  AttentionShape s;
  int rows() const { return spans.back().end; }
  std::vector<std::vector<int>> visible() const {  // rows that each row sees
    std::vector<std::vector<int>> see(static_cast<size_t>(rows()));
    for (const Span& span : spans) {
      std::vector<int> before;
      for (int p = span.parent; p >= 0; p = spans[static_cast<size_t>(p)].parent)
        for (int r = spans[static_cast<size_t>(p)].begin; r < spans[static_cast<size_t>(p)].end; ++r) before.push_back(r);
      for (int r = span.begin; r < span.end; ++r) {
        see[static_cast<size_t>(r)] = before;
        for (int t = span.begin; t < (causal ? r + 1 : span.end); ++t) see[static_cast<size_t>(r)].push_back(t);
      }
    }
    return see;
  }
};

template <class N>
struct AttentionValues {  // q, out, dq (T, H D); k, v, dk, dv (T, K D); lse (T, H)
  std::vector<N> q, k, v, out, lse, dout, dq, dk, dv;
};

struct Exact { template <class N> N operator()(N x) const { return x; } };
struct Rounding { double operator()(double x) const { return round_bf16(static_cast<float>(x)); } };

// Probabilities of one row's visible keys.
template <class N, class Round>
std::vector<N> row_probabilities(const AttentionProblem& a, const AttentionValues<N>& x, const std::vector<int>& keys, int row, int64_t head, N& lse, Round round) {
  const int64_t d = a.s.head_size, kv = head / (a.s.heads / a.s.kv_heads);
  std::vector<N> p;
  double top = -1e300;
  for (int key : keys) {
    N s = 0;
    for (int64_t i = 0; i < d; ++i)
      s += x.q[static_cast<size_t>((row * a.s.heads + head) * d + i)] * x.k[static_cast<size_t>((key * a.s.kv_heads + kv) * d + i)];
    p.push_back(round(s * static_cast<double>(a.s.scale)));
    top = std::max(top, std::real(p.back()));
  }
  N total = 0;
  for (N& e : p) total += e = std::exp(e - top);
  for (N& e : p) e = round(e / total);
  lse = std::log(total) + top;
  return p;
}

template <class N, class Round = Exact>
void reference_forward(const AttentionProblem& a, AttentionValues<N>& x, Round round = {}) {
  const int64_t d = a.s.head_size, group = a.s.heads / a.s.kv_heads;
  const auto see = a.visible();
  x.out.assign(x.q.size(), N{});
  x.lse.assign(static_cast<size_t>(a.rows() * a.s.heads), N{});
  for (int row = 0; row < a.rows(); ++row)
    for (int64_t head = 0; head < a.s.heads; ++head) {
      const std::vector<int>& keys = see[static_cast<size_t>(row)];
      const auto p = row_probabilities(a, x, keys, row, head, x.lse[static_cast<size_t>(row * a.s.heads + head)], round);
      for (int64_t i = 0; i < d; ++i) {
        N sum = 0;
        for (size_t j = 0; j < keys.size(); ++j) sum += p[j] * x.v[static_cast<size_t>((keys[j] * a.s.kv_heads + head / group) * d + i)];
        x.out[static_cast<size_t>((row * a.s.heads + head) * d + i)] = round(sum);
      }
    }
}

// Gradients of sum(out * dout).
template <class Round = Exact>
void reference_backward(const AttentionProblem& a, AttentionValues<double>& x, Round round = {}) {
  const int64_t d = a.s.head_size, group = a.s.heads / a.s.kv_heads;
  const auto see = a.visible();
  x.dq.assign(x.q.size(), 0);
  x.dk.assign(x.k.size(), 0);
  x.dv.assign(x.v.size(), 0);
  for (int row = 0; row < a.rows(); ++row)
    for (int64_t head = 0; head < a.s.heads; ++head) {
      const std::vector<int>& keys = see[static_cast<size_t>(row)];
      double lse;
      const auto p = row_probabilities(a, x, keys, row, head, lse, round);
      const size_t at = static_cast<size_t>((row * a.s.heads + head) * d);
      double delta = 0;
      for (size_t i = 0; i < static_cast<size_t>(d); ++i) delta += x.out[at + i] * x.dout[at + i];
      for (size_t j = 0; j < keys.size(); ++j) {
        const size_t key = static_cast<size_t>((keys[j] * a.s.kv_heads + head / group) * d);
        double dp = 0;
        for (size_t i = 0; i < static_cast<size_t>(d); ++i) dp += x.dout[at + i] * x.v[key + i];
        const double ds = round(p[j] * (round(dp) - delta));
        for (size_t i = 0; i < static_cast<size_t>(d); ++i) {
          x.dq[at + i] += ds * x.k[key + i] * static_cast<double>(a.s.scale);
          x.dk[key + i] += ds * x.q[at + i] * static_cast<double>(a.s.scale);
          x.dv[key + i] += p[j] * x.dout[at + i];
        }
      }
    }
  for (auto* g : {&x.dq, &x.dk, &x.dv})
    for (double& e : *g) e = round(e);
}

}  // namespace isr::test
