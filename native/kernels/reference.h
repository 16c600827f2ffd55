// The plain oracle of attention: float64, one loop a sum, straight from the definition, from spans rather than a plan.
// For checking (isr-dpo/native, backend "reference"), not for speed: O(T^2) and one thread.
#pragma once
#include <span>

#include "core/tensor.h"
#include "kernels/attention_plan.h"

namespace isr::reference {

// q, out (T, H*D); k, v (T, K*D), f32 or bf16, any row stride; lse (T, H), natural log. Spans as plan_attention wants them.
void attention_forward(Tensor out, float* lse, Tensor q, Tensor k, Tensor v, std::span<const Span> spans, bool causal, const AttentionShape& s);
void attention_backward(Tensor dq, Tensor dk, Tensor dv, Tensor dout, Tensor q, Tensor k, Tensor v, std::span<const Span> spans, bool causal,
                        const AttentionShape& s);

}  // namespace isr::reference
