// What every file of the CUDA backend needs: checked calls, launches, types, and shared memory of a block. A build without a GPU
// takes <cuda_runtime.h> and <cuda_bf16.h> from test/cuda/include, and runs the same kernels on fibers.
#pragma once
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "kernels/operands.h"

namespace isr::cuda {

using Bf16 = __nv_bfloat16;

// Throws Error: OUT_OF_MEMORY, DEVICE_UNAVAILABLE, else BUG. `call` names what was asked of CUDA.
void check(cudaError_t e, const char* call);

struct Launch {
  const char* name;
  dim3 grid, block;
  size_t shared = 0;   // bytes
};

template <class... P, class... A>
void launch(cudaStream_t stream, const Launch& l, void (*kernel)(P...), A... arguments) {
  if (!stream) return;   // of a device that only counts
#if defined(ISR_CUDA_EMULATED)
  isr::emulated::name_next_kernel(l.name);
#endif
  constexpr size_t kUnasked = 48 << 10;   // bytes of shared memory that every kernel may have
  if (l.shared > kUnasked) check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(l.shared)), "cudaFuncSetAttribute");
  cudaLaunchConfig_t config{};
  config.gridDim = l.grid;
  config.blockDim = l.block;
  config.dynamicSmemBytes = l.shared;
  config.stream = stream;
  check(cudaLaunchKernelEx(&config, kernel, static_cast<P>(arguments)...), l.name);
}

inline unsigned ceil_div(int64_t a, int64_t b) { return static_cast<unsigned>((a + b - 1) / b); }

template <class F>
void with_type(DType t, F&& f) {
  if (t == DType::F32) f(float{});
  else if (t == DType::BF16) f(Bf16{});
  else throw Error("BUG", "a kernel got neither f32 nor bf16");
}

template <class T> constexpr DType dtype_of = DType::F32;
template <> inline constexpr DType dtype_of<Bf16> = DType::BF16;

// Rows of a tensor inside a kernel.
template <class T>
struct Rows {
  T* data;
  int64_t stride;   // elements
  __device__ T* row(int64_t i) const { return data + i * stride; }
};
template <class T>
Rows<T> rows_of(const Tensor& t) { return {t.as<T>(), t.stride}; }

// N values next to each other, which the caller has aligned (Packs), as float32.
template <int N>
struct Pack {
  float v[N];
  __device__ __forceinline__ Pack& operator+=(const Pack& x) {
#pragma unroll
    for (int k = 0; k < N; ++k) v[k] += x.v[k];
    return *this;
  }
};

template <class T, int N>
struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) Raw {
  T v[N];
};

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(Bf16 x) { return __bfloat162float(x); }
__device__ inline void from_float(float& to, float x) { to = x; }
__device__ inline void from_float(Bf16& to, float x) { to = __float2bfloat16_rn(x); }

template <int N, class T>
__device__ __forceinline__ Pack<N> load(const T* p) {
  const Raw<T, N> raw = *reinterpret_cast<const Raw<T, N>*>(p);
  Pack<N> x;
#pragma unroll
  for (int i = 0; i < N; ++i) x.v[i] = to_float(raw.v[i]);
  return x;
}
template <int N, class T>
__device__ __forceinline__ void store(T* p, const Pack<N>& x) {
  Raw<T, N> raw;
#pragma unroll
  for (int i = 0; i < N; ++i) from_float(raw.v[i], x.v[i]);
  *reinterpret_cast<Raw<T, N>*>(p) = raw;
}

// How many values of a row go at once: 8 where every tensor's rows begin at 16 bytes and have whole packs, else 1.
class Packs {
 public:
  Packs& and_of(const Tensor& t, int64_t cols) {
    const auto bytes = static_cast<int64_t>(size_of(t.dtype));
    wide_ = wide_ && cols % 8 == 0 && reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && t.stride * bytes % 16 == 0;
    return *this;
  }
  Packs& and_of(const Tensor& t) { return t ? and_of(t, t.cols) : *this; }
  Packs& and_of(const float* p) { wide_ = wide_ && reinterpret_cast<uintptr_t>(p) % 16 == 0; return *this; }
  template <class F>
  void with(F&& f) const {
    if (wide_) f(std::integral_constant<int, 8>{});
    else f(std::integral_constant<int, 1>{});
  }

 private:
  bool wide_ = true;
};

// Dynamic shared memory of a block; there is no other.
#if defined(__CUDACC__)
template <class T>
__device__ __forceinline__ T* shared_as() {
  extern __shared__ __align__(128) unsigned char isr_shared[];
  return reinterpret_cast<T*>(isr_shared);
}
#else
template <class T>
T* shared_as() { return reinterpret_cast<T*>(isr::emulated::shared_memory()); }
#endif

// ---- sums in one fixed order
constexpr unsigned kAllLanes = ~0u;

template <class T>
__device__ __forceinline__ T warp_sum(T x) {   // the same value in every lane
#pragma unroll
  for (int bits = 16; bits > 0; bits >>= 1) x += __shfl_xor_sync(kAllLanes, x, bits);
  return x;
}
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
  for (int bits = 16; bits > 0; bits >>= 1) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, bits));
  return x;
}

// Over a block of whole warps; `scratch` holds one value per warp, and may be used again after the call.
template <class T, class Combine>
__device__ __forceinline__ T block_combine(T x, T* scratch, T none, Combine combine) {
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32), warps = static_cast<int>(blockDim.x / 32);
#pragma unroll
  for (int bits = 16; bits > 0; bits >>= 1) x = combine(x, __shfl_xor_sync(kAllLanes, x, bits));
  if (lane == 0) scratch[warp] = x;
  __syncthreads();
  x = none;
  for (int w = 0; w < warps; ++w) x = combine(x, scratch[w]);
  __syncthreads();
  return x;
}
template <class T>
__device__ __forceinline__ T block_sum(T x, T* scratch) {
  return block_combine(x, scratch, T(0), [](T a, T b) { return a + b; });
}
__device__ __forceinline__ float block_max(float x, float* scratch) {
  return block_combine(x, scratch, -INFINITY, [](float a, float b) { return fmaxf(a, b); });
}

struct Rank { int32_t before, all; };   // of the threads that hit: those before this one, and all of the block

// `counts` holds one value per warp, and may be used again after the next barrier.
__device__ __forceinline__ Rank block_rank(bool hit, int32_t* counts) {
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32), warps = static_cast<int>(blockDim.x / 32);
  const unsigned hits = __ballot_sync(kAllLanes, hit);
  if (lane == 0) counts[warp] = __popc(hits);
  __syncthreads();
  Rank rank{__popc(hits & ((1u << lane) - 1)), 0};
  for (int w = 0; w < warps; ++w) {
    if (w < warp) rank.before += counts[w];
    rank.all += counts[w];
  }
  return rank;
}

// to (cols) (+)= the sum of `count` rows of chunks, ascending (rows.cu).
constexpr int kChunkRows = 64;   // rows that go into a chunk of a sum over rows
void add_chunks(cudaStream_t stream, float* to, const float* chunks, int64_t count, int64_t cols, bool accumulate);

}  // namespace isr::cuda
