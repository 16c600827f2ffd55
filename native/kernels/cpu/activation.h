// Activations and their derivatives, f32 in and out: one chain of operations for the product epilogue and for act_forward,
// so both give the same bits. Derivatives recompute from the pre-activation.
#pragma once
#include "kernels/cpu/simd.h"

namespace isr::cpu::ISR_NS {

static inline vf sigmoid(vf x) { return splat(1.0f) / (splat(1.0f) + expv(-x)); }

static inline vf silu(vf x) { return x / (splat(1.0f) + expv(-x)); }
static inline vf silu_derivative(vf x, vf s) { return s * fma(x, splat(1.0f) - s, splat(1.0f)); }  // s = sigmoid(x)

static inline vf quick_gelu(vf x) { return x / (splat(1.0f) + expv(splat(-1.702f) * x)); }
static inline vf quick_gelu_derivative(vf x) {
  const vf s = sigmoid(splat(1.702f) * x);
  return s * fma(splat(1.702f) * x, splat(1.0f) - s, splat(1.0f));
}

static inline vf gelu_erf(vf x) {
  const vf half = splat(0.5f) * x;
  return fma(half, erfv(x * splat(0.70710678118654752f)), half);
}
static inline vf gelu_erf_derivative(vf x) {  // Phi(x) + x phi(x)
  const vf cdf = fma(splat(0.5f), erfv(x * splat(0.70710678118654752f)), splat(0.5f));
  return fma(x * splat(0.39894228040143268f), expv(splat(-0.5f) * x * x), cdf);
}

// 0.5 x (1 + tanh(u)) = x sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3): no tanh, no cancellation for x < 0.
static inline vf gelu_tanh_argument(vf x) {  // 2u
  return x * fma(splat(0.07135481627260025f), x * x, splat(1.5957691216057308f));
}
static inline vf gelu_tanh(vf x) { return x / (splat(1.0f) + expv(-gelu_tanh_argument(x))); }
static inline vf gelu_tanh_derivative(vf x) {  // s + x s (1 - s) (2u)'
  const vf s = sigmoid(gelu_tanh_argument(x));
  const vf slope = fma(splat(0.21406444881780076f), x * x, splat(1.5957691216057308f));
  return fma(x * s * (splat(1.0f) - s), slope, s);
}

static inline vf act_value(Act act, vf x) {
  switch (act) {
    case Act::GeluErf: return gelu_erf(x);
    case Act::GeluTanh: return gelu_tanh(x);
    case Act::QuickGelu: return quick_gelu(x);
    case Act::None:
    case Act::SwiGlu: break;
  }
  return x;
}
static inline vf act_derivative(Act act, vf x) {
  switch (act) {
    case Act::GeluErf: return gelu_erf_derivative(x);
    case Act::GeluTanh: return gelu_tanh_derivative(x);
    case Act::QuickGelu: return quick_gelu_derivative(x);
    case Act::None:
    case Act::SwiGlu: break;
  }
  return splat(1.0f);
}

}  // namespace isr::cpu::ISR_NS
