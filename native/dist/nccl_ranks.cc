// Ranks with a card each, through NCCL. A group of messages is a group of its sends and receives, and nothing else of NCCL is used: it
// moves bytes, and sums are made in the order of the ranks by whoever receives (comm.h), so that bits do not depend on NCCL's
// algorithms, its version or the topology.
//
// All of it goes into one stream beside those that compute. Nothing waits in a call: a watch looks every kLook for errors of the
// communicator, and takes it down when a rank is lost, which also ends what waits for it on the card. NCCL may hang in that: whoever
// closes waits for kPatience, and leaves the watch behind.
#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <system_error>
#include <thread>

#include "core/error.h"
#include "core/memory.h"
#include "core/progress.h"
#include "dist/nccl_library.h"
#include "dist/transports.h"

namespace isr {
namespace {

using namespace std::chrono_literals;
constexpr auto kLook = 50ms, kPatience = 10000ms;

std::string hex(const nccl::UniqueId& id) {
  std::string text;
  for (const char c : id.bytes)
    for (const int half : {static_cast<unsigned char>(c) >> 4, c & 15}) text += "0123456789abcdef"[half];
  return text;
}
nccl::UniqueId id_from(const std::string& text) {
  nccl::UniqueId id{};
  const auto digit = [](char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1; };
  const bool whole = text.size() == 2 * sizeof id.bytes;
  for (size_t i = 0; i < sizeof id.bytes; ++i) {
    const int high = whole ? digit(text[2 * i]) : -1, low = whole ? digit(text[2 * i + 1]) : -1;
    if (high < 0 || low < 0) fail("INVALID_ARGUMENT", "addresses[0]: expected the 256 digits of a communicator of NCCL, got \"", text.substr(0, 40), "\"");
    id.bytes[i] = static_cast<char>(high * 16 + low);
  }
  return id;
}

// The communicator of a rank, and what watches over it.
class Watched {
 public:
  Watched(int rank, int size, std::shared_ptr<Device> card) : rank_(rank), size_(size), lib_(nccl::library()), card_(std::move(card)), stream_(card_->side_stream()) {
    ISR_ASSERT(stream_, "NCCL on a device that has no streams");
  }
  int rank() const { return rank_; }
  int size() const { return size_; }
  Device& card() { return *card_; }

  // With the others, who do it at the same time.
  void connect(const nccl::UniqueId& id) {
    nccl::Config config;
    stream_->use();
    const std::lock_guard calls(calls_);
    refuse_if_lost();   // the watch may have ended already
    try {
      settle(lib_.init(&comm_, size_, id, rank_, &config), "ncclCommInitRankConfig");
    } catch (const Error& e) {
      const std::lock_guard state(state_);
      if (e.code != "RANK_LOST" || lost_by_others_) throw;
      throw Error("DEVICE_UNAVAILABLE", e.what(), "NCCL_DEBUG=INFO makes NCCL say more; the ranks' machines have to reach each other, and each rank needs a card of its own");
    }
  }

  uint64_t start(Device& device, std::span<const Message> sends, std::span<const Message> receives) {
    const std::lock_guard calls(calls_);
    refuse_if_lost();   // the watch may have taken the communicator down meanwhile
    stream_->begin(device);
    if (const nccl::Result r = lib_.group_start(); r != nccl::kSuccess) give_up("ncclGroupStart", r);
    const char* failed = nullptr;   // the first call that did; a group that was begun has to end
    nccl::Result failure = nccl::kSuccess;
    const auto each = [&](const char* name, std::span<const Message> messages, const auto& call) {
      for (const Message& m : messages) {
        if (m.bytes == 0 || failed) continue;
        if (const nccl::Result r = call(m); r != nccl::kSuccess && r != nccl::kInProgress) failed = name, failure = r;
      }
    };
    each("ncclSend", sends, [&](const Message& m) { return lib_.send(m.data, m.bytes, nccl::kBytes, m.peer, comm_, stream_->handle()); });
    each("ncclRecv", receives, [&](const Message& m) { return lib_.receive(m.data, m.bytes, nccl::kBytes, m.peer, comm_, stream_->handle()); });
    const nccl::Result end = lib_.group_end();
    if (failed) give_up(failed, failure);
    settle(end, "ncclGroupEnd");
    return last_ = stream_->end();
  }
  void join(Device& device, uint64_t work) {
    const std::lock_guard calls(calls_);
    stream_->join(device, work);
  }
  // All that was started has happened.
  void finish() {
    const WaitsForRanks waits;
    for (int looks = 0;; ++looks) {
      refuse_if_lost();
      {
        const std::lock_guard calls(calls_);
        if (stream_->done(last_)) break;
      }
      if (looks < 1000) std::this_thread::yield();
      else std::this_thread::sleep_for(50us);
    }
    refuse_if_lost();   // work also ends when it is taken down
  }
  double seconds() {
    const std::lock_guard calls(calls_);
    stream_->done(last_);
    return stream_->seconds();
  }

