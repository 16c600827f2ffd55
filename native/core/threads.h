// One thread pool for the whole process (all environments, models and worker_threads share it).
// Regions of different callers are taken in turn, one at a time; chunks go to whoever is free, so results must not
// depend on who computes what. A region that fits in one chunk runs inline on the caller.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <type_traits>

namespace isr {

// Reference to a callable, without allocation; the callable outlives the call.
template <class>
class FunctionRef;
template <class R, class... A>
class FunctionRef<R(A...)> {
 public:
  template <class F, class = std::enable_if_t<!std::is_same_v<std::decay_t<F>, FunctionRef>>>
  FunctionRef(F&& f)
      : object_(const_cast<void*>(static_cast<const void*>(std::addressof(f)))),
        call_([](void* o, A... a) -> R { return (*static_cast<std::remove_reference_t<F>*>(o))(a...); }) {}
  R operator()(A... a) const { return call_(object_, a...); }

 private:
  void* object_;
  R (*call_)(void*, A...);
};

// body(begin, end, worker): worker is in [0, workers_of(threads, n, grain)) and unique among those running at one time
// (scratch per worker).
using ParallelBody = FunctionRef<void(int64_t begin, int64_t end, int worker)>;

// Runs body over [0, n) in chunks of `grain` with at most `threads` workers, the caller being one. Regions do not nest,
// whatever their size: the inner one would use the scratch of another worker (BUG).
// The first exception is rethrown here when every worker has left the region. OUT_OF_MEMORY: the system refused a thread;
// then no chunk has run.
void parallel(int threads, int64_t n, int64_t grain, ParallelBody body);

// The threads of a backend. Idle: its device only counts (core/device.h), so regions run nothing, and kernels ask for their
// memory without computing.
struct Crew {
  int threads = 1;
  bool idle = false;
  operator int() const { return threads; }
};
inline void parallel(const Crew& crew, int64_t n, int64_t grain, ParallelBody body) {
  if (!crew.idle) parallel(crew.threads, n, grain, body);
}

// How many workers a region has at most: never more than it has chunks.
inline int workers_of(int threads, int64_t n, int64_t grain) {
  const int64_t chunks = grain < 1 ? n : n / grain + (n % grain != 0);
  return static_cast<int>(chunks < 1 ? 1 : chunks < threads ? chunks : threads < 1 ? 1 : threads);
}

bool inside_region();   // whether the calling thread runs a region's body

// Starts what a region of so many workers needs, so that later ones cannot be refused a thread.
void reserve_threads(int threads);

// While one lives, regions and check_cancelled() of its thread throw Cancelled once the flag is set: work that has no
// place of its own to ask (a kernel over long rows, a hash) stops at the next chunk. Null: nothing stops, for work that
// must not end half done.
struct CancelScope {
  explicit CancelScope(const std::atomic<bool>* flag);
  ~CancelScope();
  CancelScope(const CancelScope&) = delete;

 private:
  const std::atomic<bool>* before_;
};
void check_cancelled();

// At least four chunks a thread, so that a stolen core costs one chunk; never below min_grain.
inline int64_t grain_for(int threads, int64_t n, int64_t min_grain = 1) {
  const int64_t g = n / (4 * threads);
  return g < min_grain ? min_grain : g;
}

int pool_threads();   // threads started so far besides callers; 0 before first use

}  // namespace isr
