// Every recorded op against the float64 oracle: value, and gradient by complex step, from one table; at every level, with
// parameters trained and frozen. Then what the tape itself promises: checkpointing changes no bit, fan-out adds up.
#include <algorithm>
#include <deque>
#include <memory>

#include "autograd/ops.h"
#include "check.h"
#include "host.h"
#include "reference.h"

namespace isr::test {
namespace {

using reference::Complex;
using reference::Vec;

enum class Kind { Activation, Matrix, Vector };
struct Leaf { const char* name; Kind kind; int64_t rows, cols; };

// One run of an op: leaves as tape inputs or parameters of one group, and a place for each gradient.
struct Run {
  Run(Isa isa, const std::vector<Leaf>& leaves, const std::vector<std::vector<float>>& values, bool train, bool record = true)
      : backend(make_cpu_backend(isa, 2)), tape(arena, record), ctx{*backend, tape, nullptr, {}}, data(values), grads(values.size()) {
    int64_t size = 0;
    for (size_t i = 0; i < leaves.size(); ++i) {
      grads[i].assign(data[i].size(), 0);
      Param& p = *params.emplace_back(std::make_unique<Param>());
      p.name = leaves[i].name;
      p.shape = leaves[i].kind == Kind::Vector ? std::vector<int64_t>{leaves[i].cols} : std::vector<int64_t>{leaves[i].rows, leaves[i].cols};
      p.value = data[i].data();
      p.offset = static_cast<size_t>(size);
      if (leaves[i].kind == Kind::Activation) {
        inputs.push_back(tape.input(view(data[i].data(), leaves[i].rows, leaves[i].cols), {view(grads[i].data(), leaves[i].rows, leaves[i].cols), false}));
        continue;
      }
      inputs.push_back({});
      if (train) {
        p.group = &group;
        group.params.push_back(&p);
        size += (p.size() + 63) / 64 * 64;
      }
    }
    group.written.assign(group.params.size(), false);
    group.grad = Buffer(static_cast<size_t>(std::max<int64_t>(size, 1)) * sizeof(float));
  }
  Param& param(size_t i) { return *params[i]; }
  Tensor x(size_t i) { return inputs[i]; }
  Weight& weight(std::vector<size_t> parts, std::vector<size_t> bias = {}, bool swiglu = false) {
    Weight& w = *weights.emplace_back(std::make_unique<Weight>());
    int64_t n = 0;
    for (size_t i : parts) {
      w.parts.push_back(&param(i));
      n += param(i).rows();
    }
    w.shape = {n, param(parts[0]).cols(), DType::F32, swiglu};
    panels.emplace_back(backend->matrix_bytes(w.shape));
    w.matrix = backend->matrix(w.shape, panels.back().data());
    int64_t row = 0;
    for (Param* p : w.parts) {
      w.matrix->write_rows(row, p->tensor());
      row += p->rows();
    }
    if (!bias.empty()) w.bias_value = Buffer(static_cast<size_t>(n) * sizeof(float));
    float* at = w.bias_value.data<float>();
    for (size_t i : bias) {
      w.bias.push_back(&param(i));
      at = std::copy_n(param(i).f32(), param(i).size(), at);
    }
    return w;
  }
  // What an adapter adds to parts of w: B (leaf b) after A (leaf a), `scale` times.
  struct Added { size_t part, a, b; float scale; };
  Weight& adapted(Weight& w, const std::vector<Added>& added) {
    LowRank& l = *low_ranks.emplace_back(std::make_unique<LowRank>());
    std::vector<size_t> a;
    int64_t ranks = 0, outputs = 0;
    for (const Added& one : added) {
      LowRank::Piece& piece = l.pieces.emplace_back();
      piece.b = std::move(weight({one.b}));
      for (size_t i = 0; i < one.part; ++i) piece.output += w.parts[i]->rows();
      piece.rank = ranks;
      piece.scale = one.scale;
      a.push_back(one.a);
      ranks += piece.b.k();
      outputs += piece.b.n();
    }
    l.a = std::move(weight(a));
    l.whole = outputs == w.n();
    w.low_rank = &l;
    return w;
  }
  Ints ints(const std::vector<int32_t>& v) { return resident(*backend, arena, v); }
  RowIndex index(const std::vector<int32_t>& rows, int64_t input_rows, int64_t per_row = 1) { return row_index(*backend, arena, rows, input_rows, per_row); }
  std::vector<float> gradient(size_t i) {
    if (inputs[i].data || params[i]->group == nullptr) return grads[i];
    const float* g = group.grad.data<float>() + params[i]->offset;
    return {g, g + params[i]->size()};
  }

