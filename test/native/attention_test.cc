// Attention over spans: the plan's checks, forward and backward against a float64 definition, and bit equality of everything
// that must not matter: threads, batch composition, where spans are cut, batch or cache, chunks of a prefill.
#include <algorithm>
#include <cstring>
#include <tuple>

#include "attention_reference.h"
#include "check.h"
#include "kernels/backend.h"

namespace isr::test {
namespace {

using Problem = AttentionProblem;

struct Structure {
  const char* name;
  bool causal;
  std::vector<Span> spans;
};

// Spans of these lengths, in order; parents as given (missing: -1).
std::vector<Span> spans_of(std::vector<int> lengths, std::vector<int> parents = {}) {
  std::vector<Span> spans;
  int at = 0;
  for (size_t i = 0; i < lengths.size(); ++i) {
    spans.push_back({at, at + lengths[i], i < parents.size() ? parents[i] : -1});
    at += lengths[i];
  }
  return spans;
}

const std::vector<Structure>& structures() {
  static const std::vector<Structure> all = {
      {"one row", true, spans_of({1})},
      {"one block", true, spans_of({64})},
      {"one span of 300", true, spans_of({300})},
      {"roots", true, spans_of({50, 3, 64, 129, 1})},
      {"prefix and two branches", true, spans_of({111, 30, 70}, {-1, 0, 0})},
      {"chains of branches, two trees mixed", true, spans_of({37, 20, 90, 5, 64, 1, 27, 2, 70}, {-1, 0, 1, -1, 0, 1, 3, 4, 3})},
      {"frames", false, spans_of({65, 65, 130})},
      {"short frames", false, spans_of({8, 8, 8, 8, 8, 1})},
      {"full spans with parents", false, spans_of({70, 33, 20}, {-1, 0, 1})},
  };
  return all;
}

AttentionShape shape(int64_t heads, int64_t kv_heads, int64_t d) { return {heads, kv_heads, d, 1 / std::sqrt(static_cast<float>(d))}; }

// A tensor that is a column slice of a wider one; what lies around it must stay as it was.
struct Slice {
  DType dtype;
  int64_t rows, cols;
  std::vector<uint16_t> memory;
  Slice(DType t, int64_t rows, int64_t cols) : dtype(t), rows(rows), cols(cols), memory(static_cast<size_t>(rows * (cols + 13) * size_of(t) / 2), 0x7fcd) {}
  Tensor tensor() { return Tensor{memory.data(), rows, cols + 13, cols + 13, dtype, -1}.columns(5, cols); }
  double get(int64_t i) {
    const Tensor t = tensor();
    const void* p = t.at(i / cols, i % cols);
    return dtype == DType::F32 ? *static_cast<const float*>(p) : bf16_to_f32(*static_cast<const uint16_t*>(p));
  }
  void set(const std::vector<float>& x) {
    const Tensor t = tensor();
    for (int64_t i = 0; i < rows * cols; ++i) {
      if (dtype == DType::F32) *static_cast<float*>(t.at(i / cols, i % cols)) = x[static_cast<size_t>(i)];
      else *static_cast<uint16_t*>(t.at(i / cols, i % cols)) = f32_to_bf16(x[static_cast<size_t>(i)]);
    }
  }
  std::vector<double> values() {
    std::vector<double> x;
    for (int64_t i = 0; i < rows * cols; ++i) x.push_back(get(i));
    return x;
  }
  bool margins_kept() {
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < cols + 13; ++c) {
        uint16_t word;
        std::memcpy(&word, reinterpret_cast<char*>(memory.data()) + (r * (cols + 13) + c) * static_cast<int64_t>(size_of(dtype)), 2);
        if ((c < 5 || c >= cols + 5) && word != 0x7fcd) return false;
      }
    return true;
  }
};

struct Run {  // one problem in one type, with its inputs
  Problem a;
  Slice q, k, v, out, dout, dq, dk, dv;
  std::vector<float> lse;
  Run(const Problem& a, DType t, float gain = 1, uint64_t seed = 1)
      : a(a), q(t, a.rows(), a.s.heads * a.s.head_size), k(t, a.rows(), a.s.kv_heads * a.s.head_size), v(k), out(q), dout(q), dq(q), dk(k), dv(k),
        lse(static_cast<size_t>(a.rows() * a.s.heads)) {
    q.set(random_values(q.rows * q.cols, seed, gain));
    k.set(random_values(k.rows * k.cols, seed + 1));
    v.set(random_values(v.rows * v.cols, seed + 2));
    dout.set(random_values(q.rows * q.cols, seed + 3));
  }
  void compute(Isa level, int threads, bool gradients) {
    const auto backend = make_cpu_backend(level, threads);
    const AttentionPlan plan = plan_attention(a.spans, a.causal);
    const auto prepared = backend->prepare(plan);
    backend->attention_forward(out.tensor(), lse.data(), q.tensor(), k.tensor(), v.tensor(), *prepared, a.s);
    if (gradients)
      backend->attention_backward(dq.tensor(), dk.tensor(), dv.tensor(), dout.tensor(), q.tensor(), k.tensor(), v.tensor(), out.tensor(), lse.data(), *prepared, a.s);
  }
  template <class Round>
  AttentionValues<double> reference(Round round) {
    AttentionValues<double> x;
    x.q = q.values(), x.k = k.values(), x.v = v.values(), x.dout = dout.values();
    reference_forward(a, x, round);
    reference_backward(a, x, round);
    return x;
  }
};

double max_error(const std::vector<double>& x, const std::vector<double>& y) {
  double e = 0;
  for (size_t i = 0; i < x.size(); ++i) e = std::isnan(x[i]) ? INFINITY : std::max(e, std::abs(x[i] - y[i]));
  return e;
}

void check_case(const Structure& st, const AttentionShape& s, DType t, float gain) {
  const Problem a{st.spans, st.causal, s};
  Run run(a, t, gain);
  const auto exact = run.reference(Exact{});
  AttentionValues<double> naive;
  if (t == DType::BF16) naive = run.reference(Rounding{});
  for (Isa level : levels()) {
    run.compute(level, 2, true);
    const auto where = concat(name_of(level), " ", name_of(t), " ", st.name, " H ", s.heads, " K ", s.kv_heads, " D ", s.head_size, " gain ", gain);
    const std::vector<double> lse(run.lse.begin(), run.lse.end());
    const struct { const char* name; Slice* got; const std::vector<double>*want, *rough; double factor; } rows[] = {
        {"out", &run.out, &exact.out, &naive.out, 2}, {"dq", &run.dq, &exact.dq, &naive.dq, 3},
        {"dk", &run.dk, &exact.dk, &naive.dk, 3}, {"dv", &run.dv, &exact.dv, &naive.dv, 3}};
    // A score is a chain of D roundings of terms that add up to about `gain`; a sum over keys is a chain of up to T.
    const double u = 0x1p-24, tolerance = 2 * u * (s.head_size * gain + a.rows()) + 16 * u;
    CHECK(max_error(lse, exact.lse) < 4 * tolerance, where, " lse ", max_error(lse, exact.lse));
    for (const auto& r : rows) {
      double biggest = 1;
      for (double x : *r.want) biggest = std::max(biggest, std::abs(x));
      const double bound = t == DType::F32 ? tolerance * biggest * r.factor : r.factor * max_error(*r.rough, *r.want) + 0x1p-9;
      const double error = max_error(r.got->values(), *r.want);
      CHECK(error <= bound, where, " ", r.name, " error ", error, " bound ", bound);
      CHECK(r.got->margins_kept(), where, " ", r.name, " wrote outside its columns");
    }
  }
}

TEST("attention reference: the analytic gradient is the complex step's") {
  const Problem a{spans_of({5, 3, 2, 4}, {-1, 0, 0, -1}), true, shape(4, 2, 3)};
  AttentionValues<double> x;
  for (auto [to, n, seed] : {std::tuple{&x.q, 14 * 12, 1}, {&x.k, 14 * 6, 2}, {&x.v, 14 * 6, 3}, {&x.dout, 14 * 12, 4}})
    for (float e : random_values(n, static_cast<uint64_t>(seed))) to->push_back(e);
  reference_forward(a, x);
  reference_backward(a, x);
  using C = std::complex<double>;
  AttentionValues<C> z;
  z.q.assign(x.q.begin(), x.q.end());
  z.k.assign(x.k.begin(), x.k.end());
  z.v.assign(x.v.begin(), x.v.end());
  for (auto [value, gradient] : {std::pair{&z.q, &x.dq}, {&z.k, &x.dk}, {&z.v, &x.dv}})
    for (size_t i = 0; i < value->size(); ++i) {
      (*value)[i] += C(0, 1e-30);
      reference_forward(a, z);
      (*value)[i] = (*value)[i].real();
      double step = 0;
      for (size_t j = 0; j < z.out.size(); ++j) step += z.out[j].imag() * x.dout[j];
      CHECK(std::abs(step / 1e-30 - (*gradient)[i]) < 1e-12, i, ": ", step / 1e-30, " against ", (*gradient)[i]);
    }
}

TEST("attention: every structure, forward and backward") {
  for (const Structure& st : structures())
    for (const AttentionShape& s : {shape(2, 2, 16), shape(6, 2, 12)})
      for (DType t : {DType::F32, DType::BF16}) check_case(st, s, t, 1);
}

TEST("attention: every head size") {
  const Structure st{"prefix and branch", true, spans_of({70, 9, 75}, {-1, 0, 0})};
  for (int64_t d : {1, 3, 8, 10, 33, 64, 80, 128, 256})
    for (DType t : {DType::F32, DType::BF16}) check_case(st, shape(3, 1, d), t, 1);
}

TEST("attention: large scores") {
  for (DType t : {DType::F32, DType::BF16}) check_case({"one span of 200", true, spans_of({200})}, shape(2, 1, 32), t, 100);
}

bool same_bits(Slice& x, Slice& y, int64_t x_row, int64_t y_row, int64_t rows) {
  const Tensor a = x.tensor(), b = y.tensor();
  for (int64_t r = 0; r < rows; ++r)
    if (std::memcmp(a.at(x_row + r), b.at(y_row + r), static_cast<size_t>(x.cols) * size_of(x.dtype))) return false;
  return true;
}

TEST("attention: bits do not depend on threads") {
  for (Isa level : levels())
    for (DType t : {DType::F32, DType::BF16})
      for (const Structure& st : structures()) {
        const Problem a{st.spans, st.causal, shape(6, 3, 64)};
        Run one(a, t);
        one.compute(level, 1, true);
        for (int threads : {2, 3}) {
          Run many(a, t);
          many.compute(level, threads, true);
          CHECK(one.out.memory == many.out.memory && one.lse == many.lse, name_of(level), " forward, ", st.name);
          CHECK(one.dq.memory == many.dq.memory && one.dk.memory == many.dk.memory && one.dv.memory == many.dv.memory, name_of(level), " backward, ", st.name);
        }
      }
}

// Copies rows [from, from + count) of all inputs.
void copy_rows(Run& to, int64_t at, Run& from, int64_t row, int64_t count) {
  for (auto [x, y] : {std::pair{&to.q, &from.q}, {&to.k, &from.k}, {&to.v, &from.v}, {&to.dout, &from.dout}})
    for (int64_t r = 0; r < count; ++r) std::memcpy(x->tensor().at(at + r), y->tensor().at(row + r), static_cast<size_t>(x->cols) * size_of(x->dtype));
}

TEST("attention: a packed tree has the bits of the tree alone, and of each of its sequences alone") {
  const std::vector<Span> pack = spans_of({91, 40, 77, 64, 30, 150}, {-1, 0, 0, -1, 3, 4});
  for (Isa level : levels())
    for (DType t : {DType::F32, DType::BF16}) {
      const AttentionShape s = shape(4, 2, 24);
      Run both({pack, true, s}, t);
      both.compute(level, 2, true);
      for (auto [first, last] : {std::pair{0, 3}, {3, 6}}) {
        std::vector<Span> part(pack.begin() + first, pack.begin() + last);
        const int base = part[0].begin;
        for (Span& x : part) x = {x.begin - base, x.end - base, x.parent < 0 ? -1 : x.parent - first};
        Run alone({part, true, s}, t, 1, 9);
        copy_rows(alone, 0, both, base, alone.a.rows());
        alone.compute(level, 2, true);
        for (auto x : {&Run::out, &Run::dq, &Run::dk, &Run::dv}) CHECK(same_bits(alone.*x, both.*x, 0, base, alone.a.rows()), name_of(level), " tree ", first);
        CHECK(std::equal(alone.lse.begin(), alone.lse.end(), both.lse.begin() + base * 4), name_of(level), " lse of tree ", first);
      }
      for (int leaf : {1, 2, 5}) {
        std::vector<Span> chain;
        for (int i = leaf; i >= 0; i = pack[static_cast<size_t>(i)].parent) chain.insert(chain.begin(), pack[static_cast<size_t>(i)]);
        int n = 0;
        for (const Span& x : chain) n += x.end - x.begin;
        Run alone({spans_of({n}), true, s}, t, 1, 9);
        n = 0;
        for (const Span& x : chain) copy_rows(alone, n, both, x.begin, x.end - x.begin), n += x.end - x.begin;
        alone.compute(level, 1, false);
        n = 0;
        for (const Span& x : chain) {
          CHECK(same_bits(alone.out, both.out, n, x.begin, x.end - x.begin), name_of(level), " ", name_of(t), " sequence of span ", leaf);
          n += x.end - x.begin;
        }
      }
    }
}

// A page pool in several blocks whose fresh pages are full of NaN, and sequences that fork from each other inside a page.
struct Cache {
  Backend& backend;
  AttentionShape s;
  KvStore store;
  std::vector<std::vector<char>> memory;   // of blocks
  int32_t used = 0;
  struct Branch { std::vector<int32_t> pages; int32_t length = 0; };

