// Products of every level and type against float64 sums, with bounds derived from the number of roundings:
// a float32 sum of K products is off by at most (K + 8) 2^-24 sum|a b|; storing bfloat16 adds 2^-8 of the value.
#include <algorithm>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "check.h"
#include "host.h"
#include "core/bf16.h"
#include "kernels/backend.h"

using namespace isr;
using namespace isr::test;

namespace {

// A matrix whose rows may lie apart; gaps hold NaN, and the allocation ends with the last element.
struct Values {
  Tensor t;
  std::unique_ptr<char[]> bytes;
  size_t size = 0;
  Values(DType dtype, int64_t rows, int64_t cols, int64_t gap = 0) {
    const int64_t stride = cols + gap;
    size = static_cast<size_t>((rows - 1) * stride + cols) * size_of(dtype);
    bytes = std::make_unique<char[]>(size);
    std::memset(bytes.get(), 0xff, size);  // NaN in both types
    t = {bytes.get(), rows, cols, stride, dtype, -1};
  }
  Values& random(uint64_t seed) {
    const std::vector<float> v = random_values(t.rows * t.cols, seed);
    for (int64_t i = 0; i < t.rows * t.cols; ++i) set(i / t.cols, i % t.cols, v[static_cast<size_t>(i)]);
    return *this;
  }
  void set(int64_t r, int64_t c, float v) {
    if (t.dtype == DType::F32) *static_cast<float*>(t.at(r, c)) = v;
    else *static_cast<uint16_t*>(t.at(r, c)) = f32_to_bf16(v);
  }
  double at(int64_t r, int64_t c) const {
    return t.dtype == DType::F32 ? *static_cast<float*>(t.at(r, c)) : bf16_to_f32(*static_cast<uint16_t*>(t.at(r, c)));
  }
  bool same_row(int64_t r, const Values& o, int64_t r2) const {
    return std::memcmp(t.at(r), o.t.at(r2), static_cast<size_t>(t.cols) * size_of(t.dtype)) == 0;
  }
  bool gaps_untouched() const {
    for (int64_t r = 0; r + 1 < t.rows; ++r)
      for (char* p = static_cast<char*>(t.at(r, t.cols)); p < static_cast<char*>(t.at(r + 1)); ++p)
        if (*p != '\xff') return false;
    return true;
  }
};

std::unique_ptr<Backend> backend(Isa level, int threads = 2) { return make_cpu_backend(level, threads); }

double act_reference(Act act, double x) {
  switch (act) {
    case Act::GeluErf: return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
    case Act::GeluTanh: return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case Act::QuickGelu: return x / (1 + std::exp(-1.702 * x));
    case Act::SwiGlu: return x / (1 + std::exp(-x));  // of the gate
    case Act::None: break;
  }
  return x;
}

struct Sum { double value = 0, magnitude = 0; };
double half_ulps(DType t) { return t == DType::BF16 ? 0x1p-8 : 0x1p-23; }

struct Options {
  Act act = Act::None;
  bool bias = false, pre = false, residual = false;
  DType y = DType::F32;
};

// y is the activation of pre as it was saved, with one rounding at the end: backward sees what forward used.
void check_after_pre(const std::string& what, const Options& o, const Values& y, const Values& pre, const Values& residual) {
  const bool rounds = o.y == DType::BF16 && o.act != Act::None;  // else pre may be rounded where y's sum was not
  if (!rounds) return;
  double worst = 0;
  for (int64_t i = 0; i < y.t.rows; ++i)
    for (int64_t j = 0; j < y.t.cols; ++j) {
      const double gate = pre.at(i, j), up = o.act == Act::SwiGlu ? pre.at(i, y.t.cols + j) : 1;
      const double want = act_reference(o.act, gate) * up + (o.residual ? residual.at(i, j) : 0);
      const double bound = 0x1p-8 * std::fabs(want) + 0x1p-20 * (std::fabs(gate * up) + std::fabs(want)) + 1e-30;
      const double off = std::fabs(y.at(i, j) - want) / bound;
      worst = off <= worst ? worst : off;
    }
  CHECK(worst <= 1, what, ": y is not the activation of the saved pre, error ", worst, " of the bound");
}

// Every element of gemm_nt against float64. No activation here has a slope above 1.13.
void check_nt(Isa level, DType dtype, int64_t m, int64_t n, int64_t k, const Options& o) {
  const std::string what = concat(name_of(level), " ", name_of(dtype), "->", name_of(o.y), " ", m, "x", n, "x", k, " act ",
                                  static_cast<int>(o.act), " bias ", o.bias, " pre ", o.pre, " residual ", o.residual);
  const bool swiglu = o.act == Act::SwiGlu;
  const int64_t cols = swiglu ? n / 2 : n;
  auto b = backend(level);
  Values x(dtype, m, k, 3), w(dtype, n, k), y(o.y, m, cols, 5), pre(o.y, m, n, 1), residual(o.y, m, cols, 2);
  x.random(1), w.random(2), residual.random(3);
  const std::vector<float> bias = random_values(n, 4);
  const HostMatrix weights(*b, w.t, swiglu);
  Epilogue e;
  e.act = o.act;
  if (o.bias) e.bias = bias.data();
  if (o.pre) e.pre = pre.t;
  if (o.residual) e.residual = residual.t;
  b->gemm_nt(y.t, x.t, weights, e);

  auto before_act = [&](int64_t i, int64_t j) {
    Sum s;
    for (int64_t l = 0; l < k; ++l) s.value += x.at(i, l) * w.at(j, l), s.magnitude += std::fabs(x.at(i, l) * w.at(j, l));
    if (o.bias) s.value += bias[static_cast<size_t>(j)], s.magnitude += std::fabs(bias[static_cast<size_t>(j)]);
    return s;
  };
  auto error = [&](const Sum& s, bool rounded) {
    return static_cast<double>(k + 8) * 0x1p-24 * s.magnitude + (rounded ? half_ulps(o.y) * std::fabs(s.value) : 0) + 1e-30;
  };
  double worst = 0;
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < cols; ++j) {
      const Sum s = before_act(i, j);
      double want = act_reference(o.act, s.value), bound = error(s, o.act != Act::None) * 1.13 + 0x1p-20 * std::fabs(want);
      if (o.pre) worst = std::max(worst, std::fabs(pre.at(i, j) - s.value) / error(s, true));
      if (swiglu) {
        const Sum up = before_act(i, cols + j);
        if (o.pre) worst = std::max(worst, std::fabs(pre.at(i, cols + j) - up.value) / error(up, true));
        bound = bound * (std::fabs(up.value) + error(up, true)) + std::fabs(want) * error(up, true);
        want *= up.value;
      }
      if (o.residual) want += residual.at(i, j), bound += 0x1p-23 * std::fabs(want);
      bound += half_ulps(o.y) * (std::fabs(want) + bound);
      const double off = std::fabs(y.at(i, j) - want) / bound;
      worst = off <= worst ? worst : off;  // NaN stays
    }
  CHECK(worst <= 1, what, ": error ", worst, " of the bound");
  if (o.pre) check_after_pre(what, o, y, pre, residual);
  CHECK(y.gaps_untouched() && pre.gaps_untouched(), what, ": wrote between rows");
  if (o.pre) {
    Values again(o.y, m, cols, 5);
    e.pre = {};
    b->gemm_nt(again.t, x.t, weights, e);
    CHECK(std::memcmp(again.bytes.get(), y.bytes.get(), y.size) == 0, what, ": saving pre changes y");
  }
}

