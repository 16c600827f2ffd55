// Ranks that are processes of one machine: every rank has a block of memory that its peers map, with a ring of bytes to each of
// them. The sender copies in, the receiver copies out, and each rings the other's bell, a futex. A long message stays where it is, and
// its receiver reads it there, if the system lets it (process_vm_readv): one copy instead of two. A peer's process that has ended is seen
// by its pidfd within a wait.
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <climits>
#include <csignal>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <deque>
#include <fstream>
#include <mutex>
#include <sstream>

#include "core/error.h"
#include "core/fd.h"
#include "dist/transports.h"

namespace isr {
namespace {

constexpr uint64_t kRing = uint64_t{1} << 19;      // bytes between two ranks: copies stay in a core's cache
constexpr uint64_t kMagic = 0x6973722d73686d31;    // of a block's first eight bytes
constexpr long kWait = 50'000'000;                 // nanoseconds between two looks at who lives
constexpr int kSpins = 2000;
constexpr uint64_t kLong = uint64_t{1} << 16;      // bytes of messages that are read where they are
constexpr int kMostRanks = 4096;                   // of one machine

// One direction between two ranks. Counters only grow; what lies between them is in the ring.
struct Ring {
  alignas(64) std::atomic<uint64_t> written;   // by the sender
  alignas(64) std::atomic<uint64_t> read;      // by the receiver
  std::atomic<uint64_t> fetched;               // long messages that the receiver has read where they are
  alignas(64) char bytes[kRing];
};

// A rank's block: rings[r] carries what it sends to rank r.
struct Block {
  uint64_t magic;
  std::atomic<uint32_t> bell;       // rung by peers when something has changed for this rank
  std::atomic<uint32_t> state;      // of this rank: kAlive ...
  char reason[512];                 // why it gave up, before state says so
  std::atomic<bool> reaches[kMostRanks];   // whether this rank can read the memory of that one
  Ring rings[1];
};
enum : uint32_t { kAlive, kEnded, kAborted };
static_assert(std::atomic<uint64_t>::is_always_lock_free && std::atomic<uint32_t>::is_always_lock_free);

size_t block_bytes(int size) { return offsetof(Block, rings) + sizeof(Ring) * static_cast<size_t>(size); }

void futex_wait(std::atomic<uint32_t>& word, uint32_t seen) {
  const timespec limit{0, kWait};
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAIT, seen, &limit, nullptr, 0);
}
void futex_wake(std::atomic<uint32_t>& word) { syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0); }

class Mapping {
 public:
  Mapping(int fd, size_t bytes, const std::string& what) : bytes_(bytes), at_(mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)) {
    if (at_ == MAP_FAILED) throw Error("OUT_OF_MEMORY", concat(what, ": could not map ", bytes, " bytes of shared memory: ", std::strerror(errno)), "raise the limit of /dev/shm or of memory");
  }
  ~Mapping() { munmap(at_, bytes_); }
  Mapping(const Mapping&) = delete;
  Block& block() const { return *static_cast<Block*>(at_); }

 private:
  size_t bytes_;
  void* at_;
};

// What goes before a message through a ring.
struct Head { uint64_t bytes, at; };   // at: where a long one is in its sender's memory; 0: it follows

struct Peer {
  std::unique_ptr<Mapping> memory;
  Fd process;   // none where the kernel has no pidfd
  pid_t pid = 0;

  bool gone() const {
    if (!process) return kill(pid, 0) != 0 && errno == ESRCH;
    pollfd p{process.get(), POLLIN, 0};
    return poll(&p, 1, 0) > 0;
  }
};

class SharedMemory final : public HostLink {
 public:
  SharedMemory(int rank, int size, std::unique_ptr<Mapping> mine, std::vector<Peer> peers) : rank_(rank), size_(size), mine_(std::move(mine)), peers_(std::move(peers)) {}
  ~SharedMemory() override {
    uint32_t alive = kAlive;
    mine_->block().state.compare_exchange_strong(alive, kEnded);
    ring_bells();
  }
  int rank() const override { return rank_; }
  int size() const override { return size_; }

  void abort(std::string reason) noexcept override {
    const std::lock_guard lock(giving_up_);
    Block& b = mine_->block();
    if (b.state.load() == kAborted) return;
    std::strncpy(b.reason, reason.c_str(), sizeof b.reason - 1);
    b.state.store(kAborted);
    b.bell.fetch_add(1);
    futex_wake(b.bell);
    ring_bells();
  }

