// What native/kernels/cuda uses of CUDA's runtime and of its device functions, on a host without a GPU (fibers.h). Memory of the
// device can be touched in kernels and copies alone, and what is queued in a stream runs when somebody waits for it.
#pragma once
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <tuple>
#include <utility>

#include "../fibers.h"
#include "../matrix.h"

// ---- qualifiers
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

// ---- types
using dim3 = isr::emulated::Extent;
using uint3 = isr::emulated::Index;
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// ---- inside a kernel
namespace isr::emulated {
template <auto kOf, auto kAxis>
struct Axis {
  operator unsigned() const { return kOf().*kAxis; }
};
template <auto kOf, class Of>
struct Axes {
  Axis<kOf, &Of::x> x;
  Axis<kOf, &Of::y> y;
  Axis<kOf, &Of::z> z;
};
}  // namespace isr::emulated
inline constexpr isr::emulated::Axes<isr::emulated::thread_index, isr::emulated::Index> threadIdx;
inline constexpr isr::emulated::Axes<isr::emulated::block_index, isr::emulated::Index> blockIdx;
inline constexpr isr::emulated::Axes<isr::emulated::block_extent, isr::emulated::Extent> blockDim;
inline constexpr isr::emulated::Axes<isr::emulated::grid_extent, isr::emulated::Extent> gridDim;

inline void __syncthreads() { isr::emulated::barrier(); }
inline int __syncthreads_or(int predicate) { return isr::emulated::barrier(predicate != 0).any; }
inline int __syncthreads_count(int predicate) { return isr::emulated::barrier(predicate != 0).count; }

namespace isr::emulated {

// Each lane gives a value and takes that of lane source(lane); of a lane outside its part of `width` lanes, its own.
template <class T, class Source>
T shuffle(unsigned mask, const char* operation, T value, int width, int argument, Source source) {
  struct Given { T value; int argument; } given{value, argument};
  T taken;
  meet(mask, operation, &given, &taken, [&](const Meeting& m) {
    for (int l = 0; l < static_cast<int>(kWarp); ++l) {
      if (!m.in[l]) continue;
      const int base = l & ~(width - 1), from = source(l, base, static_cast<const Given*>(m.in[l])->argument);
      const bool inside = from >= base && from < base + width;
      const void* in = m.in[inside ? from : l];
      if (!in) kernel_error(std::string(operation) + " reads a lane that is not there");
      *static_cast<T*>(m.out[l]) = static_cast<const Given*>(in)->value;
    }
  });
  return taken;
}

template <class Combine>
unsigned vote(unsigned mask, const char* operation, int predicate, Combine combine) {
  unsigned taken;
  meet(mask, operation, &predicate, &taken, [&](const Meeting& m) {
    unsigned set = 0, present = 0;
    for (unsigned l = 0; l < kWarp; ++l)
      if (m.in[l]) present |= 1u << l, set |= (*static_cast<const int*>(m.in[l]) != 0 ? 1u : 0u) << l;
    for (unsigned l = 0; l < kWarp; ++l)
      if (m.in[l]) *static_cast<unsigned*>(m.out[l]) = combine(set, present);
  });
  return taken;
}

}  // namespace isr::emulated

template <class T>
T __shfl_sync(unsigned mask, T v, int from, int width = 32) {
  return isr::emulated::shuffle(mask, "__shfl_sync", v, width, from, [width](int, int base, int a) { return base | (a & (width - 1)); });
}
template <class T>
T __shfl_xor_sync(unsigned mask, T v, int bits, int width = 32) {
  return isr::emulated::shuffle(mask, "__shfl_xor_sync", v, width, bits, [](int l, int, int a) { return l ^ a; });
}
template <class T>
T __shfl_down_sync(unsigned mask, T v, unsigned by, int width = 32) {
  return isr::emulated::shuffle(mask, "__shfl_down_sync", v, width, static_cast<int>(by), [](int l, int, int a) { return l + a; });
}
template <class T>
T __shfl_up_sync(unsigned mask, T v, unsigned by, int width = 32) {
  return isr::emulated::shuffle(mask, "__shfl_up_sync", v, width, static_cast<int>(by), [](int l, int, int a) { return l - a; });
}
inline unsigned __ballot_sync(unsigned mask, int p) {
  return isr::emulated::vote(mask, "__ballot_sync", p, [](unsigned set, unsigned) { return set; });
}
inline int __any_sync(unsigned mask, int p) {
  return static_cast<int>(isr::emulated::vote(mask, "__any_sync", p, [](unsigned set, unsigned) { return unsigned{set != 0}; }));
}
inline int __all_sync(unsigned mask, int p) {
  return static_cast<int>(isr::emulated::vote(mask, "__all_sync", p, [](unsigned set, unsigned all) { return unsigned{set == all}; }));
}
inline void __syncwarp(unsigned mask = ~0u) {
  isr::emulated::vote(mask, "__syncwarp", 0, [](unsigned, unsigned) { return 0u; });
}

inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fdividef(float a, float b) { return a / b; }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline int __popc(unsigned x) { return std::popcount(x); }
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }

// ---- runtime
enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInsufficientDriver = 35,
  cudaErrorNoDevice = 100,
  cudaErrorInvalidDevice = 101,
  cudaErrorNotReady = 600,
  cudaErrorStreamCaptureUnsupported = 900,
};
struct cudaDeviceProp {
  char name[256];
  size_t totalGlobalMem;
  int major, minor;
};
enum cudaMemcpyKind { cudaMemcpyHostToHost, cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice, cudaMemcpyDefault };
enum cudaStreamCaptureMode { cudaStreamCaptureModeGlobal, cudaStreamCaptureModeThreadLocal, cudaStreamCaptureModeRelaxed };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
constexpr unsigned cudaStreamNonBlocking = 1, cudaEventDefault = 0, cudaEventDisableTiming = 2;

namespace isr::emulated {
struct Stream;
struct Event;
struct Graph;
struct GraphExec;
void enqueue(Stream* stream, std::function<void()> work);
void enqueue_until(Stream* stream, std::function<bool()> work);   // which is tried again until it is true: it waits for something outside
void name_next_kernel(const char* name);
const char* kernel_name();
}
using cudaStream_t = isr::emulated::Stream*;
using cudaEvent_t = isr::emulated::Event*;
using cudaGraph_t = isr::emulated::Graph*;
using cudaGraphExec_t = isr::emulated::GraphExec*;

const char* cudaGetErrorName(cudaError_t);
const char* cudaGetErrorString(cudaError_t);
cudaError_t cudaGetLastError();
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaMemGetInfo(size_t* available, size_t* total);
cudaError_t cudaMalloc(void** p, size_t bytes);
cudaError_t cudaFree(void* p);
cudaError_t cudaMallocHost(void** p, size_t bytes);
cudaError_t cudaFreeHost(void* p);
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t stop);
cudaError_t cudaDeviceGetPCIBusId(char* text, int length, int device);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* ready, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph);
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel*, cudaFuncAttribute, int) { return cudaSuccess; }

struct cudaLaunchAttribute;
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
  cudaLaunchAttribute* attrs = nullptr;
  unsigned numAttrs = 0;
};
template <class... P, class... A>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(P...), A&&... arguments) {
  isr::emulated::enqueue(config->stream, [c = *config, kernel, name = isr::emulated::kernel_name(),
                                          values = std::tuple<std::decay_t<P>...>(std::forward<A>(arguments)...)] {
    isr::emulated::run_grid(name, c.gridDim, c.blockDim, c.dynamicSmemBytes, [&] { std::apply(kernel, values); });
  });
  return cudaSuccess;
}