  // From any thread; the watch does what may take long.
  void lose(std::string reason, bool by_others = false) noexcept {
    {
      const std::lock_guard state(state_);
      if (lost_.empty()) lost_ = std::move(reason), lost_by_others_ = by_others;
    }
    changed_.notify_all();
  }
  bool close() noexcept {   // false: NCCL hangs
    std::unique_lock state(state_);
    closing_ = true;
    changed_.notify_all();
    return changed_.wait_for(state, kPatience, [&] { return ended_; });
  }

  // The watch's own thread.
  void watch() {
    std::unique_lock state(state_);
    while (lost_.empty() && !closing_) {
      changed_.wait_for(state, kLook);
      if (!lost_.empty() || closing_) break;
      state.unlock();
      look();
      state.lock();
    }
    const bool lost = !lost_.empty();
    state.unlock();
    take_down(lost);
    state.lock();
    ended_ = true;
    changed_.notify_all();
  }

 private:
  void refuse_if_lost() {
    const std::lock_guard state(state_);
    if (!lost_.empty()) rank_lost(lost_);
  }
  std::string said(const char* call, nccl::Result r) {
    const char* const more = comm_ ? lib_.last_error(comm_) : nullptr;
    return concat("rank ", rank_, ": NCCL: ", call, ": ", lib_.error_string(r), more && *more ? concat(": ", more) : "");
  }
  [[noreturn]] void give_up(const char* call, nccl::Result r) {
    const std::string what = said(call, r);
    lose(what);
    if (r == nccl::kInvalidArgument || r == nccl::kInvalidUsage) throw Error("BUG", what);
    rank_lost(what);
  }
  // The end of a call that does not block; under calls_.
  void settle(nccl::Result r, const char* call) {
    while (r == nccl::kInProgress) {
      refuse_if_lost();
      std::this_thread::sleep_for(100us);
      if (const nccl::Result asked = lib_.async_error(comm_, &r); asked != nccl::kSuccess) r = asked;
    }
    if (r != nccl::kSuccess) give_up(call, r);
  }
  void look() {
    const std::unique_lock calls(calls_, std::try_to_lock);   // who has it looks himself
    if (!calls || !comm_) return;
    nccl::Result r = nccl::kSuccess;
    if (const nccl::Result asked = lib_.async_error(comm_, &r); asked != nccl::kSuccess) r = asked;
    if (r != nccl::kSuccess && r != nccl::kInProgress) lose(said("ncclCommGetAsyncError", r));
  }
  // A rank that is done gives what it has sent the time to arrive.
  void take_down(bool lost) noexcept {
    const std::lock_guard calls(calls_);
    if (!comm_) return;
    const nccl::Comm comm = std::exchange(comm_, nullptr);
    if (!lost) {
      nccl::Result r = lib_.finalize(comm);
      for (const auto until = std::chrono::steady_clock::now() + kPatience / 2; r == nccl::kInProgress && std::chrono::steady_clock::now() < until;) {
        std::this_thread::sleep_for(1ms);
        if (const nccl::Result asked = lib_.async_error(comm, &r); asked != nccl::kSuccess) r = asked;
      }
      if (r == nccl::kSuccess) {
        lib_.destroy(comm);
        return;
      }
    }
    lib_.abort(comm);
  }

  const int rank_, size_;
  const nccl::Library& lib_;
  const std::shared_ptr<Device> card_;
  const std::unique_ptr<SideStream> stream_;

  std::mutex calls_;                  // of the communicator and the stream
  nccl::Comm comm_ = nullptr;
  uint64_t last_ = 0;

  std::mutex state_;
  std::condition_variable changed_;
  std::string lost_;                  // why; empty: it is not
  bool lost_by_others_ = false, closing_ = false, ended_ = false;
};

// Messages that stay on cards.
class NcclComm final : public Comm {
 public:
  NcclComm(std::shared_ptr<HostLink> link, Watched& nccl, Device& device) : link_(std::move(link)), nccl_(nccl), device_(device) {}
  int rank() const override { return nccl_.rank(); }
  int size() const override { return nccl_.size(); }
  Device& device() override { return device_; }
  double seconds() const override { return nccl_.seconds(); }
  void abort(std::string reason) noexcept override { nccl_.lose(std::move(reason), true); }
  void exchange(std::span<const Message> sends, std::span<const Message> receives) override { nccl_.join(device_, nccl_.start(device_, sends, receives)); }
  uint64_t start(std::span<const Message> sends, std::span<const Message> receives) override {
    started_.push_back(nccl_.start(device_, sends, receives));
    return waited_ + started_.size();
  }
  void wait(uint64_t group) override {
    ISR_ASSERT(group == waited_ + 1 && !started_.empty(), "group ", group, " after group ", waited_);
    nccl_.join(device_, started_.front());
    started_.pop_front();
    ++waited_;
  }
  void finish() override { nccl_.finish(); }

