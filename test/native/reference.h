// The oracle: every operator once more, scalar, in float64, from its definition, sharing nothing with the kernels.
// Templated on the scalar, so that a function runs on double and on std::complex<double>: the imaginary part of
// f(x + i h) / h is the derivative, exact to rounding (complex step; Squire & Trapp 1998). Maxima and comparisons look at the
// real part and count as constants.
// Stored is a matrix as kernels see it: float32 or bfloat16, any stride, with padding that must stay as it was.
#pragma once
#include <algorithm>
#include <cmath>
#include <complex>
#include <cstdint>
#include <cstring>
#include <numbers>
#include <span>
#include <vector>

#include "core/bf16.h"
#include "core/tensor.h"
#include "kernels/attention_plan.h"

namespace isr::reference {

template <class T> using Vec = std::vector<T>;
using Complex = std::complex<double>;

inline double real(double x) { return x; }
inline double real(const Complex& x) { return x.real(); }
inline double erf(double x) { return std::erf(x); }
inline Complex erf(const Complex& x) {  // first order in the imaginary part: all that a complex step sees
  return {std::erf(x.real()), x.imag() * 2 / std::sqrt(std::numbers::pi) * std::exp(-x.real() * x.real())};
}

// ---- norms. x (T, C); w, b (C)
template <class T>
Vec<T> rms_norm(const Vec<T>& x, const Vec<T>& w, double eps) {
  const size_t C = w.size();
  Vec<T> y(x.size());
  for (size_t t = 0; t < x.size(); t += C) {
    T square = 0;
    for (size_t c = 0; c < C; ++c) square += x[t + c] * x[t + c];
    const T rms = std::sqrt(square / static_cast<double>(C) + eps);
    for (size_t c = 0; c < C; ++c) y[t + c] = w[c] * x[t + c] / rms;
  }
  return y;
}

template <class T>
Vec<T> layer_norm(const Vec<T>& x, const Vec<T>& w, const Vec<T>& b, double eps) {
  const size_t C = w.size();
  Vec<T> y(x.size());
  for (size_t t = 0; t < x.size(); t += C) {
    T mean = 0, variance = 0;
    for (size_t c = 0; c < C; ++c) mean += x[t + c] / static_cast<double>(C);
    for (size_t c = 0; c < C; ++c) variance += (x[t + c] - mean) * (x[t + c] - mean) / static_cast<double>(C);
    for (size_t c = 0; c < C; ++c) y[t + c] = (x[t + c] - mean) / std::sqrt(variance + eps) * w[c] + b[c];
  }
  return y;
}

// ---- rope. x (T, heads * D); table (T, D/2, 2) cos, sin
template <class T>
Vec<T> rope(const Vec<T>& x, const Vec<double>& table, size_t heads, size_t D, bool inverse) {
  Vec<T> y(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    const size_t t = i / (heads * D), d = i % D, pair = d % (D / 2);
    const double c = table[t * D + 2 * pair], s = (inverse ? -1 : 1) * table[t * D + 2 * pair + 1];
    y[i] = d < D / 2 ? x[i] * c - x[i + D / 2] * s : x[i] * c + x[i - D / 2] * s;
  }
  return y;
}

// ---- activations
template <class T> T silu(T x) { return x / (1.0 + std::exp(-x)); }
template <class T> T gelu_erf(T x) { return 0.5 * x * (1.0 + erf(x / std::sqrt(2.0))); }
template <class T> T gelu_tanh(T x) {
  return 0.5 * x * (1.0 + std::tanh(std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
}
template <class T> T quick_gelu(T x) { return x / (1.0 + std::exp(-1.702 * x)); }

template <class T>
Vec<T> map(const Vec<T>& x, T (*f)(T)) {
  Vec<T> y(x.size());
  std::transform(x.begin(), x.end(), y.begin(), f);
  return y;
}

template <class T>
Vec<T> swiglu(const Vec<T>& pre, size_t F) {  // pre (T, 2F) [gate | up] -> (T, F)
  Vec<T> y(pre.size() / 2);
  for (size_t i = 0; i < y.size(); ++i) y[i] = silu(pre[i / F * 2 * F + i % F]) * pre[i / F * 2 * F + F + i % F];
  return y;
}

// ---- products. x (M, K), w (N, K), b (N) or empty -> (M, N)
template <class T>
Vec<T> linear(const Vec<T>& x, const Vec<T>& w, const Vec<T>& b, size_t K) {
  const size_t M = x.size() / K, N = w.size() / K;
  Vec<T> y(M * N);
  for (size_t m = 0; m < M; ++m)
    for (size_t n = 0; n < N; ++n) {
      T sum = b.empty() ? T(0) : b[n];
      for (size_t k = 0; k < K; ++k) sum += x[m * K + k] * w[n * K + k];
      y[m * N + n] = sum;
    }
  return y;
}

// log softmax(logits) of one id a row. logits (R, V)
template <class T>
Vec<T> pick_log_softmax(const Vec<T>& logits, std::span<const int32_t> ids) {
  const size_t R = ids.size(), V = logits.size() / R;
  Vec<T> logp(R);
  for (size_t r = 0; r < R; ++r) {
    double top = real(logits[r * V]);
    for (size_t v = 1; v < V; ++v) top = std::max(top, real(logits[r * V + v]));
    T sum = 0;
    for (size_t v = 0; v < V; ++v) sum += std::exp(logits[r * V + v] - top);
    logp[r] = logits[r * V + static_cast<size_t>(ids[r])] - top - std::log(sum);
  }
  return logp;
}

// ---- rows. y[i] = x[index[i]], -1 a row of zeros; an embedding is the gather of its table
template <class T>
Vec<T> gather(const Vec<T>& x, std::span<const int32_t> index, size_t C) {
  Vec<T> y(index.size() * C, T(0));
  for (size_t i = 0; i < y.size(); ++i)
    if (index[i / C] >= 0) y[i] = x[static_cast<size_t>(index[i / C]) * C + i % C];
  return y;
}

// ---- attention from the definition of spans: a row sees all rows of every ancestor of its span, then its own span
// (causal: up to itself). q (T, H*D); k, v (T, K*D)
inline Vec<uint8_t> visible_rows(const Vec<Span>& spans, bool causal, size_t rows, size_t row) {
  Vec<uint8_t> seen(rows, 0);
  int32_t own = 0;
  while (static_cast<size_t>(spans[static_cast<size_t>(own)].end) <= row) ++own;
  for (int32_t s = own; s >= 0; s = spans[static_cast<size_t>(s)].parent)
    for (int32_t r = spans[static_cast<size_t>(s)].begin; r < spans[static_cast<size_t>(s)].end; ++r)
      seen[static_cast<size_t>(r)] = s != own || !causal || static_cast<size_t>(r) <= row;
  return seen;
}

template <class T>
Vec<T> attention(const Vec<T>& q, const Vec<T>& k, const Vec<T>& v, const Vec<Span>& spans, bool causal, const AttentionShape& s) {
  const auto H = static_cast<size_t>(s.heads), K = static_cast<size_t>(s.kv_heads), D = static_cast<size_t>(s.head_size);
  const size_t rows = q.size() / (H * D);
  Vec<T> out(q.size(), T(0)), weight(rows);
  for (size_t t = 0; t < rows; ++t) {
    const Vec<uint8_t> seen = visible_rows(spans, causal, rows, t);
    for (size_t h = 0; h < H; ++h) {
      const size_t g = h / (H / K);  // its kv head
      double top = -INFINITY;
      for (size_t j = 0; j < rows; ++j) {
        weight[j] = 0;
        if (!seen[j]) continue;
        for (size_t d = 0; d < D; ++d) weight[j] += q[(t * H + h) * D + d] * k[(j * K + g) * D + d];
        weight[j] *= static_cast<double>(s.scale);
        top = std::max(top, real(weight[j]));
      }
      T sum = 0;
      for (size_t j = 0; j < rows; ++j)
        if (seen[j]) sum += weight[j] = std::exp(weight[j] - top);
      for (size_t j = 0; j < rows; ++j)
        for (size_t d = 0; seen[j] && d < D; ++d) out[(t * H + h) * D + d] += weight[j] / sum * v[(j * K + g) * D + d];
    }
  }
  return out;
}

// ---- gradients. f: Vec<Complex> -> Vec<Complex>; the derivative of sum(dy * f(x)) by x[i]
constexpr double kStep = 1e-30;

inline Vec<Complex> complex(const Vec<double>& x) { return {x.begin(), x.end()}; }

template <class F>
double gradient_at(F&& f, const Vec<double>& x, const Vec<double>& dy, size_t i) {
  Vec<Complex> z = complex(x);
  z[i] += Complex(0, kStep);
  const Vec<Complex> y = f(z);
  double sum = 0;
  for (size_t j = 0; j < y.size(); ++j) sum += dy[j] * (y[j].imag() / kStep);
  return sum;
}

template <class F>
Vec<double> gradient(F&& f, const Vec<double>& x, const Vec<double>& dy) {
  Vec<double> g(x.size());
  for (size_t i = 0; i < x.size(); ++i) g[i] = gradient_at(f, x, dy, i);
  return g;
}

// The gradient of f that maps rows to rows, row by row: f sees one row. x (T, C), dy (T, any)
template <class F>
Vec<double> row_gradient(F&& f, const Vec<double>& x, const Vec<double>& dy, size_t rows) {
  const size_t C = x.size() / rows, N = dy.size() / rows;
  Vec<double> g;
  for (size_t t = 0; t < rows; ++t) {
    const Vec<double> row(x.begin() + static_cast<int64_t>(t * C), x.begin() + static_cast<int64_t>((t + 1) * C));
    const Vec<double> drow(dy.begin() + static_cast<int64_t>(t * N), dy.begin() + static_cast<int64_t>((t + 1) * N));
    const Vec<double> part = gradient([&](const Vec<Complex>& z) { return f(z, t); }, row, drow);
    g.insert(g.end(), part.begin(), part.end());
  }
  return g;
}

// ---- a matrix as kernels see it
struct Stored {
  DType dtype;
  int64_t rows, cols, stride;
  std::vector<uint8_t> bytes;

  Stored(DType t, int64_t r, int64_t c, int64_t padding = 0)
      : dtype(t), rows(r), cols(c), stride(c + padding), bytes(static_cast<size_t>(r * stride) * size_of(t), 0xa5) {}
  Stored(DType t, int64_t r, int64_t c, const std::vector<float>& values, int64_t padding = 0) : Stored(t, r, c, padding) {
    for (int64_t i = 0; i < r * c; ++i) set(i / c, i % c, values[static_cast<size_t>(i)]);
  }
  Tensor tensor() { return {bytes.data(), rows, cols, stride, dtype, -1}; }
  void set(int64_t r, int64_t c, float x) {
    const Tensor t = tensor();
    if (dtype == DType::F32) *static_cast<float*>(t.at(r, c)) = x;
    else *static_cast<uint16_t*>(t.at(r, c)) = f32_to_bf16(x);
  }
  double get(int64_t r, int64_t c) const {
    const uint8_t* p = bytes.data() + static_cast<size_t>(r * stride + c) * size_of(dtype);
    float f;
    uint16_t h;
    if (dtype == DType::F32) return std::memcpy(&f, p, 4), f;
    return std::memcpy(&h, p, 2), bf16_to_f32(h);
  }
  Vec<double> values() const {  // what the kernel really reads: rounded to dtype
    Vec<double> x(static_cast<size_t>(rows * cols));
    for (size_t i = 0; i < x.size(); ++i) x[i] = get(static_cast<int64_t>(i) / cols, static_cast<int64_t>(i) % cols);
    return x;
  }
  bool padding_intact() const {
    const size_t line = static_cast<size_t>(stride) * size_of(dtype), used = static_cast<size_t>(cols) * size_of(dtype);
    for (size_t i = 0; i < bytes.size(); ++i)
      if (i % line >= used && bytes[i] != 0xa5) return false;
    return true;
  }
};

// Largest |got - want| over what one rounding to the dtype explains plus `slack` times the largest |want| (float32 sums);
// at most 1 is right. NaN counts as infinitely wrong.
inline double error_of(const Vec<double>& got, const Vec<double>& want, DType dtype, double slack = 2e-6) {
  double scale = 0, worst = 0;
  for (const double w : want) scale = std::max(scale, std::abs(w));
  const double rounding = dtype == DType::BF16 ? 0x1p-8 : 0x1p-24;
  for (size_t i = 0; i < want.size(); ++i) {
    const double error = std::abs(got[i] - want[i]) / (1.001 * rounding * std::abs(want[i]) + slack * scale + 1e-30);
    worst = error <= worst ? worst : error;  // NaN gets through
    if (std::isnan(error)) return INFINITY;
  }
  return got.size() == want.size() ? worst : INFINITY;
}

}  // namespace isr::reference
