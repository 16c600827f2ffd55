#include "kernels/cuda/device.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace isr::cuda {

void check(cudaError_t e, const char* call) {
  if (e == cudaSuccess) return;
  const char* code = "BUG";
  if (e == cudaErrorMemoryAllocation) code = "OUT_OF_MEMORY";
  if (e == cudaErrorNoDevice || e == cudaErrorInsufficientDriver || e == cudaErrorInvalidDevice) code = "DEVICE_UNAVAILABLE";
  throw Error(code, concat("CUDA: ", call, ": ", cudaGetErrorName(e), ", ", cudaGetErrorString(e)));
}

namespace {

constexpr int kOldest = 8;   // compute capability: bfloat16 on the tensor cores, asynchronous copies

int card_count() {
  int count = 0;
  const cudaError_t found = cudaGetDeviceCount(&count);
  if (found == cudaErrorInsufficientDriver || found == cudaErrorNoDevice || (found == cudaSuccess && count == 0))
    throw Error("DEVICE_UNAVAILABLE", "device: no usable GPU: the NVIDIA driver is missing, too old, or sees no card",
                "nvidia-smi says what the driver sees; CUDA 12 needs driver 525 or newer; device \"cpu\" needs none");
  check(found, "cudaGetDeviceCount");
  return count;
}

Card card_at(int index) {
  cudaDeviceProp p{};
  check(cudaGetDeviceProperties(&p, index), "cudaGetDeviceProperties");
  return {p.name, p.totalGlobalMem, p.major, p.minor};
}

}  // namespace

std::vector<Card> cards() {
  std::vector<Card> all;
  for (int i = 0, count = card_count(); i < count; ++i) all.push_back(card_at(i));
  return all;
}

CudaDevice::CudaDevice(int index) : index_(index) {
  const int count = card_count();
  if (index >= count)
    throw Error("DEVICE_UNAVAILABLE", concat("device: expected cuda:0", count > 1 ? concat(" to cuda:", count - 1) : "", ", got cuda:", index),
                "CUDA_VISIBLE_DEVICES chooses and orders the cards that this process sees");
  const Card card = card_at(index);
  if (card.major < kOldest)
    throw Error("DEVICE_UNAVAILABLE", concat("device: cuda:", index, " (", card.name, ") has compute capability ", card.major, ".", card.minor, ", ", kOldest, ".0 is the oldest that is computed on"),
                "cards from A100 and RTX 30 on; device \"cpu\" needs none");
  use();
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  for (Slot& s : slots_) {
    void* memory = nullptr;
    check(cudaMallocHost(&memory, kSlotBytes), "cudaMallocHost");
    s.memory = static_cast<char*>(memory);
    check(cudaEventCreateWithFlags(&s.done, cudaEventDisableTiming), "cudaEventCreateWithFlags");
  }
}

CudaDevice::CudaDevice(Device& counting) : index_(0), counting_(&counting) {}

CudaDevice::~CudaDevice() {
  spare_ = {};
  if (stream_) cudaStreamSynchronize(stream_);
  for (Slot& s : slots_) {
    if (s.done) cudaEventDestroy(s.done);
    if (s.memory) cudaFreeHost(s.memory);
  }
  if (stream_) cudaStreamDestroy(stream_);
}

// The card of the calling thread: every thread of the host has one of its own.
void CudaDevice::use() const { check(cudaSetDevice(index_), "cudaSetDevice"); }

void* CudaDevice::allocate(size_t bytes) {
  if (counting_) return counting_->allocate(bytes);
  outside_graphs("allocate");
  use();
  ++changes_;
  void* p = nullptr;
  const cudaError_t e = cudaMalloc(&p, std::max<size_t>(bytes, 1));
  if (e == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    size_t available = 0, total = 0;
    cudaMemGetInfo(&available, &total);
    throw Error("OUT_OF_MEMORY", concat("cuda:", index_, ": ", bytes, " bytes were asked for, ", available, " of ", total, " are free"),
                "isr-dpo plan says what a run needs; less: microBatchTokens, checkpointing: true, dtype \"bf16\", fewer parts trained");
  }
  check(e, "cudaMalloc");
  check(cudaMemsetAsync(p, 0, bytes, stream_), "cudaMemsetAsync");
  return p;
}

Buffer CudaDevice::take(size_t bytes) {
  Buffer* best = nullptr;
  for (Buffer& b : spare_)
    if (b.bytes() >= bytes && b && (!best || b.bytes() < best->bytes())) best = &b;
  if (best) return std::move(*best);
  return Buffer(*this, std::bit_ceil(std::max<size_t>(bytes, 4096)));
}

void CudaDevice::give(Buffer memory) noexcept {
  for (Buffer& b : spare_)   // the smallest of all leaves
    if (b.bytes() < memory.bytes()) std::swap(b, memory);
}

void CudaDevice::free(void* p, size_t) noexcept {
  if (!p || counting_) return;
  ++changes_;
  cudaSetDevice(index_);
  cudaFree(p);   // waits for the card, so nobody reads it any more
}

// The slot that is being filled, with room for `bytes`.
CudaDevice::Slot& CudaDevice::slot_with(size_t bytes) {
  Slot* s = &slots_[slot_];
  if (s->used + bytes <= kSlotBytes) return *s;
  check(cudaEventRecord(s->done, stream_), "cudaEventRecord");
  slot_ = (slot_ + 1) % slots_.size();
  s = &slots_[slot_];
  check(cudaEventSynchronize(s->done), "cudaEventSynchronize");
  s->used = 0;
  return *s;
}

void CudaDevice::upload(void* dst, const void* host, size_t bytes) {
  if (counting_) return;
  outside_graphs("upload");
  use();
  const std::lock_guard<std::mutex> hold(lock_);
  for (size_t at = 0; at < bytes;) {
    const size_t n = std::min(bytes - at, kSlotBytes);
    Slot& s = slot_with(n);
    char* const staged = s.memory + s.used;
    std::memcpy(staged, static_cast<const char*>(host) + at, n);
    check(cudaMemcpyAsync(static_cast<char*>(dst) + at, staged, n, cudaMemcpyHostToDevice, stream_), "cudaMemcpyAsync");
    s.used += (n + 15) / 16 * 16;
    at += n;
  }
}

void CudaDevice::download(void* host, const void* src, size_t bytes) {
  if (counting_) return counting_->download(host, src, bytes);
  if (bytes == 0) return synchronize();
  outside_graphs("download");
  use();
  check(cudaMemcpyAsync(host, src, bytes, cudaMemcpyDeviceToHost, stream_), "cudaMemcpyAsync");
  check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
}

void CudaDevice::copy(void* dst, const void* src, size_t bytes) {
  if (counting_) return;
  use();
  if (bytes > 0) check(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToDevice, stream_), "cudaMemcpyAsync");
}

void CudaDevice::zero(void* dst, size_t bytes) {
  if (counting_) return;
  use();
  if (bytes > 0) check(cudaMemsetAsync(dst, 0, bytes, stream_), "cudaMemsetAsync");
}

void CudaDevice::synchronize() {
  if (counting_) return;
  outside_graphs("synchronize");
  use();
  check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
}

size_t CudaDevice::memory() const {
  if (counting_) return counting_->memory();
  use();
  size_t available = 0, total = 0;
  check(cudaMemGetInfo(&available, &total), "cudaMemGetInfo");
  return available;
}

}  // namespace isr::cuda
