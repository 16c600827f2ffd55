// CUDA's threads on a host without a GPU: the threads of a block are fibers of one host thread, which meet at barriers and at
// operations of their warp. Blocks run one at a time, in an order that no kernel may depend on. A kernel that waits where
// not all of its threads come, or whose warp comes apart, is an error with the names of both places.
//
// What a schedule varies: the order of threads and blocks, whether one warp runs ahead as far as it can, and whether an
// asynchronous copy lands at once or as late as its wait allows. Kernels that are right have the same bits under all of them.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>

namespace isr::emulated {

constexpr unsigned kWarp = 32, kMaxThreads = 1024;
constexpr size_t kMaxShared = 227 * 1024;   // bytes of a block on sm_90

struct Index { unsigned x = 0, y = 0, z = 0; };
struct Extent {
  unsigned x = 1, y = 1, z = 1;
  constexpr Extent(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

constexpr unsigned kSchedules = 4;
void set_schedule(unsigned schedule);   // 0: in order, late copies. Bit 0: one warp ahead, in random order; bit 1: early copies

struct Counters {
  uint64_t threads = 0, barriers = 0, warp_operations = 0, mma = 0, ldmatrix = 0, conflicts = 0, async_copies = 0;
};
Counters& counters();

// Runs a kernel: `body` once per thread. Throws Error "BUG" for a launch that CUDA would refuse, and for what a kernel did wrong.
void run_grid(const char* name, Extent grid, Extent block, size_t shared_bytes, const std::function<void()>& body);

// ---- inside a kernel
Index thread_index();
Index block_index();
Extent block_extent();
Extent grid_extent();
unsigned lane();
char* shared_memory();                                    // of the block; what nobody has written is NaN
size_t shared_bytes();
[[noreturn]] void kernel_error(const std::string& what);  // named by kernel and thread

struct BarrierResult { int any = 0, count = 0; };
BarrierResult barrier(bool predicate = false);

// All lanes of `mask` meet: each gives `in`, `combine` runs once with a view of all, each takes its `out`.
struct Meeting {
  const void* const* in;   // by lane; of lanes that are not in the mask, null
  void* const* out;
};
using Combine = void (*)(const void* with, const Meeting&);
void meet(unsigned mask, const char* operation, const void* in, void* out, Combine combine, const void* with);
template <class F>   // owns nothing: a thread may be left here for good when another one fails
void meet(unsigned mask, const char* operation, const void* in, void* out, const F& combine) {
  meet(mask, operation, in, out, [](const void* f, const Meeting& m) { (*static_cast<const F*>(f))(m); }, &combine);
}

// An asynchronous copy of 16 bytes (zeros where `valid` is false), groups of them, and the wait for all but the latest `open` groups.
void async_copy(void* shared, const void* global, bool valid);
void async_commit();
void async_wait(int open);

}  // namespace isr::emulated
