// The head against float64: log-probs from plain logits, gradients by complex steps, vocabularies that end inside a chunk and
// inside a panel. Tolerances of the gradient are bounds of what rounding d(logits) to the activations' type can do.
#include <memory>

#include "check.h"
#include "host.h"
#include "kernels/backend.h"
#include "reference.h"

using namespace isr;
using namespace isr::test;
namespace ref = isr::reference;
using ref::Complex;
using ref::Stored;
using ref::Vec;

namespace {

struct Head {
  DType dtype;
  int64_t R, C, V;
  Stored x, w;
  Vec<int32_t> targets;
  Vec<float> dlogp;
  Head(DType t, int64_t rows, int64_t cols, int64_t vocab)
      : dtype(t), R(rows), C(cols), V(vocab), x(t, R, C, random_values(R * C, 1, 2), 3), w(t, V, C, random_values(V * C, 2)),
        dlogp(random_values(R, 3)) {
    for (int64_t r = 0; r < R; ++r) targets.push_back(static_cast<int32_t>(r == 0 ? V - 1 : r * 7919 % V));
  }
  Tensor rows() { return view(w.bytes.data(), dtype, V, C); }
  std::string name() const { return concat(isr::name_of(dtype), " R ", R, " C ", C, " V ", V); }
};

template <class T>
Vec<T> logp_of(const Vec<T>& x, const Vec<T>& w, std::span<const int32_t> targets, size_t C) {
  return ref::pick_log_softmax(ref::linear(x, w, {}, C), targets);
}

template <class F>
void for_heads(F&& check) {
  struct Shape { int64_t R, C, V; };
  for (const Isa isa : levels())
    for (const DType dtype : {DType::F32, DType::BF16})
      for (const Shape& s : {Shape{1, 1, 1}, Shape{1, 7, 50}, Shape{5, 24, 4096}, Shape{3, 16, 4129}, Shape{5, 17, 8300}}) {
        Head h(dtype, s.R, s.C, s.V);
        const auto backend = make_cpu_backend(isa, 1);
        const HostMatrix packed(*backend, h.rows());
        check(h, *backend, packed, name_of(isa) + (" " + h.name()));
      }
}

// sum over v of |d logits[r, v]| |w[v, c]|: what the rounding of d(logits) is relative to.
Vec<double> magnitude_dx(const Head& h, const Vec<double>& x, const Vec<double>& w) {
  const Vec<double> logits = ref::linear(x, w, {}, static_cast<size_t>(h.C));
  Vec<double> bound(x.size());
  for (int64_t r = 0; r < h.R; ++r) {
    const Vec<double> row(logits.begin() + r * h.V, logits.begin() + (r + 1) * h.V);
    double sum = 0;
    for (const double l : row) sum += std::exp(l);
    for (int64_t v = 0; v < h.V; ++v) {
      const double p = std::exp(row[static_cast<size_t>(v)]) / sum, d = v == h.targets[static_cast<size_t>(r)] ? 1 - p : p;
      for (int64_t c = 0; c < h.C; ++c)
        bound[static_cast<size_t>(r * h.C + c)] +=
            std::abs(static_cast<double>(h.dlogp[static_cast<size_t>(r)])) * d * std::abs(w[static_cast<size_t>(v * h.C + c)]);
    }
  }
  return bound;
}

}  // namespace

TEST("token_logp: forward") {
  for_heads([](Head& h, Backend& backend, const Matrix& packed, const std::string& name) {
    Vec<float> logp(static_cast<size_t>(h.R)), lse = logp;
    backend.token_logp_forward(logp.data(), lse.data(), h.x.tensor(), packed, ints(h.targets));
    const Vec<double> want = logp_of(h.x.values(), h.w.values(), h.targets, static_cast<size_t>(h.C));
    const Vec<double> logits = ref::linear(h.x.values(), h.w.values(), {}, static_cast<size_t>(h.C));
    for (size_t r = 0; r < want.size(); ++r) {
      const double target = logits[r * static_cast<size_t>(h.V) + static_cast<size_t>(h.targets[r])];
      CHECK(std::abs(logp[r] - want[r]) <= 1e-5, name, " row ", r, ": ", logp[r], " and ", want[r]);
      CHECK(std::abs(lse[r] - (target - want[r])) <= 1e-5, name, " row ", r, ": lse ", lse[r]);
    }
  });
}

TEST("token_logp: a row's bits depend neither on its batch nor on threads") {
  for (const Isa isa : levels())
    for (const DType dtype : {DType::F32, DType::BF16}) {
      Head h(dtype, 37, 40, 5000);
      Vec<float> first, logp(37), lse(37), one(1), one_lse(1);
      for (const int threads : {1, 2, 3}) {
        const auto backend = make_cpu_backend(isa, threads);
        const HostMatrix packed(*backend, h.rows());
        backend->token_logp_forward(logp.data(), lse.data(), h.x.tensor(), packed, ints(h.targets));
        if (threads == 1) first = logp;
        CHECK(logp == first, name_of(isa), " ", h.name(), " threads ", threads);
        for (const size_t r : {size_t{0}, size_t{20}, size_t{36}}) {
          backend->token_logp_forward(one.data(), one_lse.data(), h.x.tensor().row_range(static_cast<int64_t>(r), 1), packed,
                                      {&h.targets[r], 1});
          CHECK(one[0] == logp[r] && one_lse[0] == lse[r], name_of(isa), " ", h.name(), " row ", r);
        }
      }
    }
}

