#include "dist/heartbeat.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <functional>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include "core/error.h"
#include "core/progress.h"

namespace isr {
namespace {

using Clock = std::chrono::steady_clock;
using namespace std::chrono_literals;
constexpr auto kBeat = 1000ms, kStranger = 10000ms;
constexpr size_t kKey = 64;

double since(Clock::time_point t) { return std::chrono::duration<double>(Clock::now() - t).count(); }

// As it goes over the wire: all numbers are of 64 bits, little-endian as all machines that this runs on.
struct Greeting {
  char magic[8] = {'i', 's', 'r', 'b', 'e', 'a', 't', '1'};
  char key[kKey] = {};
  uint64_t rank = 0;
};
struct Beat { uint64_t stuck_ms = 0, patience_ms = 0, waiting = 0; };

// How long this process's job has given no sign, as its own heartbeat sees it.
class OwnProgress {
 public:
  Beat look() {
    const Progress& p = progress();
    const uint64_t signs = p.signs.load(std::memory_order_relaxed);
    const auto now = Clock::now();
    waited_ = waited_ || p.waits > 0;
    if (signs != signs_ || p.jobs == 0) {
      if (working_ && signs != signs_ && !waited_) longest_ = std::max(longest_, now - since_);   // a wait tells nothing of its own work
      signs_ = signs, since_ = now, waited_ = false;
    }
    working_ = p.jobs > 0;
    const auto ms = [](auto d) { return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::milliseconds>(d).count()); };
    return {working_ ? ms(now - since_) : 0, 5 * ms(longest_), p.waits > 0 ? uint64_t{1} : 0};
  }

 private:
  uint64_t signs_ = 0;
  Clock::time_point since_ = Clock::now();
  Clock::duration longest_{};
  bool working_ = false, waited_ = false;
};

void set(Heartbeat::Sign& sign, const Beat& beat) {
  sign.heard = true;
  sign.stuck = static_cast<double>(beat.stuck_ms) / 1000;
  sign.patience = static_cast<double>(beat.patience_ms) / 1000;
  sign.waiting = beat.waiting != 0;
}

// A connection's end, and what of a record has come.
struct Wire {
  explicit Wire(int socket) : socket(socket) {
    const int on = 1;
    setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  }
  ~Wire() { close(socket); }
  Wire(const Wire&) = delete;

  template <class Record>
  bool send(const Record& r) const { return ::send(socket, &r, sizeof r, MSG_DONTWAIT | MSG_NOSIGNAL) == sizeof r; }   // small: it fits, or the peer is gone
  // Takes what has come; `each` gets every whole record. False: the other end is gone.
  template <class Record>
  bool take(const std::function<void(const Record&)>& each) {
    char bytes[1024];
    for (;;) {
      const ssize_t n = recv(socket, bytes, std::min(sizeof bytes, sizeof(Record) - held), MSG_DONTWAIT);
      if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) return false;
      if (n < 0) return true;
      std::memcpy(room.data() + held, bytes, static_cast<size_t>(n));
      held += static_cast<size_t>(n);
      if (held < sizeof(Record)) continue;
      Record r;
      std::memcpy(&r, room.data(), sizeof r);
      held = 0;
      each(r);
      return true;   // the next poll tells of more
    }
  }
  const int socket;
  std::array<char, sizeof(Greeting)> room{};
  size_t held = 0;
  int rank = -1;                            // of rank 0's peers; -1: it has not said the key yet
  Clock::time_point since = Clock::now();   // that something was heard
};

// In a time that does not depend on where they differ.
bool same_key(const char* a, const std::string& b) {
  unsigned differs = 0;
  for (size_t i = 0; i < kKey; ++i) differs |= static_cast<unsigned char>(a[i]) ^ static_cast<unsigned char>(b[i]);
  return differs == 0;
}

// The thread, and what it and the others share.
class Beating : public Heartbeat {
 public:
  ~Beating() override { stop(); }

