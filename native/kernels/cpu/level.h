// Every source of this folder is compiled once per instruction-set level: CMake passes ISR_LEVEL 0..3.
// Include standard headers BEFORE this one: what follows is compiled for the level, and an inline function of the standard
// library must never be (the linker may pick that copy for machines that lack the instructions).
// Everything after it stands in namespace isr::cpu::ISR_NS.
#pragma once
#include <immintrin.h>

#if ISR_LEVEL == 0
#define ISR_NS generic
#elif ISR_LEVEL == 1
#define ISR_NS avx2
#pragma GCC target("avx2,fma,f16c")
#elif ISR_LEVEL == 2
#define ISR_NS avx512
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prefer-vector-width=512")
#elif ISR_LEVEL == 3
#define ISR_NS avx512bf16
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c,prefer-vector-width=512")
#else
#error "ISR_LEVEL must be 0..3"
#endif
