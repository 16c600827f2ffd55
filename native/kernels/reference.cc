#include "kernels/reference.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/bf16.h"
#include "core/threads.h"

namespace isr::reference {
namespace {

double read(const Tensor& t, int64_t row, int64_t col) {
  return t.dtype == DType::BF16 ? bf16_to_f32(*static_cast<const uint16_t*>(t.at(row, col))) : *static_cast<const float*>(t.at(row, col));
}

void write(const Tensor& t, int64_t row, int64_t col, double value) {
  const float v = static_cast<float>(value);
  if (t.dtype == DType::BF16) *static_cast<uint16_t*>(t.at(row, col)) = f32_to_bf16(v);
  else *static_cast<float*>(t.at(row, col)) = v;
}

// Rows that row i of span `own` sees: every ancestor whole, root first, then its own span, up to itself when causal.
std::vector<int64_t> keys_of(std::span<const Span> spans, size_t own, int64_t i, bool causal) {
  std::vector<size_t> chain;
  for (int32_t s = spans[own].parent; s >= 0; s = spans[static_cast<size_t>(s)].parent) chain.push_back(static_cast<size_t>(s));
  std::vector<int64_t> keys;
  for (auto it = chain.rbegin(); it != chain.rend(); ++it)
    for (int64_t j = spans[*it].begin; j < spans[*it].end; ++j) keys.push_back(j);
  for (int64_t j = spans[own].begin; j < (causal ? i + 1 : spans[own].end); ++j) keys.push_back(j);
  return keys;
}

struct Row {  // softmax of one row and head
  std::vector<double> p;
  double lse = 0;
};

Row softmax(const Tensor& q, const Tensor& k, int64_t i, int64_t h, const std::vector<int64_t>& keys, const AttentionShape& s) {
  const int64_t D = s.head_size, g = h / (s.heads / s.kv_heads);
  Row row;
  double top = -INFINITY, sum = 0;
  for (const int64_t j : keys) {
    double dot = 0;
    for (int64_t d = 0; d < D; ++d) dot += read(q, i, h * D + d) * read(k, j, g * D + d);
    row.p.push_back(dot * static_cast<double>(s.scale));
    top = std::max(top, row.p.back());
  }
  for (const double x : row.p) sum += std::exp(x - top);
  row.lse = top + std::log(sum);
  for (double& x : row.p) x = std::exp(x - row.lse);
  return row;
}

template <class Body>  // body(row, head, keys)
void for_each_row(std::span<const Span> spans, bool causal, const AttentionShape& s, Body body) {
  for (size_t own = 0; own < spans.size(); ++own)
    for (int64_t i = spans[own].begin; i < spans[own].end; ++i) {
      check_cancelled();
      const std::vector<int64_t> keys = keys_of(spans, own, i, causal);
      for (int64_t h = 0; h < s.heads; ++h) body(i, h, keys);
    }
}

}  // namespace

void attention_forward(Tensor out, float* lse, Tensor q, Tensor k, Tensor v, std::span<const Span> spans, bool causal, const AttentionShape& s) {
  const int64_t D = s.head_size;
  for_each_row(spans, causal, s, [&](int64_t i, int64_t h, const std::vector<int64_t>& keys) {
    const int64_t g = h / (s.heads / s.kv_heads);
    const Row row = softmax(q, k, i, h, keys, s);
    if (lse) lse[i * s.heads + h] = static_cast<float>(row.lse);
    for (int64_t d = 0; d < D; ++d) {
      double sum = 0;
      for (size_t j = 0; j < keys.size(); ++j) sum += row.p[j] * read(v, keys[j], g * D + d);
      write(out, i, h * D + d, sum);
    }
  });
}

// With P = softmax(scale q k^T): dV = P^T dO; dS = P * (dO V^T - sum_j P dO V^T); dQ = scale dS K; dK = scale dS^T Q.
void attention_backward(Tensor dq, Tensor dk, Tensor dv, Tensor dout, Tensor q, Tensor k, Tensor v, std::span<const Span> spans, bool causal,
                        const AttentionShape& s) {
  const int64_t T = q.rows, D = s.head_size, K = s.kv_heads;
  std::vector<double> sum_k(static_cast<size_t>(T * K * D)), sum_v(sum_k.size());
  for_each_row(spans, causal, s, [&](int64_t i, int64_t h, const std::vector<int64_t>& keys) {
    const int64_t g = h / (s.heads / K);
    const Row row = softmax(q, k, i, h, keys, s);
    std::vector<double> dp(keys.size()), dq_row(static_cast<size_t>(D));
    double mean = 0;
    for (size_t j = 0; j < keys.size(); ++j) {
      for (int64_t d = 0; d < D; ++d) dp[j] += read(dout, i, h * D + d) * read(v, keys[j], g * D + d);
      mean += row.p[j] * dp[j];
    }
    for (size_t j = 0; j < keys.size(); ++j) {
      const double ds = row.p[j] * (dp[j] - mean) * static_cast<double>(s.scale);
      const size_t at = static_cast<size_t>((keys[j] * K + g) * D);
      for (int64_t d = 0; d < D; ++d) {
        const size_t c = static_cast<size_t>(d);
        dq_row[c] += ds * read(k, keys[j], g * D + d);
        sum_k[at + c] += ds * read(q, i, h * D + d);
        sum_v[at + c] += row.p[j] * read(dout, i, h * D + d);
      }
    }
    for (int64_t d = 0; d < D; ++d) write(dq, i, h * D + d, dq_row[static_cast<size_t>(d)]);
  });
  for (int64_t j = 0; j < T; ++j)
    for (int64_t c = 0; c < K * D; ++c) {
      write(dk, j, c, sum_k[static_cast<size_t>(j * K * D + c)]);
      write(dv, j, c, sum_v[static_cast<size_t>(j * K * D + c)]);
    }
}

}  // namespace isr::reference