struct Shape { int64_t m, n, k; };
const Shape kShapes[] = {{1, 1, 1},   {1, 33, 7},   {2, 64, 40},   {3, 18, 5},     {7, 34, 1},     {14, 32, 16}, {15, 64, 33},
                         {29, 70, 129}, {43, 200, 64}, {113, 130, 77}, {50, 40, 2101}, {1, 300, 2049}};

}  // namespace

TEST("gemm_nt: every level, type and shape against float64") {
  for (Isa level : levels())
    for (DType dtype : {DType::F32, DType::BF16})
      for (const Shape& s : kShapes) {
        check_nt(level, dtype, s.m, s.n, s.k, {Act::None, false, false, false, DType::F32});
        check_nt(level, dtype, s.m, s.n, s.k, {Act::None, true, true, true, dtype});
      }
}

TEST("gemm_nt: every epilogue") {
  for (Isa level : levels())
    for (DType dtype : {DType::F32, DType::BF16})
      for (Act act : {Act::None, Act::GeluErf, Act::GeluTanh, Act::QuickGelu, Act::SwiGlu})
        for (int flags = 0; flags < 8; ++flags)
          for (int64_t n : {66, 96})  // 66: half of it ends inside a vector at every level
            check_nt(level, dtype, 19, n, 21, {act, (flags & 1) != 0, (flags & 2) != 0, (flags & 4) != 0, dtype});
}