 protected:
  void start() {
    if (pipe2(wake_, O_CLOEXEC) != 0) throw Error("OUT_OF_MEMORY", "the system refused a pipe for heartbeats");
    try {
      thread_ = std::thread([this] { run(); });
    } catch (const std::system_error&) {
      throw Error("OUT_OF_MEMORY", "the system refused a thread for heartbeats");
    }
  }
  void stop() {
    if (thread_.joinable()) {
      stop_ = true;
      static_cast<void>(!write(wake_[1], "", 1));
      thread_.join();
    }
    for (int& end : wake_)
      if (end >= 0) close(std::exchange(end, -1));
  }
  virtual void run() = 0;
  // Waits for any of the sockets until `until`, or the end.
  void wait(std::vector<pollfd>& sockets, Clock::time_point until) const {
    sockets.push_back({wake_[0], POLLIN, 0});
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until - Clock::now()).count();
    poll(sockets.data(), sockets.size(), static_cast<int>(std::clamp<int64_t>(left, 0, 1000)));
    sockets.pop_back();
  }
  std::atomic<bool> stop_{false};
  std::mutex lock_;

 private:
  int wake_[2] = {-1, -1};
  std::thread thread_;
};

class Leader final : public Beating {
 public:
  Leader(int size, std::string key, const std::string& loopback) : size_(size), key_(std::move(key)), signs_(static_cast<size_t>(size)), heard_(static_cast<size_t>(size), Clock::now()) {
    sockaddr_storage at{};
    socklen_t length = sizeof(sockaddr_in6);
    if (loopback != "127.0.0.1") listener_ = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (listener_ >= 0) {
      const int off = 0;
      setsockopt(listener_, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);   // IPv4, too
      auto& six = reinterpret_cast<sockaddr_in6&>(at);
      six.sin6_family = AF_INET6, six.sin6_addr = loopback.empty() ? in6addr_any : in6addr_loopback;
    } else {
      listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
      auto& four = reinterpret_cast<sockaddr_in&>(at);
      four.sin_family = AF_INET, four.sin_addr.s_addr = htonl(loopback.empty() ? INADDR_ANY : INADDR_LOOPBACK);
      length = sizeof(sockaddr_in);
    }
    if (listener_ < 0 || bind(listener_, reinterpret_cast<sockaddr*>(&at), length) != 0 || listen(listener_, 64) != 0 ||
        getsockname(listener_, reinterpret_cast<sockaddr*>(&at), &length) != 0) {
      const int error = errno;
      if (listener_ >= 0) close(listener_);
      throw Error("DEVICE_UNAVAILABLE", concat("rank 0 cannot listen for heartbeats: ", std::strerror(error)),
                  "it takes any free port of its address: see what limits the sockets of this process");
    }
    port_ = ntohs(at.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6&>(at).sin6_port : reinterpret_cast<sockaddr_in&>(at).sin_port);
    start();
  }
  ~Leader() override {
    stop();
    close(listener_);
  }
  int port() const override { return port_; }
  std::vector<Sign> signs() override {
    const std::lock_guard hold(lock_);
    for (size_t r = 0; r < signs_.size(); ++r) signs_[r].silent = r == 0 ? 0 : since(heard_[r]);
    return signs_;
  }

 private:
  void run() override {
    for (auto next = Clock::now(); !stop_;) {
      std::vector<pollfd> sockets{{listener_, POLLIN, 0}};
      for (const auto& w : wires_) sockets.push_back({w->socket, POLLIN, 0});
      wait(sockets, next);
      std::erase_if(wires_, [this](const auto& w) { return !hear(*w); });
      if (sockets[0].revents != 0) admit();
      if (Clock::now() < next) continue;
      next = Clock::now() + kBeat;
      const Beat mine = own_.look();
      {
        const std::lock_guard hold(lock_);
        set(signs_[0], mine);
      }
      for (const auto& w : wires_)
        if (w->rank > 0) w->send(mine);
    }
    wires_.clear();
  }
  void admit() {
    const int s = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (s < 0) return;
    const auto strangers = std::count_if(wires_.begin(), wires_.end(), [](const auto& w) { return w->rank < 0; });
    if (strangers >= size_ + 64) wires_.erase(std::find_if(wires_.begin(), wires_.end(), [](const auto& w) { return w->rank < 0; }));   // the oldest
    wires_.push_back(std::make_unique<Wire>(s));
  }
  bool hear(Wire& w) {
    if (w.rank > 0) {
      return w.take<Beat>([&](const Beat& beat) {
        const std::lock_guard hold(lock_);
        const auto r = static_cast<size_t>(w.rank);
        set(signs_[r], beat);
        heard_[r] = Clock::now();
      });
    }
    bool welcome = Clock::now() - w.since < kStranger;   // who says nothing is nobody
    const bool open = w.take<Greeting>([&](const Greeting& g) {
      welcome = std::memcmp(g.magic, Greeting{}.magic, sizeof g.magic) == 0 && same_key(g.key, key_) && g.rank > 0 && g.rank < static_cast<uint64_t>(size_);
      if (welcome) w.rank = static_cast<int>(g.rank);
    });
    return open && welcome;
  }

