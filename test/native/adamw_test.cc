// The optimizer's passes against float64.
#include <cstring>
#include <deque>

#include "check.h"
#include "core/bf16.h"
#include "host.h"
#include "kernels/backend.h"
#include "reference.h"

using namespace isr;
using namespace isr::test;
using isr::reference::error_of;
using isr::reference::Vec;

namespace {

struct State { Vec<double> p, m, v; };

// Loshchilov & Hutter 2019, algorithm 2, in float64; hyper-parameters as the float32 they are stored in.
void adamw_step(State& s, const Vec<double>& grad, const AdamW& o, const AdamWItem& item) {
  const double lr = o.lr, b1 = o.beta1, b2 = o.beta2;
  for (size_t i = 0; i < s.p.size(); ++i) {
    const double g = grad[i] * static_cast<double>(o.grad_scale);
    s.p[i] *= 1 - lr * static_cast<double>(item.weight_decay);
    s.m[i] = b1 * s.m[i] + (1 - b1) * g;
    s.v[i] = b2 * s.v[i] + (1 - b2) * g * g;
    const double m_hat = s.m[i] / (1 - std::pow(b1, item.step)), v_hat = s.v[i] / (1 - std::pow(b2, item.step));
    s.p[i] -= lr * m_hat / (std::sqrt(v_hat) + static_cast<double>(o.eps));
  }
}

Vec<double> wide(const Vec<float>& x) { return {x.begin(), x.end()}; }

AdamWItem item_of(Vec<float>& p, Vec<float>& m, Vec<float>& v, const Vec<float>& grad, int64_t cols = 1) {
  AdamWItem item;
  item.master = p.data(), item.m = m.data(), item.v = v.data(), item.grad = grad.data();
  item.rows = static_cast<int64_t>(p.size()) / cols, item.cols = cols;
  return item;
}

}  // namespace

TEST("adamw: several steps against float64") {
  for (const Isa isa : levels())
    for (const int64_t n : {1, 15, 16, 17, 1000})
      for (const float decay : {0.0f, 0.1f}) {
        const auto backend = make_cpu_backend(isa, 1);
        Vec<float> p = random_values(n, 1), m(static_cast<size_t>(n)), v = m;
        State want{wide(p), wide(m), wide(v)};
        const AdamW o{.lr = 1e-2f, .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-6f, .grad_scale = 0.3f};
        for (int64_t step = 1; step <= 6; ++step) {
          const Vec<float> grad = random_values(n, 10 + static_cast<uint64_t>(step), step % 2 ? 1.0f : 1e-3f);
          AdamWItem item = item_of(p, m, v, grad);
          item.step = step, item.weight_decay = decay;
          backend->adamw({&item, 1}, o);
          adamw_step(want, wide(grad), o, item);
        }
        CHECK(error_of(wide(p), want.p, DType::F32) <= 1, name_of(isa), " n ", n, " decay ", decay);
        CHECK(error_of(wide(m), want.m, DType::F32) <= 1, name_of(isa), " n ", n);
        CHECK(error_of(wide(v), want.v, DType::F32) <= 1, name_of(isa), " n ", n);
      }
}

TEST("adamw: zero gradients, huge gradients, and a first step of lr") {
  for (const Isa isa : levels()) {
    const auto backend = make_cpu_backend(isa, 1);
    Vec<float> p = {1, 1, 1}, m(3), v(3);
    const Vec<float> grad = {0, 1e15f, -1e-3f};
    const AdamWItem item = item_of(p, m, v, grad);
    backend->adamw({&item, 1}, {.lr = 0.25f, .eps = 1e-12f});
    CHECK(p[0] == 1, name_of(isa), " ", p[0]);
    CHECK(std::abs(p[1] - 0.75f) < 1e-6f && std::abs(p[2] - 1.25f) < 1e-6f, name_of(isa), " ", p[1], " ", p[2]);
  }
}