  void exchange(std::span<const Message> sends, std::span<const Message> receives) override {
    std::vector<Flow> flows(static_cast<size_t>(size_));
    for (const Message& m : sends) flows[static_cast<size_t>(m.peer)].out.push_back(m);
    for (const Message& m : receives) flows[static_cast<size_t>(m.peer)].in.push_back(m);
    std::atomic<uint32_t>& bell = mine_->block().bell;
    for (int idle = 0;;) {
      const uint32_t seen = bell.load(std::memory_order_acquire);
      refuse_if_aborted();   // first: what arrives from a rank that gave up matches nothing
      bool moved = false, waiting = false;
      for (int peer = 0; peer < size_; ++peer) {
        if (peer == rank_) continue;
        moved = advance(peer, flows[static_cast<size_t>(peer)]) || moved;
        waiting = waiting || flows[static_cast<size_t>(peer)].pending();
      }
      if (!waiting) return;
      if (moved) idle = 0;
      else if (++idle > kSpins) {
        futex_wait(bell, seen);
        for (int peer = 0; peer < size_; ++peer)
          if (peer != rank_) refuse_if_gone(peer, flows[static_cast<size_t>(peer)]);
      }
    }
  }

 private:
  // What is left between this rank and a peer: messages, and how far the first of them is; each begins with its length.
  struct Flow {
    std::deque<Message> out, in;
    uint64_t sent = 0, received = 0;
    Head head{};                     // of what is received
    uint64_t offered = 0;            // the count of long messages that has to be reached before the next one
    bool pending() const { return !out.empty() || !in.empty(); }
  };

  Ring& to(int peer) { return mine_->block().rings[peer]; }
  Ring& from(int peer) { return peers_[static_cast<size_t>(peer)].memory->block().rings[rank_]; }

  // Into the ring as much as fits, out of the ring as much as is there; whether anything was moved.
  bool advance(int peer, Flow& flow) {
    bool moved = false;
    while (!flow.out.empty() && send_some(peer, flow)) moved = true;
    while (!flow.in.empty() && receive_some(peer, flow)) moved = true;
    if (moved) {
      Block& theirs = peers_[static_cast<size_t>(peer)].memory->block();
      theirs.bell.fetch_add(1, std::memory_order_release);
      futex_wake(theirs.bell);
    }
    return moved;
  }

  static uint64_t in_ring(const Ring& ring) {   // a peer writes its half: what it says is not trusted
    const uint64_t held = ring.written.load(std::memory_order_acquire) - ring.read.load(std::memory_order_acquire);
    if (held > kRing) fail("BUG", "a ring of ", kRing, " bytes holds ", held);
    return held;
  }
  static void copy_in(Ring& ring, const void* data, uint64_t bytes) {
    const uint64_t at = ring.written.load(std::memory_order_relaxed), first = std::min(bytes, kRing - at % kRing);
    std::memcpy(ring.bytes + at % kRing, data, first);
    std::memcpy(ring.bytes, static_cast<const char*>(data) + first, bytes - first);
    ring.written.store(at + bytes, std::memory_order_release);
  }
  static void copy_out(Ring& ring, void* data, uint64_t bytes) {
    const uint64_t at = ring.read.load(std::memory_order_relaxed), first = std::min(bytes, kRing - at % kRing);
    std::memcpy(data, ring.bytes + at % kRing, first);
    std::memcpy(static_cast<char*>(data) + first, ring.bytes, bytes - first);
    ring.read.store(at + bytes, std::memory_order_release);
  }

