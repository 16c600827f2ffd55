// Gloo's TCP transport behind plugin.h: a pair of sockets for every two ranks, and messages by unbound buffers, whose slots number what
// goes from one rank to another.
#include "dist/gloo/plugin.h"

#include <gloo/transport/context.h>
#include <gloo/transport/pair.h>
#include <gloo/transport/tcp/device.h>
#include <gloo/transport/unbound_buffer.h>

#include <pthread.h>
#include <signal.h>
#include <time.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using Buffer = std::unique_ptr<gloo::transport::UnboundBuffer>;
constexpr auto kConnect = std::chrono::seconds(60);        // of one peer
constexpr int kGlooConnect = 5;                            // Gloo waits so many times its timeout for a connection
constexpr auto kForever = std::chrono::hours(24 * 365);   // who waits is woken by abort() or a lost connection
constexpr char kDigits[] = "0123456789abcdef";

std::string to_hex(const std::vector<char>& bytes) {
  std::string text;
  for (const char c : bytes) {
    const auto b = static_cast<unsigned char>(c);
    text += {kDigits[b >> 4], kDigits[b & 15]};
  }
  return text;
}

std::vector<char> from_hex(const std::string& text) {
  std::vector<char> bytes;
  for (size_t i = 0; i + 1 < text.size(); i += 2) bytes.push_back(static_cast<char>(std::stoi(text.substr(i, 2), nullptr, 16)));
  return bytes;
}

// The part of `text` between its k-th and its next comma.
std::string part(const std::string& text, int k) {
  size_t at = 0;
  for (; k > 0; --k) {
    at = text.find(',', at);
    if (at == std::string::npos) return "";
    ++at;
  }
  return text.substr(at, text.find(',', at) - at);
}

// While one lives, writing to a socket whose peer is gone is an error of this thread, and of threads that it starts, and no signal that
// ends the process (node ignores it; other programs may not).
struct WithoutSigpipe {
  WithoutSigpipe() {
    sigemptyset(&pipe);
    sigaddset(&pipe, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &pipe, &before);
  }
  ~WithoutSigpipe() {
    const timespec now{0, 0};
    if (!sigismember(&before, SIGPIPE))
      while (sigtimedwait(&pipe, nullptr, &now) == SIGPIPE) {
      }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }
  WithoutSigpipe(const WithoutSigpipe&) = delete;
  sigset_t pipe, before;
};

struct Mismatch { int peer; };
struct Aborted {};

class Rank {
 public:
  Rank(int rank, int size, const std::string& host) : rank_(rank), size_(size), sent_(static_cast<size_t>(size)), received_(sent_), lengths_out_(sent_), lengths_in_(sent_) {
    gloo::transport::tcp::attr where;
    where.hostname = host;
    device_ = gloo::transport::tcp::CreateDevice(where);
    context_ = device_->createContext(rank, size);
    context_->setTimeout(std::chrono::duration_cast<std::chrono::milliseconds>(kConnect) / kGlooConnect);
    for (int r = 0; r < size; ++r) {
      if (r > 0) address_ += ',';
      if (r != rank) address_ += to_hex(context_->createPair(r)->address().bytes());
    }
  }
  ~Rank() {
    for (int r = 0; r < size_; ++r)
      if (r != rank_ && context_->getPair(r)) context_->getPair(r)->close();
  }
  const std::string& address() const { return address_; }

  void connect(const char* const* addresses) {
    for (int r = 0; r < size_; ++r) {
      refuse_if_aborted();
      if (r != rank_) context_->getPair(r)->connect(from_hex(part(addresses[r], rank_)));
    }
    refuse_if_aborted();
    const std::lock_guard<std::mutex> hold(lock_);
    connected_ = true;
  }

  // First the lengths of what goes to each peer, then all of it; what does not fit is told before it is waited for.
  void exchange(const std::vector<IsrGlooMessage>& sends, const std::vector<IsrGlooMessage>& receives) {
    std::vector<Wait> waits;
    const Watch watch(*this, waits);
    std::vector<uint64_t>&mine = lengths_out_, &theirs = lengths_in_;
    const std::vector<bool> to = peers_of(sends), from = peers_of(receives);
    for (int r = 0; r < size_; ++r) {
      mine[static_cast<size_t>(r)] = lengths(sends, r);
      if (to[static_cast<size_t>(r)]) post(waits, {r, &mine[static_cast<size_t>(r)], sizeof(uint64_t)}, true);
      if (from[static_cast<size_t>(r)]) post(waits, {r, &theirs[static_cast<size_t>(r)], sizeof(uint64_t)}, false);
    }
    finish(waits);
    for (int r = 0; r < size_; ++r)
      if (from[static_cast<size_t>(r)] && theirs[static_cast<size_t>(r)] != lengths(receives, r)) throw Mismatch{r};
    for (const IsrGlooMessage& m : sends) post(waits, m, true);
    for (const IsrGlooMessage& m : receives) post(waits, m, false);
    finish(waits);
  }

  void abort() {
    const std::lock_guard<std::mutex> hold(lock_);
    if (!connected_ && !aborted_)
      for (int r = 0; r < size_; ++r)   // whose connection is waited for
        if (r != rank_) context_->getPair(r)->close();
    aborted_ = true;
    if (!waits_) return;
    for (const Wait& w : *waits_) w.sends ? w.buffer->abortWaitSend() : w.buffer->abortWaitRecv();
  }

