// CUDA's runtime without a GPU. Device memory is address space that is open while a stream works and closed otherwise; a block
// of it ends at a page that nothing is mapped to, so that whoever reads or writes behind it faults. Streams are queues that run when
// somebody waits for them: as late as CUDA allows, and in order.
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "core/error.h"
#include "include/cuda_runtime.h"
#include "runtime.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace isr::emulated {

struct Graph {
  std::vector<std::function<void()>> work;
};
struct Stream {
  int device = 0;
  uint64_t number = 0;             // of all that there have been: an address may be used again
  bool at_work = false;            // its first piece of work is being tried
  std::deque<std::function<bool()>> queue;
  uint64_t queued = 0, done = 0;   // numbers of what was put in and has run
  Graph* recorded = nullptr;       // what is put in goes there instead
};
struct GraphExec {
  std::vector<std::function<void()>> work;
  Stream* stream = nullptr;
  uint64_t after = 0;              // its latest launch ends there
};
struct Event {
  bool timed = true;
  Stream* stream = nullptr;
  uint64_t after = 0;              // what has to have run
  std::shared_ptr<double> at;      // milliseconds, when it had
};

namespace {

constexpr size_t kSpace = size_t{1} << 36, kPage = 4096, kAlign = 64;

struct Machine {
  std::recursive_mutex lock;
  char* space = nullptr;
  size_t end = kPage, used = 0, limit = size_t{8} << 30;
  std::map<char*, size_t> live;               // what was given, bytes
  std::map<size_t, std::deque<char*>> old;    // pages that were given back, by their size; the oldest is used first
  std::map<char*, size_t> pinned;
  std::set<Stream*> streams;
  size_t events = 0, graphs = 0, launched = 0, waits = 0;
  uint64_t numbers = 0;            // of streams
  int devices = 1, driver = cudaSuccess, open = 0, major = 9, minor = 0;

  Machine() {
    void* p = mmap(nullptr, kSpace, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) fail("OUT_OF_MEMORY", "no address space for the emulated device");
    space = static_cast<char*>(p);
  }
};

Machine& machine() {
  static Machine* all = new Machine;   // never destroyed: backends of other static objects may outlive it
  return *all;
}

using Hold = std::lock_guard<std::recursive_mutex>;

size_t size_of_block(size_t bytes) { return (std::max<size_t>(bytes, 1) + kAlign - 1) / kAlign * kAlign; }
size_t pages_of(size_t bytes) { return (size_of_block(bytes) + kPage - 1) / kPage * kPage; }   // a block begins in the first of them
char* base_of(char* p) { return machine().space + (p - machine().space) / kPage * kPage; }

// Device memory is open while one lives: that of blocks which exist.
struct Open {
  Open() {
    Machine& m = machine();
    if (m.open++ > 0) return;
    for (const auto& [p, bytes] : m.live) mprotect(base_of(p), pages_of(bytes), PROT_READ | PROT_WRITE);
  }
  ~Open() {
    Machine& m = machine();
    if (--m.open > 0) return;
    for (const auto& [p, bytes] : m.live) mprotect(base_of(p), pages_of(bytes), PROT_NONE);
  }
};

// Runs a stream's work up to a number, as far as it waits for nothing outside.
void progress(Stream& s, uint64_t until) {
  const Open open;
  while (s.done < until && !s.at_work) {
    s.at_work = true;
    const bool done = s.queue.front()();
    s.at_work = false;
    if (!done) return;
    s.queue.pop_front();
    ++s.done;
  }
}
// Under the lock, which others get while the stream waits for something outside.
void drain(Stream* s, uint64_t until) {
  Machine& m = machine();
  for (;;) {
    if (!m.streams.count(s)) return;   // it has ended meanwhile
    progress(*s, until);
    if (s->done >= until) return;
    m.lock.unlock();
    std::this_thread::sleep_for(std::chrono::microseconds(50));
    m.lock.lock();
  }
}

// Whether a pointer leads into a block of the device, and what it names ends in it; false for memory of the host's.
bool on_device(const void* p, size_t bytes) {
  Machine& m = machine();
  char* const at = static_cast<char*>(const_cast<void*>(p));
  if (at < m.space || at >= m.space + kSpace) return false;
  auto block = m.live.upper_bound(at);
  ISR_ASSERT(block != m.live.begin(), "an address of the device's that was never given");
  --block;
  ISR_ASSERT(at + bytes <= block->first + block->second, "an address of the device's behind the end of its block, or of one that was given back");
  return true;
}

bool is_pinned(const void* p) {
  Machine& m = machine();
  char* const at = static_cast<char*>(const_cast<void*>(p));
  auto block = m.pinned.upper_bound(at);
  return block != m.pinned.begin() && at < std::prev(block)->first + std::prev(block)->second;
}

thread_local const char* t_next_kernel = "a kernel";
thread_local int t_device = 0;
thread_local int t_recording = 0;   // streams that this thread records: it may not ask for what is not part of a stream's work

}  // namespace