  bool send_some(int peer, Flow& flow) {
    Ring& ring = to(peer);
    const Message& m = flow.out.front();
    const bool whole = flow.sent > sizeof(Head) || m.bytes < kLong || !peers_[static_cast<size_t>(peer)].memory->block().reaches[rank_].load(std::memory_order_relaxed);
    uint64_t room = kRing - in_ring(ring);
    if (flow.sent == 0) {
      if (room < sizeof(Head)) return false;
      const Head head{m.bytes, whole ? 0 : reinterpret_cast<uint64_t>(m.data)};
      if (!whole) flow.offered = ring.fetched.load(std::memory_order_acquire) + 1;
      copy_in(ring, &head, sizeof head);
      flow.sent = sizeof head;
      if (!whole) return true;
      room -= sizeof head;
    }
    uint64_t n = 0;
    if (whole) {
      n = std::min<uint64_t>({room, m.bytes - (flow.sent - sizeof(Head)), kRing / 4});
      if (n > 0) copy_in(ring, static_cast<const char*>(m.data) + (flow.sent - sizeof(Head)), n);
      flow.sent += n;
      if (flow.sent - sizeof(Head) < m.bytes) return n > 0;
    } else if (ring.fetched.load(std::memory_order_acquire) < flow.offered) {
      return false;
    }
    flow.out.pop_front();
    flow.sent = 0;
    return true;
  }

  bool receive_some(int peer, Flow& flow) {
    Ring& ring = from(peer);
    const Message& m = flow.in.front();
    uint64_t held = in_ring(ring);
    if (flow.received == 0) {
      if (held < sizeof(Head)) return false;
      copy_out(ring, &flow.head, sizeof flow.head);
      if (flow.head.bytes != m.bytes) {   // what follows could not be matched any more
        const std::string what = concat("rank ", peer, " sends ", flow.head.bytes, " bytes to rank ", rank_, ", which expects ", m.bytes);
        abort(what);
        throw Error("BUG", what);
      }
      flow.received = sizeof flow.head;
      held -= sizeof flow.head;
    }
    if (flow.head.at != 0) {
      fetch(peer, flow.head.at, m);
      ring.fetched.fetch_add(1, std::memory_order_release);
    } else {
      const uint64_t n = std::min<uint64_t>({held, m.bytes - (flow.received - sizeof(Head)), kRing / 4});
      if (n > 0) copy_out(ring, static_cast<char*>(m.data) + (flow.received - sizeof(Head)), n);
      flow.received += n;
      if (flow.received - sizeof(Head) < m.bytes) return n > 0;
    }
    flow.in.pop_front();
    flow.received = 0;
    return true;
  }

  void fetch(int peer, uint64_t at, const Message& m) {
    const Peer& p = peers_[static_cast<size_t>(peer)];
    for (uint64_t done = 0; done < m.bytes;) {
      iovec here{static_cast<char*>(m.data) + done, m.bytes - done}, there{reinterpret_cast<void*>(at + done), m.bytes - done};
      const ssize_t n = process_vm_readv(p.pid, &here, 1, &there, 1, 0);
      if (n <= 0) lose(concat("rank ", peer, " (process ", p.pid, "): its memory could not be read: ", std::strerror(errno)));
      done += static_cast<uint64_t>(n);
    }
  }

  void ring_bells() {
    for (Peer& p : peers_) {
      if (!p.memory) continue;
      p.memory->block().bell.fetch_add(1);
      futex_wake(p.memory->block().bell);
    }
  }

  void refuse_if_aborted() {
    for (int r = 0; r < size_; ++r) {
      const Block& b = r == rank_ ? mine_->block() : peers_[static_cast<size_t>(r)].memory->block();
      if (b.state.load(std::memory_order_acquire) == kAborted) lose(std::string(b.reason, strnlen(b.reason, sizeof b.reason)));
    }
  }
  void refuse_if_gone(int peer, Flow& flow) {
    if (!flow.pending()) return;
    const Peer& p = peers_[static_cast<size_t>(peer)];
    const bool ended = p.memory->block().state.load(std::memory_order_acquire) == kEnded;
    if (!ended && !p.gone()) return;
    if (advance(peer, flow) || !flow.pending()) return;   // what it did before its end counts
    lose(concat("rank ", peer, ended ? "" : concat(" (process ", p.pid, ")"), " has ended while rank ", rank_, " waited for it"));
  }
  [[noreturn]] void lose(const std::string& reason) {
    abort(reason);
    rank_lost(reason);
  }

  const int rank_, size_;
  const std::unique_ptr<Mapping> mine_;
  std::vector<Peer> peers_;   // by rank; none at this one
  std::mutex giving_up_;
};

