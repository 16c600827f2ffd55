// Activations and their derivatives, f32 in and out, shared by the epilogues of products and by act_forward (formulas: see
// kernels/cpu/activation.h).
#pragma once
#include "kernels/cuda/cuda.h"

namespace isr::cuda {

__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
__device__ inline float silu(float x) { return x / (1.0f + expf(-x)); }
__device__ inline float tanh_argument(float x) { return x * (0.07135481627260025f * x * x + 1.5957691216057308f); }   // 2u

template <Act kAct>
__device__ inline float act_value(float x) {
  if (kAct == Act::GeluErf) return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
  if (kAct == Act::GeluTanh) return x * sigmoid(tanh_argument(x));
  if (kAct == Act::QuickGelu) return x * sigmoid(1.702f * x);
  return x;
}

template <Act kAct>
__device__ inline float act_derivative(float x) {
  if (kAct == Act::GeluErf)
    return 0.5f * (1.0f + erff(x * 0.70710678118654752f)) + x * 0.39894228040143268f * expf(-0.5f * x * x);
  if (kAct == Act::GeluTanh) {
    const float s = sigmoid(tanh_argument(x)), slope = 0.21406444881780076f * x * x + 1.5957691216057308f;
    return s + x * s * (1.0f - s) * slope;
  }
  if (kAct == Act::QuickGelu) {
    const float s = sigmoid(1.702f * x);
    return s * (1.0f + 1.702f * x * (1.0f - s));
  }
  return 1.0f;
}

template <class F>
void with_act(Act act, F&& f) {
  switch (act) {
    case Act::None: return f(std::integral_constant<Act, Act::None>{});
    case Act::GeluErf: return f(std::integral_constant<Act, Act::GeluErf>{});
    case Act::GeluTanh: return f(std::integral_constant<Act, Act::GeluTanh>{});
    case Act::QuickGelu: return f(std::integral_constant<Act, Act::QuickGelu>{});
    case Act::SwiGlu: break;
  }
  ISR_ASSERT(false, "an activation of one input was expected");
}

}  // namespace isr::cuda
