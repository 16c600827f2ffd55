// The only inline PTX of the project: matrix products and loads of a warp, and asynchronous copies. A build without a GPU calls
// what test/cuda makes of the same instructions.
#pragma once
#include "kernels/cuda/cuda.h"

namespace isr::cuda {

#if defined(__CUDACC__)

__device__ __forceinline__ uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

// d (16 x 8) += a (16 x 16) b (16 x 8), bfloat16 with sums in float32, in the fragments of the PTX ISA.
__device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Four 8 x 8 matrices of 16-bit values; lane l names row l % 8 of matrix l / 8. Transposed: each is read as its transpose.
__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], const Bf16* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}
__device__ __forceinline__ void load_transposed(uint32_t (&r)[4], const Bf16* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}

// 16 bytes from global to shared memory, or zeros where `valid` is false; not there before its group was waited for.
__device__ __forceinline__ void copy_async(void* shared, const void* global, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(valid ? 16 : 0) : "memory");
}
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kOpen>
__device__ __forceinline__ void wait_copies() { asm volatile("cp.async.wait_group %0;" ::"n"(kOpen) : "memory"); }

#else

inline void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { emulated::mma_m16n8k16(d, a, b); }
inline void load_matrices(uint32_t (&r)[4], const Bf16* row) { emulated::load_matrix_x4(r, row, false); }
inline void load_transposed(uint32_t (&r)[4], const Bf16* row) { emulated::load_matrix_x4(r, row, true); }
inline void copy_async(void* shared, const void* global, bool valid) { emulated::async_copy(shared, global, valid); }
inline void commit_copies() { emulated::async_commit(); }
template <int kOpen>
void wait_copies() { emulated::async_wait(kOpen); }

#endif

__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  const __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&v);
}

}  // namespace isr::cuda