void enqueue(Stream* stream, std::function<void()> work) {
  ISR_ASSERT(stream, "work for the default stream, which orders itself with every other one");
  const Hold hold(machine().lock);
  if (stream->recorded) return stream->recorded->work.push_back(std::move(work));
  stream->queue.push_back([work = std::move(work)] { return work(), true; });
  ++stream->queued;
}
void enqueue_until(Stream* stream, std::function<bool()> work) {
  const Hold hold(machine().lock);
  ISR_ASSERT(!stream->recorded, "work that waits for others in a graph");
  stream->queue.push_back(std::move(work));
  ++stream->queued;
}
void name_next_kernel(const char* name) { t_next_kernel = name; }
const char* kernel_name() { return t_next_kernel; }

// Under the lock as everything: communicators of a test that has ended may still be giving back what they had.
void set_devices(int count, int driver_error) {
  const Hold hold(machine().lock);
  machine().devices = count;
  machine().driver = driver_error;
}
void keep_memory_open() {
  const Hold hold(machine().lock);
  ++machine().open;
}
void set_capability(int major, int minor) {
  const Hold hold(machine().lock);
  machine().major = major, machine().minor = minor;
}
void set_device_memory(size_t bytes) {
  const Hold hold(machine().lock);
  machine().limit = bytes;
}
size_t device_memory_used() {
  const Hold hold(machine().lock);
  return machine().used;
}
size_t things_held() {
  const Machine& m = machine();
  const Hold hold(machine().lock);
  return m.live.size() + m.pinned.size() + m.streams.size() + m.events + m.graphs;
}
size_t graphs_launched() {
  const Hold hold(machine().lock);
  return machine().launched;
}
size_t waits() {
  const Hold hold(machine().lock);
  return machine().waits;
}

}  // namespace isr::emulated

using namespace isr::emulated;

const char* cudaGetErrorName(cudaError_t e) {
  switch (e) {
    case cudaSuccess: return "cudaSuccess";
    case cudaErrorInvalidValue: return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
    case cudaErrorInsufficientDriver: return "cudaErrorInsufficientDriver";
    case cudaErrorNoDevice: return "cudaErrorNoDevice";
    case cudaErrorInvalidDevice: return "cudaErrorInvalidDevice";
    case cudaErrorNotReady: return "cudaErrorNotReady";
    case cudaErrorStreamCaptureUnsupported: return "cudaErrorStreamCaptureUnsupported";
  }
  return "an error of CUDA's";
}
const char* cudaGetErrorString(cudaError_t e) { return cudaGetErrorName(e); }
cudaError_t cudaGetLastError() { return cudaSuccess; }

