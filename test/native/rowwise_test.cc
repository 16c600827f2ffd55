// Row-wise kernels against float64 (reference.h): forward from the definition, backward from complex steps of the forward.
// Every check runs at each level, in float32 and bfloat16, with tails, strided views and both ways of writing.
#include <memory>

#include "check.h"
#include "host.h"
#include "kernels/backend.h"
#include "reference.h"

using namespace isr;
using namespace isr::test;
namespace ref = isr::reference;
using ref::Complex;
using ref::error_of;
using ref::Stored;
using ref::Vec;

namespace {

struct Setup {
  Isa isa;
  DType dtype;
  int64_t rows, cols;
  std::unique_ptr<Backend> backend;
  std::string name() const {
    return concat(name_of(isa), " ", isr::name_of(dtype), " (", rows, ", ", cols, ")");
  }
  Stored random(int64_t r, int64_t c, uint64_t seed, float scale = 1) const {
    return Stored(dtype, r, c, random_values(r * c, seed, scale), seed % 3 == 0 ? 0 : 5);
  }
};

const Vec<std::pair<int64_t, int64_t>> kShapes = {{1, 1}, {3, 7}, {5, 48}, {70, 33}, {2, 768}};

template <class F>
void for_setups(const Vec<std::pair<int64_t, int64_t>>& shapes, F&& check) {
  for (const Isa isa : levels())
    for (const DType dtype : {DType::F32, DType::BF16})
      for (const auto& [rows, cols] : shapes) check(Setup{isa, dtype, rows, cols, make_cpu_backend(isa, 1)});
}

// f(backend) returns the bytes it wrote; they must not depend on the number of threads.
template <class F>
void check_threads(const char* what, F&& f) {
  for (const Isa isa : levels()) {
    Vec<uint8_t> first;
    for (const int threads : {1, 2, 3}) {
      const auto backend = make_cpu_backend(isa, threads);
      const Vec<uint8_t> bytes = f(*backend);
      if (threads == 1) first = bytes;
      CHECK(bytes == first, what, " ", name_of(isa), " differs with ", threads, " threads");
    }
  }
}

Vec<double> wide(const Vec<float>& x) { return {x.begin(), x.end()}; }
Flat flat(const Vec<float>& x) { return {x.data(), static_cast<int64_t>(x.size())}; }
Vec<double> plus(Vec<double> a, const Vec<double>& b) {
  for (size_t i = 0; i < a.size(); ++i) a[i] += b[i];
  return a;
}
Vec<uint8_t> bytes_of(const Vec<float>& x) {
  const auto* p = reinterpret_cast<const uint8_t*>(x.data());
  return {p, p + sizeof(float) * x.size()};
}
Vec<uint8_t> joined(Vec<uint8_t> a, const Vec<uint8_t>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

#define CHECK_NEAR(got, want, dtype, ...)                                       \
  do {                                                                          \
    const double error_here = error_of(got, want, dtype);                       \
    CHECK(error_here <= 1, #got, " is off by ", error_here, ": ", __VA_ARGS__); \
  } while (0)

constexpr float kEps = 1e-5f;
const double kEpsWide = static_cast<double>(kEps);

}  // namespace

TEST("norms: forward") {
  for_setups(kShapes, [](const Setup& s) {
    Stored x = s.random(s.rows, s.cols, 1, 3), y(s.dtype, s.rows, s.cols, 3), z(s.dtype, s.rows, s.cols);
    const Vec<float> w = random_values(s.cols, 2), b = random_values(s.cols, 3);
    Vec<float> mean(static_cast<size_t>(s.rows)), rstd(mean.size());
    s.backend->rms_norm_forward(y.tensor(), rstd.data(), x.tensor(), flat(w), kEps);
    CHECK_NEAR(y.values(), ref::rms_norm(x.values(), wide(w), kEpsWide), s.dtype, s.name());
    CHECK(y.padding_intact(), s.name());
    s.backend->rms_norm_forward(z.tensor(), nullptr, x.tensor(), flat(w), kEps);
    CHECK(z.values() == y.values(), "rstd null, ", s.name());
    s.backend->layer_norm_forward(y.tensor(), mean.data(), rstd.data(), x.tensor(), w.data(), b.data(), kEps);
    // One element: x - mean is 0 exactly and y = b; elsewhere the sums are well conditioned.
    CHECK_NEAR(y.values(), ref::layer_norm(x.values(), wide(w), wide(b), kEpsWide), s.dtype, s.name());
    CHECK(y.padding_intact(), s.name());
  });
}

TEST("norms: backward against complex step") {
  for_setups({{1, 1}, {3, 7}, {5, 48}, {70, 33}, {1, 300}}, [](const Setup& s) {
    Stored x = s.random(s.rows, s.cols, 1, 3), dy = s.random(s.rows, s.cols, 4), y(s.dtype, s.rows, s.cols);
    const Vec<float> w = random_values(s.cols, 2), b = random_values(s.cols, 3);
    Vec<float> mean(static_cast<size_t>(s.rows)), rstd(mean.size());
    const Vec<double> X = x.values(), DY = dy.values(), W = wide(w), B = wide(b);
    const Vec<Complex> Wc = ref::complex(W), Bc = ref::complex(B), Xc = ref::complex(X);
    const Stored start = s.random(s.rows, s.cols, 5);
    const Vec<float> dw0 = random_values(s.cols, 6), db0 = random_values(s.cols, 7);
    const auto check = [&](const char* what, bool layer, const Vec<double>& DX, const Vec<double>& DW, const Vec<double>& DB) {
      for (const bool accumulate : {false, true}) {
        Stored dx = start;
        Vec<float> dw = dw0, db = db0;
        if (layer)
          s.backend->layer_norm_backward(dx.tensor(), accumulate, dw.data(), db.data(), accumulate, dy.tensor(), x.tensor(),
                                         w.data(), mean.data(), rstd.data());
        else
          s.backend->rms_norm_backward(dx.tensor(), accumulate, dw.data(), accumulate, dy.tensor(), x.tensor(), flat(w),
                                       rstd.data());
        // A width of 1 has no gradient: what is left is rounding of terms of size w dy rstd, not of the result.
        const std::string name = concat(what, accumulate ? " += " : " = ", s.name());
        if (s.cols > 1) CHECK_NEAR(dx.values(), accumulate ? plus(start.values(), DX) : DX, s.dtype, name);
        CHECK_NEAR(wide(dw), accumulate ? plus(wide(dw0), DW) : DW, DType::F32, name);
        if (layer) CHECK_NEAR(wide(db), accumulate ? plus(wide(db0), DB) : DB, DType::F32, name);
        CHECK(dx.padding_intact(), name);
      }
    };
    s.backend->rms_norm_forward(y.tensor(), rstd.data(), x.tensor(), flat(w), kEps);
    const auto rows = static_cast<size_t>(s.rows);
    const auto rms_row = [&](const Vec<Complex>& z, size_t) { return ref::rms_norm(z, Wc, kEpsWide); };
    const auto layer_row = [&](const Vec<Complex>& z, size_t) { return ref::layer_norm(z, Wc, Bc, kEpsWide); };
    check("rms", false, ref::row_gradient(rms_row, X, DY, rows),
          ref::gradient([&](const Vec<Complex>& z) { return ref::rms_norm(Xc, z, kEpsWide); }, W, DY), {});
    s.backend->layer_norm_forward(y.tensor(), mean.data(), rstd.data(), x.tensor(), w.data(), b.data(), kEps);
    check("layer", true, ref::row_gradient(layer_row, X, DY, rows),
          ref::gradient([&](const Vec<Complex>& z) { return ref::layer_norm(Xc, z, Bc, kEpsWide); }, W, DY),
          ref::gradient([&](const Vec<Complex>& z) { return ref::layer_norm(Xc, Wc, z, kEpsWide); }, B, DY));
  });
}

TEST("norms: skipped outputs, and a row alone gives the bits of the batch") {
  for_setups({{130, 48}}, [](const Setup& s) {
    Stored x = s.random(s.rows, s.cols, 1), dy = s.random(s.rows, s.cols, 2), y(s.dtype, s.rows, s.cols), dx = y, one = y;
    const Vec<float> w = random_values(s.cols, 3);
    Vec<float> rstd(static_cast<size_t>(s.rows)), dw(static_cast<size_t>(s.cols)), dw2 = dw;
    s.backend->rms_norm_forward(y.tensor(), rstd.data(), x.tensor(), flat(w), kEps);
    s.backend->rms_norm_backward(dx.tensor(), false, dw.data(), false, dy.tensor(), x.tensor(), flat(w), rstd.data());
    s.backend->rms_norm_backward({}, false, dw2.data(), false, dy.tensor(), x.tensor(), flat(w), rstd.data());
    CHECK(dw == dw2, s.name());
    for (int64_t t : {int64_t{0}, int64_t{77}, s.rows - 1}) {
      s.backend->rms_norm_forward(one.tensor().row_range(t, 1), nullptr, x.tensor().row_range(t, 1), flat(w), kEps);
      for (int64_t c = 0; c < s.cols; ++c) CHECK(one.get(t, c) == y.get(t, c), s.name());
      s.backend->rms_norm_backward(one.tensor().row_range(t, 1), false, nullptr, false, dy.tensor().row_range(t, 1),
                                   x.tensor().row_range(t, 1), flat(w), rstd.data() + t);
      for (int64_t c = 0; c < s.cols; ++c) CHECK(one.get(t, c) == dx.get(t, c), s.name());
    }
  });
}

// Heads of a row are rows of their own: the same bits as of rows that stand one behind another, in place, too.
TEST("norms: the heads of a row, each for itself") {
  for_setups({{70, 6 * 16}, {3, 6 * 5}}, [](const Setup& s) {
    const int64_t heads = 6, D = s.cols / heads;
    Stored x = s.random(s.rows, s.cols, 1, 3), dy = s.random(s.rows, s.cols, 4), y = x, dx = dy;
    const auto apart = [&](const Stored& z) {
      const Vec<double> values = z.values();
      return Stored(s.dtype, s.rows * heads, D, Vec<float>(values.begin(), values.end()));
    };
    Stored flat_x = apart(x), flat_dy = apart(dy), flat_y = flat_x, flat_dx = flat_x;
    const Vec<float> w = random_values(D, 2);
    Vec<float> rstd(static_cast<size_t>(s.rows * heads)), flat_rstd = rstd, dw(static_cast<size_t>(D)), flat_dw = dw;
    s.backend->rms_norm_forward(flat_y.tensor(), flat_rstd.data(), flat_x.tensor(), flat(w), kEps);
    s.backend->rms_norm_backward(flat_dx.tensor(), false, flat_dw.data(), false, flat_dy.tensor(), flat_x.tensor(), flat(w), flat_rstd.data());
    s.backend->rms_norm_forward(y.tensor(), rstd.data(), y.tensor(), flat(w), kEps);
    s.backend->rms_norm_backward(dx.tensor(), false, dw.data(), false, dx.tensor(), x.tensor(), flat(w), rstd.data());
    CHECK(y.values() == flat_y.values() && rstd == flat_rstd, s.name());
    CHECK(dx.values() == flat_dx.values() && dw == flat_dw, s.name());
    CHECK(y.padding_intact() && dx.padding_intact(), s.name());
  });
}

TEST("rope: forward, and the inverse is its gradient") {
  struct Shape { int64_t rows, heads, D; };
  for (const Shape& h : {Shape{1, 1, 2}, Shape{3, 2, 6}, Shape{5, 3, 34}, Shape{4, 2, 64}, Shape{2, 1, 256}, Shape{2, 2, 270}})
    for_setups({{h.rows, h.heads * h.D}}, [&](const Setup& s) {
      Stored x = s.random(s.rows, s.cols, 1), dy = s.random(s.rows, s.cols, 2), y = x, dx = dy;
      const Vec<float> angle = random_values(h.rows * h.D / 2, 3, 3);
      Vec<float> table;
      for (const float a : angle) table.insert(table.end(), {std::cos(a), std::sin(a)});
      const auto H = static_cast<size_t>(h.heads), D = static_cast<size_t>(h.D);
      s.backend->rope(y.tensor(), table.data(), h.heads, h.D, false);
      CHECK_NEAR(y.values(), ref::rope(x.values(), wide(table), H, D, false), s.dtype, s.name());
      CHECK(y.padding_intact(), s.name());
      s.backend->rope(dx.tensor(), table.data(), h.heads, h.D, true);
      const Vec<double> want = ref::row_gradient([&](const Vec<Complex>& z, size_t t) {
        const auto at = static_cast<std::ptrdiff_t>(t * D);
        return ref::rope(z, Vec<double>(table.begin() + at, table.begin() + at + static_cast<std::ptrdiff_t>(D)), H, D, false);
      }, x.values(), dy.values(), static_cast<size_t>(h.rows));
      CHECK_NEAR(dx.values(), want, s.dtype, s.name());
    });
}

TEST("activations: forward and backward") {
  struct Row { const char* name; Act act; double (*f)(double); Complex (*c)(Complex); };
  const Row table[] = {{"gelu_erf", Act::GeluErf, ref::gelu_erf<double>, ref::gelu_erf<Complex>},
                       {"gelu_tanh", Act::GeluTanh, ref::gelu_tanh<double>, ref::gelu_tanh<Complex>},
                       {"quick_gelu", Act::QuickGelu, ref::quick_gelu<double>, ref::quick_gelu<Complex>}};
  for (const Row& row : table)
    for_setups(kShapes, [&](const Setup& s) {
      Stored x = s.random(s.rows, s.cols, 1, 6), dy = s.random(s.rows, s.cols, 2), y(s.dtype, s.rows, s.cols, 1);
      s.backend->act_forward(y.tensor(), x.tensor(), row.act);
      CHECK_NEAR(y.values(), ref::map(x.values(), row.f), s.dtype, row.name, " ", s.name());
      Vec<double> want(static_cast<size_t>(s.rows * s.cols));
      const Vec<double> X = x.values(), DY = dy.values();
      for (size_t i = 0; i < want.size(); ++i) want[i] = DY[i] * (row.c({X[i], ref::kStep}).imag() / ref::kStep);
      Stored dx = s.random(s.rows, s.cols, 4);
      s.backend->act_backward(dx.tensor(), dy.tensor(), x.tensor(), row.act);
      CHECK_NEAR(dx.values(), want, s.dtype, row.name, " ", s.name());
      CHECK(y.padding_intact() && dx.padding_intact(), row.name, " ", s.name());
      s.backend->act_backward(dy.tensor(), dy.tensor(), x.tensor(), row.act);  // in place
      CHECK(dy.values() == dx.values(), row.name, " ", s.name());
      s.backend->act_forward(x.tensor(), x.tensor(), row.act);
      CHECK(x.values() == y.values(), row.name, " ", s.name());
    });
}

TEST("activations: far out there is neither NaN nor a wrong limit") {
  for_setups({{1, 6}}, [](const Setup& s) {
    const Vec<float> far = {-1e4f, -200, -90, 90, 200, 1e4f};
    Stored x(s.dtype, 1, 6, far), one(s.dtype, 1, 6, Vec<float>(6, 1.0f)), y(s.dtype, 1, 6), d(s.dtype, 1, 6);
    for (const Act act : {Act::GeluErf, Act::GeluTanh, Act::QuickGelu}) {
      s.backend->act_forward(y.tensor(), x.tensor(), act);
      s.backend->act_backward(d.tensor(), one.tensor(), x.tensor(), act);
      for (int64_t i = 0; i < 6; ++i) {
        CHECK(std::abs(y.get(0, i) - (i < 3 ? 0 : x.get(0, i))) < 1e-30, s.name(), " ", x.get(0, i), " -> ", y.get(0, i));
        CHECK(std::abs(d.get(0, i) - (i < 3 ? 0 : 1)) < 1e-30, s.name(), " ", x.get(0, i), " -> ", d.get(0, i));
      }
    }
  });
}

TEST("swiglu: backward against complex step") {
  for_setups(kShapes, [](const Setup& s) {
    Stored pre = s.random(s.rows, 2 * s.cols, 1, 5), dy = s.random(s.rows, s.cols, 2), dpre = s.random(s.rows, 2 * s.cols, 4);
    s.backend->swiglu_backward(dpre.tensor(), dy.tensor(), pre.tensor());
    const auto F = static_cast<size_t>(s.cols);
    const Vec<double> P = pre.values(), DY = dy.values();
    Vec<double> want(P.size());
    for (size_t i = 0; i < DY.size(); ++i) {  // elementwise: one pair (gate, up) at a time
      const size_t g = i / F * 2 * F + i % F;
      const Vec<double> d = ref::gradient([](const Vec<Complex>& z) { return ref::swiglu(z, 1); }, {P[g], P[g + F]}, {DY[i]});
      want[g] = d[0], want[g + F] = d[1];
    }
    CHECK_NEAR(dpre.values(), want, s.dtype, s.name());
    CHECK(dpre.padding_intact(), s.name());
  });
}

TEST("add, cast and gather: every pair of types") {
  for (const DType from : {DType::F32, DType::BF16})
    for_setups(kShapes, [&](const Setup& s) {
      Stored a(from, s.rows, s.cols, random_values(s.rows * s.cols, 1), 2);
      const Stored start = s.random(s.rows, s.cols, 2);
      const Vec<int32_t> index = {static_cast<int32_t>(s.rows - 1), -1, 0, 0};
      const Stored start4 = s.random(4, s.cols, 2);
      for (const bool accumulate : {false, true}) {
        Stored y = start, g = start4;
        s.backend->add(y.tensor(), accumulate, a.tensor());
        CHECK_NEAR(y.values(), accumulate ? plus(start.values(), a.values()) : a.values(), s.dtype, accumulate, " ", s.name());
        s.backend->gather_rows(g.tensor(), accumulate, a.tensor(), ints(index));
        const Vec<double> rows = ref::gather(a.values(), index, static_cast<size_t>(s.cols));
        CHECK_NEAR(g.values(), accumulate ? plus(start4.values(), rows) : rows, s.dtype, accumulate, " ", s.name());
        CHECK(y.padding_intact() && g.padding_intact(), s.name());
      }
      Stored src(from, 1, s.rows * s.cols, random_values(s.rows * s.cols, 5)), dst(s.dtype, 1, s.rows * s.cols);
      s.backend->add(dst.tensor(), false, src.tensor());
      Stored want(s.dtype, 1, s.rows * s.cols);
      for (int64_t i = 0; i < want.cols; ++i) want.set(0, i, static_cast<float>(src.get(0, i)));
      CHECK(dst.bytes == want.bytes, s.name());
    });
}

TEST("embedding: lookup, and its gradient in the order of rows") {
  for (const DType table_type : {DType::F32, DType::BF16})
    for_setups({{9, 1}, {9, 7}, {9, 48}, {9, 768}}, [&](const Setup& s) {
      constexpr int64_t V = 11;
      Stored table(table_type, V, s.cols, random_values(V * s.cols, 1)), y(s.dtype, s.rows, s.cols, 3);
      const Vec<int32_t> ids = {3, -1, 10, 3, 0, 3, -1, 10, 7};
      s.backend->embedding_forward(y.tensor(), view(table.bytes.data(), table_type, V, s.cols), ints(ids));
      CHECK_NEAR(y.values(), ref::gather(table.values(), ids, static_cast<size_t>(s.cols)), s.dtype, s.name());
      CHECK(y.padding_intact(), s.name());
      Stored dy = s.random(s.rows, s.cols, 2);
      const Vec<float> start = random_values(V * s.cols, 4);
      for (const bool accumulate : {false, true}) {
        Vec<float> dw = start, want = start;
        s.backend->embedding_backward(dw.data(), accumulate, dy.tensor(), ints(ids), V);
        if (!accumulate) std::fill(want.begin(), want.end(), 0.0f);
        for (size_t t = 0; t < ids.size(); ++t)  // the same chain of float32 additions, so the same bits
          for (int64_t c = 0; ids[t] >= 0 && c < s.cols; ++c)
            want[static_cast<size_t>(ids[t] * s.cols + c)] += static_cast<float>(dy.get(static_cast<int64_t>(t), c));
        CHECK(dw == want, accumulate, " ", s.name());
      }
    });
}

TEST("rope_table: cosines and sines of every position, in float64") {
  for (const Isa isa : levels()) {
    const std::vector<int32_t> positions{0, 1, 7, 4095, 1 << 20};
    const std::vector<double> inverse{1, 0.1, 1e-4};
    std::vector<float> table(positions.size() * inverse.size() * 2);
    make_cpu_backend(isa, 2)->rope_table(table.data(), ints(positions), {inverse, 0.5});
    for (size_t t = 0, at = 0; t < positions.size(); ++t)
      for (const double w : inverse) {
        const double angle = positions[t] * w;
        CHECK(table[at] == static_cast<float>(std::cos(angle) * 0.5), name_of(isa), " cos at ", positions[t]);
        CHECK(table[at + 1] == static_cast<float>(std::sin(angle) * 0.5), name_of(isa), " sin at ", positions[t]);
        at += 2;
      }
  }
}

TEST("patchify: a row is one square of a frame, channel by channel") {
  constexpr int64_t kFrames = 2, kHeight = 11, kWidth = 7, kPatch = 3, kDown = kHeight / kPatch, kAcross = kWidth / kPatch;
  const Vec<float> pixels = random_values(kFrames * 3 * kHeight * kWidth, 1);
  for (const Isa isa : levels())
    for (const DType dtype : {DType::F32, DType::BF16}) {
      Stored y(dtype, kFrames * kDown * kAcross, 3 * kPatch * kPatch);
      make_cpu_backend(isa, 2)->patchify(y.tensor(), pixels.data(), kFrames, kHeight, kWidth, kPatch);
      Stored want = y;
      for (int64_t row = 0; row < y.rows; ++row)
        for (int64_t c = 0; c < y.cols; ++c) {
          const int64_t frame = row / (kDown * kAcross), py = row / kAcross % kDown, px = row % kAcross;
          const int64_t channel = c / (kPatch * kPatch), dy = c / kPatch % kPatch, dx = c % kPatch;
          want.set(row, c, pixels[static_cast<size_t>(((frame * 3 + channel) * kHeight + py * kPatch + dy) * kWidth + px * kPatch + dx)]);
        }
      CHECK(y.bytes == want.bytes, name_of(isa), " ", name_of(dtype));
    }
}

TEST("row-wise kernels: the same bits for any number of threads") {
  constexpr int64_t T = 700, C = 515;
  for (const DType dtype : {DType::F32, DType::BF16}) {
    const Vec<float> w = random_values(C, 1), b = random_values(C, 2);
    Stored x(dtype, T, C, random_values(T * C, 3)), dy(dtype, T, C, random_values(T * C, 4));
    check_threads("norms", [&](Backend& backend) {
      Stored y(dtype, T, C), dx(dtype, T, C);
      Vec<float> mean(T), rstd(T), dw(C), db(C);
      backend.layer_norm_forward(y.tensor(), mean.data(), rstd.data(), x.tensor(), w.data(), b.data(), kEps);
      backend.layer_norm_backward(dx.tensor(), false, dw.data(), db.data(), false, dy.tensor(), x.tensor(), w.data(),
                                  mean.data(), rstd.data());
      return joined(joined(y.bytes, dx.bytes), joined(bytes_of(dw), bytes_of(db)));
    });
    check_threads("activations and rope", [&](Backend& backend) {
      Stored pre(dtype, T, 2 * C, random_values(T * 2 * C, 5)), dpre = pre, y = x;
      const Vec<float> table = random_values(T * (C - 1), 6);
      backend.swiglu_backward(dpre.tensor(), dy.tensor(), pre.tensor());
      backend.act_forward(y.tensor(), x.tensor(), Act::GeluErf);
      backend.act_backward(y.tensor(), y.tensor(), x.tensor(), Act::GeluTanh);
      backend.rope(pre.tensor().columns(1, C - 1), table.data(), 1, C - 1, false);
      return joined(joined(dpre.bytes, y.bytes), pre.bytes);
    });
    check_threads("rows", [&](Backend& backend) {
      constexpr int64_t V = 900;
      Vec<int32_t> ids(T);
      for (size_t t = 0; t < T; ++t) ids[t] = static_cast<int32_t>(t * t * 7 % 300) - 1;
      Stored y(dtype, T, C);
      Vec<float> dw(V * C);
      backend.embedding_forward(y.tensor(), view(x.bytes.data(), dtype, T, C), ints(ids));
      backend.add(y.tensor(), true, dy.tensor());
      backend.embedding_backward(dw.data(), false, dy.tensor(), ints(ids), V);
      return joined(y.bytes, bytes_of(dw));
    });
  }
}

TEST("row-wise kernels: empty inputs and broken contracts") {
  for (const Isa isa : levels()) {
    const auto backend = make_cpu_backend(isa, 2);
    Stored x(DType::F32, 0, 8), wide_rows(DType::F32, 2, 9, Vec<float>(18)), rows(DType::F32, 2, 8, Vec<float>(16));
    const Vec<float> w(8, 1.0f), table(16);
    Vec<float> dw(8, 5.0f);
    backend->rms_norm_forward(x.tensor(), nullptr, x.tensor(), flat(w), kEps);
    backend->rms_norm_backward(x.tensor(), false, dw.data(), false, x.tensor(), x.tensor(), flat(w), nullptr);
    CHECK(dw == Vec<float>(8, 0.0f), "no rows: the gradient is zero");
    const Vec<int32_t> bad = {0, 2}, ids = {0, 1};
    CHECK(thrown_code([&] { backend->gather_rows(rows.tensor(), false, rows.tensor(), ints(bad)); }) == "BUG", name_of(isa));
    CHECK(thrown_code([&] { backend->add(rows.tensor(), true, wide_rows.tensor()); }) == "BUG", name_of(isa));
    CHECK(thrown_code([&] { backend->embedding_backward(dw.data(), false, rows.tensor(), ints(ids), 1); }) == "BUG", name_of(isa));
    CHECK(thrown_code([&] { backend->rope(wide_rows.tensor(), table.data(), 1, 9, false); }) == "BUG", name_of(isa));
  }
}