 private:
  const std::shared_ptr<HostLink> link_;   // which the communicator is part of
  Watched& nccl_;
  Device& device_;
  std::deque<uint64_t> started_;
  uint64_t waited_ = 0;
};

// Messages of the host pass through memory of the card.
class NcclLink final : public HostLink {
 public:
  explicit NcclLink(std::shared_ptr<Watched> nccl) : nccl_(std::move(nccl)) {}
  ~NcclLink() override {
    if (!nccl_->close()) static_cast<void>(new Buffer(std::move(room_)));   // giving it back would wait for the card
  }
  int rank() const override { return nccl_->rank(); }
  int size() const override { return nccl_->size(); }
  void abort(std::string reason) noexcept override { nccl_->lose(std::move(reason), true); }

  void exchange(std::span<const Message> sends, std::span<const Message> receives) override {
    Device& card = nccl_->card();
    const auto apart = [](size_t bytes) { return (bytes + 255) / 256 * 256; };   // messages begin as memory of a card does
    size_t bytes = 0;
    for (std::span<const Message> side : {sends, receives})
      for (const Message& m : side) bytes += apart(m.bytes);
    if (room_.bytes() < bytes) room_ = Buffer(card, bytes);
    char* at = room_.data<char>();
    const auto placed = [&](std::span<const Message> messages) {
      std::vector<Message> there(messages.begin(), messages.end());
      for (Message& m : there) m.data = std::exchange(at, at + apart(m.bytes));
      return there;
    };
    const std::vector<Message> out = placed(sends), in = placed(receives);
    for (size_t i = 0; i < out.size(); ++i) card.upload(out[i].data, sends[i].data, out[i].bytes);
    nccl_->join(card, nccl_->start(card, out, in));
    nccl_->finish();
    for (size_t i = 0; i < in.size(); ++i) card.download(receives[i].data, in[i].data, in[i].bytes);
  }
  std::unique_ptr<Comm> direct(std::shared_ptr<HostLink> self, Device& device) override {
    const int mine = nccl_->card().card();
    if (device.card() < 0) return nullptr;
    if (device.card() != mine)
      throw Error("INVALID_ARGUMENT", concat("communicator: rank ", rank(), " speaks through NCCL on cuda:", mine, ", and the model is on cuda:", device.card()),
                  "load the model on communicator.device, or give createCommunicator() the device of the model");
    return std::make_unique<NcclComm>(std::move(self), *nccl_, device);
  }

 private:
  const std::shared_ptr<Watched> nccl_;
  Buffer room_;
};

class NcclEnd final : public OpenEnd {
 public:
  explicit NcclEnd(const Opening& o) : nccl_(std::make_shared<Watched>(o.rank, o.size, o.card)) {
    const nccl::Library& lib = nccl::library();
    if (o.rank == 0)
      if (const nccl::Result r = lib.unique_id(&id_); r != nccl::kSuccess)
        throw Error("DEVICE_UNAVAILABLE", concat("NCCL: ncclGetUniqueId: ", lib.error_string(r)), "NCCL_SOCKET_IFNAME names the network that the ranks' machines share; NCCL_DEBUG=INFO says more");
    card_ = concat(this_machine(), " ", o.card->card_address());
  }
  ~NcclEnd() override {
    if (watching_ && !connected_) nccl_->close();
  }
  std::string address() const override { return concat(hex(id_), " ", card_); }
  void abort(std::string reason) noexcept override { nccl_->lose(std::move(reason), true); }

  std::shared_ptr<HostLink> connect(const std::vector<std::string>& addresses) override {
    ISR_ASSERT(addresses.size() == static_cast<size_t>(nccl_->size()), addresses.size(), " addresses of ", nccl_->size(), " ranks");
    refuse_shared_cards(addresses);
    const nccl::UniqueId id = id_from(addresses[0].substr(0, 2 * sizeof(nccl::UniqueId)));
    try {
      std::thread([nccl = nccl_] { nccl->watch(); }).detach();
    } catch (const std::system_error&) {
      throw Error("OUT_OF_MEMORY", "the system refused a thread that watches over NCCL");
    }
    watching_ = true;
    nccl_->connect(id);
    connected_ = true;
    return std::make_shared<NcclLink>(nccl_);
  }

 private:
  // NCCL hangs then.
  static void refuse_shared_cards(const std::vector<std::string>& addresses) {
    const auto card = [&](size_t r) { return addresses[r].substr(std::min(addresses[r].size(), 2 * sizeof(nccl::UniqueId) + 1)); };
    for (size_t a = 0; a < addresses.size(); ++a)
      for (size_t b = 0; b < a; ++b)
        if (card(a) == card(b))
          throw Error("INVALID_ARGUMENT", concat("ranks ", b, " and ", a, " are both on the card at ", card(a).substr(card(a).rfind(' ') + 1), " of one machine; NCCL needs a card for each rank"),
                      "start as many ranks as there are cards, or let CUDA_VISIBLE_DEVICES show each rank its own");
  }

  const std::shared_ptr<Watched> nccl_;
  nccl::UniqueId id_{};
  std::string card_;
  bool watching_ = false, connected_ = false;
};

}  // namespace

std::string nccl_missing() {
  try {
    nccl::library();
    return "";
  } catch (const Error& e) {
    return concat(e.what(), "; ", e.hint);
  }
}
std::unique_ptr<OpenEnd> open_nccl(const Opening& o) { return std::make_unique<NcclEnd>(o); }

}  // namespace isr
