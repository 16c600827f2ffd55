// Row-wise kernels, sampling and the optimizer: all bound by memory, so each is set against a copy measured beside it.
#include <cmath>
#include <cstring>
#include <memory>

#include "../../test/native/host.h"
#include "bench.h"
#include "core/bf16.h"
#include "core/rng.h"
#include "kernels/backend.h"
#include "peak.h"

using namespace isr;
using namespace isr::bench;

namespace {

void fill(Tensor t, uint64_t seed) {
  const Philox draw(seed);
  for (int64_t r = 0; r < t.rows; ++r)
    for (int64_t c = 0; c < t.cols; ++c) {
      const float x = 2 * unit_float(draw(static_cast<uint64_t>(r), static_cast<uint64_t>(c))[0]) - 1;
      if (t.dtype == DType::F32) *static_cast<float*>(t.at(r, c)) = x;
      else *static_cast<uint16_t*>(t.at(r, c)) = f32_to_bf16(x);
    }
}

struct Values {
  Buffer memory;
  Tensor tensor;
  Values(DType t, int64_t rows, int64_t cols, uint64_t seed) : memory(static_cast<size_t>(rows * cols) * size_of(t)) {
    tensor = view(memory.data(), t, rows, cols);
    fill(tensor, seed);
  }
};

}  // namespace

// 28 bytes per element: master, m, v and gradient read, master, m and v written.
BENCH("adamw") {
  constexpr int64_t n = int64_t{12} << 20;
  Values p(DType::F32, 1, n, 1), m(DType::F32, 1, n, 2), v(DType::F32, 1, n, 3), g(DType::F32, 1, n, 4);
  for (int64_t i = 0; i < n; ++i) v.tensor.f32()[i] *= v.tensor.f32()[i];
  for (const int threads : {1, machine_threads()}) {
    const auto backend = make_cpu_backend(chosen_isa(), threads);
    double copy = 0, adamw = 0, squares = 0;
    for (int round = 0; round < 4; ++round) {  // interleaved: a neighbour slows all of them
      copy = std::max(copy, copy_rate(threads));
      AdamWItem item;
      item.master = p.tensor.f32(), item.m = m.tensor.f32(), item.v = v.tensor.f32(), item.grad = g.tensor.f32();
      item.rows = n / 1024, item.cols = 1024;
      item.step = 10, item.weight_decay = 0.1f;
      const double s = best_seconds([&] { backend->adamw({&item, 1}, {.lr = 1e-4f, .grad_scale = 0.5f}); }, threads);
      const Flat gradient{g.tensor.f32(), n};
      const double q = best_seconds([&] { backend->sum_squares({&gradient, 1}); }, threads, 0.1);
      adamw = std::max(adamw, 28e-9 * static_cast<double>(n) / s);
      squares = std::max(squares, 4e-9 * static_cast<double>(n) / q);
    }
    std::printf("%d threads: adamw %6.1f GB/s = %3.0f %% of the copy rate %.1f GB/s; sum_squares %.1f GB/s\n", threads, adamw,
                100 * adamw / copy, copy, squares);
    if (threads == 1 && machine_threads() == 1) break;
  }
}

