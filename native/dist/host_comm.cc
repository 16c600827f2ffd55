#include "dist/host_comm.h"

#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <system_error>
#include <thread>

#include "core/error.h"
#include "core/progress.h"

namespace isr {
namespace {

// Messages to oneself, in their order; the others stay.
std::vector<Message> keep_own(Device& device, int me, std::span<const Message> sends, std::span<const Message> receives, std::vector<Message>& others) {
  std::vector<Message> out, in, away;
  for (const Message& m : sends) (m.peer == me ? out : away).push_back(m);
  for (const Message& m : receives) (m.peer == me ? in : others).push_back(m);
  ISR_ASSERT(out.size() == in.size(), "rank ", me, " sends itself ", out.size(), " messages and expects ", in.size());
  for (size_t i = 0; i < out.size(); ++i) {
    ISR_ASSERT(out[i].bytes == in[i].bytes, "rank ", me, " sends itself ", out[i].bytes, " bytes and expects ", in[i].bytes);
    if (out[i].data != in[i].data) device.copy(in[i].data, out[i].data, out[i].bytes);
  }
  return away;
}

// A group of messages in memory that the host can read.
struct HostGroup {
  std::vector<Message> sends, receives, resident;   // resident: where what was received belongs, on a device that is not the host
  std::deque<std::vector<char>> staged;
};

}  // namespace

// One group after the other. The first failure is that of all groups behind it.
class SharedLink::Carrier {
 public:
  explicit Carrier(HostLink& link) : link_(link), thread_([this] { carry(); }) {}
  ~Carrier() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }
  Carrier(const Carrier&) = delete;

  void give(HostGroup group) {
    const std::lock_guard lock(mutex_);
    waiting_.push_back(std::move(group));
    changed_.notify_all();
  }
  HostGroup take() {   // the oldest group that was given and not taken, when it has happened
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return !arrived_.empty() || failure_; });
    if (arrived_.empty()) std::rethrow_exception(failure_);
    HostGroup group = std::move(arrived_.front());
    arrived_.pop_front();
    return group;
  }
  void finish() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return (waiting_.empty() && !busy_) || failure_; });
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  void carry() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [&] { return stop_ || (!waiting_.empty() && !failure_); });
      if (failure_ || waiting_.empty()) return;   // stopped
      HostGroup group = std::move(waiting_.front());
      waiting_.pop_front();
      busy_ = true;
      lock.unlock();
      std::exception_ptr failure;
      try {
        link_.exchange(group.sends, group.receives);
      } catch (...) {
        failure = std::current_exception();
      }
      lock.lock();
      busy_ = false;
      if (failure) failure_ = failure;
      else arrived_.push_back(std::move(group));
      changed_.notify_all();
    }
  }

  HostLink& link_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<HostGroup> waiting_, arrived_;
  std::exception_ptr failure_;
  bool busy_ = false, stop_ = false;
  std::thread thread_;
};

SharedLink::SharedLink(std::shared_ptr<HostLink> given) : link(std::move(given)) {}
SharedLink::~SharedLink() = default;

void SharedLink::reserve() {
  if (carrier_) return;
  try {
    carrier_ = std::make_unique<Carrier>(*link);
  } catch (const std::system_error&) {
    throw Error("OUT_OF_MEMORY", "the system refused a thread for messages to other ranks");
  }
}

namespace {

class HostComm final : public Comm {
 public:
  HostComm(std::shared_ptr<SharedLink> link, Device& device) : shared_(std::move(link)), link_(*shared_->link), device_(device) {}
  ~HostComm() override {   // the next one that shares the link must not take what was started here
    try {
      while (waited_ < started_) shared_->carrier()->take(), ++waited_;
    } catch (...) {   // a rank was lost: nobody takes anything any more
    }
  }
  int rank() const override { return link_.rank(); }
  int size() const override { return link_.size(); }
  Device& device() override { return device_; }
  double seconds() const override { return seconds_; }
  void abort(std::string reason) noexcept override { link_.abort(std::move(reason)); }

  void exchange(std::span<const Message> sends, std::span<const Message> receives) override {
    const Timed waiting(*this);
    HostGroup group = prepare(sends, receives);
    if (shared_->carrier()) shared_->carrier()->finish();
    link_.exchange(group.sends, group.receives);
    settle(group);
  }
  void reserve() override { shared_->reserve(); }
  uint64_t start(std::span<const Message> sends, std::span<const Message> receives) override {
    reserve();
    shared_->carrier()->give(prepare(sends, receives));
    return ++started_;
  }
  void wait(uint64_t group) override {
    ISR_ASSERT(group == waited_ + 1 && group <= started_, "group ", group, " of ", started_, " after group ", waited_);
    const Timed waiting(*this);
    settle(shared_->carrier()->take());
    waited_ = group;
  }
  void finish() override {
    const Timed waiting(*this);
    if (shared_->carrier()) shared_->carrier()->finish();
  }

 private:
  struct Timed {
    explicit Timed(HostComm& comm) : comm(comm), start(std::chrono::steady_clock::now()) {}
    ~Timed() { comm.seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); }
    Timed(const Timed&) = delete;
    const WaitsForRanks waits;
    HostComm& comm;
    const std::chrono::steady_clock::time_point start;
  };

  HostGroup prepare(std::span<const Message> sends, std::span<const Message> receives) {
    for (std::span<const Message> side : {sends, receives})
      for (const Message& m : side) ISR_ASSERT(m.peer >= 0 && m.peer < size(), "rank ", m.peer, " of ", size());
    HostGroup group;
    group.sends = keep_own(device_, rank(), sends, receives, group.receives);
    if (&device_ == &host_device()) return group;
    for (Message& m : group.sends) {   // a device's memory is not the host's to read
      std::vector<char>& bytes = group.staged.emplace_back(m.bytes);
      device_.download(bytes.data(), m.data, m.bytes);
      m.data = bytes.data();
    }
    group.resident = group.receives;
    for (Message& m : group.receives) m.data = group.staged.emplace_back(m.bytes).data();
    return group;
  }
  void settle(const HostGroup& group) {
    for (size_t i = 0; i < group.resident.size(); ++i) device_.upload(group.resident[i].data, group.receives[i].data, group.resident[i].bytes);
  }

  const std::shared_ptr<SharedLink> shared_;
  HostLink& link_;
  Device& device_;
  double seconds_ = 0;
  uint64_t started_ = 0, waited_ = 0;
};

}  // namespace

std::unique_ptr<Comm> make_comm(std::shared_ptr<SharedLink> link, Device& device) {
  if (std::unique_ptr<Comm> direct = link->link->direct(link->link, device)) return direct;
  return make_host_comm(std::move(link), device);
}
std::unique_ptr<Comm> make_host_comm(std::shared_ptr<SharedLink> link, Device& device) { return std::make_unique<HostComm>(std::move(link), device); }

void rank_lost(const std::string& reason) {
  throw Error("RANK_LOST", reason, "the ranks that are left cannot go on; start all of them again");
}

}  // namespace isr
