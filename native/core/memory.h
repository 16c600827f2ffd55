// Owned memory of a device. Buffer: one zeroed block, on huge pages where they help the host. Arena: a stack of chunks with
// mark and release that counts what it gives. Giving memory back never allocates and never throws: it happens in destructors.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/device.h"
#include "core/tensor.h"

namespace isr {

class Buffer {  // zero-filled; 64-byte aligned; OUT_OF_MEMORY if the device refuses
 public:
  Buffer() = default;
  explicit Buffer(size_t bytes) : Buffer(host_device(), bytes) {}
  Buffer(Device& device, size_t bytes);
  Buffer(Buffer&& o) noexcept : device_(o.device_), data_(o.data_), bytes_(o.bytes_) { o.data_ = nullptr; o.bytes_ = 0; }
  Buffer& operator=(Buffer&& o) noexcept;
  ~Buffer() { if (data_) device_->free(data_, bytes_); }
  template <class T = void>
  T* data() const { return static_cast<T*>(data_); }
  size_t bytes() const { return bytes_; }
  explicit operator bool() const { return data_ != nullptr; }

 private:
  Device* device_ = nullptr;
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

// For tests, while one lives: every new Buffer of the host, and every allocation of an Arena made meanwhile, has pages of its
// own and ends at one that is not mapped (alignment is then that of the type alone). Whoever reaches behind an end faults.
struct GuardedMemory {
  GuardedMemory();
  ~GuardedMemory();
  GuardedMemory(const GuardedMemory&) = delete;
};

class Arena {
 public:
  struct Mark { size_t chunk, used, total; };
  explicit Arena(Device& device = host_device());
  void* allocate(size_t bytes);  // 64-byte aligned, contents undefined; never inside a parallel region
  template <class T>
  T* allocate_n(int64_t n) { return static_cast<T*>(allocate(static_cast<size_t>(n) * sizeof(T))); }
  Mark mark() const { return {chunk_, used_, total_}; }
  void release(Mark) noexcept;   // what was allocated since; chunks stay for later
  size_t peak() const { return peak_; }
  size_t total() const { return total_; }
  void reset_peak() { peak_ = total_; }
  void trim();                   // gives all memory back; nothing may be allocated

 private:
  void merge();
  Buffer grown(size_t bytes);
  std::vector<Buffer> chunks_;
  size_t chunk_ = 0, used_ = 0, total_ = 0, peak_ = 0;
  Device* device_;
  bool separate_;                    // a chunk per allocation
};

struct ArenaScope {  // releases what was allocated during its life
  explicit ArenaScope(Arena& a) : arena(a), mark(a.mark()) {}
  ~ArenaScope() { arena.release(mark); }
  ArenaScope(const ArenaScope&) = delete;
  Arena& arena;
  Arena::Mark mark;
};

}  // namespace isr
