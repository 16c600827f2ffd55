#include "core/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>

#include "core/threads.h"

namespace isr {
namespace {

constexpr size_t kHuge = size_t{2} << 20, kAlign = 64, kMinChunk = size_t{1} << 20, kPage = 4096;
constexpr size_t kReserve = size_t{1} << 40, kMinReserve = size_t{1} << 30;   // address space of a measuring arena

size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

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

std::atomic<int> guards{0};

size_t mapped_size(size_t bytes) { return round_up(std::max<size_t>(bytes, 1), bytes >= kHuge ? kHuge : kPage); }

}  // namespace

Buffer::Buffer(size_t bytes) : bytes_(bytes), guarded_(guards.load(std::memory_order_relaxed) > 0) {
  if (!guarded_) {
    data_ = map_zeroed(mapped_size(bytes));
    return;
  }
  const size_t size = round_up(std::max<size_t>(bytes, 1), kPage);
  char* p = static_cast<char*>(map_zeroed(size + kPage));
  mprotect(p + size, kPage, PROT_NONE);
  data_ = p + (size - bytes);
}

void Buffer::unmap() noexcept {
  if (!data_) return;
  if (!guarded_) {
    munmap(data_, mapped_size(bytes_));
    return;
  }
  const size_t size = round_up(std::max<size_t>(bytes_, 1), kPage);
  munmap(static_cast<char*>(data_) + bytes_ - size, size + kPage);
}

Buffer& Buffer::operator=(Buffer&& o) noexcept {
  std::swap(data_, o.data_);
  std::swap(bytes_, o.bytes_);
  std::swap(guarded_, o.guarded_);
  return *this;
}

GuardedMemory::GuardedMemory() { ++guards; }
GuardedMemory::~GuardedMemory() { --guards; }

Arena::Arena(bool measure_only) : guarded_(!measure_only && guards.load(std::memory_order_relaxed) > 0) {
  if (!measure_only) return;
  void* p = MAP_FAILED;
  size_t bytes = kReserve;
  for (; p == MAP_FAILED && bytes >= kMinReserve; bytes /= 2)
    p = mmap(nullptr, reserved_bytes_ = bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED)
    throw Error("OUT_OF_MEMORY", concat("could not reserve ", kMinReserve, " bytes of address space to measure with: ", std::strerror(errno)),
                "raise the limit of address space (ulimit -v)");
  reserved_ = {static_cast<char*>(p), [n = reserved_bytes_](char* at) { munmap(at, n); }};
}

void* Arena::allocate(size_t bytes) {
  ISR_ASSERT(!inside_region(), "workers of a region would share what it gives");
  void* p = nullptr;
  if (guarded_) {
    p = chunks_.emplace_back(bytes).data();
    chunk_ = chunks_.size();
  }
  bytes = round_up(std::max<size_t>(bytes, 1), kAlign);
  if (reserved_) {   // begins again where the space ends: only counts matter
    ISR_ASSERT(bytes <= reserved_bytes_, "one tensor of ", bytes, " bytes");
    if (used_ + bytes > reserved_bytes_) used_ = 0;
    p = reserved_.get() + used_;
    used_ += bytes;
  } else if (!guarded_) {
    if (total_ == 0 && chunks_.size() > 1) merge();
    size_t chunk = chunk_, used = used_;   // as they were, should the system refuse
    while (chunk < chunks_.size() && used + bytes > chunks_[chunk].bytes()) {
      ++chunk;
      used = 0;
    }
    if (chunk == chunks_.size()) {
      const size_t grown = chunks_.empty() ? kMinChunk : chunks_.back().bytes() * 2;
      chunks_.emplace_back(round_up(std::max({bytes, std::min(grown, size_t{256} << 20)}), kHuge));
      used = 0;
    }
    p = chunks_[chunk].data<char>() + used;
    chunk_ = chunk;
    used_ = used + bytes;
  }
  total_ += bytes;
  peak_ = std::max(peak_, total_);
  return p;
}

// Several chunks, none of them in use, become one of their size: what needed them all fits into it the next time.
void Arena::merge() {
  size_t sum = 0;
  for (const Buffer& b : chunks_) sum += b.bytes();
  chunks_.clear();
  chunk_ = used_ = 0;
  chunks_.emplace_back(sum);
}

void Arena::release(Mark m) noexcept {
  chunk_ = m.chunk;
  used_ = m.used;
  total_ = m.total;
  if (guarded_) chunks_.erase(chunks_.begin() + static_cast<std::ptrdiff_t>(m.chunk), chunks_.end());
}

void Arena::trim() {
  ISR_ASSERT(total_ == 0, "trim of an arena in use");
  chunks_.clear();
  chunk_ = used_ = 0;
}

}  // namespace isr