cudaError_t cudaGetDeviceCount(int* count) {
  Machine& m = machine();
  const Hold hold(m.lock);
  if (m.driver != cudaSuccess) return static_cast<cudaError_t>(m.driver);
  *count = m.devices;
  return m.devices > 0 ? cudaSuccess : cudaErrorNoDevice;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int device) {
  const Hold hold(machine().lock);
  const Machine& m = machine();
  if (device < 0 || device >= m.devices) return cudaErrorInvalidDevice;
  *p = {"an emulated card", m.limit, m.major, m.minor};
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  const Hold hold(machine().lock);
  if (device < 0 || device >= machine().devices) return cudaErrorInvalidDevice;
  t_device = device;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetPCIBusId(char* text, int length, int device) {
  if (device < 0 || device >= machine().devices) return cudaErrorInvalidDevice;
  std::snprintf(text, static_cast<size_t>(length), "0000:%02x:00.0", device);
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* available, size_t* total) {
  const Hold hold(machine().lock);
  *total = machine().limit;
  *available = machine().limit - std::min(machine().used, machine().limit);
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** p, size_t bytes) {
  Machine& m = machine();
  const Hold hold(m.lock);
  if (t_recording > 0) return cudaErrorStreamCaptureUnsupported;
  if (m.used + bytes > m.limit) return cudaErrorMemoryAllocation;
  const size_t pages = pages_of(bytes), size = size_of_block(bytes);
  auto& old = m.old[pages];
  char* base;
  if (!old.empty() && old.size() > 16) {
    base = old.front();
    old.pop_front();
  } else {
    if (m.end + pages + kPage > kSpace) return cudaErrorMemoryAllocation;
    base = m.space + m.end;
    m.end += pages + kPage;
  }
  char* const at = base + pages - size;
  mprotect(base, pages, PROT_READ | PROT_WRITE);
#if defined(__SANITIZE_ADDRESS__)
  __asan_poison_memory_region(base, pages);
  __asan_unpoison_memory_region(at, bytes);
#endif
  std::fill_n(at, bytes, static_cast<char>(0xFF));   // what nobody has written is NaN
  if (m.open == 0) mprotect(base, pages, PROT_NONE);
  m.live[at] = bytes;
  m.used += bytes;
  *p = at;
  return cudaSuccess;
}
// Waits for the device, as CUDA's does.
cudaError_t cudaFree(void* p) {
  Machine& m = machine();
  const Hold hold(m.lock);
  if (!p) return cudaSuccess;
  if (t_recording > 0) return cudaErrorStreamCaptureUnsupported;
  ++m.waits;
  for (Stream* s : std::set(m.streams))
    if (m.streams.count(s) && s->device == t_device) drain(s, s->queued);   // the other cards go on
  const auto block = m.live.find(static_cast<char*>(p));
  if (block == m.live.end()) return cudaErrorInvalidValue;
  const size_t pages = pages_of(block->second);
  char* const base = base_of(block->first);
  m.used -= block->second;
  m.live.erase(block);
  madvise(base, pages, MADV_DONTNEED);
  mprotect(base, pages, PROT_NONE);
  m.old[pages].push_back(base);
  return cudaSuccess;
}
cudaError_t cudaMallocHost(void** p, size_t bytes) {
  const Hold hold(machine().lock);
  *p = std::malloc(std::max<size_t>(bytes, 1));
  if (!*p) return cudaErrorMemoryAllocation;
  machine().pinned[static_cast<char*>(*p)] = bytes;
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* p) {
  const Hold hold(machine().lock);
  if (!p) return cudaSuccess;
  if (machine().pinned.erase(static_cast<char*>(p)) == 0) return cudaErrorInvalidValue;
  std::free(p);
  return cudaSuccess;
}

// Memory of the host that is not pinned is read before the call returns, and written before it returns.
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  const Hold hold(machine().lock);
  const bool to_device = on_device(to, bytes), from_device = on_device(from, bytes);
  const cudaMemcpyKind is = to_device ? (from_device ? cudaMemcpyDeviceToDevice : cudaMemcpyHostToDevice)
                                      : (from_device ? cudaMemcpyDeviceToHost : cudaMemcpyHostToHost);
  if (kind != is && kind != cudaMemcpyDefault) return cudaErrorInvalidValue;
  const bool waits = is == cudaMemcpyDeviceToHost && !is_pinned(to);
  if (waits && stream->recorded) return cudaErrorStreamCaptureUnsupported;
  if (is == cudaMemcpyHostToDevice && !is_pinned(from)) {
    const std::shared_ptr<char[]> staged(new char[std::max<size_t>(bytes, 1)]);
    std::copy_n(static_cast<const char*>(from), bytes, staged.get());
    enqueue(stream, [=] { std::copy_n(staged.get(), bytes, static_cast<char*>(to)); });
    return cudaSuccess;
  }
  enqueue(stream, [=] { std::copy_n(static_cast<const char*>(from), bytes, static_cast<char*>(to)); });
  if (waits) ++machine().waits, drain(stream, stream->queued);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t stream) {
  const Hold hold(machine().lock);
  if (!on_device(p, bytes)) return cudaErrorInvalidValue;
  enqueue(stream, [=] { std::fill_n(static_cast<char*>(p), bytes, static_cast<char>(value)); });
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  const Hold hold(machine().lock);
  *stream = new Stream{t_device, ++machine().numbers};
  machine().streams.insert(*stream);
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const Hold hold(machine().lock);
  drain(stream, stream->queued);
  machine().streams.erase(stream);
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  const Hold hold(machine().lock);
  if (stream->recorded) return cudaErrorStreamCaptureUnsupported;
  ++machine().waits;
  drain(stream, stream->queued);
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  const Hold hold(machine().lock);
  if (stream->recorded) return cudaErrorStreamCaptureUnsupported;   // CUDA could, in a graph of several streams
  if (!event->stream) return cudaSuccess;
  enqueue_until(stream, [on = event->stream, number = event->stream->number, after = event->after] {
    if (!machine().streams.count(on) || on->number != number) return true;   // it has ended, with all that it had to do
    progress(*on, after);
    return on->done >= after;
  });
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  const Hold hold(machine().lock);
  *event = new Event{(flags & cudaEventDisableTiming) == 0};
  ++machine().events;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  const Hold hold(machine().lock);
  delete event;
  --machine().events;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const Hold hold(machine().lock);
  if (stream->recorded) return cudaErrorStreamCaptureUnsupported;
  event->at = std::make_shared<double>(0);
  if (event->timed)
    enqueue(stream, [at = event->at] { *at = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count(); });
  event->stream = stream, event->after = stream->queued;
  return cudaSuccess;
}
// What was asked for in vain goes on meanwhile: it is there when somebody asks again.
cudaError_t cudaEventQuery(cudaEvent_t event) {
  const Hold hold(machine().lock);
  if (!event->stream || event->stream->done >= event->after) return cudaSuccess;
  progress(*event->stream, event->after);
  return cudaErrorNotReady;
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t stop) {
  const Hold hold(machine().lock);
  for (cudaEvent_t e : {start, stop}) {
    if (!e->timed || !e->stream) return cudaErrorInvalidValue;
    if (e->stream->done < e->after) return cudaErrorNotReady;
  }
  *milliseconds = static_cast<float>(*stop->at - *start->at);
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  const Hold hold(machine().lock);
  if (t_recording > 0) return cudaErrorStreamCaptureUnsupported;
  if (event->stream && event->stream->done < event->after) ++machine().waits;
  if (event->stream) drain(event->stream, event->after);
  return cudaSuccess;
}

