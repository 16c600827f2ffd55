// Each allocation of loading, training, generating and resuming refused in turn, alone and with all behind it: the error is
// OUT_OF_MEMORY, the process and the model live, and the same call afterwards gives the bits of an undisturbed one.
#include "refusals.h"

#include <dlfcn.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <new>

#include "check.h"
#include "core/threads.h"
#include "infer/generator.h"
#include "models/score.h"
#include "seeded_model.h"
#include "train/trainer.h"

namespace isr::test {
namespace {

std::atomic<bool> armed{false}, all_after{false}, no_threads{false};
std::atomic<int64_t> seen{0}, refuse_at{0}, refusals{0};

bool refuse() {
  if (!armed.load(std::memory_order_relaxed)) return false;
  const int64_t n = seen.fetch_add(1), at = refuse_at.load();
  if (n != at && !(all_after.load() && n > at)) return false;
  ++refusals;
  return true;
}

void* allocate(size_t bytes, size_t align) {
  void* p = refuse() ? nullptr : align > alignof(std::max_align_t) ? std::aligned_alloc(align, (bytes + align - 1) / align * align) : std::malloc(bytes ? bytes : 1);
  if (!p) throw std::bad_alloc();
  return p;
}

}  // namespace

RefuseAllocations::RefuseAllocations(int64_t nth, bool all_behind) {
  seen = refusals = 0;
  refuse_at = nth;
  all_after = all_behind;
  armed = true;
}
RefuseAllocations::~RefuseAllocations() { armed = false; }
bool RefuseAllocations::refused() const { return refusals.load() > 0; }
RefuseThreads::RefuseThreads() { no_threads = true; }
RefuseThreads::~RefuseThreads() { no_threads = false; }

}  // namespace isr::test

void* operator new(size_t n) { return isr::test::allocate(n, 0); }
void* operator new[](size_t n) { return isr::test::allocate(n, 0); }
void* operator new(size_t n, std::align_val_t a) { return isr::test::allocate(n, static_cast<size_t>(a)); }
void* operator new[](size_t n, std::align_val_t a) { return isr::test::allocate(n, static_cast<size_t>(a)); }
void* operator new(size_t n, const std::nothrow_t&) noexcept { return isr::test::refuse() ? nullptr : std::malloc(n ? n : 1); }
void operator delete(void* p) noexcept { std::free(p); }
void operator delete[](void* p) noexcept { std::free(p); }
void operator delete(void* p, size_t) noexcept { std::free(p); }
void operator delete[](void* p, size_t) noexcept { std::free(p); }
void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete[](void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete(void* p, size_t, std::align_val_t) noexcept { std::free(p); }
void operator delete[](void* p, size_t, std::align_val_t) noexcept { std::free(p); }
void operator delete(void* p, const std::nothrow_t&) noexcept { std::free(p); }

#ifdef ISR_TEST_REFUSES_MMAP
extern "C" __attribute__((visibility("default"))) void* mmap(void* at, size_t bytes, int protection, int flags, int fd, off_t offset) noexcept {
  if (isr::test::refuse()) {
    errno = ENOMEM;
    return MAP_FAILED;
  }
  return reinterpret_cast<void*>(syscall(SYS_mmap, at, bytes, protection, flags, fd, offset));
}

extern "C" __attribute__((visibility("default"))) int pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*start)(void*), void* argument) noexcept {
  if (isr::test::no_threads.load()) return EAGAIN;
  using Create = int (*)(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);
  static const Create create = reinterpret_cast<Create>(dlsym(RTLD_NEXT, "pthread_create"));
  return create(thread, attributes, start, argument);
}
#endif

