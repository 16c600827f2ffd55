#include "core/threads.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "core/error.h"
#include "core/progress.h"

namespace isr {
namespace {

thread_local bool in_region = false;      // set on callers while they are in one, always on pool threads
thread_local const std::atomic<bool>* cancel_flag = nullptr;

constexpr int kMaxWorkers = 255;
constexpr int kSpins = 2000;  // about 20 microseconds of pauses before sleeping

void cpu_relax() { __builtin_ia32_pause(); }

void futex_wait(std::atomic<uint32_t>& word, uint32_t seen) {
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
}
void futex_wake_all(std::atomic<uint32_t>& word) {
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAKE_PRIVATE, 1 << 30, nullptr, nullptr, 0);
}

// Waits until word != seen: a short spin, then sleep.
void wait_change(std::atomic<uint32_t>& word, uint32_t seen) {
  for (int i = 0; i < kSpins; ++i) {
    if (word.load(std::memory_order_acquire) != seen) return;
    cpu_relax();
  }
  while (word.load(std::memory_order_acquire) == seen) futex_wait(word, seen);
}

struct Region {
  const ParallelBody* body = nullptr;
  int64_t n = 0, grain = 1;
  int helpers = 0;                      // pool threads that may join
  const std::atomic<bool>* cancel = nullptr;
  std::atomic<int64_t> next{0};
  std::mutex error_mutex;
  std::exception_ptr error;

  void work(int worker) {
    try {
      for (;;) {
        const int64_t begin = next.fetch_add(grain, std::memory_order_relaxed);
        if (begin >= n) return;
        if (cancel && cancel->load(std::memory_order_relaxed)) throw Cancelled();
        (*body)(begin, begin + grain < n ? begin + grain : n, worker);
      }
    } catch (...) {
      next.store(n, std::memory_order_relaxed);  // nobody starts another chunk
      std::lock_guard lock(error_mutex);
      if (!error) error = std::current_exception();
    }
  }
};

class Pool {
 public:
  static Pool& instance() {
    // Leaked on purpose: pool threads may outlive every environment, and static destruction must not race them.
    static Pool* pool = new Pool;
    return *pool;
  }

  void run(int threads, int64_t n, int64_t grain, const ParallelBody& body) {
    refuse_fork();
    Turn turn(*this);
    grow(threads - 1);
    Region region;
    region.body = &body;
    region.n = n;
    region.grain = grain;
    region.helpers = threads - 1;
    region.cancel = cancel_flag;
    region_ = &region;
    pending_.store(static_cast<uint32_t>(workers_), std::memory_order_relaxed);
    generation_.fetch_add(1, std::memory_order_release);
    if (sleepers_.load(std::memory_order_seq_cst) > 0) futex_wake_all(generation_);
    region.work(0);
    for (uint32_t left; (left = pending_.load(std::memory_order_acquire)) != 0;) wait_change(pending_, left);
    region_ = nullptr;
    if (region.error) std::rethrow_exception(region.error);
  }

  void reserve(int threads) {
    refuse_fork();
    Turn turn(*this);   // a region counts the pool's threads while it runs
    grow(threads - 1);
  }

  int workers() {
    std::lock_guard lock(turn_mutex_);
    return workers_;
  }

 private:
  // Callers of different models are served in the order of arrival, one region at a time.
  struct Turn {
    explicit Turn(Pool& p) : pool(p) {
      std::unique_lock lock(p.turn_mutex_);
      const uint64_t ticket = p.tickets_++;
      p.turn_cv_.wait(lock, [&] { return p.serving_ == ticket; });
    }
    ~Turn() {
      std::lock_guard lock(pool.turn_mutex_);
      ++pool.serving_;
      pool.turn_cv_.notify_all();
    }
    Pool& pool;
  };

  Pool() {
    pthread_atfork(nullptr, nullptr, [] { instance().forked_.store(true); });
  }

  void refuse_fork() const {
    if (forked_.load()) throw Error("BUG", "the process was forked after its thread pool had started",
                                    "start a fresh process (child_process, cluster) instead of fork()");
  }

  void grow(int wanted) {
    std::lock_guard lock(turn_mutex_);
    while (workers_ < wanted && workers_ < kMaxWorkers) {
      const int id = workers_ + 1;
      try {
        std::thread([this, id, seen = generation_.load()] { loop(id, seen); }).detach();
      } catch (const std::system_error& e) {
        throw Error("OUT_OF_MEMORY", concat("expected ", wanted, " threads beside the caller's, but the system refused one after ", workers_, ": ", e.what()),
                    "ask for fewer threads, or raise the limit on processes (ulimit -u, cgroup pids.max)");
      }
      ++workers_;
    }
  }

  void loop(int id, uint32_t seen) {
    in_region = true;
    for (;;) {
      sleepers_.fetch_add(1, std::memory_order_seq_cst);
      wait_change(generation_, seen);
      sleepers_.fetch_sub(1, std::memory_order_seq_cst);
      seen = generation_.load(std::memory_order_acquire);
      Region* region = region_;
      if (id <= region->helpers) region->work(id);
      if (pending_.fetch_sub(1, std::memory_order_acq_rel) == 1) futex_wake_all(pending_);
    }
  }

  std::mutex turn_mutex_;
  std::condition_variable turn_cv_;
  uint64_t tickets_ = 0, serving_ = 0;
  int workers_ = 0;
  Region* region_ = nullptr;
  std::atomic<uint32_t> generation_{0}, pending_{0};
  std::atomic<int> sleepers_{0};
  std::atomic<bool> forked_{false};
};

std::atomic<bool> pool_started{false};

}  // namespace

void parallel(int threads, int64_t n, int64_t grain, ParallelBody body) {
  if (n <= 0) return;
  if (grain < 1) grain = 1;
  ISR_ASSERT(!in_region, "parallel regions do not nest");
  check_cancelled();
  struct Inside {
    Inside() { in_region = true; }
    ~Inside() { in_region = false; }
  } inside;
  const int workers = workers_of(threads < kMaxWorkers ? threads : kMaxWorkers, n, grain);
  if (workers == 1) {
    if (!cancel_flag) return body(0, n, 0);
    for (int64_t begin = 0; begin < n; begin += grain) {   // one thread stops between chunks too
      if (begin > 0) check_cancelled();
      body(begin, n - begin > grain ? begin + grain : n, 0);
    }
    return;
  }
  pool_started.store(true);
  Pool::instance().run(workers, n, grain, body);
}

bool inside_region() { return in_region; }

void reserve_threads(int threads) {
  if (threads <= 1) return;
  pool_started.store(true);
  Pool::instance().reserve(threads < kMaxWorkers ? threads : kMaxWorkers);
}

CancelScope::CancelScope(const std::atomic<bool>* flag) : before_(cancel_flag) { cancel_flag = flag; }
CancelScope::~CancelScope() { cancel_flag = before_; }
void check_cancelled() {
  if (!in_region) sign_of_progress();
  if (cancel_flag && cancel_flag->load(std::memory_order_relaxed)) throw Cancelled();
}

int pool_threads() { return pool_started.load() ? Pool::instance().workers() : 0; }

}  // namespace isr