  Cache(Backend& b, const AttentionShape& s, DType t, int64_t pages) : backend(b), s(s) {
    store.page_bytes = static_cast<int64_t>(b.kv_page_bytes(s, t));
    store.first_bits = 1;
    while (store.page_count < pages) {
      const int64_t count = std::min(pages - store.page_count, std::max<int64_t>(2, store.page_count));
      memory.emplace_back(static_cast<size_t>(2 * count * store.page_bytes), static_cast<char>(0xff));  // two layers; the second is used
      store.blocks[memory.size() - 1] = memory.back().data();
      store.page_count += count;
    }
  }
  Branch fork(const Branch& from) {
    Branch to = from;
    if (from.length % kKeyBlock) {
      std::memcpy(store.page(1, used), store.page(1, from.pages.back()), static_cast<size_t>(store.page_bytes));
      to.pages.back() = used++;
    }
    return to;
  }
  // Each branch takes its next rows[i] rows of the batch; out gets theirs.
  void step(Tensor out, Tensor q, Tensor k, Tensor v, std::vector<Branch*> branches, std::vector<int> rows) {
    CachedPlan plan;
    int32_t row = 0;
    for (size_t i = 0; i < branches.size(); ++i) {
      Branch& b = *branches[i];
      const int32_t logical = b.length;
      for (int r = 0; r < rows[i]; ++r, ++b.length) {
        if (b.length % kKeyBlock == 0) b.pages.push_back(used++);
        plan.rows.push_back({b.pages.back(), b.length % kKeyBlock});
      }
      plan.sequences.push_back({row, rows[i], logical, static_cast<int32_t>(plan.page_list.size()), static_cast<int32_t>(b.pages.size())});
      plan.page_list.insert(plan.page_list.end(), b.pages.begin(), b.pages.end());
      row += rows[i];
    }
    const auto prepared = backend.prepare(plan);
    backend.kv_append(store, 1, k, v, *prepared, s);
    backend.attention_cached(out, q, store, 1, *prepared, s);
  }
};

TEST("attention: the cache gives the batch's bits, in chunks or row by row") {
  for (Isa level : levels())
    for (DType t : {DType::F32, DType::BF16})
      for (const AttentionShape& s : {shape(4, 4, 64), shape(8, 2, 20), shape(3, 1, 7)}) {
        Run batch({spans_of({290}), true, s}, t);
        batch.compute(level, 2, false);
        const Philox draw(3);
        for (uint64_t trial = 0; trial < 4; ++trial) {
          const auto backend = make_cpu_backend(level, 1 + static_cast<int>(trial % 3));
          Cache cache(*backend, s, t, 8);
          Cache::Branch branch;
          Slice out(t, 290, s.heads * s.head_size);
          for (int at = 0; at < 290;) {
            const int limit = trial == 0 ? 290 : trial == 1 ? 1 : 90;
            const int n = std::min(290 - at, trial < 2 ? limit : 1 + static_cast<int>(draw(trial, static_cast<uint64_t>(at))[0] % static_cast<uint32_t>(limit)));
            cache.step(out.tensor().row_range(at, n), batch.q.tensor().row_range(at, n), batch.k.tensor().row_range(at, n), batch.v.tensor().row_range(at, n), {&branch}, {n});
            at += n;
          }
          CHECK(same_bits(out, batch.out, 0, 0, 290), name_of(level), " ", name_of(t), " trial ", trial, " D ", s.head_size);
        }
      }
}

TEST("attention: eight branches decoded together have the bits of each alone in a batch") {
  for (Isa level : levels())
    for (DType t : {DType::F32, DType::BF16}) {
      constexpr int kPrefix = 157, kOwn = 40, kBranches = 8;
      const AttentionShape s = shape(6, 3, 16);
      std::vector<int> lengths = {kPrefix}, parents = {-1};
      for (int i = 0; i < kBranches; ++i) lengths.push_back(kOwn), parents.push_back(i == 5 ? 5 : 0);  // branch 5 continues branch 4
      Run batch({spans_of(lengths, parents), true, s}, t);
      batch.compute(level, 2, false);
      const auto backend = make_cpu_backend(level, 2);
      Cache cache(*backend, s, t, 40);
      Cache::Branch prefix;
      Slice out(t, batch.a.rows(), s.heads * s.head_size);
      const auto rows = [&](Slice& x, int64_t at, int64_t n) { return x.tensor().row_range(at, n); };
      cache.step(rows(out, 0, kPrefix), rows(batch.q, 0, kPrefix), rows(batch.k, 0, kPrefix), rows(batch.v, 0, kPrefix), {&prefix}, {kPrefix});
      std::vector<Cache::Branch> branches(kBranches);
      std::vector<Cache::Branch*> all;
      for (int i = 0; i < kBranches; ++i)
        if (i != 5) branches[static_cast<size_t>(i)] = cache.fork(prefix), all.push_back(&branches[static_cast<size_t>(i)]);
      Run step({spans_of({kBranches}), true, s}, t);  // rows of one step, gathered
      for (int round = 0; round < 2 * kOwn; ++round) {
        if (round == kOwn) branches[5] = cache.fork(branches[4]), all = {&branches[5]};
        int n = 0;
        std::vector<int64_t> from;
        for (Cache::Branch* b : all) from.push_back(kPrefix + (b - branches.data()) * kOwn + round % kOwn);
        for (int64_t r : from) copy_rows(step, n++, batch, r, 1);
        cache.step(rows(step.out, 0, n), rows(step.q, 0, n), rows(step.k, 0, n), rows(step.v, 0, n), all, std::vector<int>(all.size(), 1));
        n = 0;
        for (int64_t r : from) CHECK(same_bits(step.out, batch.out, n++, r, 1), name_of(level), " ", name_of(t), " row ", r, " round ", round);
      }
    }
}

TEST("attention: a NaN query or key is not hidden") {
  for (Isa level : levels())
    for (DType t : {DType::F32, DType::BF16}) {
      Run run({spans_of({70}), true, shape(1, 1, 16)}, t);
      std::vector<float> q = random_values(70 * 16, 5);
      q[3 * 16 + 2] = NAN;
      run.q.set(q);
      run.compute(level, 1, false);
      for (int r = 0; r < 70; ++r) CHECK(std::isnan(run.out.get(r * 16)) == (r == 3), name_of(level), " ", name_of(t), " row ", r);
    }
}

TEST("attention plan: refuses bad spans") {
  const std::vector<std::vector<Span>> bad = {{{1, 4, -1}}, {{0, 4, -1}, {3, 5, -1}}, {{0, 4, -1}, {5, 6, -1}}, {{0, 0, -1}}, {{0, 4, 0}},
                                              {{0, 4, 1}, {4, 6, -1}}, {{0, 4, -2}}, {{4, 0, -1}}};
  for (size_t i = 0; i < bad.size(); ++i) CHECK(thrown_code([&] { plan_attention(bad[i], true); }) == "INVALID_ARGUMENT", "case ", i);
  CHECK(plan_attention({}, true).rows == 0, "an empty batch");
}

TEST("attention plan: blocks are shared where a parent fills them and gathered where it ends inside") {
  const AttentionPlan plan = plan_attention(spans_of({100, 30, 128}, {-1, 0, 0}), true);
  const auto list = [&](int span) { return std::vector<int32_t>(plan.block_list.begin() + plan.first_block[static_cast<size_t>(span)], plan.block_list.begin() + plan.first_block[static_cast<size_t>(span) + 1]); };
  CHECK(list(0) == (std::vector<int32_t>{0, 1}) && list(1) == (std::vector<int32_t>{0, 2, 3}) && list(2) == (std::vector<int32_t>{0, 4, 5, 6}), "lists");
  const KeyBlock& cut = plan.blocks[2];
  CHECK(cut.segments == 2 && cut.count == 64 && cut.logical == 64, "block of the first branch");
  const KeySegment &parent = plan.segments[static_cast<size_t>(cut.first_segment)], &own = plan.segments[static_cast<size_t>(cut.first_segment) + 1];
  CHECK(parent.row == 64 && parent.count == 36 && parent.offset == 0 && own.row == 100 && own.count == 28 && own.offset == 36, "its rows");
  CHECK(plan.trees == 1 && plan.tree_rows[0] == 258 && plan.blocks[0].readers == 7, plan.blocks[0].readers, " readers of the first block");
}

}  // namespace
}  // namespace isr::test
