// NCCL's calls as their documentation describes them, for cards that are emulated: work lies in streams and runs when somebody waits for it;
// a group of sends and receives waits for the other ranks, on the card, until they come or the communicator is aborted, and a rank that has
// died is not noticed; a communicator does not block, is in progress after each call, and is not to be used any more after an abort.
// Ranks speak through sockets of this machine, so they may be threads or processes.
#include "nccl_double.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <deque>
#include <memory>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "core/error.h"
#include "dist/nccl_library.h"
#include "include/cuda_runtime.h"

namespace isr::nccl {

struct Communicator {
  struct Peer { int socket = -1; std::string in, out; };
  int rank = 0, size = 1;
  UniqueId id{};
  std::vector<Peer> peers;
  std::atomic<bool> aborted{false}, connected{false};
  std::atomic<int> questions{0};
  void* stream = nullptr;   // all of its work goes into one
  std::thread meeting;

  ~Communicator() {
    if (meeting.joinable()) meeting.join();
    for (const Peer& p : peers)
      if (p.socket >= 0) close(p.socket);
  }
};

}  // namespace isr::nccl

namespace isr::test {
namespace {

using namespace nccl;
using Shared = std::shared_ptr<Communicator>;

struct Live { std::mutex lock; std::map<Comm, Shared> all; };
Live& live() { static Live* all = new Live; return *all; }   // work of a stream may outlive static objects

Shared find(Comm comm) {
  const std::lock_guard hold(live().lock);
  const auto found = live().all.find(comm);
  ISR_ASSERT(found != live().all.end(), "NCCL: a communicator that was destroyed, aborted, or never made");
  return found->second;
}
void forget(Comm comm) {
  const std::lock_guard hold(live().lock);
  live().all.erase(comm);
  --nccl_double().communicators;
}

// What a test makes of a call; 0: it goes on.
Result asked(const char* call, int rank) {
  NcclDouble& d = nccl_double();
  {
    const std::lock_guard hold(d.lock);
    ++d.calls[call];
  }
  return d.answer ? d.answer(call, rank) : kSuccess;
}
Result begun(Communicator& c) {
  c.questions = nccl_double().questions.load();
  return c.questions > 0 ? kInProgress : kSuccess;
}

// ---- how ranks meet: each listens under a name, and connects to those below it
sockaddr_un name_of(const UniqueId& id, int rank, socklen_t& length) {
  sockaddr_un a{};
  a.sun_family = AF_UNIX;
  const std::string name = concat(std::string(id.bytes), "-", rank);
  std::copy(name.begin(), name.end(), a.sun_path + 1);   // of the abstract kind: no file stays
  length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  return a;
}

void meet_others(Communicator& c) {
  socklen_t length = 0;
  const sockaddr_un mine = name_of(c.id, c.rank, length);
  const int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  bind(listener, reinterpret_cast<const sockaddr*>(&mine), length);
  listen(listener, c.size);
  const auto pause = [] { std::this_thread::sleep_for(std::chrono::milliseconds(1)); };
  for (int r = 0; r < c.rank; ++r) {
    const sockaddr_un theirs = name_of(c.id, r, length);
    const int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    while (!c.aborted && connect(s, reinterpret_cast<const sockaddr*>(&theirs), length) != 0) pause();
    send(s, &c.rank, sizeof c.rank, MSG_NOSIGNAL);
    c.peers[static_cast<size_t>(r)].socket = s;
  }
  for (int come = c.rank + 1; come < c.size && !c.aborted;) {
    pollfd waiting{listener, POLLIN, 0};
    if (poll(&waiting, 1, 5) <= 0) continue;
    const int s = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
    int rank = -1;
    if (recv(s, &rank, sizeof rank, MSG_WAITALL) == sizeof rank && rank > c.rank && rank < c.size) c.peers[static_cast<size_t>(rank)].socket = s, ++come;
    else close(s);
  }
  close(listener);
  c.connected = true;
}

// ---- a group of messages
struct Piece { bool send; void* data; size_t bytes; int peer; Comm comm; void* stream; };
thread_local std::vector<Piece> t_group;
thread_local int t_depth = 0;

// What a group does on the card, tried again until it is done.
bool carry(Communicator& c, const std::vector<Piece>& pieces, bool& given, std::vector<bool>& done) {
  if (c.aborted) {
    for (const Piece& p : pieces)
      if (!p.send) std::memset(p.data, 0x5A, p.bytes);   // a kernel that is ended leaves anything
    return true;
  }
  if (!std::exchange(given, true))
    for (const Piece& p : pieces) {
      if (!p.send) continue;
      std::string& to = p.peer == c.rank ? c.peers[static_cast<size_t>(p.peer)].in : c.peers[static_cast<size_t>(p.peer)].out;
      const uint64_t length = p.bytes;
      to.append(reinterpret_cast<const char*>(&length), sizeof length).append(static_cast<const char*>(p.data), p.bytes);
    }
  bool all = true;
  for (Communicator::Peer& peer : c.peers) {
    if (peer.socket < 0) continue;
    while (!peer.out.empty()) {
      const ssize_t n = send(peer.socket, peer.out.data(), peer.out.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
      if (n <= 0) break;
      peer.out.erase(0, static_cast<size_t>(n));
    }
    all = all && peer.out.empty();
    char bytes[1 << 16];
    for (ssize_t n; (n = recv(peer.socket, bytes, sizeof bytes, MSG_DONTWAIT)) > 0;) peer.in.append(bytes, static_cast<size_t>(n));
  }
  for (size_t i = 0; i < pieces.size(); ++i) {
    const Piece& p = pieces[i];
    if (p.send || done[i]) continue;
    std::string& in = c.peers[static_cast<size_t>(p.peer)].in;
    uint64_t length = 0;
    if (in.size() >= sizeof length) std::memcpy(&length, in.data(), sizeof length);
    if (in.size() < sizeof length || in.size() < sizeof length + length) {
      all = false;
      continue;
    }
    ISR_ASSERT(length == p.bytes, "NCCL: rank ", p.peer, " sends ", length, " bytes, rank ", c.rank, " expects ", p.bytes);
    std::memcpy(p.data, in.data() + sizeof length, p.bytes);
    in.erase(0, sizeof length + length);
    done[i] = true;
  }
  return all;
}

Result add_piece(const char* call, const Piece& piece) {
  const Shared c = find(piece.comm);
  if (const Result r = asked(call, c->rank); r != kSuccess) return r;
  if (t_depth == 0 || piece.peer < 0 || piece.peer >= c->size || piece.bytes == 0) return kInvalidUsage;   // a send by itself would block its stream
  t_group.push_back(piece);
  return kInProgress;
}

Result end_group() {
  if (t_depth == 0) return kInvalidUsage;
  --t_depth;
  const std::vector<Piece> pieces = std::exchange(t_group, {});
  const Shared c = pieces.empty() ? nullptr : find(pieces.front().comm);
  if (const Result r = asked("ncclGroupEnd", c ? c->rank : -1); r != kSuccess) return r;
  if (!c) return kSuccess;
  if (!c->connected) return kInvalidUsage;
  for (const Piece& p : pieces)
    if (p.comm != c.get() || (c->stream && p.stream != c->stream)) return kInvalidUsage;
    else c->stream = p.stream;
  emulated::enqueue_until(static_cast<cudaStream_t>(pieces.front().stream),
                          [c, pieces, given = false, done = std::vector<bool>(pieces.size())]() mutable { return carry(*c, pieces, given, done); });
  return begun(*c);
}

// ---- the table
const Library kDouble = {
    [](int* version) {
      *version = nccl_double().version;
      return asked("ncclGetVersion", -1);
    },
    [](UniqueId* id) {
      if (const Result r = asked("ncclGetUniqueId", -1); r != kSuccess) return r;
      const std::string name = concat("isr-nccl-", getpid(), "-", std::random_device()());
      std::copy(name.begin(), name.end(), id->bytes);
      return kSuccess;
    },
    [](Comm* comm, int size, UniqueId id, int rank, Config* config) {
      if (const Result r = asked("ncclCommInitRankConfig", rank); r != kSuccess) return r;
      if (config->size != sizeof(Config) || config->magic != 0xcafebeef || config->blocking != 0 || rank < 0 || rank >= size) return kInvalidArgument;
      const auto c = std::make_shared<Communicator>();
      c->rank = rank, c->size = size, c->id = id;
      c->peers.resize(static_cast<size_t>(size));
      c->meeting = std::thread([c = c.get()] { meet_others(*c); });
      begun(*c);
      const std::lock_guard hold(live().lock);
      live().all[*comm = c.get()] = c;
      ++nccl_double().communicators;
      return kInProgress;
    },
    [](Comm comm, Result* state) {
      const Shared c = find(comm);
      if (const Result r = asked("ncclCommGetAsyncError", c->rank); r != kSuccess) return r;
      *state = !c->connected || c->questions.fetch_sub(1) > 0 ? kInProgress : kSuccess;
      if (const NcclDouble& d = nccl_double(); d.state)
        if (const Result r = d.state(c->rank); r != kSuccess) *state = r;
      return kSuccess;
    },
    [](Comm comm) {
      const Shared c = find(comm);
      if (const Result r = asked("ncclCommFinalize", c->rank); r != kSuccess) return r;
      return begun(*c);
    },
    [](Comm comm) {
      if (const Result r = asked("ncclCommDestroy", find(comm)->rank); r != kSuccess) return r;
      forget(comm);
      ++nccl_double().destroyed;
      return kSuccess;
    },
    [](Comm comm) {
      const Shared c = find(comm);
      const Result r = asked("ncclCommAbort", c->rank);
      c->aborted = true;
      if (c->meeting.joinable()) c->meeting.join();
      forget(comm);
      ++nccl_double().aborted;
      return r;
    },
    [] {
      if (const Result r = asked("ncclGroupStart", -1); r != kSuccess) return r;
      ++t_depth;
      return kSuccess;
    },
    end_group,
    [](const void* data, size_t count, int type, int peer, Comm comm, void* stream) {
      return type == kBytes ? add_piece("ncclSend", {true, const_cast<void*>(data), count, peer, comm, stream}) : kInvalidArgument;
    },
    [](void* data, size_t count, int type, int peer, Comm comm, void* stream) {
      return type == kBytes ? add_piece("ncclRecv", {false, data, count, peer, comm, stream}) : kInvalidArgument;
    },
    [](Result r) -> const char* {
      static const char* const names[] = {"no error", "unhandled cuda error", "unhandled system error", "internal error", "invalid argument", "invalid usage",
                                          "remote process exited or there was a network error", "NCCL operation in progress", "timeout"};
      return r >= 0 && r < static_cast<int>(std::size(names)) ? names[r] : "unknown result code";
    },
    [](Comm) -> const char* { return "the double's own words"; },
};

}  // namespace

NcclDouble& nccl_double() {
  static NcclDouble* all = new NcclDouble;
  return *all;
}

void use_nccl_double() {
  NcclDouble& d = nccl_double();
  d.answer = nullptr, d.state = nullptr;
  d.questions = 2, d.version = 22203;
  d.aborted = 0, d.destroyed = 0;
  d.calls.clear();
  nccl::use_library(&kDouble);
}

}  // namespace isr::test
