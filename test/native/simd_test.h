// The vector functions of one instruction-set level, measured in ulp against float64: included by one small source a level,
// with ISR_LEVEL set, because simd.h can be compiled for one level a source. Nothing here runs on a machine that lacks it:
// what is compiled for the level is called only behind isa_supported.
#pragma once
#include <algorithm>
#include <bit>
#include <cmath>
#include <string>

#include "check.h"

#pragma GCC push_options
#include "kernels/cpu/activation.h"

namespace isr::cpu::ISR_NS {

enum class Fn { Exp, Exp2, Erf };

static void apply(Fn fn, float* y, const float* x) {
  const vf v = load(x);
  store(y, fn == Fn::Exp ? expv(v) : fn == Fn::Exp2 ? exp2v(v) : erfv(v));
}
static void round_trip(uint16_t* y, const float* x, int n) {
  if (n == kLanes) store(y, load(x));
  else store_n(y, load_n(x, n), n);
}
static void reductions(float* out, const float* x) {
  out[0] = sum(load(x));
  out[1] = max_of(load(x));
}

}  // namespace isr::cpu::ISR_NS
#pragma GCC pop_options

namespace isr::test {
namespace {

namespace k = isr::cpu::ISR_NS;
const std::string at_level = std::string(" ") + name_of(static_cast<Isa>(ISR_LEVEL));

double ulp_of(double x) {  // spacing of float32 at x
  const int e = x == 0 ? -126 : std::max(std::ilogb(x), -126);
  return std::ldexp(1.0, e - 23);
}

// Every `step`-th float32 bit pattern, both signs and every exponent; checks finite results and infinities.
void check_ulp(k::Fn fn, const char* name, double (*exact)(double), float low, double most) {
  double worst = 0;
  float worst_at = 0;
  for (uint64_t bits = 0; bits < (uint64_t{1} << 32); bits += 2011 * k::kLanes) {
    float x[k::kLanes], y[k::kLanes];
    for (int i = 0; i < k::kLanes; ++i) x[i] = std::bit_cast<float>(static_cast<uint32_t>(bits + 2011u * static_cast<uint32_t>(i)));
    k::apply(fn, y, x);
    for (int i = 0; i < k::kLanes; ++i) {
      if (std::isnan(x[i])) { CHECK(std::isnan(y[i]), name, at_level, " of NaN is ", y[i]); continue; }
      if (x[i] < low) { CHECK(y[i] == 0, name, "(", x[i], ") = ", y[i]); continue; }
      const double want = exact(x[i]);
      const float nearest = static_cast<float>(want);
      if (std::isinf(nearest) || std::isinf(y[i])) {
        CHECK(want > 0.999999 * 3.4028235e38 && y[i] > 3.402e38f, name, "(", x[i], ") = ", y[i], ", not ", want);
        continue;
      }
      const double error = std::abs(y[i] - want) / ulp_of(want);
      if (!(error <= worst)) worst = error, worst_at = x[i];
    }
  }
  CHECK(worst <= most, name, at_level, ": ", worst, " ulp at ", worst_at);
  std::printf("  %s%s: %.2f ulp\n", name, at_level.c_str(), worst);
}

bool supported() {
  const bool yes = isa_supported(static_cast<Isa>(ISR_LEVEL));
  if (!yes) skipped() = "this machine lacks the instructions";
  return yes;
}

Register exp_ulp("simd: exp and erf within 2 ulp" + at_level, [] {
  if (!supported()) return;
  check_ulp(k::Fn::Exp, "exp", [](double x) { return std::exp(x); }, -INFINITY, 2);
  check_ulp(k::Fn::Exp2, "exp2", [](double x) { return std::exp2(x); }, -126.0f, 2);
  check_ulp(k::Fn::Erf, "erf", [](double x) { return std::erf(x); }, -INFINITY, 2);
});

Register lanes("simd: bfloat16 rounding, tails and reductions" + at_level, [] {
  if (!supported()) return;
  float x[k::kLanes];
  for (uint64_t bits = 0; bits < (uint64_t{1} << 32); bits += 65521) {  // NaN and infinity among them; subnormals aside
    for (int i = 0; i < k::kLanes; ++i) x[i] = std::bit_cast<float>(static_cast<uint32_t>(bits + 4096u * static_cast<uint32_t>(i)));
    for (const int n : {k::kLanes, 1 + static_cast<int>(bits % k::kLanes)}) {
      uint16_t y[k::kLanes];
      std::fill_n(y, k::kLanes, uint16_t{0xa5a5});
      k::round_trip(y, x, n);
      for (int i = 0; i < k::kLanes; ++i) {
        if (i < n && x[i] != 0 && std::abs(x[i]) < 0x1p-126f) continue;
        CHECK(y[i] == (i < n ? f32_to_bf16(x[i]) : 0xa5a5), at_level, " lane ", i, " of ", n, ": ", x[i], " -> ", y[i]);
      }
    }
  }
  float out[2], total = 0, top = -100;
  for (int i = 0; i < k::kLanes; ++i) x[i] = static_cast<float>((i * 7) % k::kLanes) - 20, total += x[i], top = std::max(top, x[i]);
  k::reductions(out, x);
  CHECK(out[0] == total && out[1] == top, at_level, " sum ", out[0], " max ", out[1]);
});

}  // namespace
}  // namespace isr::test
