#include "core/memory.h"

#include <algorithm>

#include "core/threads.h"

namespace isr {
namespace {

constexpr size_t kChunkUnit = size_t{2} << 20, kAlign = 64, kMinChunk = size_t{1} << 20, kMostGrowth = size_t{256} << 20, kLargeGrowth = size_t{32} << 20;

size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

}  // namespace

Buffer::Buffer(Device& device, size_t bytes) : device_(&device), data_(device.allocate(bytes)), bytes_(bytes) {}

Buffer& Buffer::operator=(Buffer&& o) noexcept {
  std::swap(device_, o.device_);
  std::swap(data_, o.data_);
  std::swap(bytes_, o.bytes_);
  return *this;
}

Arena::Arena(Device& device) : device_(&device), separate_(device.separate_blocks()) {}

void* Arena::allocate(size_t bytes) {
  ISR_ASSERT(!inside_region(), "workers of a region would share what it gives");
  void* p = nullptr;
  if (separate_) {
    p = chunks_.emplace_back(*device_, bytes).data();
    chunk_ = chunks_.size();
  }
  bytes = round_up(std::max<size_t>(bytes, 1), kAlign);
  if (!separate_) {
    if (total_ == 0 && chunks_.size() > 1) merge();
    size_t chunk = chunk_, used = used_;   // as they were, should the device refuse
    while (chunk < chunks_.size() && used + bytes > chunks_[chunk].bytes()) {
      ++chunk;
      used = 0;
    }
    if (chunk == chunks_.size()) {
      chunks_.push_back(grown(bytes));
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

// A chunk for `bytes`, with room to grow, unless the device has no such room any more.
Buffer Arena::grown(size_t bytes) {
  const size_t wanted = chunks_.empty() ? kMinChunk : chunks_.back().bytes() * 2, exact = round_up(bytes, kChunkUnit);
  const size_t size = round_up(std::max(bytes, std::min(wanted, kMostGrowth)), kChunkUnit);
  if (size < exact + kLargeGrowth) return Buffer(*device_, size);
  try {
    return Buffer(*device_, size);
  } catch (const Error& e) {
    if (e.code != "OUT_OF_MEMORY") throw;
  }
  return Buffer(*device_, exact);
}

// Several chunks, none of them in use, become one of their size: what needed them all fits into it the next time.
void Arena::merge() {
  size_t sum = 0;
  for (const Buffer& b : chunks_) sum += b.bytes();
  chunks_.clear();
  chunk_ = used_ = 0;
  chunks_.emplace_back(*device_, sum);
}

void Arena::release(Mark m) noexcept {
  chunk_ = m.chunk;
  used_ = m.used;
  total_ = m.total;
  if (separate_) chunks_.erase(chunks_.begin() + static_cast<std::ptrdiff_t>(m.chunk), chunks_.end());
}

void Arena::trim() {
  ISR_ASSERT(total_ == 0, "trim of an arena in use");
  chunks_.clear();
  chunk_ = used_ = 0;
}

}  // namespace isr
