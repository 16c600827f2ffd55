// The optimizer's passes against float64.
#include "check.h"
#include "kernels/backend.h"
#include "reference.h"

using namespace isr;
using namespace isr::test;
using isr::reference::error_of;
using isr::reference::Vec;

namespace {

struct State { Vec<double> p, m, v; };

// Loshchilov & Hutter 2019, algorithm 2, in float64; hyper-parameters as the float32 they are stored in.
void adamw_step(State& s, const Vec<double>& grad, const AdamW& o) {
  const double lr = o.lr, b1 = o.beta1, b2 = o.beta2;
  for (size_t i = 0; i < s.p.size(); ++i) {
    const double g = grad[i] * static_cast<double>(o.grad_scale);
    s.p[i] *= 1 - lr * static_cast<double>(o.weight_decay);
    s.m[i] = b1 * s.m[i] + (1 - b1) * g;
    s.v[i] = b2 * s.v[i] + (1 - b2) * g * g;
    const double m_hat = s.m[i] / (1 - std::pow(b1, o.step)), v_hat = s.v[i] / (1 - std::pow(b2, o.step));
    s.p[i] -= lr * m_hat / (std::sqrt(v_hat) + static_cast<double>(o.eps));
  }
}

Vec<double> wide(const Vec<float>& x) { return {x.begin(), x.end()}; }

}  // namespace

TEST("adamw: several steps against float64") {
  for (const Isa isa : levels())
    for (const int64_t n : {1, 15, 16, 17, 1000})
      for (const float decay : {0.0f, 0.1f}) {
        const auto backend = make_cpu_backend(isa, 1);
        Vec<float> p = random_values(n, 1), m(static_cast<size_t>(n)), v = m;
        State want{wide(p), wide(m), wide(v)};
        AdamW o{.lr = 1e-2f, .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-6f, .weight_decay = decay, .step = 1, .grad_scale = 0.3f};
        for (o.step = 1; o.step <= 6; ++o.step) {
          const Vec<float> grad = random_values(n, 10 + static_cast<uint64_t>(o.step), o.step % 2 ? 1.0f : 1e-3f);
          backend->adamw(p.data(), m.data(), v.data(), grad.data(), n, o);
          adamw_step(want, wide(grad), o);
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
    backend->adamw(p.data(), m.data(), v.data(), grad.data(), 3, {.lr = 0.25f, .eps = 1e-12f});
    CHECK(p[0] == 1, name_of(isa), " ", p[0]);
    CHECK(std::abs(p[1] - 0.75f) < 1e-6f && std::abs(p[2] - 1.25f) < 1e-6f, name_of(isa), " ", p[1], " ", p[2]);
  }
}

TEST("adamw: any split of the elements gives the same bits") {
  constexpr int64_t n = 1003;
  for (const Isa isa : levels()) {
    const auto backend = make_cpu_backend(isa, 1);
    const Vec<float> grad = random_values(n, 2);
    const AdamW o{.lr = 1e-2f, .weight_decay = 0.1f, .step = 3};
    Vec<float> p = random_values(n, 1), m = random_values(n, 3), v(n, 0.5f), p2 = p, m2 = m, v2 = v;
    backend->adamw(p.data(), m.data(), v.data(), grad.data(), n, o);
    for (int64_t at = 0, next; at < n; at = next) {
      next = std::min(n, 2 * at + 13);
      backend->adamw(p2.data() + at, m2.data() + at, v2.data() + at, grad.data() + at, next - at, o);
    }
    CHECK(p == p2 && m == m2 && v == v2, name_of(isa));
  }
}

TEST("sum_squares: float64, in chunks, for any number of threads") {
  for (const Isa isa : levels())
    for (const int64_t n : {0, 1, 31, 4096, 4097, 300001}) {
      const Vec<float> x = random_values(n, 5, 1e3f);
      long double sum = 0;
      for (const float a : x) sum += static_cast<long double>(a) * a;
      const auto want = static_cast<double>(sum);
      const double got = make_cpu_backend(isa, 1)->sum_squares(x.data(), n);
      CHECK(std::abs(got - want) <= 1e-13 * want, name_of(isa), " n ", n, ": ", got, " and ", want);
      for (const int threads : {2, 3}) CHECK(make_cpu_backend(isa, threads)->sum_squares(x.data(), n) == got, name_of(isa), " n ", n);
    }
}
