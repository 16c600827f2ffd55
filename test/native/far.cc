#include "far.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

#include "kernels/devices.h"
#include "interposed.h"

namespace isr::test {
namespace {

constexpr size_t kPage = 4096, kSpace = size_t{1} << 38, kDepth = 400;   // address space of a device; calls that may queue up

size_t pages_of(size_t bytes) { return (std::max<size_t>(bytes, 1) + kPage - 1) / kPage * kPage; }

class FarDevice final : public Device {
 public:
  FarDevice() {
    void* p = mmap(nullptr, kSpace, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) fail("OUT_OF_MEMORY", "no address space for the far device");
    space_ = static_cast<char*>(p);
    stream_ = std::thread([this] { run(); });
  }
  ~FarDevice() override {
    {
      const std::lock_guard<std::mutex> hold(lock_);
      over_ = true;
    }
    wake_.notify_all();
    stream_.join();
    munmap(space_, kSpace);
  }

  // Blocks have pages of their own; one that was given back is used again last.
  void* allocate(size_t bytes) override {
    const std::lock_guard<std::mutex> hold(lock_);
    const size_t size = pages_of(bytes);
    const auto found = free_.find(size);
    size_t at = end_;
    if (found != free_.end() && !found->second.empty()) {
      at = found->second.front();
      found->second.pop_front();
    } else {
      if (end_ + size > kSpace) throw Error("OUT_OF_MEMORY", "the far device is full");
      end_ += size + kPage;   // no block begins where another ends
    }
    live_[at] = size;
    return space_ + at;
  }
  void free(void* p, size_t bytes) noexcept override {
    if (!p) return;
    enqueue([this, at = static_cast<size_t>(static_cast<char*>(p) - space_), size = pages_of(bytes)] {
      madvise(space_ + at, size, MADV_DONTNEED);   // zeros for whoever comes next
      const std::lock_guard<std::mutex> hold(lock_);
      live_.erase(at);
      free_[size].push_back(at);
    });
  }
  void upload(void* dst, const void* host, size_t bytes) override {
    check(dst);
    const char* from = static_cast<const char*>(host);
    enqueue([dst, staged = std::vector<char>(from, from + bytes)] {
      if (!staged.empty()) std::memcpy(dst, staged.data(), staged.size());
    });
  }
  void download(void* host, const void* src, size_t bytes) override {
    check(src);
    enqueue([=] {
      if (bytes) std::memcpy(host, src, bytes);
    });
    synchronize();
  }
  void copy(void* dst, const void* src, size_t bytes) override {
    check(dst);
    check(src);
    enqueue([=] {
      if (bytes) std::memcpy(dst, src, bytes);
    });
  }
  void zero(void* dst, size_t bytes) override {
    check(dst);
    enqueue([=] {
      if (bytes) std::memset(dst, 0, bytes);
    });
  }
  void synchronize() override {
    std::unique_lock<std::mutex> hold(lock_);
    drain(hold);
    if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
  }
  size_t memory() const override { return machine_memory(); }
  bool separate_blocks() const override { return true; }

  void enqueue(std::function<void()> work) {
    std::unique_lock<std::mutex> hold(lock_);
    queue_.push_back(std::move(work));
    if (queue_.size() >= kDepth) drain(hold);
  }
  void check(const void* p) const {
    if (!p) return;
    const std::lock_guard<std::mutex> hold(lock_);
    const auto at = static_cast<size_t>(static_cast<const char*>(p) - space_);
    auto block = live_.upper_bound(at);
    ISR_ASSERT(p >= space_ && at < end_ && block != live_.begin(), "an address that is not the device's");
    --block;
    ISR_ASSERT(at <= block->first + block->second, "an address of a block that was given back");   // the end itself: no rows
  }

 private:
  void drain(std::unique_lock<std::mutex>& hold) {
    wanted_ = true;
    wake_.notify_all();
    done_.wait(hold, [this] { return !wanted_; });
  }
  // The stream: asleep until somebody waits, so that everything is as late as it may be. Memory is open while it works, and
  // then nobody else does: who waits is here, and other threads of the host have no business with it.
  void run() {
    std::unique_lock<std::mutex> hold(lock_);
    for (;;) {
      wake_.wait(hold, [this] { return wanted_ || over_; });
      if (!wanted_ && queue_.empty()) return;
      mprotect(space_, end_, PROT_READ | PROT_WRITE);
      while (!queue_.empty()) {
        const std::function<void()> work = std::move(queue_.front());
        queue_.pop_front();
        hold.unlock();
        try {
          work();
        } catch (...) {
          hold.lock();
          if (!failure_) failure_ = std::current_exception();
          hold.unlock();
        }
        hold.lock();
      }
      mprotect(space_, end_, PROT_NONE);
      wanted_ = false;
      done_.notify_all();
      if (over_) return;
    }
  }

  mutable std::mutex lock_;
  std::condition_variable wake_, done_;
  std::deque<std::function<void()>> queue_;
  std::exception_ptr failure_;
  bool wanted_ = false, over_ = false;
  char* space_ = nullptr;
  size_t end_ = kPage;
  std::map<size_t, size_t> live_;                  // begin, size
  std::map<size_t, std::deque<size_t>> free_;      // by size, oldest first
  std::thread stream_;
};

class FarBackend final : public Interposed {
 public:
  FarBackend(Isa level, int threads, std::unique_ptr<FarDevice> device)
      : Interposed(make_cpu_backend(level, threads)), device_(std::move(device)), workspace_(*device_) {}
  ~FarBackend() override { wait(); }
  Device& device() override { return *device_; }
  Arena& workspace() override { return workspace_; }   // callers' memory; the kernels' own is the inner backend's
  void launch(Call call) override {
    device_->enqueue([call = std::move(call), this] { call(*inner_); });
  }
  void wait() override { device_->synchronize(); }
  void check_resident(const void* p) const override { device_->check(p); }

 private:
  std::unique_ptr<FarDevice> device_;
  Arena workspace_;
};

}  // namespace

std::unique_ptr<Backend> make_far_backend(Isa level, int threads) { return std::make_unique<FarBackend>(level, threads, std::make_unique<FarDevice>()); }

void add_far_kind() {
  static const bool added = [] {
    device_kinds().push_back({"far", [](int threads, int) { return make_far_backend(chosen_isa(), threads); }});
    return true;
  }();
  static_cast<void>(added);
}

void put_models_far_away() {
  for (DeviceKind& kind : device_kinds())
    if (kind.name == "cpu") kind.make = [](int threads, int) { return make_far_backend(chosen_isa(), threads); };
}

}  // namespace isr::test
