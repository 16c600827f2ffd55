// Ranks that are threads of one process: the transport of tests, and of a machine that wants no second process. A message is the
// address of its bytes; whoever receives copies them and says so.
#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <utility>

#include "core/error.h"
#include "dist/host_comm.h"

namespace isr {
namespace {

struct Parcel {
  const void* data;
  size_t bytes;
  bool copying = false, taken = false;
};

// What all ranks of a process share.
struct Post {
  explicit Post(int size) : boxes(static_cast<size_t>(size) * static_cast<size_t>(size)), ended(static_cast<size_t>(size), false) {}
  std::deque<Parcel*>& box(int from, int to) { return boxes[static_cast<size_t>(from) * ended.size() + static_cast<size_t>(to)]; }

  std::mutex mutex;
  std::condition_variable changed;
  std::vector<std::deque<Parcel*>> boxes;   // by sender and receiver; parcels lie with their senders
  std::vector<bool> ended;
  std::string aborted;
};

class ThreadRank final : public HostLink {
 public:
  ThreadRank(std::shared_ptr<Post> post, int rank, int size) : rank_(rank), size_(size), post_(std::move(post)) {}
  int rank() const override { return rank_; }
  int size() const override { return size_; }
  ~ThreadRank() override {
    const std::lock_guard lock(post_->mutex);
    post_->ended[static_cast<size_t>(rank_)] = true;
    post_->changed.notify_all();
  }

  void abort(std::string reason) noexcept override {
    const std::lock_guard lock(post_->mutex);
    lose(std::move(reason));
  }

  void exchange(std::span<const Message> sends, std::span<const Message> receives) override {
    std::deque<Parcel> parcels;
    std::unique_lock lock(post_->mutex);
    refuse_if_lost();
    const Withdrawal end(*this, lock, parcels);
    for (const Message& m : sends) post_->box(rank(), m.peer).push_back(&parcels.emplace_back(Parcel{m.data, m.bytes}));
    post_->changed.notify_all();
    for (const Message& m : receives) receive(lock, m);
    for (size_t i = 0; i < sends.size(); ++i) wait(lock, sends[i].peer, [&] { return parcels[i].taken; });
  }

 private:
  void receive(std::unique_lock<std::mutex>& lock, const Message& m) {
    std::deque<Parcel*>& box = post_->box(m.peer, rank());
    wait(lock, m.peer, [&] { return !box.empty(); });
    Parcel& parcel = *box.front();
    if (parcel.bytes != m.bytes) {   // what follows could not be matched any more
      const std::string what = concat("rank ", m.peer, " sends ", parcel.bytes, " bytes to rank ", rank(), ", which expects ", m.bytes);
      lose(what);
      throw Error("BUG", what);
    }
    box.pop_front();
    parcel.copying = true;
    lock.unlock();
    if (m.bytes > 0) std::memcpy(m.data, parcel.data, m.bytes);
    lock.lock();
    parcel.copying = false;
    parcel.taken = true;
    post_->changed.notify_all();
  }

  // Under the lock: nobody may find an address that has ended, or read there.
  struct Withdrawal {
    Withdrawal(ThreadRank& rank, std::unique_lock<std::mutex>& lock, std::deque<Parcel>& parcels) : rank(rank), lock(lock), parcels(parcels) {}
    ~Withdrawal() {
      for (int to = 0; to < rank.size(); ++to) std::erase_if(rank.post_->box(rank.rank(), to), [&](const Parcel* p) { return holds(p); });
      rank.post_->changed.wait(lock, [&] { return std::none_of(parcels.begin(), parcels.end(), [](const Parcel& p) { return p.copying; }); });
    }
    bool holds(const Parcel* p) const {
      return std::any_of(parcels.begin(), parcels.end(), [&](const Parcel& mine) { return &mine == p; });
    }
    Withdrawal(const Withdrawal&) = delete;
    ThreadRank& rank;
    std::unique_lock<std::mutex>& lock;
    std::deque<Parcel>& parcels;
  };

  // Under the lock.
  void lose(std::string reason) noexcept {
    if (post_->aborted.empty()) post_->aborted = std::move(reason);
    post_->changed.notify_all();
  }
  void refuse_if_lost() const {
    if (!post_->aborted.empty()) rank_lost(post_->aborted);
  }

  template <class Ready>
  void wait(std::unique_lock<std::mutex>& lock, int peer, const Ready& ready) {
    post_->changed.wait(lock, [&] { return ready() || !post_->aborted.empty() || post_->ended[static_cast<size_t>(peer)]; });
    if (!ready()) lose(concat("rank ", peer, " has ended while rank ", rank(), " waited for it"));
    refuse_if_lost();
  }

  const int rank_, size_;
  const std::shared_ptr<Post> post_;
};

}  // namespace

std::vector<std::unique_ptr<Comm>> make_thread_ranks(std::span<Device* const> devices) {
  const int size = static_cast<int>(devices.size());
  const auto post = std::make_shared<Post>(size);
  std::vector<std::unique_ptr<Comm>> ranks;
  for (int r = 0; r < size; ++r) ranks.push_back(make_host_comm(std::make_shared<SharedLink>(std::make_shared<ThreadRank>(post, r, size)), *devices[static_cast<size_t>(r)]));
  return ranks;
}

}  // namespace isr