  std::unique_ptr<Backend> backend;
  Arena arena;
  Tape tape;
  Ctx ctx;
  std::vector<std::vector<float>> data, grads;
  std::vector<std::unique_ptr<Param>> params;
  std::vector<Tensor> inputs;
  std::vector<std::unique_ptr<Weight>> weights;
  std::vector<std::unique_ptr<LowRank>> low_ranks;
  std::deque<Buffer> panels;
  Group group;
  std::unique_ptr<Prepared> plan;
};

using Inputs = std::vector<Vec<Complex>>;
struct OpCase {
  const char* name;
  std::vector<Leaf> leaves;
  std::function<Tensor(Run&)> forward;          // token_logp: seeds its own gradient
  std::function<Vec<Complex>(const Inputs&)> oracle;
};

constexpr int64_t T = 9, C = 12, N = 10, F = 7, V = 19;
const AttentionShape kShape{4, 2, 6, 0.4f};
const std::vector<Span> kSpans{{0, 4, -1}, {4, 6, 0}, {6, 9, 0}};
const std::vector<int32_t> kIds{3, 0, 18, 3, 7, 3, 0, 11, 18}, kIndex{8, 2, 5}, kTargets{4, 18, 0, 9, 9, 1, 17, 2, 5};
const std::vector<int32_t> kPlaces{5, -1, 0, 5, 2}, kGroups{8, 2, 5, 0, 7, 1};
const std::vector<int32_t> kMixed{3, -1, -1, -1, 0, -1, -1, -1, -1, 3}, kMixedRows{3, V, V + 1, V + 2, 0, V, V + 1, V + 4, V + 5, 3};

const RowMix kMix{{{0, 1, 4, 5}, {18, 18, 4, 2}}, {{0.25f, 0.5f, 0.125f, 0.125f}, {0.5f, -1, 2, 0.75f}}};   // a row may stand twice in one

const std::vector<int32_t> kPositions{0, 1, 2, 2, 2, 2, 5, 6, 7, 0, 1, 2, 3, 2, 3, 5, 6, 7}, kAxis{0, 1, 0};   // (2, T)
const std::vector<double> kFrequencies{1, 0.5, 0.02};

const std::vector<float>& rope_values() {   // (T, D/2, 2)
  static const std::vector<float> table = [] {
    std::vector<float> t;
    for (int p = 0; p < T; ++p)
      for (int i = 0; i < 3; ++i) {
        t.push_back(static_cast<float>(std::cos(p * 0.3 * (i + 1))));
        t.push_back(static_cast<float>(std::sin(p * 0.3 * (i + 1))));
      }
    return t;
  }();
  return table;
}

Vec<Complex> add(Vec<Complex> a, const Vec<Complex>& b) {
  for (size_t i = 0; i < a.size(); ++i) a[i] += b[i];
  return a;
}
Vec<Complex> joined(const Vec<Complex>& a, const Vec<Complex>& b) {
  Vec<Complex> c = a;
  c.insert(c.end(), b.begin(), b.end());
  return c;
}
Vec<Complex> columns(const Vec<Complex>& x, size_t width, size_t begin, size_t count) {
  Vec<Complex> y;
  for (size_t t = 0; t < x.size() / width; ++t) y.insert(y.end(), x.begin() + static_cast<int64_t>(t * width + begin), x.begin() + static_cast<int64_t>(t * width + begin + count));
  return y;
}
Vec<Complex> beside_rows(const std::vector<Vec<Complex>>& parts) {   // columns of T rows
  Vec<Complex> y;
  for (size_t t = 0; t < static_cast<size_t>(T); ++t)
    for (const Vec<Complex>& p : parts) {
      const auto width = static_cast<int64_t>(p.size()) / T;
      y.insert(y.end(), p.begin() + static_cast<int64_t>(t) * width, p.begin() + static_cast<int64_t>(t + 1) * width);
    }
  return y;
}
Vec<Complex> rotate_qk(const Vec<Complex>& y, const std::vector<float>& values) {   // (T, (H + 2K) D): the first H + K heads are rotated
  const Vec<double> table(values.begin(), values.end());
  const size_t width = 48, turned = 36;
  const Vec<Complex> qk = reference::rope(columns(y, width, 0, turned), table, 6, 6, false);
  Vec<Complex> out = y;
  for (size_t t = 0; t < static_cast<size_t>(T); ++t) std::copy_n(qk.begin() + static_cast<int64_t>(t * turned), turned, out.begin() + static_cast<int64_t>(t * width));
  return out;
}

// scale (x A^T) B^T of in[a] and in[b]; x is in[0].
Vec<Complex> low_rank(const Inputs& in, size_t a, size_t b, size_t rank, double scale) {
  Vec<Complex> y = reference::linear(reference::linear(in[0], in[a], {}, C), in[b], {}, rank);
  for (Complex& v : y) v *= scale;
  return y;
}

const std::vector<OpCase>& table() {
  const auto act = [](const char* name, Act a, Complex (*f)(Complex)) {
    return OpCase{name, {{"x", Kind::Activation, T, C}, {"w", Kind::Matrix, N, C}, {"b", Kind::Vector, 1, N}},
                  [a](Run& r) { return linear(r.ctx, r.x(0), r.weight({1}, {2}), a); },
                  [f](const Inputs& in) { return reference::map(reference::linear(in[0], in[1], in[2], C), f); }};
  };
  static const std::vector<OpCase> all{
      {"embedding", {{"table", Kind::Matrix, V, C}}, [](Run& r) { return embedding(r.ctx, r.param(0), r.ints(kIds), C, DType::F32); },
       [](const Inputs& in) { return reference::gather(in[0], kIds, C); }},
      {"embedding of several rows a line", {{"table", Kind::Matrix, 2, 3 * C}}, [](Run& r) { return embedding(r.ctx, r.param(0), r.ints(kPlaces), C, DType::F32); },
       [](const Inputs& in) { return reference::gather(in[0], kPlaces, C); }},
      {"embedding, text and media", {{"table", Kind::Matrix, V, C}, {"clip", Kind::Activation, 4, C}, {"image", Kind::Activation, 2, C}},
       [](Run& r) {   // the clip's first rows stand twice, its last never
         return embedding(r.ctx, r.param(0), r.ints(kMixed), std::vector<MediaRun>{{1, 3, r.x(1), 0}, {5, 2, r.x(1), 0}, {7, 2, r.x(2), 0}}, DType::F32);
       },
       [](const Inputs& in) { return reference::gather(joined(joined(in[0], in[1]), in[2]), kMixedRows, C); }},
      {"mean_rows", {{"x", Kind::Activation, T, C}}, [](Run& r) { return mean_rows(r.ctx, r.x(0), r.index(kGroups, T, 3)); },
       [](const Inputs& in) {
         Vec<Complex> y(2 * C);
         for (size_t i = 0; i < kGroups.size(); ++i)
           for (size_t c = 0; c < C; ++c) y[i / 3 * C + c] += in[0][static_cast<size_t>(kGroups[i]) * C + c] / 3.0;
         return y;
       }},
      {"rms_norm", {{"x", Kind::Activation, T, C}, {"w", Kind::Vector, 1, C}}, [](Run& r) { return rms_norm(r.ctx, r.x(0), r.param(1), 1e-5f); },
       [](const Inputs& in) { return reference::rms_norm(in[0], in[1], static_cast<double>(1e-5f)); }},
      {"rms_norm, of a third of the columns each", {{"x", Kind::Activation, T, C}, {"w", Kind::Vector, 1, C / 3}}, [](Run& r) { return rms_norm(r.ctx, r.x(0), r.param(1), 1e-5f); },
       [](const Inputs& in) { return reference::rms_norm(in[0], in[1], static_cast<double>(1e-5f)); }},
      {"layer_norm, of a third of the columns each", {{"x", Kind::Activation, T, C}, {"w", Kind::Vector, 1, C / 3}, {"b", Kind::Vector, 1, C / 3}},
       [](Run& r) { return layer_norm(r.ctx, r.x(0), r.param(1), r.param(2), 1e-5f); },
       [](const Inputs& in) { return reference::layer_norm(in[0], in[1], in[2], static_cast<double>(1e-5f)); }},
      {"join_rows", {{"x", Kind::Activation, T, C}}, [](Run& r) { return join_rows(r.ctx, r.x(0), r.index(kGroups, T), 3); },   // three rows are in none
       [](const Inputs& in) { return reference::gather(in[0], kGroups, C); }},
      {"beside", {{"a", Kind::Activation, T, C}, {"b", Kind::Activation, T, 5}},
       [](Run& r) { return beside(r.ctx, std::vector<Tensor>{r.x(0), r.x(1), r.x(0)}); },   // a fans out
       [](const Inputs& in) { return beside_rows({in[0], in[1], in[0]}); }},
      {"columns", {{"x", Kind::Activation, T, C}},
       [](Run& r) { return add(r.ctx, columns(r.ctx, r.x(0), 1, 5), columns(r.ctx, r.x(0), 3, 5)); },   // two of them overlap
       [](const Inputs& in) { return add(columns(in[0], C, 1, 5), columns(in[0], C, 3, 5)); }},
      {"mix", {{"table", Kind::Matrix, V, C}}, [](Run& r) { return mix(r.ctx, r.param(0), kMix, 3, DType::F32); },
       [](const Inputs& in) {
         Vec<Complex> y(3 * 2 * C);
         for (size_t row = 0; row < 6; ++row)
           for (size_t k = 0; k < 4; ++k)
             for (size_t c = 0; c < C; ++c) y[row * C + c] += static_cast<double>(kMix.weights[row % 2][k]) * in[0][static_cast<size_t>(kMix.rows[row % 2][k]) * C + c];
         return y;
       }},
      {"add_media", {{"x", Kind::Activation, T, C}, {"clip", Kind::Activation, 4, 3 * C}},
       [](Run& r) { return add_media(r.ctx, r.x(0), std::vector<MediaRun>{{1, 3, r.x(1), 0}, {6, 2, r.x(1), 1}}, 2 * C); },   // two rows stand twice
       [](const Inputs& in) {
         Vec<Complex> y = in[0];
         const auto put = [&](size_t row, size_t from) {
           for (size_t c = 0; c < C; ++c) y[row * C + c] += in[1][from * 3 * C + 2 * C + c];
         };
         for (size_t i = 0; i < 3; ++i) put(1 + i, i);
         for (size_t i = 0; i < 2; ++i) put(6 + i, 1 + i);
         return y;
       }},
      {"layer_norm", {{"x", Kind::Activation, T, C}, {"w", Kind::Vector, 1, C}, {"b", Kind::Vector, 1, C}},
       [](Run& r) { return layer_norm(r.ctx, r.x(0), r.param(1), r.param(2), 1e-5f); },
       [](const Inputs& in) { return reference::layer_norm(in[0], in[1], in[2], static_cast<double>(1e-5f)); }},
      {"linear", {{"x", Kind::Activation, T, C}, {"w", Kind::Matrix, N, C}}, [](Run& r) { return linear(r.ctx, r.x(0), r.weight({1})); },
       [](const Inputs& in) { return reference::linear(in[0], in[1], {}, C); }},
      {"linear, residual and bias", {{"x", Kind::Activation, T, C}, {"w", Kind::Matrix, C, C}, {"b", Kind::Vector, 1, C}},
       [](Run& r) { return linear(r.ctx, r.x(0), r.weight({1}, {2}), Act::None, r.x(0)); },   // x fans out: its gradient is a sum
       [](const Inputs& in) { return add(reference::linear(in[0], in[1], in[2], C), in[0]); }},
      act("linear, gelu_erf", Act::GeluErf, reference::gelu_erf<Complex>), act("linear, gelu_tanh", Act::GeluTanh, reference::gelu_tanh<Complex>),
      act("linear, quick_gelu", Act::QuickGelu, reference::quick_gelu<Complex>),
      {"swiglu", {{"x", Kind::Activation, T, C}, {"gate", Kind::Matrix, F, C}, {"up", Kind::Matrix, F, C}, {"bg", Kind::Vector, 1, F}, {"bu", Kind::Vector, 1, F}},
       [](Run& r) { return swiglu(r.ctx, r.x(0), r.weight({1, 2}, {3, 4}, true)); },
       [](const Inputs& in) { return reference::swiglu(reference::linear(in[0], joined(in[1], in[2]), joined(in[3], in[4]), C), F); }},
      {"qkv", {{"x", Kind::Activation, T, C}, {"q", Kind::Matrix, 24, C}, {"k", Kind::Matrix, 12, C}, {"v", Kind::Matrix, 12, C}, {"bq", Kind::Vector, 1, 24}, {"bk", Kind::Vector, 1, 12}, {"bv", Kind::Vector, 1, 12}},
       [](Run& r) { return qkv(r.ctx, r.x(0), r.weight({1, 2, 3}, {4, 5, 6}), kShape, rope_values().data()); },
       [](const Inputs& in) { return rotate_qk(reference::linear(in[0], joined(joined(in[1], in[2]), in[3]), joined(joined(in[4], in[5]), in[6]), C), rope_values()); }},
      {"linear, adapted, residual", {{"x", Kind::Activation, T, C}, {"w", Kind::Matrix, C, C}, {"b", Kind::Vector, 1, C}, {"A", Kind::Matrix, 3, C}, {"B", Kind::Matrix, C, 3}},
       [](Run& r) { return linear(r.ctx, r.x(0), r.adapted(r.weight({1}, {2}), {{0, 3, 4, 0.75f}}), Act::None, r.x(0)); },
       [](const Inputs& in) { return add(add(reference::linear(in[0], in[1], in[2], C), low_rank(in, 3, 4, 3, 0.75)), in[0]); }},
      {"linear, adapted, gelu_erf", {{"x", Kind::Activation, T, C}, {"w", Kind::Matrix, N, C}, {"b", Kind::Vector, 1, N}, {"A", Kind::Matrix, 1, C}, {"B", Kind::Matrix, N, 1}},
       [](Run& r) { return linear(r.ctx, r.x(0), r.adapted(r.weight({1}, {2}), {{0, 3, 4, 1}}), Act::GeluErf); },
       [](const Inputs& in) { return reference::map(add(reference::linear(in[0], in[1], in[2], C), low_rank(in, 3, 4, 1, 1)), reference::gelu_erf<Complex>); }},
      {"swiglu, up adapted", {{"x", Kind::Activation, T, C}, {"gate", Kind::Matrix, F, C}, {"up", Kind::Matrix, F, C}, {"A", Kind::Matrix, 5, C}, {"B", Kind::Matrix, F, 5}},
       [](Run& r) { return swiglu(r.ctx, r.x(0), r.adapted(r.weight({1, 2}, {}, true), {{1, 3, 4, 0.5f}})); },
       [](const Inputs& in) {
         const Vec<Complex> up = add(reference::linear(in[0], in[2], {}, C), low_rank(in, 3, 4, 5, 0.5));
         return reference::swiglu(beside_rows({reference::linear(in[0], in[1], {}, C), up}), F);
       }},
      {"qkv, q and v adapted by two ranks",
       {{"x", Kind::Activation, T, C}, {"q", Kind::Matrix, 24, C}, {"k", Kind::Matrix, 12, C}, {"v", Kind::Matrix, 12, C}, {"Aq", Kind::Matrix, 2, C}, {"Bq", Kind::Matrix, 24, 2}, {"Av", Kind::Matrix, 4, C}, {"Bv", Kind::Matrix, 12, 4}},
       [](Run& r) { return qkv(r.ctx, r.x(0), r.adapted(r.weight({1, 2, 3}), {{0, 4, 5, 0.5f}, {2, 6, 7, 2}}), kShape, rope_values().data()); },
       [](const Inputs& in) {
         const auto plain = [&](size_t part) { return reference::linear(in[0], in[part], {}, C); };
         return rotate_qk(beside_rows({add(plain(1), low_rank(in, 4, 5, 2, 0.5)), plain(2), add(plain(3), low_rank(in, 6, 7, 4, 2))}), rope_values());
       }},
      {"qkv, heads normalised", {{"x", Kind::Activation, T, C}, {"q", Kind::Matrix, 24, C}, {"k", Kind::Matrix, 12, C}, {"v", Kind::Matrix, 12, C}, {"nq", Kind::Vector, 1, 6}, {"nk", Kind::Vector, 1, 6}},
       [](Run& r) { return qkv(r.ctx, r.x(0), r.weight({1, 2, 3}), kShape, rope_values().data(), {&r.param(4), &r.param(5), 1e-5f}); },
       [](const Inputs& in) {
         const auto normed = [&](size_t part, size_t norm) { return reference::rms_norm(reference::linear(in[0], in[part], {}, C), in[norm], static_cast<double>(1e-5f)); };
         return rotate_qk(beside_rows({normed(1, 4), normed(2, 5), reference::linear(in[0], in[3], {}, C)}), rope_values());
       }},
      {"qkv, positions of two axes", {{"x", Kind::Activation, T, C}, {"w", Kind::Matrix, 48, C}},
       [](Run& r) {
         float* const table = r.arena.allocate_n<float>(T * 6);
         r.backend->rope_table(table, r.ints(kPositions), {kFrequencies, 1, 2, kAxis});
         return qkv(r.ctx, r.x(0), r.weight({1}), kShape, table);
       },
       [](const Inputs& in) {
         std::vector<float> values;
         for (size_t t = 0; t < T; ++t)
           for (size_t pair : {0, 1, 2}) {
             const double angle = kPositions[pair == 1 ? T + t : t] * kFrequencies[pair];
             values.insert(values.end(), {static_cast<float>(std::cos(angle)), static_cast<float>(std::sin(angle))});
           }
         return rotate_qk(reference::linear(in[0], in[1], {}, C), values);
       }},
      {"attention", {{"qkv", Kind::Activation, T, 48}},
       [](Run& r) {
         static const AttentionPlan plan = plan_attention(kSpans, true);
         r.plan = r.backend->prepare(plan);
         return attention(r.ctx, r.x(0), *r.plan, kShape);
       },
       [](const Inputs& in) { return reference::attention(columns(in[0], 48, 0, 24), columns(in[0], 48, 24, 12), columns(in[0], 48, 36, 12), kSpans, true, kShape); }},
      {"gather_rows", {{"x", Kind::Activation, T, C}}, [](Run& r) { return gather_rows(r.ctx, r.x(0), r.index(kIndex, T)); },
       [](const Inputs& in) { return reference::gather(in[0], kIndex, C); }},
      {"add", {{"a", Kind::Activation, T, C}, {"b", Kind::Activation, T, C}}, [](Run& r) { return add(r.ctx, r.x(0), r.x(1)); },
       [](const Inputs& in) { return add(in[0], in[1]); }},
      {"token_logp", {{"x", Kind::Activation, T, C}, {"head", Kind::Matrix, V, C}},
       [](Run& r) { return token_logp(r.ctx, r.x(0), r.weight({1}), r.ints(kTargets)).logp; },
       [](const Inputs& in) { return reference::pick_log_softmax(reference::linear(in[0], in[1], {}, C), kTargets); }},
  };
  return all;
}

std::vector<std::vector<float>> values_of(const OpCase& op) {
  std::vector<std::vector<float>> all;
  uint64_t seed = hash64(op.name);
  for (const Leaf& l : op.leaves) all.push_back(random_values(l.rows * l.cols, seed++));
  return all;
}

void check_op(const OpCase& op, Isa isa, bool train) {
  const std::vector<std::vector<float>> values = values_of(op);
  Run run(isa, op.leaves, values, train);
  const Tensor y = op.forward(run);
  Inputs inputs;
  for (const auto& v : values) inputs.push_back(Vec<Complex>(v.begin(), v.end()));
  const Vec<Complex> want = op.oracle(inputs);
  Vec<double> real_want, got(y.f32(), y.f32() + y.rows * y.cols);
  for (const Complex& z : want) real_want.push_back(z.real());
  CHECK(reference::error_of(got, real_want, DType::F32) <= 1, op.name, " value at ", name_of(isa));

  const bool activations = std::any_of(op.leaves.begin(), op.leaves.end(), [](const Leaf& l) { return l.kind == Kind::Activation; });
  CHECK((y.slot >= 0) == (train || activations), op.name, ": a gradient is wanted if and only if an input or a trained parameter needs one");
  if (y.slot < 0) return;
  std::vector<float> dy = random_values(y.rows * y.cols, 99);
  const Vec<double> d(dy.begin(), dy.end());   // before backward: an op may use its gradient's memory up
  Run again(isa, op.leaves, values, train);
  Tensor out = op.forward(again);
  again.tape.seed(out, view(dy.data(), out.rows, out.cols));
  if (std::string(op.name) == "token_logp") {   // the head reads its answer from its own memory: two phases
    Run two(isa, op.leaves, values, train);
    TokenLogp t = token_logp(two.ctx, two.x(0), two.weight({1}), two.ints(kTargets));
    std::copy(dy.begin(), dy.end(), t.dlogp);
    two.tape.backward();
    for (size_t i = 0; i < op.leaves.size(); ++i) again.grads[i] = two.gradient(i);
  } else {
    again.tape.backward();
    for (size_t i = 0; i < op.leaves.size(); ++i) again.grads[i] = again.gradient(i);
  }
  for (size_t i = 0; i < op.leaves.size(); ++i) {
    if (op.leaves[i].kind != Kind::Activation && !train) continue;
    const auto f = [&](const Vec<Complex>& z) {
      Inputs with = inputs;
      with[i] = z;
      return op.oracle(with);
    };
    const Vec<double> exact = reference::gradient(f, Vec<double>(values[i].begin(), values[i].end()), d);
    CHECK(reference::error_of(Vec<double>(again.grads[i].begin(), again.grads[i].end()), exact, DType::F32, 4e-6) <= 1, op.name, " d", op.leaves[i].name, " at ", name_of(isa),
          train ? "" : ", frozen parameters");
  }
}

TEST("ops: values and gradients against the float64 oracle, trained and frozen") {
  for (Isa isa : levels())
    for (const OpCase& op : table())
      for (bool train : {true, false}) check_op(op, isa, train);
}

// A block with two parameters and a residual: what checkpoint() replays.
std::vector<std::vector<float>> block_gradients(Isa isa, bool checkpointed) {
  const std::vector<Leaf> leaves{{"x", Kind::Activation, T, C}, {"norm", Kind::Vector, 1, C}, {"gate", Kind::Matrix, F, C}, {"up", Kind::Matrix, F, C}, {"down", Kind::Matrix, C, F}};
  std::vector<std::vector<float>> values;
  for (const Leaf& l : leaves) values.push_back(random_values(l.rows * l.cols, hash64(l.name)));
  Run r(isa, leaves, values, true);
  Weight &gate_up = r.weight({2, 3}, {}, true), &down = r.weight({4});
  const auto block = [&](Ctx& c, Tensor x) { return linear(c, swiglu(c, rms_norm(c, x, r.param(1), 1e-5f), gate_up), down, Act::None, x); };
  Tensor y = r.x(0);
  for (int depth = 0; depth < 3; ++depth) y = checkpointed ? checkpoint(r.ctx, y, block) : block(r.ctx, y);   // the same weights thrice: gradients add up
  std::vector<float> dy = random_values(T * C, 5);
  r.tape.seed(y, view(dy.data(), T, C));
  r.tape.backward();
  std::vector<std::vector<float>> out{{y.f32(), y.f32() + T * C}};
  for (size_t i = 0; i < leaves.size(); ++i) out.push_back(r.gradient(i));
  return out;
}

TEST("ops: checkpointing changes no bit of value or gradient") {
  for (Isa isa : levels()) {
    const auto plain = block_gradients(isa, false), replayed = block_gradients(isa, true);
    for (size_t i = 0; i < plain.size(); ++i) {
      CHECK(plain[i] == replayed[i], "tensor ", i, " at ", name_of(isa));
      CHECK(std::any_of(plain[i].begin(), plain[i].end(), [](float g) { return g != 0; }), "tensor ", i, " is not all zero");
    }
  }
}

TEST("ops: an index of -1 is no row, one out of range or twice is refused, and a kernel that only writes says so") {
  const std::vector<Leaf> leaves{{"x", Kind::Activation, T, C}};
  const std::vector<std::vector<float>> values{random_values(T * C, 1)};
  struct Row { const char* name; std::vector<int32_t> index; const char* code; };
  for (const Row& row : {Row{"-1", {-1, 3, 4, -1, 0, 8}, ""}, Row{"all -1", {-1, -1, -1, -1, -1, -1}, ""}, Row{"past the end", {0, 1, 2, 3, 4, 9}, "BUG"},
                         Row{"below -1", {0, 1, 2, 3, 4, -2}, "BUG"}, Row{"twice", {0, 1, 2, 3, 4, 0}, "BUG"}})
    for (bool mean : {false, true}) {
      Run r(Isa::Generic, leaves, values, false);
      const std::string code = thrown_code([&] {
        const Tensor y = mean ? mean_rows(r.ctx, r.x(0), r.index(row.index, T, 3)) : gather_rows(r.ctx, r.x(0), r.index(row.index, T));
        std::vector<float> dy(static_cast<size_t>(y.rows * y.cols), 3);
        r.tape.seed(y, view(dy.data(), y.rows, y.cols));
        r.tape.backward();
      });
      CHECK(code == row.code, row.name, mean ? ", mean_rows: " : ", gather_rows: ", code);
      if (code != "") continue;
      for (int32_t t = 0; t < T; ++t) {
        const bool there = std::find(row.index.begin(), row.index.end(), t) != row.index.end();
        CHECK(std::abs(r.grads[0][static_cast<size_t>(t * C)] - (there ? (mean ? 1 : 3) : 0)) < 1e-6f, row.name, ": gradient of row ", t);
      }
    }
  const std::vector<Leaf> qkv{{"qkv", Kind::Activation, T, 48}};
  Run r(Isa::Generic, qkv, {random_values(T * 48, 2)}, false);
  const AttentionPlan plan = plan_attention(kSpans, true);
  r.plan = r.backend->prepare(plan);
  const std::string code = thrown_code([&] {
    const Tensor a = attention(r.ctx, r.x(0), *r.plan, kShape), b = attention(r.ctx, r.x(0), *r.plan, kShape);   // a second consumer
    const Tensor y = add(r.ctx, a, b);
    std::vector<float> dy(static_cast<size_t>(y.rows * y.cols), 1);
    r.tape.seed(y, view(dy.data(), y.rows, y.cols));
    r.tape.backward();
  });
  CHECK(code == "BUG", "two attentions over one qkv: ", code);
}

TEST("ops: checkpoint() does not nest") {
  const std::vector<Leaf> leaves{{"x", Kind::Activation, T, C}};
  Run r(Isa::Generic, leaves, {random_values(T * C, 1)}, false);
  const auto inner = [](Ctx& c, Tensor x) { return add(c, x, x); };
  CHECK(thrown_code([&] { checkpoint(r.ctx, r.x(0), [&](Ctx& c, Tensor x) { return checkpoint(c, x, inner); }); }) == "BUG", "nested checkpoint");
}

TEST("ops: a group's ready closure runs after its last gradient") {
  const std::vector<Leaf> leaves{{"x", Kind::Activation, T, C}, {"w", Kind::Matrix, C, C}};
  Run r(Isa::Generic, leaves, {random_values(T * C, 1), random_values(C * C, 2)}, true);
  int calls = 0;
  r.ctx.ready = [&](Group& g) {
    ++calls;
    CHECK(&g == &r.group && g.written[0], "ready comes when the gradient is there");
  };
  Weight& w = r.weight({1});
  group_begin(r.ctx, &r.group);
  Tensor y = linear(r.ctx, linear(r.ctx, r.x(0), w), w);   // two uses, one ready
  std::vector<float> dy = random_values(T * C, 3);
  r.tape.seed(y, view(dy.data(), T, C));
  r.tape.backward();
  CHECK(calls == 1, "ready was called ", calls, " times");
}

}  // namespace
}  // namespace isr::test