// Parameters of any number of rows in one call, in bits: values and matrices are what the new masters are, cast.
TEST("adamw: many parameters in one call have the bits of each alone, for any number of threads") {
  struct Shape { int64_t rows, cols; };
  const std::vector<Shape> shapes{{1, 1003}, {130, 7}, {64, 5}, {1, 1}, {65, 33}};
  for (const Isa isa : levels())
    for (const DType dtype : {DType::F32, DType::BF16}) {
      struct Case { Vec<float> p, m, v, grad; std::vector<uint16_t> narrow; Vec<float> rounded; };
      const auto run = [&](int threads, bool together) {
        const auto backend = make_cpu_backend(isa, threads);
        std::vector<Case> cases(shapes.size());
        std::vector<AdamWItem> items;
        std::deque<HostMatrix> matrices;
        for (size_t i = 0; i < shapes.size(); ++i) {
          const auto [rows, cols] = shapes[i];
          const int64_t n = rows * cols;
          Case& c = cases[i];
          c = {random_values(n, i), random_values(n, i + 10), Vec<float>(static_cast<size_t>(n), 0.5f), random_values(n, i + 20),
               std::vector<uint16_t>(static_cast<size_t>(n)), Vec<float>(static_cast<size_t>(n))};
          AdamWItem& item = items.emplace_back(item_of(c.p, c.m, c.v, c.grad, cols));
          item.step = 3, item.weight_decay = i == 1 ? 0 : 0.1f;
          if (dtype == DType::BF16 && rows == 1) item.value = view(c.rounded.data(), rows, cols), item.rounded = true;
          if (dtype == DType::BF16 && rows > 1) item.value = view(c.narrow.data(), rows, cols);
          if (rows > 1) item.matrix = matrices.emplace_back(*backend, MatrixShape{rows + 32, cols, dtype, false}).matrix.get();
          item.matrix_row = 32;
        }
        const AdamW o{.lr = 1e-2f};
        if (together) backend->adamw(items, o);
        else for (const AdamWItem& item : items) backend->adamw({&item, 1}, o);
        for (size_t i = 0, m = 0; i < shapes.size(); ++i) {
          const Case& c = cases[i];
          for (size_t k = 0; k < c.p.size() && dtype == DType::BF16; ++k) {
            if (shapes[i].rows > 1) CHECK(c.narrow[k] == f32_to_bf16(c.p[k]), "parameter ", i, ": ", c.narrow[k], " of ", c.p[k]);
            else CHECK(c.rounded[k] == round_bf16(c.p[k]), "parameter ", i, ": ", c.rounded[k], " of ", c.p[k]);
          }
          if (shapes[i].rows == 1) continue;
          std::vector<char> back(c.p.size() * size_of(dtype));
          matrices[m++].matrix->read_rows(view(back.data(), dtype, shapes[i].rows, shapes[i].cols), 32);
          const void* want = dtype == DType::BF16 ? static_cast<const void*>(c.narrow.data()) : c.p.data();
          CHECK(std::memcmp(back.data(), want, back.size()) == 0, "matrix of parameter ", i);
        }
        std::vector<Vec<float>> all;
        for (const Case& c : cases) all.insert(all.end(), {c.p, c.m, c.v});
        return all;
      };
      const auto want = run(1, false);
      for (const int threads : {1, 3, 17}) CHECK(run(threads, true) == want, name_of(isa), " ", name_of(dtype), " ", threads, " threads");
    }
}

static double sum_of(Isa isa, int threads, const std::vector<Flat>& arrays) { return make_cpu_backend(isa, threads)->sum_squares(arrays); }

TEST("sum_squares: float64, in chunks, for any number of threads") {
  for (const Isa isa : levels())
    for (const int64_t n : {0, 1, 31, 4096, 4097, 300001}) {
      const Vec<float> x = random_values(n, 5, 1e3f);
      long double sum = 0;
      for (const float a : x) sum += static_cast<long double>(a) * a;
      const auto want = static_cast<double>(sum);
      const double got = sum_of(isa, 1, {{x.data(), n}});
      CHECK(std::abs(got - want) <= 1e-13 * want, name_of(isa), " n ", n, ": ", got, " and ", want);
      for (const int threads : {2, 3}) CHECK(sum_of(isa, threads, {{x.data(), n}}) == got, name_of(isa), " n ", n);
      CHECK(sum_of(isa, 3, {{x.data(), n}, {x.data(), n / 2}}) == got + sum_of(isa, 1, {{x.data(), n / 2}}), name_of(isa), " two arrays, n ", n);
    }
}