TEST("gemm_nt: a row's bits do not depend on the rows beside it") {
  for (Isa level : levels())
    for (DType dtype : {DType::F32, DType::BF16})
      for (int64_t k : {77, 2101}) {
        const int64_t n = 90, all = 200;
        auto b = backend(level);
        Values x(dtype, all, k), w(dtype, n, k), whole(dtype, all, n);
        x.random(1), w.random(2);
        const HostMatrix weights(*b, w.t);
        b->gemm_nt(whole.t, x.t, weights, {});
        for (int64_t m = 1; m <= 40; ++m) {
          Values y(dtype, m, n);
          b->gemm_nt(y.t, x.t.row_range(160, m), weights, {});
          bool same = true;
          for (int64_t i = 0; i < m; ++i) same = same && y.same_row(i, whole, 160 + i);
          CHECK(same, name_of(level), " ", name_of(dtype), " M ", m, " k ", k);
        }
      }
}

TEST("gemm: the same bits for 1, 2 and 3 threads") {
  const int64_t m = 330, n = 200, k = 310;
  for (Isa level : levels())
    for (DType dtype : {DType::F32, DType::BF16}) {
      Values x(dtype, m, k), w(dtype, n, k), dy(dtype, m, n);
      x.random(1), w.random(2), dy.random(3);
      std::vector<std::string> results;
      for (int threads : {1, 2, 3}) {
        auto b = backend(level, threads);
        const HostMatrix weights(*b, w.t);
        Values y(dtype, m, n), dx(dtype, m, k), dw(DType::F32, n, k), db(DType::F32, 1, n);
        b->gemm_nt(y.t, x.t, weights, {});
        b->gemm_nn(dx.t, false, dy.t, {&w.t, 1});
        const GradPart part{dw.t.f32(), db.t.f32(), n, false, false};
        b->gemm_tn({&part, 1}, dy.t, x.t);
        std::string bits;
        for (const Values* r : {&y, &dx, &dw, &db}) bits.append(r->bytes.get(), r->size);
        results.push_back(bits);
      }
      CHECK(results[0] == results[1] && results[0] == results[2], name_of(level), " ", name_of(dtype));
    }
}

TEST("gemm_nn: parts, tails and accumulation against float64") {
  for (Isa level : levels())
    for (DType dtype : {DType::F32, DType::BF16})
      for (const Shape& s : kShapes)
        for (bool accumulate : {false, true}) {
          auto b = backend(level);
          const int64_t m = s.m, n = s.n, k = s.k, first = n / 3, second = n / 2 - n / 3;  // some are empty, some odd
          Values dy(dtype, m, n, 4), w(dtype, n, k), dx(dtype, m, k, 3);
          dy.random(1), w.random(2);
          const Values& before = dx.random(3);
          std::vector<double> old;
          for (int64_t i = 0; i < m * k; ++i) old.push_back(accumulate ? before.at(i / k, i % k) : 0);
          std::vector<Tensor> parts;
          int64_t row = 0;
          for (int64_t rows : {first, second, n - first - second}) {
            parts.push_back(w.t.row_range(row, rows));
            row += rows;
          }
          b->gemm_nn(dx.t, accumulate, dy.t, parts);
          double worst = 0;
          for (int64_t i = 0; i < m; ++i)
            for (int64_t j = 0; j < k; ++j) {
              Sum sum{old[static_cast<size_t>(i * k + j)], std::fabs(old[static_cast<size_t>(i * k + j)])};
              for (int64_t l = 0; l < n; ++l)
                sum.value += dy.at(i, l) * w.at(l, j), sum.magnitude += std::fabs(dy.at(i, l) * w.at(l, j));
              const double bound = static_cast<double>(n + 8) * 0x1p-24 * sum.magnitude + half_ulps(dtype) * std::fabs(sum.value);
              const double off = std::fabs(dx.at(i, j) - sum.value) / (bound + 1e-30);
              worst = off <= worst ? worst : off;
            }
          CHECK(worst <= 1, name_of(level), " ", name_of(dtype), " ", m, "x", n, "x", k, ": error ", worst, " of the bound");
          CHECK(dx.gaps_untouched(), name_of(level), " wrote between rows");
        }
}