  const int size_;
  const std::string key_;
  int listener_ = -1, port_ = 0;
  std::vector<std::unique_ptr<Wire>> wires_;   // the thread's
  OwnProgress own_;
  std::vector<Sign> signs_;                    // under lock_
  std::vector<Clock::time_point> heard_;
};

class Member final : public Beating {
 public:
  Member(int rank, const std::string& key, std::string host, int port) : host_(std::move(host)), port_(port) {
    greeting_.rank = static_cast<uint64_t>(rank);
    std::copy_n(key.begin(), kKey, greeting_.key);
    start();
  }
  ~Member() override { stop(); }
  int port() const override { return port_; }
  std::vector<Sign> signs() override {
    const std::lock_guard hold(lock_);
    sign_.silent = since(heard_);
    return {sign_};
  }

 private:
  void run() override {
    std::unique_ptr<Wire> wire;
    for (auto next = Clock::now(); !stop_;) {
      std::vector<pollfd> sockets;
      if (wire) sockets.push_back({wire->socket, POLLIN, 0});
      wait(sockets, next);
      if (wire && !wire->take<Beat>([&](const Beat& beat) {
            const std::lock_guard hold(lock_);
            set(sign_, beat);
            heard_ = Clock::now();
          }))
        wire.reset();
      if (Clock::now() < next) continue;
      next = Clock::now() + kBeat;
      const Beat mine = own_.look();
      if (!wire) wire = reach();
      if (wire) wire->send(mine);
    }
  }
  // A connection on which the greeting was said; null: not now.
  std::unique_ptr<Wire> reach() {
    addrinfo hints{}, *found = nullptr;
    hints.ai_socktype = SOCK_STREAM, hints.ai_flags = AI_NUMERICHOST;
    if (getaddrinfo(host_.c_str(), std::to_string(port_).c_str(), &hints, &found) != 0) return nullptr;
    std::unique_ptr<Wire> wire;
    for (const addrinfo* a = found; a && !wire && !stop_; a = a->ai_next) {
      const int s = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
      if (s < 0) continue;
      auto tried = std::make_unique<Wire>(s);
      if (connect(s, a->ai_addr, a->ai_addrlen) != 0 && errno != EINPROGRESS) continue;
      std::vector<pollfd> sockets{{s, POLLOUT, 0}};
      wait(sockets, Clock::now() + kBeat);
      int error = 0;
      socklen_t length = sizeof error;
      if ((sockets[0].revents & POLLOUT) == 0 || getsockopt(s, SOL_SOCKET, SO_ERROR, &error, &length) != 0 || error != 0) continue;
      if (tried->send(greeting_)) wire = std::move(tried);
    }
    freeaddrinfo(found);
    return wire;
  }

  const std::string host_;
  const int port_;
  Greeting greeting_;
  OwnProgress own_;
  Sign sign_;                                  // under lock_
  Clock::time_point heard_ = Clock::now();
};

}  // namespace

std::unique_ptr<Heartbeat> lead_heartbeat(int size, const std::string& key, const std::string& loopback) {
  ISR_ASSERT(key.size() == kKey, "a key of ", key.size(), " characters");
  return std::make_unique<Leader>(size, key, loopback);
}
std::unique_ptr<Heartbeat> join_heartbeat(int rank, const std::string& key, const std::string& host, int port) {
  ISR_ASSERT(key.size() == kKey, "a key of ", key.size(), " characters");
  return std::make_unique<Member>(rank, key, host, port);
}

}  // namespace isr
