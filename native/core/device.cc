// The host as a device, and the device that only counts.
#include "core/device.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <vector>

#include "core/cpu.h"
#include "core/error.h"
#include "core/memory.h"

namespace isr {
namespace {

constexpr size_t kHuge = size_t{2} << 20, kPage = 4096;
constexpr size_t kReserve = size_t{1} << 40, kMinReserve = size_t{1} << 30;   // address space of the measuring device

size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

size_t mapped_size(size_t bytes) { return round_up(std::max<size_t>(bytes, 1), bytes >= kHuge ? kHuge : kPage); }
size_t guarded_size(size_t bytes) { return round_up(std::max<size_t>(bytes, 1), kPage); }

// Anonymous memory: zeroed by the kernel, page-aligned; large blocks start on a huge page so that
// weights stream at the full read rate (decoding reads them once per token).
void* map_zeroed(size_t bytes) {
  const size_t extra = bytes >= kHuge ? kHuge : 0;
  char* p = static_cast<char*>(mmap(nullptr, bytes + extra, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (p == MAP_FAILED)
    throw Error("OUT_OF_MEMORY", concat("could not allocate ", bytes, " bytes: ", std::strerror(errno)),
                "free memory, use dtype bf16, or lower the batch and token budgets");
  if (!extra) return p;
  char* aligned = reinterpret_cast<char*>(round_up(reinterpret_cast<uintptr_t>(p), kHuge));
  if (aligned > p) munmap(p, static_cast<size_t>(aligned - p));
  const size_t tail = extra - static_cast<size_t>(aligned - p);
  if (tail) munmap(aligned + bytes, tail);
  madvise(aligned, bytes, MADV_HUGEPAGE);
  return aligned;
}

// Blocks that end at a guard page. Only tests have any, and then a handful.
std::atomic<int> guards{0};
std::atomic<bool> guards_used{false};
bool guarded_memory() { return guards.load(std::memory_order_relaxed) > 0; }
std::mutex guarded_lock;
std::vector<void*> guarded;

void* map_guarded(size_t bytes) {
  const size_t size = guarded_size(bytes);
  const std::lock_guard<std::mutex> hold(guarded_lock);
  guarded.reserve(guarded.size() + 1);
  char* p = static_cast<char*>(map_zeroed(size + kPage));
  mprotect(p + size, kPage, PROT_NONE);
  guarded.push_back(p + (size - bytes));
  return guarded.back();
}

bool unmap_guarded(void* p, size_t bytes) noexcept {
  const std::lock_guard<std::mutex> hold(guarded_lock);
  const auto at = std::find(guarded.begin(), guarded.end(), p);
  if (at == guarded.end()) return false;
  *at = guarded.back();
  guarded.pop_back();
  munmap(static_cast<char*>(p) + bytes - guarded_size(bytes), guarded_size(bytes) + kPage);
  return true;
}

class Host final : public Device {
 public:
  void* allocate(size_t bytes) override { return guarded_memory() ? map_guarded(bytes) : map_zeroed(mapped_size(bytes)); }
  void free(void* p, size_t bytes) noexcept override {
    if (!p || (guards_used.load(std::memory_order_relaxed) && unmap_guarded(p, bytes))) return;
    munmap(p, mapped_size(bytes));
  }
  void upload(void* dst, const void* host, size_t bytes) override { copy(dst, host, bytes); }
  void download(void* host, const void* src, size_t bytes) override { copy(host, src, bytes); }
  void copy(void* dst, const void* src, size_t bytes) override {
    if (bytes && dst != src) std::memcpy(dst, src, bytes);
  }
  void zero(void* dst, size_t bytes) override {
    if (bytes) std::memset(dst, 0, bytes);
  }
  void synchronize() override {}
  size_t memory() const override { return machine_memory(); }
  bool separate_blocks() const override { return guarded_memory(); }
};

class Measuring final : public Device {
 public:
  Measuring() {
    for (bytes_ = kReserve; bytes_ >= kMinReserve; bytes_ /= 2) {
      void* p = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (p == MAP_FAILED) continue;
      space_ = static_cast<char*>(p);
      return;
    }
    throw Error("OUT_OF_MEMORY", concat("could not reserve ", kMinReserve, " bytes of address space to measure with: ", std::strerror(errno)),
                "raise the limit of address space (ulimit -v)");
  }
  ~Measuring() override { munmap(space_, bytes_); }
  void* allocate(size_t bytes) override {   // begins again where the space ends: only counts matter
    bytes = round_up(std::max<size_t>(bytes, 1), kPage);
    if (bytes > bytes_) return space_;
    if (used_ + bytes > bytes_) used_ = 0;
    used_ += bytes;
    return space_ + (used_ - bytes);
  }
  void free(void*, size_t) noexcept override {}
  void upload(void*, const void*, size_t) override {}
  void download(void* host, const void*, size_t bytes) override {
    if (bytes) std::memset(host, 0, bytes);
  }
  void copy(void*, const void*, size_t) override {}
  void zero(void*, size_t) override {}
  void synchronize() override {}
  size_t memory() const override { return machine_memory(); }
  bool separate_blocks() const override { return true; }
  bool only_counts() const override { return true; }

 private:
  char* space_ = nullptr;
  size_t bytes_ = 0, used_ = 0;
};

}  // namespace

Device& host_device() {
  static Host& host = *new Host;   // outlives every static that owns memory
  return host;
}

std::unique_ptr<Device> make_measuring_device() { return std::make_unique<Measuring>(); }

GuardedMemory::GuardedMemory() {
  guards_used = true;
  ++guards;
}
GuardedMemory::~GuardedMemory() { --guards; }

}  // namespace isr
