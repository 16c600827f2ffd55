// A card: its memory, its one stream, and the way of bytes between it and the host.
#pragma once
#include <array>
#include <atomic>
#include <mutex>

#include "core/memory.h"
#include "kernels/cuda/cuda.h"
#include "kernels/devices.h"

namespace isr::cuda {

std::vector<Card> cards();          // DEVICE_UNAVAILABLE: the driver is missing, too old, or sees none

class CudaDevice final : public Device {
 public:
  explicit CudaDevice(int index);   // DEVICE_UNAVAILABLE: no such card
  explicit CudaDevice(Device& counting);   // only counts, with that one: no driver is asked, and launches do nothing
  ~CudaDevice() override;
  void* allocate(size_t bytes) override;
  void free(void* p, size_t bytes) noexcept override;
  void upload(void* dst, const void* host, size_t bytes) override;
  void download(void* host, const void* src, size_t bytes) override;
  void copy(void* dst, const void* src, size_t bytes) override;
  void zero(void* dst, size_t bytes) override;
  void synchronize() override;
  size_t memory() const override;
  bool separate_blocks() const override { return only_counts(); }
  bool only_counts() const override { return counting_ != nullptr; }
  int card() const override { return counting_ ? -1 : index_; }
  std::string card_address() const override;
  std::unique_ptr<SideStream> side_stream() override;

  cudaStream_t stream() const { return stream_; }
  void use() const;   // the card of the calling thread: every thread of the host has one of its own
  // += 1 with each block that is taken from the driver or given back: while it stays, what was queued once can be queued again.
  uint64_t changes() const { return changes_; }
  void set_recording(bool recording) { recording_ = recording; }   // of a graph: then what is not part of a stream's work is a BUG
  // Memory for a call's tables, of at least so many bytes: a step of decoding makes new ones, and asking the driver for memory and
  // giving it back would make the step wait for the card twice. What is given back is used by a later call of the stream.
  Buffer take(size_t bytes);
  void give(Buffer memory) noexcept;

 private:
  // Pinned memory that uploads pass through, slot by slot: a slot is used again when the copies out of it are done.
  struct Slot {
    char* memory = nullptr;
    size_t used = 0;
    cudaEvent_t done = nullptr;
  };
  static constexpr size_t kSlotBytes = size_t{1} << 21;
  void outside_graphs(const char* call) const { ISR_ASSERT(!recording_, call, " while calls are recorded that shall come again"); }
  Slot& slot_with(size_t bytes);

  const int index_;
  Device* const counting_ = nullptr;
  cudaStream_t stream_ = nullptr;   // null: only counts
  std::atomic<uint64_t> changes_ = 0;
  bool recording_ = false;
  std::mutex lock_;                 // of the slots: several threads may upload
  std::array<Slot, 4> slots_;
  size_t slot_ = 0;
  std::array<Buffer, 8> spare_;     // what take() hands out again
};

// Copies of arrays of the host that kernels of the next calls read, in memory of an arena.
class Uploads {
 public:
  Uploads(CudaDevice& device, Arena& arena) : device_(device), arena_(arena) {}
  template <class T>
  const T* array(const std::vector<T>& host) {
    T* p = arena_.allocate_n<T>(static_cast<int64_t>(host.size()));
    device_.upload(p, host.data(), host.size() * sizeof(T));
    return p;
  }

 private:
  CudaDevice& device_;
  Arena& arena_;
};

}  // namespace isr::cuda