TEST("token_logp: backward against complex step") {
  for_heads([](Head& h, Backend& backend, const Matrix& packed, const std::string& name) {
    const auto C = static_cast<size_t>(h.C), V = static_cast<size_t>(h.V);
    Vec<float> logp(static_cast<size_t>(h.R)), lse = logp;
    backend.token_logp_forward(logp.data(), lse.data(), h.x.tensor(), packed, ints(h.targets));
    const Vec<double> X = h.x.values(), W = h.w.values(), bound = magnitude_dx(h, X, W), D(h.dlogp.begin(), h.dlogp.end());
    const Vec<Complex> Xc = ref::complex(X), Wc = ref::complex(W);
    const Stored start(h.dtype, h.R, h.C, random_values(h.R * h.C, 7), 2);
    const Vec<float> dw0 = random_values(h.V * h.C, 8);
    const double unit = h.dtype == DType::BF16 ? 0x1p-8 : 4e-6;  // one rounding; float32: sums and exp of rounded logits
    for (const bool accumulate : {false, true}) {
      Stored dx = start;
      Vec<float> dw = dw0;
      backend.token_logp_backward(dx.tensor(), accumulate, dw.data(), accumulate, h.dlogp.data(), h.x.tensor(), packed, h.rows(),
                                  ints(h.targets), lse.data());
      CHECK(dx.padding_intact(), name);
      const Vec<double> got = dx.values(), before = start.values();
      for (size_t i = 0; i < got.size(); i += 1 + got.size() / 16) {
        const size_t r = i / C;
        const Vec<double> row(X.begin() + static_cast<std::ptrdiff_t>(r * C), X.begin() + static_cast<std::ptrdiff_t>((r + 1) * C));
        const double d = ref::gradient_at([&](const Vec<Complex>& z) { return logp_of(z, Wc, std::span(h.targets).subspan(r, 1), C); },
                                          row, {D[r]}, i % C);
        // d(logits) rounded, each chunk's part of dx rounded, and the result rounded at the store.
        const double want = d + (accumulate ? before[i] : 0), most = unit * (2 * bound[i] + std::abs(want)) + 1e-6;
        CHECK(std::abs(got[i] - want) <= most, name, " dx[", i, "] = ", got[i], " and ", want, ", bound ", most);
      }
      // dw[v] = sum over r of d logits[r, v] x[r]: a complex step in logits[r, v] is enough, the rest is a product.
      for (size_t i = 0; i < dw.size(); i += 1 + dw.size() / 8) {
        Vec<Complex> row(Wc);
        row[i] += Complex(0, ref::kStep);
        double want = accumulate ? static_cast<double>(dw0[i]) : 0, size = 0;
        const Vec<Complex> f = logp_of(Xc, row, h.targets, C);
        for (size_t r = 0; r < f.size(); ++r) {
          want += D[r] * (f[r].imag() / ref::kStep);
          size += std::abs(D[r] * (f[r].imag() / ref::kStep));
        }
        CHECK(std::abs(dw[i] - want) <= unit * size + 1e-6, name, " dw[", i / C, ", ", i % C, "] = ", dw[i], " and ", want);
      }
      CHECK(dw.size() == V * C, name);
    }
    Stored dx(h.dtype, h.R, h.C), full = dx;
    Vec<float> dw = dw0;
    backend.token_logp_backward(dx.tensor(), false, nullptr, false, h.dlogp.data(), h.x.tensor(), packed, h.rows(), ints(h.targets), lse.data());
    backend.token_logp_backward(full.tensor(), false, dw.data(), false, h.dlogp.data(), h.x.tensor(), packed, h.rows(), ints(h.targets), lse.data());
    CHECK(dx.bytes == full.bytes, name, ": dw is optional");
  });
}

TEST("token_logp: backward gives the same bits for any number of threads") {
  for (const Isa isa : levels())
    for (const DType dtype : {DType::F32, DType::BF16}) {
      Head h(dtype, 130, 24, 4500);
      Vec<float> first_dw;
      Vec<uint8_t> first_dx;
      for (const int threads : {1, 2, 3}) {
        const auto backend = make_cpu_backend(isa, threads);
        const HostMatrix packed(*backend, h.rows());
        Vec<float> logp(130), lse(130), dw(static_cast<size_t>(h.V * h.C));
        Stored dx(dtype, h.R, h.C);
        backend->token_logp_forward(logp.data(), lse.data(), h.x.tensor(), packed, ints(h.targets));
        backend->token_logp_backward(dx.tensor(), false, dw.data(), false, h.dlogp.data(), h.x.tensor(), packed, h.rows(),
                                     ints(h.targets), lse.data());
        if (threads == 1) first_dw = dw, first_dx = dx.bytes;
        CHECK(dw == first_dw && dx.bytes == first_dx, name_of(isa), " ", h.name(), " threads ", threads);
      }
    }
}

TEST("token_logp: targets outside the vocabulary are refused") {
  for (const Isa isa : levels()) {
    Head h(DType::F32, 1, 4, 10);
    const auto backend = make_cpu_backend(isa, 1);
    const HostMatrix packed(*backend, h.rows());
    float logp, lse;
    for (const int32_t bad : {-1, 10}) {
      h.targets[0] = bad;
      CHECK(thrown_code([&] { backend->token_logp_forward(&logp, &lse, h.x.tensor(), packed, ints(h.targets)); }) == "BUG", name_of(isa));
    }
  }
}
