// What the machine can do at most, by hand-written loops: the denominators of every bench.
// Each call measures afresh for about `seconds` and gives the best slice. Multiply-adds: by each thread's CPU time. Memory:
// with one thread by CPU time, with more by wall time.
#pragma once

namespace isr::bench {

double peak_fma_f32(int threads, double seconds = 0.05);  // GFLOP/s, the widest FMA of the machine
double peak_bf16(int threads, double seconds = 0.05);     // GFLOP/s of bfloat16 dot products; 0 without AVX512_BF16
double read_rate(int threads, double seconds = 0.3);      // GB/s read from memory, one sequential stream a thread, huge pages
double copy_rate(int threads, double seconds = 0.3);      // GB/s read + written, streaming stores

}  // namespace isr::bench
