// What this machine's multiply-adds reach at most, by hand-written loops: the denominator of "share of peak".
#pragma once
#include "core/cpu.h"
#include "core/tensor.h"

namespace isr {

// FLOP/s of the widest multiply-adds of a level, all threads at once, each its best slice in about `seconds`. By CPU time:
// a neighbour would lower the peak and raise every share of it. bfloat16 counts its dot products where the level has them,
// else it is computed in float32.
double peak_flops(Isa level, DType dtype, int threads, double seconds);

}  // namespace isr