namespace isr::test {
namespace {

ModelSpec tiny(const char* dtype) {
  ModelSpec spec;
  spec.width = 16, spec.layers = 1, spec.heads = 2, spec.kv_heads = 1, spec.mlp_width = 24, spec.vocab = 40, spec.dtype = dtype;
  return spec;
}

LoadOptions alone() {
  LoadOptions o;
  o.threads = 1;   // what is allocated, and when, is then the same every time
  return o;
}

TrainerOptions options() {
  TrainerOptions o;
  o.learning_rate = 1e-2;
  return o;
}

std::vector<TrainPair> one_pair() {
  TrainPair pair;
  pair.id = "a pair";
  for (SequenceInput* s : {&pair.chosen, &pair.rejected}) {
    s->ids = random_ids(9, 40, s == &pair.chosen ? 1 : 2);
    s->targets.assign(s->ids.begin() + 1, s->ids.end());
    s->targets.push_back(-1);
  }
  return {pair};
}

using Bits = std::vector<std::vector<float>>;
Bits bits_of(Model& m) {
  Bits all;
  for (const Param& p : m.params) all.push_back(m.parameter(p.name));
  return all;
}

void forget_arenas(Model& m) {   // so that they ask the system again
  m.arena().trim();
  m.backend->workspace().trim();
}

// Calls work(n) with the n-th allocation refused, for n = 0, 1, ... until none was; `after(failed)` looks at what is left.
template <class Before, class Work, class After>
void refuse_each(const char* name, Before&& before, Work&& work, After&& after) {
  for (bool all_behind : {false, true}) {
    int64_t n = 0;
    for (bool refused = true; refused; ++n) {
      before();
      std::string code;
      {
        const RefuseAllocations allocations(n, all_behind);
        try {
          work();
        } catch (const std::bad_alloc&) {
          code = "OUT_OF_MEMORY";
        } catch (const Error& e) {
          code = e.code;
        }
        refused = allocations.refused();
      }
      CHECK(code == "" || (refused && code == "OUT_OF_MEMORY"), name, ", allocation ", n, all_behind ? " and all behind" : "", ": ", code);
      after(code != "");
      if (failures() > 20) return;
    }
    CHECK(n > 20, name, ": only ", n, " allocations");
  }
}

TEST("refusals: loading") {
  for (const char* dtype : {"F32", "BF16"}) {
    ScratchFolder dir;
    write_model(dir.path, tiny(dtype));
    const Bits want = bits_of(*Model::load(dir.path, alone()));
    std::unique_ptr<Model> model;
    refuse_each("load", [&] { model.reset(); }, [&] { model = Model::load(dir.path, alone()); },
                [&](bool failed) { CHECK(failed == !model && (failed || bits_of(*model) == want), "a loaded model is whole"); });
  }
}

TEST("refusals: a trainer that could not be made leaves the model as it was") {
  for (const char* dtype : {"F32", "BF16"}) {
    auto model = seeded_model(tiny(dtype), alone()), other = seeded_model(tiny(dtype), alone());
    const Bits want = bits_of(*model);
    std::unique_ptr<Trainer> trainer;
    refuse_each("trainer", [&] { trainer.reset(); }, [&] { trainer = std::make_unique<Trainer>(*model, options()); }, [&](bool) {
      CHECK(bits_of(*model) == want, "parameters as ", dtype);
      for (const Param& p : model->params) CHECK((p.group != nullptr) == (trainer != nullptr), p.name);
    });
    Trainer undisturbed(*other, options());
    CHECK(trainer->train_step(one_pair(), nullptr).loss == undisturbed.train_step(one_pair(), nullptr).loss, "the first step's loss as ", dtype);
    CHECK(bits_of(*model) == bits_of(*other), "the first step as ", dtype);
  }
}

TEST("refusals: a step changes all weights or none, and the next one is as if nothing had been") {
  for (const char* dtype : {"F32", "BF16"}) {
    const Bits before = bits_of(*seeded_model(tiny(dtype), alone()));
    Bits behind;
    std::unique_ptr<Model> model;
    std::unique_ptr<Trainer> trainer;
    const auto fresh = [&] {
      trainer.reset();
      model = seeded_model(tiny(dtype), alone());
      trainer = std::make_unique<Trainer>(*model, options());
    };
    fresh();
    trainer->train_step(one_pair(), nullptr);
    behind = bits_of(*model);
    CHECK(behind != before, "a step moves something");
    fresh();
    refuse_each("step", [&] { trainer->step() > 0 ? fresh() : forget_arenas(*model); }, [&] { trainer->train_step(one_pair(), nullptr); }, [&](bool failed) {
      CHECK(bits_of(*model) == (failed ? before : behind) && trainer->step() == (failed ? 0 : 1), "as ", dtype, failed ? ", refused" : "");
    });
  }
}

TEST("refusals: loading a trainer's state takes all of it or nothing") {
  for (const char* dtype : {"F32", "BF16"}) {
    ScratchFolder dir;
    auto model = seeded_model(tiny(dtype), alone());
    const Bits before = bits_of(*model);
    Bits behind;
    {
      Trainer trainer(*model, options());
      trainer.train_step(one_pair(), nullptr);
      trainer.save(dir.path);
      behind = bits_of(*model);   // of the masters
    }
    std::unique_ptr<Trainer> trainer;
    const auto fresh = [&] {
      trainer.reset();
      model = seeded_model(tiny(dtype), alone());
      trainer = std::make_unique<Trainer>(*model, options());
    };
    fresh();
    refuse_each("resume", [&] { if (trainer->step() > 0) fresh(); }, [&] { trainer->load(dir.path); }, [&](bool failed) {
      CHECK(bits_of(*model) == (failed ? before : behind) && trainer->step() == (failed ? 0 : 1), "as ", dtype, failed ? ", refused" : "");
    });
    // A reader that stops in the middle is no different.
    fresh();
    for (const Param& p : model->params) CHECK(p.group, p.name);
    std::atomic<bool> stop{true};
    const CancelScope scope(&stop);
    CHECK(thrown_code([&] { trainer->load(dir.path); }) == "CANCELLED" && bits_of(*[&] { stop = false; return model.get(); }()) == before, "stopped");
  }
}

TEST("refusals: generating") {
  auto model = seeded_model(tiny("F32"), alone());
  std::vector<GenerateRequest> requests(2);
  for (size_t i = 0; i < 2; ++i) {
    requests[i].ids = random_ids(70, 40, 5);   // both begin alike
    requests[i].ids.push_back(static_cast<int32_t>(3 + i));
    requests[i].copies = 2;
    requests[i].sampling.max_tokens = 5;
    requests[i].sampling.temperature = 1;
  }
  const auto ids = [](const std::vector<GeneratedSequence>& all) {
    std::vector<std::vector<int32_t>> out;
    for (const GeneratedSequence& g : all) out.push_back(g.ids);
    return out;
  };
  const auto want = ids(Generator(*model, 0, false).generate(requests, {}, nullptr));
  std::unique_ptr<Generator> generator;
  for (bool keep : {false, true})
    refuse_each("generate",
                [&] {
                  forget_arenas(*model);
                  generator = std::make_unique<Generator>(*model, 0, keep);
                },
                [&] { generator->generate(requests, {}, nullptr); },
                [&](bool) { CHECK(ids(generator->generate(requests, {}, nullptr)) == want, "the same call once more, keep ", keep); });
}

TEST("refusals: calls that share a batch") {
  const auto model = test::seeded_model({});
  const auto request_of = [](int64_t prompt, int32_t copies) {
    GenerateRequest r;
    r.ids = test::random_ids(prompt, 160, 3);
    r.copies = copies;
    r.sampling.max_tokens = 6;
    r.sampling.temperature = 1;
    return r;
  };
  const std::vector<GenerateRequest> calls = {request_of(70, 2), request_of(30, 1), request_of(90, 1)};
  std::unique_ptr<Generator> generator;
  std::vector<std::vector<int32_t>> ids(calls.size());
  const auto all = [&] {   // one joins at each step; the first failure is thrown when all have ended
    std::exception_ptr failure;
    for (size_t i = 0; i < calls.size() || !generator->idle();) {
      if (i < calls.size()) {
        ids[i].clear();
        GenerateCallbacks told;
        told.completion = [&ids, i](const GeneratedSequence& g) { ids[i].insert(ids[i].end(), g.ids.begin(), g.ids.end()); };
        told.end = [&failure](std::exception_ptr e) { failure = failure ? failure : e; };
        try {
          generator->join({calls[i]}, std::move(told), nullptr);
        } catch (...) {
          failure = failure ? failure : std::current_exception();
        }
        ++i;
      }
      generator->step(nullptr);
    }
    if (failure) std::rethrow_exception(failure);
  };
  generator = std::make_unique<Generator>(*model, 0, false);
  all();
  const auto want = ids;
  for (bool keep : {false, true})
    refuse_each("calls that share a batch",
                [&] {
                  forget_arenas(*model);
                  generator = std::make_unique<Generator>(*model, 0, keep);
                },
                all, [&](bool) {
                  all();
                  CHECK(ids == want, "the same calls once more, keep ", keep);
                });
}

// The host, with a limit to one block.
class Limited final : public Device {
 public:
  size_t most = 0, refused = 0;
  void* allocate(size_t bytes) override {
    if (bytes <= most) return host_device().allocate(bytes);
    ++refused;
    throw Error("OUT_OF_MEMORY", concat(bytes, " bytes are more than ", most));
  }
  void free(void* p, size_t bytes) noexcept override { host_device().free(p, bytes); }
  void upload(void* dst, const void* host, size_t bytes) override { host_device().upload(dst, host, bytes); }
  void download(void* host, const void* src, size_t bytes) override { host_device().download(host, src, bytes); }
  void copy(void* dst, const void* src, size_t bytes) override { host_device().copy(dst, src, bytes); }
  void zero(void* dst, size_t bytes) override { host_device().zero(dst, bytes); }
  void synchronize() override {}
  size_t memory() const override { return most; }
};

TEST("refusals: an arena that is refused room to grow takes what it needs") {
  constexpr size_t kBlock = size_t{100} << 20;
  Limited device;
  device.most = kBlock;
  Arena arena(device);
  for (int i = 0; i < 3; ++i) arena.allocate(kBlock);
  CHECK(device.refused == 2 && arena.total() == 3 * kBlock, device.refused, " refusals, ", arena.total(), " bytes");
  CHECK(thrown_code([&] { arena.allocate(2 * kBlock); }) == "OUT_OF_MEMORY" && arena.total() == 3 * kBlock, "more than there is");
  arena.release({0, 0, 0});
}

TEST("refusals: giving memory back asks for none, and an arena that was refused goes on") {
  Arena arena;
  bool asked = false;
  for (int round = 0; round < 2; ++round) {   // many chunks, then one of their size
    const ArenaScope scope(arena);
    for (int i = 0; i < 5; ++i) arena.allocate(size_t{3} << 20);
    {
      const RefuseAllocations all(0, true);
      { const ArenaScope inner(arena); }
      arena.release({0, 0, 0});
      asked = all.refused();
    }
    CHECK(!asked, "round ", round);
  }
  arena.trim();
  for (int n = 0; n < 3; ++n) {
    for (int i = 0; i < 5; ++i) arena.allocate(size_t{3} << 20);
    arena.release({0, 0, 0});
    const auto allocate = [&] {
      const RefuseAllocations one(n, false);
      try {
        arena.allocate(size_t{64} << 20);
      } catch (const std::bad_alloc&) {
      } catch (const Error&) {
      }
    };
    allocate();
    const size_t total = arena.total();
    CHECK(total == 0 || total == size_t{64} << 20, "allocation ", n, ": ", total);
    arena.release({0, 0, 0});
    CHECK(arena.allocate(size_t{3} << 20) != nullptr, "allocation ", n);
    arena.release({0, 0, 0});
  }
}

#ifdef ISR_TEST_REFUSES_MMAP
TEST("refusals: a thread that the system refuses is a lack of memory, nothing has run, and the pool goes on") {
  const auto sum = [](int threads) {
    std::atomic<int64_t> total{0};
    parallel(threads, 1000, 1, [&](int64_t begin, int64_t end, int) {
      for (; begin < end; ++begin) total += begin;
    });
    return total.load();
  };
  {
    const RefuseThreads refused;
    std::atomic<int> chunks{0};
    CHECK(thrown_code([&] { parallel(250, 1000, 1, [&](int64_t, int64_t, int) { ++chunks; }); }) == "OUT_OF_MEMORY", "code");
    CHECK(thrown_code([] { reserve_threads(250); }) == "OUT_OF_MEMORY", "asked for in advance");
    CHECK(chunks.load() == 0, chunks.load(), " chunks have run");
    CHECK(sum(1) == 499500, "one thread needs no other");
  }
  CHECK(sum(3) == 499500, "and three, when there are some again");
}
#endif

}  // namespace
}  // namespace isr::test