class SharedMemoryEnd final : public OpenEnd {
 public:
  SharedMemoryEnd(int rank, int size) : rank_(rank), size_(size), fd_(static_cast<int>(syscall(SYS_memfd_create, "isr-dpo ranks", 1u /* close on exec */))) {
    if (!fd_ || ftruncate(fd_.get(), static_cast<off_t>(block_bytes(size))) != 0)
      throw Error("OUT_OF_MEMORY", concat("could not make ", block_bytes(size), " bytes of shared memory: ", std::strerror(errno)), "raise the limit of memory");
    mine_ = std::make_unique<Mapping>(fd_.get(), block_bytes(size), "rank " + concat(rank));
    mine_->block().magic = kMagic;
  }

  std::string address() const override { return concat(this_machine(), " ", getpid(), " ", fd_.get(), " ", reinterpret_cast<uint64_t>(&mine_->block())); }

  std::shared_ptr<HostLink> connect(const std::vector<std::string>& addresses) override {
    ISR_ASSERT(addresses.size() == static_cast<size_t>(size_) && mine_, addresses.size(), " addresses of ", size_, " ranks");
    std::vector<Peer> peers(addresses.size());
    for (int r = 0; r < size_; ++r)
      if (r != rank_) peers[static_cast<size_t>(r)] = reach(r, addresses[static_cast<size_t>(r)]);
    return std::make_shared<SharedMemory>(rank_, size_, std::move(mine_), std::move(peers));
  }

 private:
  Peer reach(int r, const std::string& address) const {
    std::istringstream words(address);
    std::string where;
    long pid = 0, fd = -1;
    uint64_t block = 0;
    if (!(words >> where >> pid >> fd >> block) || pid <= 0 || fd < 0) fail("INVALID_ARGUMENT", "rank ", r, ": expected an address of shared memory, got \"", address.substr(0, 100), "\"");
    constexpr const char* kElsewhere = "let the ranks speak over the network: transport \"gloo\"";
    if (where != this_machine()) throw Error("DEVICE_UNAVAILABLE", concat("rank ", r, " is on another machine or in another container than rank ", rank_), kElsewhere);
    Peer p;
    p.pid = static_cast<pid_t>(pid);
    p.process = Fd(static_cast<int>(syscall(SYS_pidfd_open, p.pid, 0)));
    const std::string path = concat("/proc/", pid, "/fd/", fd);
    const Fd memory(open(path.c_str(), O_RDWR | O_CLOEXEC));
    struct stat s {};
    if (!memory || fstat(memory.get(), &s) != 0 || static_cast<size_t>(s.st_size) != block_bytes(size_))
      throw Error("DEVICE_UNAVAILABLE", concat("rank ", r, ": its shared memory ", path, " cannot be opened: ", memory ? "it has another size" : std::strerror(errno)), kElsewhere);
    p.memory = std::make_unique<Mapping>(memory.get(), block_bytes(size_), concat("rank ", r));
    if (p.memory->block().magic != kMagic) fail("DEVICE_UNAVAILABLE", "rank ", r, ": ", path, " is no memory of a rank");
    mine_->block().reaches[r].store(reaches(p.pid, block));
    return p;
  }

  // Whether the system lets this process read that one's memory, tried on its block. ISR_DPO_RANKS_READ=0: it is not asked.
  static bool reaches(pid_t pid, uint64_t block) {
    const char* const asked = std::getenv("ISR_DPO_RANKS_READ");
    if (asked && std::strcmp(asked, "0") == 0) return false;
    uint64_t found = 0;
    iovec here{&found, sizeof found}, there{reinterpret_cast<void*>(block), sizeof found};
    return process_vm_readv(pid, &here, 1, &there, 1, 0) == sizeof found && found == kMagic;
  }

  const int rank_, size_;
  const Fd fd_;   // its peers open it, so it stays until all of them have
  std::unique_ptr<Mapping> mine_;
};

}  // namespace

std::string this_machine() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string boot;
  std::getline(file, boot);
  struct stat s {};
  stat("/proc/self/ns/pid", &s);
  return concat(boot, "/", s.st_ino);
}

std::unique_ptr<OpenEnd> open_shared_memory(const Opening& o) {
  if (o.size > kMostRanks) fail("INVALID_ARGUMENT", "size: at most ", kMostRanks, " ranks share the memory of a machine, got ", o.size);
  return std::make_unique<SharedMemoryEnd>(o.rank, o.size);
}

}  // namespace isr
