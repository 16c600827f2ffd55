// bfloat16 as cuda_bf16.h has it: what native/kernels/cuda uses of it, rounded to nearest, ties to even.
#pragma once
#include <cstdint>

#include "core/bf16.h"

struct alignas(2) __nv_bfloat16 { uint16_t bits; };
struct alignas(4) __nv_bfloat162 { __nv_bfloat16 x, y; };
inline float __bfloat162float(__nv_bfloat16 v) { return isr::bf16_to_f32(v.bits); }
inline __nv_bfloat16 __float2bfloat16_rn(float x) { return {isr::f32_to_bf16(x)}; }
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {__float2bfloat16_rn(x), __float2bfloat16_rn(y)}; }