// One thread, activations in cache as between two products: (T, C) = (512, 2048). GB/s count each operand once.
BENCH("rowwise") {
  constexpr int64_t T = 512, C = 2048, D = 64;
  const auto backend = make_cpu_backend(chosen_isa(), 1);
  std::printf("copy rate (memory, one thread) %.1f GB/s; level %s\n", copy_rate(1), backend->level());
  for (const DType t : {DType::F32, DType::BF16}) {
    Values x(t, T, C, 1), y(t, T, C, 2), dy(t, T, C, 3), pre(t, T, 2 * C, 4), dpre(t, T, 2 * C, 5);
    Values w(DType::F32, 1, C, 6), dw(DType::F32, 2, C, 7), stats(DType::F32, 2, T, 8), table(DType::F32, T, D, 9);
    for (int64_t i = 0; i < T * D; i += 2) {  // a true rotation: rope runs in place, again and again
      const float angle = table.tensor.f32()[i];
      table.tensor.f32()[i] = std::cos(angle), table.tensor.f32()[i + 1] = std::sin(angle);
    }
    float *const mean = stats.tensor.f32(), *const rstd = mean + T, *const weight = w.tensor.f32(), *const d = dw.tensor.f32();
    const double matrix = 1e-9 * static_cast<double>(T * C) * static_cast<double>(size_of(t));
    const auto report = [&](const char* what, double operands, auto&& f) {
      const double s = best_seconds(f, 1, 0.15);
      std::printf("  %-4s %-20s %6.1f GB/s %7.3f ns an element\n", name_of(t), what, operands * matrix / s, 1e9 * s / (T * C));
    };
    report("memcpy", 2, [&] { std::memcpy(y.tensor.data, x.tensor.data, static_cast<size_t>(T * C) * size_of(t)); });
    report("rms_norm_forward", 2, [&] { backend->rms_norm_forward(y.tensor, rstd, x.tensor, {weight, C}, 1e-5f); });
    report("rms_norm_backward", 3, [&] {
      backend->rms_norm_backward(y.tensor, false, d, false, dy.tensor, x.tensor, {weight, C}, rstd);
    });
    report("layer_norm_forward", 2, [&] { backend->layer_norm_forward(y.tensor, mean, rstd, x.tensor, weight, weight, 1e-5f); });
    report("layer_norm_backward", 3, [&] {
      backend->layer_norm_backward(y.tensor, false, d, d + C, false, dy.tensor, x.tensor, weight, mean, rstd);
    });
    report("rope", 2, [&] { backend->rope(x.tensor, table.tensor.f32(), C / D, D, false); });
    report("swiglu_backward", 5, [&] { backend->swiglu_backward(dpre.tensor, dy.tensor, pre.tensor); });
    report("act_backward gelu", 3, [&] { backend->act_backward(y.tensor, dy.tensor, x.tensor, Act::GeluTanh); });
    report("act_forward erf", 2, [&] { backend->act_forward(y.tensor, x.tensor, Act::GeluErf); });
    report("add", 3, [&] { backend->add(y.tensor, true, dy.tensor); });
  }
}

// The head: 300 scored tokens. Forward is one product over the vocabulary, backward three.
BENCH("token_logp") {
  constexpr int64_t R = 300, C = 896, V = 32000;
  const auto backend = make_cpu_backend(chosen_isa(), 1);
  for (const DType t : {DType::F32, DType::BF16}) {
    Values x(t, R, C, 1), w(t, V, C, 2), dx(t, R, C, 3), dw(DType::F32, V, C, 4), stats(DType::F32, 3, R, 5);
    const test::HostMatrix head(*backend, w.tensor);
    std::vector<int32_t> targets(R);
    for (size_t r = 0; r < R; ++r) targets[r] = static_cast<int32_t>(r * 101);
    float *const logp = stats.tensor.f32(), *const lse = logp + R, *const dlogp = lse + R;
    const double product = 2e-9 * R * C * V;
    const double forward = best_seconds([&] { backend->token_logp_forward(logp, lse, x.tensor, head, test::ints(targets)); }, 1, 1.0);
    const double backward = best_seconds([&] {
      backend->token_logp_backward(dx.tensor, false, dw.tensor.f32(), false, dlogp, x.tensor, head, w.tensor, test::ints(targets), lse);
    }, 1, 1.0);
    const double peak = t == DType::BF16 && peak_bf16(1) > 0 ? peak_bf16(1) : peak_fma_f32(1);
    std::printf("  %-4s forward %.1f ms, %.0f %% of peak; backward %.1f ms, %.0f %% of peak\n", name_of(t), 1e3 * forward,
                100 * product / forward / peak, 1e3 * backward, 300 * product / backward / peak);
  }
}

BENCH("sample") {
  const auto backend = make_cpu_backend(chosen_isa(), 1);
  for (const int64_t V : {32000, 152064})
    for (const float spread : {1.0f, 12.0f}) {  // nearly flat, and peaked as a trained model's
      Values logits(DType::F32, 1, V, 1);
      for (int64_t i = 0; i < V; ++i) logits.tensor.f32()[i] *= spread;
      const auto time = [&](SampleOptions o) {
        int32_t id;
        float logp;
        return 1e3 * best_seconds([&] { backend->sample(&id, &logp, logits.tensor, {&o, 1}, {}); }, 1, 0.1);
      };
      std::printf("V %6ld logits in +-%-2.0f, ms a row: greedy %.3f, temperature %.3f, top-p 0.9 %.3f, top-k 50 + top-p %.3f\n",
                  static_cast<long>(V), static_cast<double>(spread), time({}), time({.temperature = 1, .uniform = 0.7}),
                  time({.temperature = 1, .top_p = 0.9f, .uniform = 0.7}),
                  time({.temperature = 1, .top_p = 0.9f, .top_k = 50, .uniform = 0.7}));
    }
}
