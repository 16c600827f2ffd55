#include "op_table.h"

#include <algorithm>
#include <cmath>

#include "attention_reference.h"
#include "autograd/ops.h"
#include "core/rng.h"
#include "kernels/pair_formulas.h"

namespace isr::test {

using reference::Complex;
using reference::Vec;

Ints OpCall::ints(const std::vector<int32_t>& v) { return resident(be, arena, v); }

const Matrix& OpCall::matrix(Tensor rows, bool swiglu) {
  const MatrixShape s{rows.rows, rows.cols, rows.dtype, swiglu};
  matrices.push_back(be.matrix(s, memory.emplace_back(be.device(), be.matrix_bytes(s)).data()));
  matrices.back()->write_rows(0, rows);
  return *matrices.back();
}

namespace {

using Rows = std::vector<OpRow>;

Vec<Complex> wide(const Vec<double>& x) { return {x.begin(), x.end()}; }
Vec<double> plus(Vec<double> a, const Vec<double>& b) {
  for (size_t i = 0; i < a.size(); ++i) a[i] += b[i];
  return a;
}
Vec<double> transposed(const Vec<double>& x, size_t cols) {
  Vec<double> y(x.size());
  const size_t rows = x.size() / cols;
  for (size_t r = 0; r < rows; ++r)
    for (size_t c = 0; c < cols; ++c) y[c * rows + r] = x[r * cols + c];
  return y;
}

struct ActRow { const char* name; Act act; Complex (*f)(Complex); };
const std::vector<ActRow> kActs{{"none", Act::None, nullptr}, {"gelu_erf", Act::GeluErf, reference::gelu_erf<Complex>},
                                {"gelu_tanh", Act::GeluTanh, reference::gelu_tanh<Complex>}, {"quick_gelu", Act::QuickGelu, reference::quick_gelu<Complex>}};

Vec<double> activated(const ActRow& a, const Vec<double>& x) {
  if (!a.f) return x;
  Vec<double> y;
  for (double v : x) y.push_back(a.f(v).real());
  return y;
}

// ---- products
struct Size { int64_t M, N, K; };

// dx, and dw of two parts of which the first has a bias, once of rows of 16 bytes each.
void add_product_gradients(Rows& all) {
  for (const Size size : {Size{9, 70, 45}, Size{130, 21, 18}, Size{130, 24, 48}}) {
    const int64_t M = size.M, N = size.N, K = size.K, first = N / 16 * 8 + N % 8;
    const std::string vars = concat("(", M, ", ", N, ") and (", N, ", ", K, ")");
    for (bool accumulate : {false, true})
      all.push_back({"gemm_nn", concat(vars, accumulate ? ", added" : ""), {{"dy", M, N}, {"w", first, K}, {"w2", N - first, K}, {"before", M, K}}, {{"dx", M, K}},
                     [accumulate](OpCall& c) {
                       const std::vector<Tensor> parts{c.in[1], c.in[2]};
                       c.be.add(c.out[0], false, c.in[3]);
                       c.be.gemm_nn(c.out[0], accumulate, c.in[0], parts);
                     },
                     [=](const Values& v) -> Values {
                       Vec<double> w = v[1];
                       w.insert(w.end(), v[2].begin(), v[2].end());
                       const Vec<double> dx = reference::linear(v[0], transposed(w, static_cast<size_t>(K)), {}, static_cast<size_t>(N));
                       return {accumulate ? plus(dx, v[3]) : dx};
                     }});
    all.push_back({"gemm_tn", vars, {{"dy", M, N}, {"x", M, K}},
                   {{"dw", first, K, As::Float32}, {"dw2", N - first, K, As::Float32}, {"db", 1, first, As::Float32}},
                   [=](OpCall& c) {
                     const std::vector<GradPart> parts{{c.out[0].f32(), c.out[2].f32(), first, false, false}, {c.out[1].f32(), nullptr, N - first, false, false}};
                     c.be.gemm_tn(parts, c.in[0], c.in[1]);
                   },
                   [=](const Values& v) -> Values {
                     const auto n = static_cast<size_t>(N), k = static_cast<size_t>(K), m = static_cast<size_t>(M), cut = static_cast<size_t>(first);
                     const Vec<double> dw = reference::linear(transposed(v[0], n), transposed(v[1], k), {}, m);
                     Vec<double> db(cut);
                     for (size_t t = 0; t < m; ++t)
                       for (size_t i = 0; i < cut; ++i) db[i] += v[0][t * n + i];
                     return {{dw.begin(), dw.begin() + static_cast<int64_t>(cut * k)}, {dw.begin() + static_cast<int64_t>(cut * k), dw.end()}, db};
                   }});
  }
}

void add_products(Rows& all) {
  for (const ActRow& act : kActs)
    for (const Size size : {Size{1, 70, 45}, Size{9, 70, 45}, Size{3, 48, 80}, Size{33, 48, 80}}) {   // rows of 16 bytes and others
      const int64_t M = size.M, N = size.N, K = size.K;
      all.push_back({"gemm_nt", concat("act ", act.name, ", (", M, ", ", K, ") by ", N), {{"x", M, K}, {"w", N, K}, {"bias", 1, N, As::Float32}, {"residual", M, N}}, {{"y", M, N}, {"pre", M, N}},
                     [act](OpCall& c) { c.be.gemm_nt(c.out[0], c.in[0], c.matrix(c.in[1]), {c.f32(2), act.act, c.out[1], c.in[3]}); },
                     [act, K](const Values& v) -> Values {
                       const Vec<double> pre = reference::linear(v[0], v[1], v[2], static_cast<size_t>(K));
                       return {plus(activated(act, pre), v[3]), pre};
                     }});
      all.push_back({"gemm_nt", concat("added to pre, act ", act.name, ", (", M, ", ", K, ") by ", N), {{"x", M, K}, {"w", N, K}, {"bias", 1, N, As::Float32}, {"before", M, N}}, {{"y", M, N}, {"pre", M, N}},
                     [act](OpCall& c) {
                       c.be.add(c.out[1], false, c.in[3]);
                       c.be.gemm_nt(c.out[0], c.in[0], c.matrix(c.in[1]), {c.f32(2), act.act, c.out[1], {}, true});
                     },
                     [act, K](const Values& v) -> Values {
                       const Vec<double> pre = plus(reference::linear(v[0], v[1], v[2], static_cast<size_t>(K)), v[3]);
                       return {activated(act, pre), pre};
                     }});
    }
  for (const Size size : {Size{1, 70, 45}, Size{9, 70, 45}, Size{3, 48, 80}, Size{33, 48, 80}}) {
    const int64_t M = size.M, N = size.N, K = size.K;
    all.push_back({"gemm_nt", concat("added to y, (", M, ", ", K, ") by ", N), {{"x", M, K}, {"w", N, K}, {"residual", M, N}, {"before", M, N}}, {{"y", M, N}},
                   [](OpCall& c) {
                     c.be.add(c.out[0], false, c.in[3]);
                     c.be.gemm_nt(c.out[0], c.in[0], c.matrix(c.in[1]), {nullptr, Act::None, {}, c.in[2], true});
                   },
                   [K](const Values& v) -> Values { return {plus(plus(reference::linear(v[0], v[1], {}, static_cast<size_t>(K)), v[2]), v[3])}; }});
  }
  constexpr int64_t M = 5, F = 37, K = 24;
  all.push_back({"gemm_nt", "swiglu, added to pre", {{"x", M, K}, {"w", 2 * F, K}, {"before", M, 2 * F}}, {{"y", M, F}, {"pre", M, 2 * F}},
                 [](OpCall& c) {
                   c.be.add(c.out[1], false, c.in[2]);
                   c.be.gemm_nt(c.out[0], c.in[0], c.matrix(c.in[1], true), {nullptr, Act::SwiGlu, c.out[1], {}, true});
                 },
                 [](const Values& v) -> Values {
                   const Vec<double> pre = plus(reference::linear(v[0], v[1], {}, K), v[2]);
                   return {reference::swiglu(pre, F), pre};
                 }});
  all.push_back({"gemm_nt", "swiglu", {{"x", M, K}, {"w", 2 * F, K}}, {{"y", M, F}, {"pre", M, 2 * F}},
                 [](OpCall& c) { c.be.gemm_nt(c.out[0], c.in[0], c.matrix(c.in[1], true), {nullptr, Act::SwiGlu, c.out[1], {}}); },
                 [](const Values& v) -> Values {
                   const Vec<double> pre = reference::linear(v[0], v[1], {}, K);
                   return {reference::swiglu(pre, F), pre};
                 }});
  add_product_gradients(all);
}

// ---- attention
AttentionValues<double> attended(const AttentionProblem& a, const Values& v) {
  AttentionValues<double> x;
  x.q = v[0], x.k = v[1], x.v = v[2];
  if (v.size() > 3) x.dout = v[3];
  reference_forward(a, x, Exact{});
  if (v.size() > 3) reference_backward(a, x, Exact{});
  return x;
}

void add_attention(Rows& all) {
  struct Case { const char* name; AttentionProblem a; };
  static const std::vector<Case> cases{
      {"causal tree", {{{0, 70, -1}, {70, 90, 0}, {90, 140, 0}}, true, {4, 2, 20, 0.25f}}},
      {"whole spans", {{{0, 33, -1}, {33, 99, -1}}, false, {2, 2, 16, 0.25f}}},
      {"causal tree, D 64", {{{0, 150, -1}, {150, 170, 0}, {170, 300, 0}}, true, {4, 2, 64, 0.125f}}},
      {"whole spans, D 72", {{{0, 33, -1}, {33, 170, -1}}, false, {2, 2, 72, 0.12f}}},
      {"causal, D 128", {{{0, 100, -1}}, true, {2, 1, 128, 0.09f}}},
  };
  for (const Case& at : cases) {
    const AttentionProblem& a = at.a;
    const int64_t T = a.rows(), q = a.s.heads * a.s.head_size, kv = a.s.kv_heads * a.s.head_size;
    all.push_back({"attention", at.name, {{"q", T, q}, {"k", T, kv}, {"v", T, kv}, {"dout", T, q}},
                   {{"out", T, q}, {"lse", T, a.s.heads, As::Float32}, {"dq", T, q}, {"dk", T, kv}, {"dv", T, kv}},
                   [&a](OpCall& c) {
                     const AttentionPlan plan = plan_attention(a.spans, a.causal);
                     const auto prepared = c.be.prepare(plan);
                     c.be.attention_forward(c.out[0], c.out[1].f32(), c.in[0], c.in[1], c.in[2], *prepared, a.s);
                     c.be.attention_backward(c.out[2], c.out[3], c.out[4], c.in[3], c.in[0], c.in[1], c.in[2], c.out[0], c.out[1].f32(), *prepared, a.s);
                   },
                   [&a](const Values& v) -> Values {
                     const AttentionValues<double> x = attended(a, v);
                     return {x.out, x.lse, x.dq, x.dk, x.dv};
                   }});
  }
  // Cached: `first` rows at once, then `chunk` at a time.
  struct Cached { const char* name; AttentionProblem a; int32_t first, chunk; };
  static const AttentionProblem line{{{0, 150, -1}}, true, {4, 2, 24, 0.2f}}, page_line{{{0, 521, -1}}, true, {6, 2, 64, 0.125f}};
  static const std::vector<Cached> cached{
      {"150 rows at a time", line, 150, 150}, {"40 rows at a time", line, 40, 40}, {"1 row at a time", line, 1, 1},
      {"1 row at a time behind many, D 64", page_line, 510, 1},   {"rows of two heads in a tile, D 64", {{{0, 75, -1}}, true, {40, 1, 64, 0.125f}}, 70, 5},
      {"1 row at a time, D 72", {{{0, 70, -1}}, true, {2, 2, 72, 0.12f}}, 60, 1}, {"D 128", {{{0, 70, -1}}, true, {2, 1, 128, 0.09f}}, 66, 4},
  };
  for (const Cached& at : cached) {
    const AttentionProblem& a = at.a;
    const int64_t T = a.rows(), q = a.s.heads * a.s.head_size, kv = a.s.kv_heads * a.s.head_size;
    all.push_back({"attention_cached", at.name, {{"q", T, q}, {"k", T, kv}, {"v", T, kv}}, {{"out", T, q}},
                   [&at, &a](OpCall& c) {
                     const int64_t page = static_cast<int64_t>(c.be.kv_page_bytes(a.s, c.dtype)), pages = (a.rows() + kKeyBlock - 1) / kKeyBlock;
                     const KvStore kv{c.memory.emplace_back(c.be.device(), static_cast<size_t>(pages * page)).data<char>(), page, pages};
                     for (int32_t begin = 0, n = at.first; begin < a.rows(); begin += n, n = std::min(at.chunk, a.rows() - begin)) {
                       CachedPlan plan;
                       for (int32_t t = begin; t < begin + n; ++t) plan.rows.push_back({t / kKeyBlock, t % kKeyBlock});
                       plan.sequences = {{0, n, begin, 0, (begin + n + kKeyBlock - 1) / kKeyBlock}};
                       for (int32_t p = 0; p < static_cast<int32_t>(pages); ++p) plan.page_list.push_back(p);
                       const auto prepared = c.be.prepare(plan);
                       c.be.kv_append(kv, 0, c.in[1].row_range(begin, n), c.in[2].row_range(begin, n), *prepared, a.s);
                       c.be.attention_cached(c.out[0].row_range(begin, n), c.in[0].row_range(begin, n), kv, 0, *prepared, a.s);
                     }
                   },
                   [&a](const Values& v) -> Values { return {attended(a, v).out}; }});
  }
}

// ---- row-wise
constexpr int64_t kT = 5, kC = 33;

void add_norms(Rows& all) {
  constexpr float kEps = 1e-5f;
  const std::vector<Operand> in{{"x", kT, kC}, {"w", 1, kC, As::Float32}, {"dy", kT, kC}, {"b", 1, kC, As::Float32}};
  const std::vector<Operand> out{{"y", kT, kC}, {"dx", kT, kC}, {"dw", 1, kC, As::Float32}};
  all.push_back({"rms_norm", "", in, out,
                 [](OpCall& c) {
                   float* rstd = c.arena.allocate_n<float>(kT);
                   c.be.rms_norm_forward(c.out[0], rstd, c.in[0], {c.f32(1), kC}, kEps);
                   c.be.rms_norm_backward(c.out[1], false, c.out[2].f32(), false, c.in[2], c.in[0], {c.f32(1), kC}, rstd);
                 },
                 [](const Values& v) -> Values {
                   const double eps = kEps;
                   return {reference::rms_norm(v[0], v[1], eps),
                           reference::gradient([&](const Vec<Complex>& z) { return reference::rms_norm(z, wide(v[1]), eps); }, v[0], v[2]),
                           reference::gradient([&](const Vec<Complex>& z) { return reference::rms_norm(wide(v[0]), z, eps); }, v[1], v[2])};
                 }});
  constexpr int64_t kHeads = 5, kD = 16;
  all.push_back({"rms_norm", "5 heads, in place", {{"x", kT, kHeads * kD}, {"w", 1, kD, As::Float32}, {"dy", kT, kHeads * kD}},
                 {{"y", kT, kHeads * kD}, {"dx", kT, kHeads * kD}, {"dw", 1, kD, As::Float32}},
                 [](OpCall& c) {
                   float* rstd = c.arena.allocate_n<float>(kT * kHeads);
                   c.be.add(c.out[0], false, c.in[0]);
                   c.be.add(c.out[1], false, c.in[2]);
                   c.be.rms_norm_forward(c.out[0], rstd, c.out[0], {c.f32(1), kD}, kEps);
                   c.be.rms_norm_backward(c.out[1], false, c.out[2].f32(), false, c.out[1], c.in[0], {c.f32(1), kD}, rstd);
                 },
                 all.back().oracle});
  std::vector<Operand> with_bias = out;
  with_bias.push_back({"db", 1, kC, As::Float32});
  all.push_back({"layer_norm", "", in, with_bias,
                 [](OpCall& c) {
                   float* mean = c.arena.allocate_n<float>(kT);
                   float* rstd = c.arena.allocate_n<float>(kT);
                   c.be.layer_norm_forward(c.out[0], mean, rstd, c.in[0], c.f32(1), c.f32(3), kEps);
                   c.be.layer_norm_backward(c.out[1], false, c.out[2].f32(), c.out[3].f32(), false, c.in[2], c.in[0], c.f32(1), mean, rstd);
                 },
                 [](const Values& v) -> Values {
                   const double eps = kEps;
                   const auto of = [&](const Vec<Complex>& x, const Vec<Complex>& w, const Vec<Complex>& b) { return reference::layer_norm(x, w, b, eps); };
                   return {reference::layer_norm(v[0], v[1], v[3], eps),
                           reference::gradient([&](const Vec<Complex>& z) { return of(z, wide(v[1]), wide(v[3])); }, v[0], v[2]),
                           reference::gradient([&](const Vec<Complex>& z) { return of(wide(v[0]), z, wide(v[3])); }, v[1], v[2]),
                           reference::gradient([&](const Vec<Complex>& z) { return of(wide(v[0]), wide(v[1]), z); }, v[3], v[2])};
                 }});
}

// Axes of positions, and which of them each of four pairs turns by: written out, in both layouts.
void add_rope(Rows& all) {
  struct Axes { const char* name; std::vector<int32_t> axis; };
  static const Axes layouts[] = {{"", {0, 0, 0, 0}}, {", three axes in sections", {0, 0, 1, 2}}, {", three axes interleaved", {0, 1, 2, 0}}};
  static const std::vector<int32_t> positions{0, 3, 1000, 7, 65000, 5, 0, 2, 64000, 1, 9, 1, 0, 11, 4095};   // (3, 5)
  static const std::vector<double> frequencies{1, 0.3, 0.01, 1e-4};
  for (const Axes& l : layouts)
    for (bool inverse : {false, true})
      all.push_back({"rope", concat(inverse ? "back" : "forth", l.name), {{"x", kT, 3 * 8}}, {{"y", kT, 3 * 8}, {"table", kT, 8, As::Float32}},
                     [&l, inverse](OpCall& c) {
                       const bool one = l.axis.back() == l.axis[1];
                       const std::vector<int32_t> given(positions.begin(), one ? positions.begin() + kT : positions.end());
                       if (one) c.be.rope_table(c.out[1].f32(), c.ints(given), {frequencies, 1.5});
                       else c.be.rope_table(c.out[1].f32(), c.ints(given), {frequencies, 1.5, 3, l.axis});
                       c.be.add(c.out[0], false, c.in[0]);
                       c.be.rope(c.out[0], c.out[1].f32(), 3, 8, inverse);
                     },
                     [&l, inverse](const Values& v) -> Values {
                       Vec<double> table;
                       for (size_t t = 0; t < kT; ++t)
                         for (size_t i = 0; i < 4; ++i) {
                           const double angle = positions[static_cast<size_t>(l.axis[i]) * kT + t] * frequencies[i];
                           table.insert(table.end(), {1.5 * std::cos(angle), 1.5 * std::sin(angle)});
                         }
                       return {reference::rope(v[0], table, 3, 8, inverse), table};
                     }});
}

void add_activations(Rows& all) {
  for (const ActRow& act : kActs) {
    if (!act.f) continue;
    all.push_back({"act", act.name, {{"pre", kT, kC, As::Activation, 4}, {"dy", kT, kC}}, {{"y", kT, kC}, {"dpre", kT, kC}},
                   [act](OpCall& c) {
                     c.be.act_forward(c.out[0], c.in[0], act.act);
                     c.be.act_backward(c.out[1], c.in[1], c.in[0], act.act);
                   },
                   [act](const Values& v) -> Values {
                     return {activated(act, v[0]), reference::row_gradient([&](const Vec<Complex>& z, size_t) { return reference::map(z, act.f); }, v[0], v[1], v[0].size())};
                   }});
  }
  all.push_back({"swiglu_backward", "", {{"dy", kT, kC}, {"pre", kT, 2 * kC, As::Activation, 3}}, {{"dpre", kT, 2 * kC}},
                 [](OpCall& c) { c.be.swiglu_backward(c.out[0], c.in[0], c.in[1]); },
                 [](const Values& v) -> Values {
                   return {reference::row_gradient([](const Vec<Complex>& z, size_t) { return reference::swiglu(z, kC); }, v[1], v[0], kT)};
                 }});
  add_rope(all);
}

// ---- rows by index
void add_rows(Rows& all) {
  static const std::vector<int32_t> index{4, -1, 0, 2}, ids{3, -1, 10, 3, 0};
  static const std::vector<int32_t> many = [] {   // more tokens than a block of threads looks at in one go
    std::vector<int32_t> all;
    for (int32_t t = 0; t < 600; ++t) all.push_back(t % 9 == 0 ? -1 : t * 7 % 11);
    return all;
  }();
  for (bool accumulate : {false, true}) {
    const std::string how = accumulate ? "added" : "written";
    const auto begun = [accumulate](const Values& v, size_t before, const Vec<double>& x) -> Values { return {accumulate ? plus(x, v[before]) : x}; };
    all.push_back({"add", how, {{"a", kT, kC}, {"before", kT, kC}}, {{"y", kT, kC}},
                   [accumulate](OpCall& c) {
                     c.be.add(c.out[0], false, c.in[1]);
                     c.be.add(c.out[0], accumulate, c.in[0]);
                   },
                   [begun](const Values& v) { return begun(v, 1, v[0]); }});
    all.push_back({"gather_rows", how, {{"x", kT, kC}, {"before", 4, kC}}, {{"y", 4, kC}},
                   [accumulate](OpCall& c) {
                     c.be.add(c.out[0], false, c.in[1]);
                     c.be.gather_rows(c.out[0], accumulate, c.in[0], c.ints(index));
                   },
                   [begun](const Values& v) { return begun(v, 1, reference::gather(v[0], index, kC)); }});
    all.push_back({"pool_rows", how, {{"x", kT, kC}, {"before", 2, kC}}, {{"y", 2, kC}},
                   [accumulate](OpCall& c) {
                     c.be.add(c.out[0], false, c.in[1]);
                     c.be.pool_rows(c.out[0], accumulate, c.in[0], c.ints(index), 2, 0.5f);
                   },
                   [begun](const Values& v) {
                     const Vec<double> rows = reference::gather(v[0], index, kC);
                     Vec<double> y(2 * kC);
                     for (size_t i = 0; i < rows.size(); ++i) y[i / kC / 2 * kC + i % kC] += 0.5 * rows[i];
                     return begun(v, 1, y);
                   }});
    all.push_back({"pool_rows", concat(how, ", rows themselves"), {{"x", kT, kC}, {"before", kT, kC}}, {{"y", kT, kC}},
                   [accumulate](OpCall& c) {
                     c.be.add(c.out[0], false, c.in[accumulate ? 1 : 0]);
                     c.be.pool_rows(c.out[0], accumulate, accumulate ? c.in[0] : c.out[0], {}, 1, 0.5f);   // in place
                   },
                   [begun](const Values& v) {
                     Vec<double> y = v[0];
                     for (double& x : y) x *= 0.5;
                     return begun(v, 1, y);
                   }});
    all.push_back({"embedding_backward", how, {{"dy", 600, kC}, {"before", 11, kC, As::Float32}}, {{"dw", 11, kC, As::Float32}},
                   [accumulate](OpCall& c) {
                     c.be.add(c.out[0], false, c.in[1]);
                     c.be.embedding_backward(c.out[0].f32(), accumulate, c.in[0], c.ints(many), 11);
                   },
                   [begun](const Values& v) {
                     Vec<double> dw(11 * kC);
                     for (size_t t = 0; t < many.size(); ++t)
                       for (size_t i = 0; many[t] >= 0 && i < kC; ++i) dw[static_cast<size_t>(many[t]) * kC + i] += v[0][t * kC + i];
                     return begun(v, 1, dw);
                   }});
  }
  all.push_back({"embedding_forward", "", {{"table", 11, kC}}, {{"y", 5, kC}}, [](OpCall& c) { c.be.embedding_forward(c.out[0], c.in[0], c.ints(ids)); },
                 [](const Values& v) -> Values { return {reference::gather(v[0], ids, kC)}; }});
  for (const int64_t beside : {0, 2})   // pixels right of the last square, and one row below it
    all.push_back({"patchify", beside > 0 ? "no whole squares" : "wider than high", {{"pixels", 2 * 3 * (6 + beside / 2), 9 + beside, As::Float32}}, {{"y", 2 * 6, 27}},
                   [beside](OpCall& c) { c.be.patchify(c.out[0], c.f32(0), 2, 6 + beside / 2, 9 + beside, 3); },
                   [beside](const Values& v) -> Values {
                     const auto height = static_cast<size_t>(6 + beside / 2), width = static_cast<size_t>(9 + beside);
                     Vec<double> y;
                     for (size_t row = 0; row < 12; ++row)
                       for (size_t i = 0; i < 27; ++i)
                         y.push_back(v[0][((row / 6 * 3 + i / 9) * height + row / 3 % 2 * 3 + i / 3 % 3) * width + row % 3 * 3 + i % 3]);
                     return {y};
                   }});
}

// ---- head and optimizer
void add_head(Rows& all) {
  for (int64_t V : {50, 4129, 66003}) {   // the last: three chunks of a card's, and a row's maximum is not always in the first
    constexpr int64_t R = 3, C = 16;
    const std::vector<int32_t> targets{static_cast<int32_t>(V) - 1, 0, 7};
    all.push_back({"token_logp", concat("V ", V), {{"x", R, C, As::Activation, 2}, {"w", V, C}, {"dlogp", 1, R, As::Float32}},
                   {{"logp", 1, R, As::Float32}, {"dx", R, C}, {"dw", V, C, As::Float32}},
                   [targets](OpCall& c) {
                     float* lse = c.arena.allocate_n<float>(R);
                     const Ints t = c.ints(targets);
                     const Matrix& head = c.matrix(c.in[1]);
                     c.be.token_logp_forward(c.out[0].f32(), lse, c.in[0], head, t);
                     c.be.token_logp_backward(c.out[1], false, c.out[2].f32(), false, c.f32(2), c.in[0], head, c.in[1], t, lse);
                   },
                   [targets, V](const Values& v) -> Values {
                     const Vec<double> logits = reference::linear(v[0], v[1], {}, C);
                     Vec<double> d(logits.size());
                     for (size_t r = 0; r < R; ++r) {
                       double sum = 0;
                       for (int64_t i = 0; i < V; ++i) sum += std::exp(logits[r * static_cast<size_t>(V) + static_cast<size_t>(i)]);
                       for (int64_t i = 0; i < V; ++i) {
                         const size_t at = r * static_cast<size_t>(V) + static_cast<size_t>(i);
                         d[at] = v[2][r] * ((i == targets[r] ? 1 : 0) - std::exp(logits[at]) / sum);
                       }
                     }
                     return {reference::pick_log_softmax(logits, targets), reference::linear(d, transposed(v[1], C), {}, static_cast<size_t>(V)),
                             reference::linear(transposed(d, static_cast<size_t>(V)), transposed(v[0], C), {}, R)};
                   }});
  }
  // A draw is compared as a number: the largest logit that is not suppressed, and its log-prob.
  all.push_back({"sample", "greedy, one id suppressed", {{"logits", 2, 300, As::Float32, 5}}, {{"ids", 1, 2, As::Float32}, {"logp", 1, 2, As::Float32}},
                 [](OpCall& c) {
                   const std::vector<SampleOptions> greedy(2);
                   const std::vector<int32_t> first{0};
                   const std::vector<std::span<const int32_t>> suppress{first, {}};
                   std::vector<int32_t> drawn(2);
                   std::vector<float> logp(2), as_numbers;
                   const Tensor logits = view(c.arena.allocate_n<float>(600), 2, 300);
                   c.be.add(logits, false, c.in[0]);
                   c.be.sample(drawn.data(), logp.data(), logits, greedy, suppress);
                   for (int32_t id : drawn) as_numbers.push_back(static_cast<float>(id));
                   c.be.device().upload(c.out[0].data, as_numbers.data(), 8);
                   c.be.device().upload(c.out[1].data, logp.data(), 8);
                 },
                 [](const Values& v) -> Values {
                   std::vector<int32_t> best;
                   for (int64_t r = 0; r < 2; ++r) {
                     const auto row = v[0].begin() + r * 300;
                     best.push_back(static_cast<int32_t>(std::max_element(row + (r == 0 ? 1 : 0), row + 300) - row));
                   }
                   return {{static_cast<double>(best[0]), static_cast<double>(best[1])}, reference::pick_log_softmax(v[0], best)};
                 }});
}

// Draws among the likeliest: the same number as the first at which the sorted, cut masses exceed the uniform one. `step`: logits are
// its multiples, so that many are equal; 0: as they come.
void add_six_draws(Rows& all, const char* name, float step) {
  const auto logit = [step](float x) { return step > 0 ? std::round(x / step) * step : x; };
  static constexpr int64_t M = 6, V = 1500;
  static const std::vector<SampleOptions> options{{1, 1, 0, 0.3}, {0.7f, 0.9f, 0, 0.95}, {1.5f, 1, 40, 0.5}, {1, 0.5f, 900, 0.999}, {0.3f, 1, 0, 0.0001}, {2, 0.99f, 3, 0.7}};
  all.push_back({"sample", name, {{"logits", M, V, As::Float32, 6}}, {{"ids", 1, M, As::Float32}},
                 [logit](OpCall& c) {
                   std::vector<int32_t> drawn(M);
                   std::vector<float> logp(M), values(M * V);
                   const Tensor logits = view(c.arena.allocate_n<float>(M * V), M, V);
                   c.be.device().download(values.data(), c.in[0].data, values.size() * sizeof(float));
                   std::transform(values.begin(), values.end(), values.begin(), logit);
                   c.be.device().upload(logits.data, values.data(), values.size() * sizeof(float));
                   c.be.sample(drawn.data(), logp.data(), logits, options, {});
                   const std::vector<float> as_numbers(drawn.begin(), drawn.end());
                   c.be.device().upload(c.out[0].data, as_numbers.data(), as_numbers.size() * sizeof(float));
                 },
                 [logit](const Values& v) -> Values {
                   Vec<double> ids;
                   for (int64_t m = 0; m < M; ++m) {
                     const SampleOptions& o = options[static_cast<size_t>(m)];
                     std::vector<std::pair<double, int32_t>> order;   // by falling weight, then by id
                     for (int64_t i = 0; i < V; ++i) order.emplace_back(-std::exp(logit(static_cast<float>(v[0][static_cast<size_t>(m * V + i)])) / o.temperature), static_cast<int32_t>(i));
                     std::sort(order.begin(), order.end());
                     if (o.top_k > 0) order.resize(std::min<size_t>(order.size(), static_cast<size_t>(o.top_k)));
                     double all = 0, kept = 0, sum = 0;
                     for (const auto& [w, id] : order) all -= w;
                     size_t n = 0;
                     while (n < order.size() && kept < o.top_p * all) kept -= order[n++].first;
                     size_t at = 0;
                     while (at + 1 < n && (sum -= order[at].first) <= o.uniform * kept) ++at;
                     ids.push_back(order[at].second);
                   }
                   return {ids};
                 }});
}

void add_draws(Rows& all) {
  add_six_draws(all, "six draws, top_k and top_p", 0);
  add_six_draws(all, "six draws among many ties", 2);
}

// ---- losses: slopes against central differences of the loss
constexpr int32_t kSides[] = {0, 5, 8, 8, 149, 150, 333};   // three pairs; the second chosen answer is empty

double weighted(const Vec<double>& x, size_t begin, size_t end, size_t other, const PairLoss& o) {
  double sum = 0;
  for (size_t t = begin; t < end; ++t) {
    double w = o.token_mean ? 1 / static_cast<double>(end - begin) : 1;
    if (o.ld_alpha >= 0 && t - begin >= other) w *= o.ld_alpha;
    sum += w * x[t];
  }
  return sum;
}

double loss_of(size_t pair, const Vec<double>& logp, const Vec<double>& reference, const PairLoss& o) {
  const auto b = static_cast<size_t>(kSides[2 * pair]), m = static_cast<size_t>(kSides[2 * pair + 1]), e = static_cast<size_t>(kSides[2 * pair + 2]);
  const double c = weighted(logp, b, m, e - m, o) - weighted(reference, b, m, e - m, o), r = weighted(logp, m, e, m - b, o) - weighted(reference, m, e, m - b, o);
  return pair_point(o, c, r).loss;
}

Values pair_oracle(const Values& v, const PairLoss& o) {
  constexpr double h = 1e-5;
  Vec<double> logp = v[0], figures;
  const auto sum = [](const Vec<double>& x, int32_t begin, int32_t end) {
    double s = 0;
    for (int32_t t = begin; t < end; ++t) s += x[static_cast<size_t>(t)];
    return s;
  };
  Vec<double> d(logp.size(), 0);
  for (size_t pair = 0; pair < 3; ++pair) {
    const int32_t b = kSides[2 * pair], m = kSides[2 * pair + 1], e = kSides[2 * pair + 2];
    for (int32_t t = b; t < e; ++t) {
      double& x = logp[static_cast<size_t>(t)];
      const double at = x;
      x = at + h;
      const double above = loss_of(pair, logp, v[1], o);
      x = at - h;
      const double below = loss_of(pair, logp, v[1], o);
      x = at;
      d[static_cast<size_t>(t)] = (above - below) / (2 * h) * o.per_pair - (t < m ? o.per_chosen : 0);
    }
    const double c = sum(logp, b, m), r = sum(logp, m, e);
    for (double f : {loss_of(pair, logp, v[1], o), o.beta * (c - sum(v[1], b, m)), o.beta * (r - sum(v[1], m, e)), c, r, 0.0}) figures.push_back(f);
  }
  return {d, figures};
}

void add_losses(Rows& all) {
  const int64_t tokens = kSides[6], pairs = 3;
  for (int f = 0; f <= static_cast<int>(PairFunction::Discopop); ++f)
    for (int divergence = 0; divergence < (f == 0 ? 3 : 1); ++divergence) {
      PairLoss o;
      o.function = static_cast<PairFunction>(f), o.divergence = static_cast<Divergence>(divergence);
      o.beta = 0.3, o.smoothing = 0.1, o.token_mean = f % 2 == 1, o.ld_alpha = f % 3 == 0 ? 0.4 : -1, o.per_pair = 0.25, o.per_chosen = f % 4 == 0 ? 0.01 : 0;
      all.push_back({"pair_loss", concat("function ", f, ", divergence ", divergence), {{"logp", 1, tokens, As::Float32, 0.2f}, {"reference", 1, tokens, As::Float32, 0.2f}},
                     {{"dlogp", 1, tokens, As::Float32}, {"figures", pairs, kPairFigures, As::Float32}},
                     [=](OpCall& c) {
                       auto* const figures = c.arena.allocate_n<double>(pairs * kPairFigures);
                       c.be.pair_loss(c.out[0].f32(), figures, c.f32(0), c.f32(1), c.ints({std::begin(kSides), std::end(kSides)}), o);
                       std::vector<double> told(static_cast<size_t>(pairs * kPairFigures));
                       c.be.device().download(told.data(), figures, told.size() * sizeof(double));
                       const std::vector<float> narrow(told.begin(), told.end());
                       c.be.device().upload(c.out[1].data, narrow.data(), narrow.size() * sizeof(float));
                     },
                     [=](const Values& v) { return pair_oracle(v, o); }});
    }
}

void add_optimizer(Rows& all) {
  const std::vector<Operand> state{{"master", 70, 9, As::Float32}, {"m", 70, 9, As::Float32, 0.1f}, {"v", 70, 9, As::Float32, 0}, {"grad", 70, 9, As::Float32}};
  all.push_back({"adamw", "70 rows, with values", state, {{"master", 70, 9, As::Float32}, {"m", 70, 9, As::Float32}, {"v", 70, 9, As::Float32}, {"value", 70, 9}},
                 [](OpCall& c) {
                   for (size_t i = 0; i < 3; ++i) c.be.add(c.out[i], false, c.in[i]);
                   AdamWItem item;
                   item.master = c.out[0].f32(), item.m = c.out[1].f32(), item.v = c.out[2].f32(), item.grad = c.f32(3);
                   item.rows = 70, item.cols = 9, item.step = 3, item.weight_decay = 0.1f, item.value = c.out[3];
                   c.be.adamw({&item, 1}, {.lr = 1e-2f, .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-6f, .grad_scale = 0.3f});
                 },
                 [](const Values& v) -> Values {
                   Values out(v.begin(), v.begin() + 3);
                   const double lr = 1e-2f, b1 = 0.9f, b2 = 0.95f, eps = 1e-6f, scale = 0.3f, decay = 0.1f;
                   for (size_t i = 0; i < out[0].size(); ++i) {
                     const double g = v[3][i] * scale;
                     out[1][i] = b1 * v[1][i] + (1 - b1) * g;
                     out[2][i] = b2 * v[2][i] + (1 - b2) * g * g;
                     const double m_hat = out[1][i] / (1 - std::pow(b1, 3)), v_hat = out[2][i] / (1 - std::pow(b2, 3));
                     out[0][i] = v[0][i] * (1 - lr * decay) - lr * m_hat / (std::sqrt(v_hat) + eps);
                   }
                   out.push_back(out[0]);
                   return out;
                 }});
  all.push_back({"sum_squares", "two arrays", {{"x", 1, 9001, As::Float32}, {"y", 1, 5, As::Float32}}, {{"sum", 1, 1, As::Float32}},
                 [](OpCall& c) {
                   const std::vector<Flat> arrays{{c.f32(0), 9001}, {c.f32(1), 5}};
                   const auto sum = static_cast<float>(c.be.sum_squares(arrays));
                   c.be.device().upload(c.out[0].data, &sum, sizeof sum);
                 },
                 [](const Values& v) -> Values {
                   double sum = 0;
                   for (const Vec<double>& x : v)
                     for (double a : x) sum += a * a;
                   return {{sum}};
                 }});
}

}  // namespace

const std::vector<OpRow>& op_table() {
  static const Rows all = [] {
    Rows rows;
    for (const auto& add : {add_products, add_attention, add_norms, add_activations, add_rows, add_head, add_draws, add_losses, add_optimizer}) add(rows);
    return rows;
  }();
  return all;
}

}  // namespace isr::test