// ---- graphs: what was recorded, put into a stream again as it is. Addresses and arguments are those of the recording.
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  const Hold hold(machine().lock);
  if (stream->recorded) return cudaErrorStreamCaptureUnsupported;
  stream->recorded = new Graph;
  ++machine().graphs;
  ++t_recording;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  const Hold hold(machine().lock);
  if (!stream->recorded) return cudaErrorInvalidValue;
  *graph = std::exchange(stream->recorded, nullptr);
  --t_recording;
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* ready, cudaGraph_t graph, unsigned long long) {
  const Hold hold(machine().lock);
  *ready = new GraphExec{graph->work};
  ++machine().graphs;
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
  const Hold hold(machine().lock);
  if (stream->recorded) return cudaErrorStreamCaptureUnsupported;
  for (const std::function<void()>& work : graph->work) enqueue(stream, work);
  graph->stream = stream, graph->after = stream->queued;
  ++machine().launched;
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  const Hold hold(machine().lock);
  delete graph;
  --machine().graphs;
  return cudaSuccess;
}
// Refuses what may still run: CUDA leaves open what happens then.
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
  const Hold hold(machine().lock);
  if (machine().streams.count(graph->stream) && graph->stream->done < graph->after) return cudaErrorInvalidValue;
  delete graph;
  --machine().graphs;
  return cudaSuccess;
}