 private:
  struct Wait { Buffer buffer; int peer; bool sends; };

  // What is waited for, while it is: abort() looks there. What was not waited for to its end stays until the pairs are closed: Gloo's
  // thread may still have it in hand.
  struct Watch {
    Watch(Rank& rank, std::vector<Wait>& waits) : rank(rank) {
      const std::lock_guard<std::mutex> hold(rank.lock_);
      rank.waits_ = &waits;
    }
    ~Watch() {
      const std::lock_guard<std::mutex> hold(rank.lock_);
      for (Wait& w : *rank.waits_) rank.unfinished_.push_back(std::move(w));
      rank.waits_ = nullptr;
    }
    Watch(const Watch&) = delete;
    Rank& rank;
  };

  std::vector<bool> peers_of(const std::vector<IsrGlooMessage>& messages) const {
    std::vector<bool> peers(static_cast<size_t>(size_), false);
    for (const IsrGlooMessage& m : messages) peers[static_cast<size_t>(m.peer)] = true;
    return peers;
  }
  // Of the messages with a peer, in their order: FNV-1a of their lengths.
  static uint64_t lengths(const std::vector<IsrGlooMessage>& messages, int peer) {
    uint64_t h = 14695981039346656037u;
    for (const IsrGlooMessage& m : messages)
      if (m.peer == peer)
        for (uint64_t n = m.bytes, i = 0; i < 8; ++i, n >>= 8) h = (h ^ (n & 255)) * 1099511628211u;
    return h;
  }

  void post(std::vector<Wait>& waits, const IsrGlooMessage& m, bool sends) {
    if (m.bytes == 0) return;   // its length was told
    const auto peer = static_cast<size_t>(m.peer);
    Buffer buffer = context_->createUnboundBuffer(m.data, m.bytes);
    if (sends) buffer->send(m.peer, sent_[peer]++);
    else buffer->recv(m.peer, received_[peer]++);
    const std::lock_guard<std::mutex> hold(lock_);
    waits.push_back({std::move(buffer), m.peer, sends});
  }
  void finish(std::vector<Wait>& waits) {
    const auto limit = std::chrono::duration_cast<std::chrono::milliseconds>(kForever);
    for (size_t i = 0; i < waits.size(); ++i) {
      refuse_if_aborted();
      const Wait& w = waits[i];
      bool done = false;
      try {
        done = w.sends ? w.buffer->waitSend(nullptr, limit) : w.buffer->waitRecv(nullptr, limit);
      } catch (const std::exception& e) {
        throw std::runtime_error("rank " + std::to_string(w.peer) + ": " + e.what());
      }
      if (!done) throw Aborted{};
    }
    const std::lock_guard<std::mutex> hold(lock_);
    waits.clear();
  }

  void refuse_if_aborted() {
    const std::lock_guard<std::mutex> hold(lock_);
    if (aborted_) throw Aborted{};
  }

  const int rank_, size_;
  std::shared_ptr<gloo::transport::Device> device_;
  std::shared_ptr<gloo::transport::Context> context_;
  std::vector<uint64_t> sent_, received_;   // slots, by peer
  std::string address_;
  std::vector<uint64_t> lengths_out_, lengths_in_;   // by peer
  std::mutex lock_;
  std::vector<Wait>* waits_ = nullptr;
  std::vector<Wait> unfinished_;
  bool connected_ = false, aborted_ = false;
};

void tell(char* error, size_t n, const std::string& what) { std::snprintf(error, n, "%s", what.c_str()); }

template <class Work>
IsrGlooEnd ended(char* error, size_t n, const Work& work) {
  const WithoutSigpipe quiet;
  try {
    work();
    return ISR_GLOO_DONE;
  } catch (const Aborted&) {
    return ISR_GLOO_ABORTED;
  } catch (const Mismatch& m) {
    tell(error, n, std::to_string(m.peer));
    return ISR_GLOO_MISMATCH;
  } catch (const std::exception& e) {
    tell(error, n, e.what());
    return ISR_GLOO_LOST;
  }
}

void* open_rank(int rank, int size, const char* host, char* error, size_t n) {
  void* made = nullptr;
  ended(error, n, [&] { made = new Rank(rank, size, host); });
  return made;
}
const char* address_of(void* rank) { return static_cast<Rank*>(rank)->address().c_str(); }
IsrGlooEnd connect_rank(void* rank, const char* const* addresses, char* error, size_t n) {
  return ended(error, n, [&] { static_cast<Rank*>(rank)->connect(addresses); });
}
IsrGlooEnd exchange_all(void* rank, const IsrGlooMessage* sends, size_t n_sends, const IsrGlooMessage* receives, size_t n_receives, char* error, size_t n) {
  return ended(error, n, [&] { static_cast<Rank*>(rank)->exchange({sends, sends + n_sends}, {receives, receives + n_receives}); });
}
void abort_rank(void* rank) { static_cast<Rank*>(rank)->abort(); }
void close_rank(void* rank) {
  const WithoutSigpipe quiet;
  delete static_cast<Rank*>(rank);
}

}  // namespace

const IsrGloo* isr_dpo_gloo() {
  static const IsrGloo table = {ISR_GLOO_VERSION, open_rank, address_of, connect_rank, exchange_all, abort_rank, close_rank};
  return &table;
}