TEST("gemm_tn: parts, skipped parts, bias and accumulation against float64") {
  for (Isa level : levels())
    for (DType dtype : {DType::F32, DType::BF16})
      for (const Shape& s : {Shape{1, 1, 1}, {2, 3, 40}, {63, 17, 5}, {65, 34, 33}, {130, 70, 129}, {1100, 45, 40}, {2049, 40, 33}})
        for (bool accumulate : {false, true}) {
          auto b = backend(level);
          const int64_t m = s.m, n = s.n, k = s.k;
          const int64_t rows[3] = {n / 3, n / 4, n - n / 3 - n / 4};
          Values dy(dtype, m, n, 3), x(dtype, m, k, 1);
          dy.random(1), x.random(2);
          std::vector<float> dw = random_values(n * k, 5), db = random_values(n, 6);
          const std::vector<float> old_dw = dw, old_db = db;
          // The middle part is frozen, the last has no bias.
          const GradPart parts[3] = {{dw.data(), db.data(), rows[0], accumulate, accumulate},
                                     {nullptr, nullptr, rows[1], accumulate, accumulate},
                                     {dw.data() + (rows[0] + rows[1]) * k, nullptr, rows[2], accumulate, accumulate}};
          b->gemm_tn(parts, dy.t, x.t);
          double worst = 0;
          for (int64_t i = 0; i < n; ++i) {
            const bool frozen = i >= rows[0] && i < rows[0] + rows[1];
            auto compare = [&](float got, float old, const Sum& sum) {
              const double value = sum.value + (accumulate ? old : 0);
              const double bound = static_cast<double>(m + 8) * 0x1p-24 * (sum.magnitude + std::fabs(old)) + 1e-30;
              const double off = frozen ? (got == old ? 0 : 1e9) : std::fabs(got - value) / bound;
              worst = off <= worst ? worst : off;
            };
            for (int64_t j = 0; j < k; ++j) {
              Sum sum;
              for (int64_t t = 0; t < m; ++t) sum.value += dy.at(t, i) * x.at(t, j), sum.magnitude += std::fabs(dy.at(t, i) * x.at(t, j));
              compare(dw[static_cast<size_t>(i * k + j)], old_dw[static_cast<size_t>(i * k + j)], sum);
            }
            Sum column;
            for (int64_t t = 0; t < m; ++t) column.value += dy.at(t, i), column.magnitude += std::fabs(dy.at(t, i));
            if (i < rows[0]) compare(db[static_cast<size_t>(i)], old_db[static_cast<size_t>(i)], column);
            else CHECK(db[static_cast<size_t>(i)] == old_db[static_cast<size_t>(i)], "a bias without a gradient changed");
          }
          CHECK(worst <= 1, name_of(level), " ", name_of(dtype), " ", m, "x", n, "x", k, ": error ", worst, " of the bound");
        }
}

TEST("pack: any ranges of rows, at once, and back") {
  for (Isa level : levels())
    for (DType dtype : {DType::F32, DType::BF16})
      for (int64_t k : {1, 16, 45, 128})
        for (bool swiglu : {false, true}) {
          const int64_t n = 150;
          auto b = backend(level);
          Values w(dtype, n, k), back(dtype, n, k);
          w.random(7);
          const HostMatrix whole(*b, w.t, swiglu);
          const HostMatrix pieces(*b, MatrixShape{n, k, dtype, swiglu});
          const std::vector<int64_t> cuts = {0, 1, 5, 37, 64, 70, 80, 149, 150};
          std::vector<std::thread> threads;
          for (size_t i = 0; i + 1 < cuts.size(); ++i)
            threads.emplace_back([&, i] { pieces.matrix->write_rows(cuts[i], w.t.row_range(cuts[i], cuts[i + 1] - cuts[i])); });
          for (std::thread& t : threads) t.join();
          CHECK(std::memcmp(pieces.memory.data(), whole.memory.data(), whole.memory.bytes()) == 0, name_of(level), " ", name_of(dtype), " k ", k);
          for (size_t i = 0; i + 1 < cuts.size(); ++i) pieces.matrix->read_rows(back.t.row_range(cuts[i], cuts[i + 1] - cuts[i]), cuts[i]);
          CHECK(std::memcmp(back.bytes.get(), w.bytes.get(), w.size) == 0, name_of(level), " ", name_of(dtype), " k ", k);
        }
}

TEST("gemm: shapes that do not fit together are a bug, with the shapes in the message") {
  for (Isa level : levels()) {
    auto b = backend(level);
    Values x(DType::F32, 2, 8), w(DType::F32, 4, 9), y(DType::F32, 2, 4);
    x.random(1), w.random(2);
    const HostMatrix weights(*b, w.t);
    CHECK(thrown_code([&] { b->gemm_nt(y.t, x.t, weights, {}); }) == "BUG", "K differs");
  }
}
