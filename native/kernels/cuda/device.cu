#include "kernels/cuda/device.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <deque>

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

std::string address_of(int index) {
  char address[32] = "";
  check(cudaDeviceGetPCIBusId(address, sizeof address, index), "cudaDeviceGetPCIBusId");
  return address;
}

Card card_at(int index) {
  cudaDeviceProp p{};
  check(cudaGetDeviceProperties(&p, index), "cudaGetDeviceProperties");
  return {p.name, p.totalGlobalMem, p.major, p.minor, address_of(index)};
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

namespace {

class CudaSideStream final : public SideStream {
 public:
  explicit CudaSideStream(int card) : card_(card) {
    use();
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    check(cudaEventCreateWithFlags(&given_, cudaEventDisableTiming), "cudaEventCreateWithFlags");
  }
  ~CudaSideStream() override {
    cudaSetDevice(card_);
    cudaStreamSynchronize(stream_);
    for (const std::deque<Work>* all : {&going_, &spare_})
      for (const Work& w : *all) cudaEventDestroy(w.start), cudaEventDestroy(w.stop);
    cudaEventDestroy(given_);
    cudaStreamDestroy(stream_);
  }
  void* handle() override { return stream_; }
  void use() override { check(cudaSetDevice(card_), "cudaSetDevice"); }

  void begin(Device& device) override {
    ISR_ASSERT(device.card() == card_, "a stream of card ", card_, " beside a device of card ", device.card());
    use();
    check(cudaEventRecord(given_, static_cast<CudaDevice&>(device).stream()), "cudaEventRecord");
    check(cudaStreamWaitEvent(stream_, given_, 0), "cudaStreamWaitEvent");
    if (spare_.empty()) {
      Work w;
      check(cudaEventCreateWithFlags(&w.start, cudaEventDefault), "cudaEventCreateWithFlags");
      spare_.push_back(w);
      check(cudaEventCreateWithFlags(&spare_.back().stop, cudaEventDefault), "cudaEventCreateWithFlags");
    }
    check(cudaEventRecord(spare_.front().start, stream_), "cudaEventRecord");
  }
  uint64_t end() override {
    check(cudaEventRecord(spare_.front().stop, stream_), "cudaEventRecord");
    going_.push_back(spare_.front());
    spare_.pop_front();
    return ++begun_;
  }
  void join(Device& device, uint64_t work) override {
    ISR_ASSERT(work <= begun_, "work ", work, " of ", begun_);
    if (work <= begun_ - going_.size()) return;   // it was seen to be done
    use();
    check(cudaStreamWaitEvent(static_cast<CudaDevice&>(device).stream(), going_[going_.size() - 1 - (begun_ - work)].stop, 0), "cudaStreamWaitEvent");
  }
  bool done(uint64_t work) override {
    use();
    while (begun_ - going_.size() < work) {
      Work& w = going_.front();
      const cudaError_t e = cudaEventQuery(w.stop);
      if (e == cudaErrorNotReady) return false;
      check(e, "cudaEventQuery");
      float milliseconds = 0;
      check(cudaEventElapsedTime(&milliseconds, w.start, w.stop), "cudaEventElapsedTime");
      seconds_ += static_cast<double>(milliseconds) / 1000;
      spare_.push_back(w);
      going_.pop_front();
    }
    return true;
  }
  double seconds() override { return seconds_; }

 private:
  struct Work { cudaEvent_t start = nullptr, stop = nullptr; };
  const int card_;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t given_ = nullptr;   // what the device had been given
  std::deque<Work> going_, spare_;
  uint64_t begun_ = 0;
  double seconds_ = 0;
};

}  // namespace

std::string CudaDevice::card_address() const { return counting_ ? "" : address_of(index_); }

std::unique_ptr<SideStream> CudaDevice::side_stream() {
  if (counting_) return nullptr;
  return std::make_unique<CudaSideStream>(index_);
}

size_t CudaDevice::memory() const {
  if (counting_) return counting_->memory();
  use();
  size_t available = 0, total = 0;
  check(cudaMemGetInfo(&available, &total), "cudaMemGetInfo");
  return available;
}

}  // namespace isr::cuda
