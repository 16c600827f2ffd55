#include "fibers.h"

#include <sys/mman.h>

#include <algorithm>
#include <exception>
#include <memory>
#include <numeric>
#include <vector>

#include "core/error.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

// Saves what a call has to keep and the stack pointer, and goes on with another stack.
extern "C" void isr_switch_stack(void** save, void* to);
asm(R"(
.text
.globl isr_switch_stack
.type isr_switch_stack, @function
isr_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size isr_switch_stack, .-isr_switch_stack
)");

namespace isr::emulated {
namespace {

constexpr size_t kStack = 256 << 10, kPage = 4096;

// What ThreadSanitizer takes for the order of things: the meetings of threads, and nothing of the emulation's own.
#if defined(__SANITIZE_THREAD__)
extern "C" void AnnotateIgnoreReadsBegin(const char*, int);
extern "C" void AnnotateIgnoreReadsEnd(const char*, int);
extern "C" void AnnotateIgnoreWritesBegin(const char*, int);
extern "C" void AnnotateIgnoreWritesEnd(const char*, int);
struct Unwatched {
  Unwatched() { AnnotateIgnoreReadsBegin(__FILE__, __LINE__), AnnotateIgnoreWritesBegin(__FILE__, __LINE__); }
  ~Unwatched() { AnnotateIgnoreWritesEnd(__FILE__, __LINE__), AnnotateIgnoreReadsEnd(__FILE__, __LINE__); }
};
void gives(void* tag) { __tsan_release(tag); }
void takes(void* tag) { __tsan_acquire(tag); }
#else
struct Unwatched { Unwatched() {} };
void gives(void*) {}
void takes(void*) {}
#endif

struct AsyncCopy { char* to; const char* from; bool valid; int group; };

struct Fiber {
  void* sp = nullptr;
  char* stack = nullptr;
  unsigned number = 0;                     // in its block
  Index index;
  bool over = false;
  const unsigned* waits_for = nullptr;     // a generation that has to move on; null: it can run
  unsigned generation = 0;
  const char* where = "";
  std::vector<AsyncCopy> copies;
  int group = 0;
#if defined(__SANITIZE_ADDRESS__)
  void* fake_stack = nullptr;
#endif
#if defined(__SANITIZE_THREAD__)
  void* tsan = nullptr;
#endif
};

struct Warp {                              // the meeting that its lanes are on their way to
  unsigned mask = 0, arrived = 0, generation = 0;
  const char* operation = "";
  const void* in[kWarp] = {};
  void* out[kWarp] = {};
};

struct Block {
  const char* kernel = "";
  const std::function<void()>* body = nullptr;
  Extent grid, extent;
  Index index;
  unsigned threads = 0, live = 0;
  unsigned arrived = 0, generation = 0;    // of the barrier
  BarrierResult gathered, result;
  std::vector<Warp> warps;
  char* shared = nullptr;
  size_t shared_bytes = 0;
  std::exception_ptr failure;
  char barrier_tag = 0, end_tag = 0;
};

unsigned g_schedule = 0;
thread_local Block* t_block = nullptr;
thread_local Fiber* t_fiber = nullptr;
thread_local Fiber t_host;                 // the thread that runs the grid
thread_local std::vector<std::unique_ptr<Fiber>> t_fibers;
#if defined(__SANITIZE_ADDRESS__)
thread_local const void* t_host_bottom = nullptr;
thread_local size_t t_host_size = 0;
#endif

void switch_to(Fiber& from, Fiber& to) {
  t_fiber = &to;
#if defined(__SANITIZE_ADDRESS__)
  const bool host = &to == &t_host;
  __sanitizer_start_switch_fiber(&from.fake_stack, host ? t_host_bottom : to.stack, host ? t_host_size : kStack);
#endif
#if defined(__SANITIZE_THREAD__)
  __tsan_switch_to_fiber(to.tsan, __tsan_switch_to_fiber_no_sync);
#endif
  isr_switch_stack(&from.sp, to.sp);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
#endif
}

void open_barrier(Block& b) {
  b.result = b.gathered;
  b.gathered = {};
  b.arrived = 0;
  ++b.generation;
}

void end_of_thread() {
  const Unwatched unwatched;
  Fiber& me = *t_fiber;
  Block& b = *t_block;
  gives(&b.end_tag);
  me.over = true;
  me.where = "its end";
  if (--b.live > 0 && b.arrived == b.live) open_barrier(b);   // threads that ended count as arrived
  switch_to(me, t_host);
}

[[noreturn]] void fiber_main() {
#if defined(__SANITIZE_ADDRESS__)
  const void* bottom = nullptr;
  size_t size = 0;
  __sanitizer_finish_switch_fiber(nullptr, &bottom, &size);
  if (!t_host_bottom) t_host_bottom = bottom, t_host_size = size;
#endif
  for (;;) {
    {
      const Unwatched unwatched;   // which block it is, nobody has told this fiber yet
      takes(&t_block->end_tag);
    }
    try {
      (*t_block->body)();
      if (!t_fiber->copies.empty()) kernel_error("ends before it has waited for its asynchronous copies");
    } catch (...) {
      if (!t_block->failure) t_block->failure = std::current_exception();
    }
    end_of_thread();
  }
}

// A fresh stack whose first switch enters fiber_main; a guard page below it.
void begin(Fiber& f, unsigned number, const Block& b) {
  if (!f.stack) {
    char* p = static_cast<char*>(mmap(nullptr, kStack + kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (p == MAP_FAILED) fail("OUT_OF_MEMORY", "no stack for an emulated thread");
    mprotect(p, kPage, PROT_NONE);
    f.stack = p + kPage;
    f.over = false;
    f.sp = nullptr;
#if defined(__SANITIZE_THREAD__)
    f.tsan = __tsan_create_fiber(0);
#endif
  }
  if (!f.sp || !f.over) {   // new, or left in the middle of a kernel that failed
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(f.stack, kStack);
    f.fake_stack = nullptr;
#endif
    void** top = reinterpret_cast<void**>(f.stack + kStack);
    *--top = nullptr;
    *--top = reinterpret_cast<void*>(&fiber_main);
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    f.sp = top;
  }
  f.number = number;
  f.index = {number % b.extent.x, number / b.extent.x % b.extent.y, number / (b.extent.x * b.extent.y)};
  f.over = false;
  f.waits_for = nullptr;
  f.where = "its begin";
  f.copies.clear();
  f.group = 0;
}

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15ull + 1) {}
  unsigned below(unsigned n) {
    state_ ^= state_ << 13, state_ ^= state_ >> 7, state_ ^= state_ << 17;
    return static_cast<unsigned>(state_ % n);
  }
  void shuffle(std::vector<unsigned>& v) {
    for (size_t i = v.size(); i > 1; --i) std::swap(v[i - 1], v[below(static_cast<unsigned>(i))]);
  }

 private:
  uint64_t state_;
};

bool can_run(const Fiber& f) { return !f.over && !(f.waits_for && *f.waits_for == f.generation); }

[[noreturn]] void deadlock(const Block& b) {
  std::string who;
  int named = 0;
  for (unsigned i = 0; i < b.threads && named < 6; ++i)
    if (!t_fibers[i]->over) who += concat(named++ ? ", " : "", "thread ", i, " at ", t_fibers[i]->where);
  throw Error("BUG", concat(b.kernel, ": ", b.live, " of ", b.threads, " threads wait for others that never come: ", who));
}

// Runs the threads that can run, each until it waits. In random order, where one warp goes ahead of all others.
void round(const Block& b, std::vector<unsigned>& order, Random& random) {
  bool ran = false;
  const auto step = [&](unsigned i) {
    Fiber& f = *t_fibers[i];
    if (!can_run(f)) return false;
    switch_to(t_host, f);
    return ran = true;
  };
  if (g_schedule & 1) {
    random.shuffle(order);
    const unsigned warps = static_cast<unsigned>(b.warps.size()), first = random.below(warps);
    for (unsigned w = 0; w < warps; ++w)
      for (bool moved = true; moved;) {
        moved = false;
        for (const unsigned i : order)
          if (i / kWarp == (first + w) % warps) moved |= step(i);
      }
  }
  for (const unsigned i : order) step(i);
  if (!ran) deadlock(b);
}

void run_block(Block& b, Random& random) {
  const Unwatched unwatched;
  if (b.shared_bytes > 0) std::memset(b.shared, 0xFF, b.shared_bytes);
  b.live = b.threads;
  b.arrived = 0;
  b.gathered = {};
  b.warps.assign((b.threads + kWarp - 1) / kWarp, {});
  std::vector<unsigned> order(b.threads);
  std::iota(order.begin(), order.end(), 0u);
  for (unsigned i = 0; i < b.threads; ++i) begin(*t_fibers[i], i, b);
  counters().threads += b.threads;
  gives(&b.end_tag);
  while (b.live > 0 && !b.failure) round(b, order, random);
  takes(&b.end_tag);
  if (b.failure) std::rethrow_exception(b.failure);
}

void wait_for(const char* where, const unsigned* generation, unsigned value) {
  Fiber& me = *t_fiber;
  me.where = where;
  me.waits_for = generation;
  me.generation = value;
  switch_to(me, t_host);
  me.waits_for = nullptr;
}

void land(const AsyncCopy& c) {
  if (c.valid) std::memcpy(c.to, c.from, 16);
  else std::memset(c.to, 0, 16);
}

}  // namespace

void set_schedule(unsigned schedule) { g_schedule = schedule; }

Counters& counters() {
  thread_local Counters all;
  return all;
}

void run_grid(const char* name, Extent grid, Extent block, size_t shared_bytes, const std::function<void()>& body) {
  const uint64_t threads = uint64_t{block.x} * block.y * block.z, blocks = uint64_t{grid.x} * grid.y * grid.z;
  ISR_ASSERT(!t_block, name, ": a kernel inside of a kernel");
  ISR_ASSERT(threads > 0 && threads <= kMaxThreads && block.z <= 64, name, ": ", threads, " threads in a block");
  ISR_ASSERT(blocks > 0 && grid.x <= 0x7fffffffu && grid.y <= 65535 && grid.z <= 65535, name, ": a grid of ", grid.x, " x ", grid.y, " x ", grid.z);
  ISR_ASSERT(shared_bytes <= kMaxShared, name, ": ", shared_bytes, " bytes of shared memory");
  Block b;
  b.kernel = name, b.body = &body, b.grid = grid, b.extent = block, b.threads = static_cast<unsigned>(threads), b.shared_bytes = shared_bytes;
  const size_t room = (shared_bytes + 127) / 128 * 128 + 128;   // behind it: a zone that AddressSanitizer watches
  const std::unique_ptr<char, void (*)(char*)> shared(static_cast<char*>(std::aligned_alloc(128, room)), [](char* p) { std::free(p); });
  b.shared = shared.get();
#if defined(__SANITIZE_ADDRESS__)
  __asan_poison_memory_region(b.shared + shared_bytes, room - shared_bytes);
#endif
#if defined(__SANITIZE_THREAD__)
  t_host.tsan = __tsan_get_current_fiber();
#endif
  while (t_fibers.size() < threads) t_fibers.push_back(std::make_unique<Fiber>());
  Random random(g_schedule);
  std::vector<unsigned> order(blocks);
  std::iota(order.begin(), order.end(), 0u);
  if (g_schedule & 1) random.shuffle(order);
  t_block = &b;
  std::exception_ptr failure;
  try {
    for (const unsigned i : order) {
      b.index = {i % grid.x, i / grid.x % grid.y, i / (grid.x * grid.y)};
      run_block(b, random);
    }
  } catch (...) {
    failure = std::current_exception();
  }
  t_block = nullptr;
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(b.shared + shared_bytes, room - shared_bytes);
#endif
  if (failure) std::rethrow_exception(failure);
}

Index thread_index() { return t_fiber->index; }
Index block_index() { return t_block->index; }
Extent block_extent() { return t_block->extent; }
Extent grid_extent() { return t_block->grid; }
unsigned lane() { return t_fiber->number % kWarp; }
char* shared_memory() { return t_block->shared; }
size_t shared_bytes() { return t_block->shared_bytes; }

void kernel_error(const std::string& what) {
  const Index b = t_block->index;
  throw Error("BUG", concat(t_block->kernel, ": block ", b.x, ",", b.y, ",", b.z, " thread ", t_fiber->number, " ", what));
}

BarrierResult barrier(bool predicate) {
  BarrierResult result;
  {
    const Unwatched unwatched;
    Block& b = *t_block;
    ++counters().barriers;
    const unsigned generation = b.generation;
    b.gathered.any |= predicate;
    b.gathered.count += predicate;
    gives(&b.barrier_tag);
    if (++b.arrived == b.live) open_barrier(b);
    while (b.generation == generation) wait_for("a barrier", &b.generation, generation);
    takes(&b.barrier_tag);
    result = b.result;
  }
  return result;
}

void meet(unsigned mask, const char* operation, const void* in, void* out, Combine combine, const void* with) {
  const Unwatched unwatched;
  Block& b = *t_block;
  Warp& w = b.warps[t_fiber->number / kWarp];
  const unsigned left = b.threads - t_fiber->number / kWarp * kWarp, bit = 1u << lane();
  if (left < kWarp) mask &= (1u << left) - 1;
  ++counters().warp_operations;
  if (!(mask & bit)) kernel_error(concat("is not in its own mask of ", operation));
  while (w.arrived && (w.mask != mask || std::strcmp(w.operation, operation) != 0)) {
    if (w.mask & mask) kernel_error(concat("comes to ", operation, " while its warp waits at ", w.operation));
    wait_for(operation, &w.generation, w.generation);
  }
  w.mask = mask;
  w.operation = operation;
  w.in[lane()] = in;
  w.out[lane()] = out;
  w.arrived |= bit;
  const unsigned generation = w.generation;
  gives(&w);
  if (w.arrived == mask) {
    takes(&w);
    combine(with, {w.in, w.out});
    gives(&w);
    w.arrived = 0;
    ++w.generation;
    std::fill(std::begin(w.in), std::end(w.in), nullptr);
  } else {
    while (w.generation == generation) wait_for(operation, &w.generation, generation);
  }
  takes(&w);
}

void async_copy(void* shared, const void* global, bool valid) {
  AsyncCopy c{static_cast<char*>(shared), static_cast<const char*>(global), valid, 0};
  {
    const Unwatched unwatched;
    if ((reinterpret_cast<uintptr_t>(shared) | reinterpret_cast<uintptr_t>(global)) & 15) kernel_error("copies to or from an address that is no multiple of 16");
    const char* s = t_block->shared;
    if (c.to < s || c.to + 16 > s + t_block->shared_bytes) kernel_error("copies to outside of its shared memory");
    ++counters().async_copies;
    c.group = t_fiber->group;
    t_fiber->copies.push_back(c);
  }
  if (g_schedule & 2) land(c);   // and once more at its wait would hide an overwrite: see async_wait
}

void async_commit() { ++t_fiber->group; }

void async_wait(int open) {
  std::vector<AsyncCopy> due;
  {
    const Unwatched unwatched;
    auto& all = t_fiber->copies;
    const auto later = std::stable_partition(all.begin(), all.end(), [&](const AsyncCopy& c) { return c.group < t_fiber->group - open; });
    due.assign(all.begin(), later);
    all.erase(all.begin(), later);
  }
  if (!(g_schedule & 2))
    for (const AsyncCopy& c : due) land(c);
}

}  // namespace isr::emulated
