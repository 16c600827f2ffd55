// The process's thread pool: every element once, one region at a time, exceptions come out, fork is refused.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <stdexcept>
#include <thread>

#include "check.h"
#include "core/memory.h"
#include "core/threads.h"

namespace isr::test {

TEST("threads: every element once, by workers that have their number alone") {
  for (int threads : {1, 2, 3, 5})
    for (int64_t n : {0, 1, 7, 64, 1000})
      for (int64_t grain : {1, 3, 64, 2000}) {
        std::vector<std::atomic<int>> seen(static_cast<size_t>(n)), busy(static_cast<size_t>(threads));
        std::atomic<int> wrong{0};
        parallel(threads, n, grain, [&](int64_t begin, int64_t end, int worker) {
          if (worker < 0 || worker >= threads || begin >= end || end > n) return void(++wrong);
          if (busy[static_cast<size_t>(worker)].exchange(1) != 0) ++wrong;
          for (int64_t i = begin; i < end; ++i) ++seen[static_cast<size_t>(i)];
          busy[static_cast<size_t>(worker)].store(0);
        });
        for (const auto& count : seen) wrong += count.load() != 1;
        CHECK(wrong.load() == 0, "threads ", threads, ", n ", n, ", grain ", grain);
      }
}

TEST("threads: callers side by side, each with regions of its own") {
  constexpr int kCallers = 4, kRegions = 200, kElements = 500;
  std::atomic<int> wrong{0};
  std::vector<std::thread> callers;
  for (int c = 0; c < kCallers; ++c)
    callers.emplace_back([&, c] {
      std::vector<int> value(kElements);   // plain memory: what a region wrote is seen after it
      for (int r = 0; r < kRegions; ++r) {
        parallel(2 + c % 2, kElements, 16, [&](int64_t begin, int64_t end, int) {
          for (int64_t i = begin; i < end; ++i) value[static_cast<size_t>(i)] += static_cast<int>(i) + c;
        });
      }
      for (int i = 0; i < kElements; ++i) wrong += value[static_cast<size_t>(i)] != kRegions * (i + c);
    });
  for (std::thread& t : callers) t.join();
  CHECK(wrong.load() == 0, wrong.load());
  CHECK(pool_threads() >= 2, pool_threads());
}

TEST("threads: the first exception comes out when all have left, and the pool goes on") {
  for (int round = 0; round < 50; ++round) {
    std::atomic<int> inside{0};
    std::string what;
    try {
      parallel(3, 300, 1, [&](int64_t begin, int64_t, int) {
        ++inside;
        struct Leave { std::atomic<int>& n; ~Leave() { --n; } } leave{inside};
        if (begin == 17) throw std::runtime_error("chunk 17");
      });
    } catch (const std::runtime_error& e) {
      what = e.what();
    }
    CHECK(what == "chunk 17" && inside.load() == 0, what, " ", inside.load());
  }
  std::atomic<int64_t> total{0};
  parallel(3, 300, 1, [&](int64_t begin, int64_t, int) { total += begin; });
  CHECK(total.load() == 300 * 299 / 2, total.load());
}

TEST("threads: a region inside a region is a bug, whatever their sizes, and so is memory of an arena") {
  struct Row { const char* name; int outer_threads; int64_t n, inner; };
  for (const Row& row : {Row{"side by side", 2, 8, 100}, Row{"inner one inline", 2, 8, 1}, Row{"outer one inline", 1, 8, 100}, Row{"both inline", 1, 1, 1}}) {
    const std::string code = thrown_code([&] {
      parallel(row.outer_threads, row.n, 1, [&](int64_t, int64_t, int) { parallel(2, row.inner, 1, [](int64_t, int64_t, int) {}); });
    });
    CHECK(code == "BUG", row.name, ": ", code);
    Arena arena;
    const std::string allocated = thrown_code([&] {
      parallel(row.outer_threads, row.n, 1, [&](int64_t, int64_t, int) { arena.allocate(64); });
    });
    CHECK(allocated == "BUG" && arena.total() == 0, row.name, ": ", allocated);
  }
}

TEST("threads: a set flag stops a region between chunks, on every number of threads, and nothing inside a scope of none") {
  for (int threads : {1, 2, 3}) {
    std::atomic<bool> flag{false};
    std::atomic<int> chunks{0};
    const CancelScope scope(&flag);
    const auto region = [&] {
      parallel(threads, 1000, 1, [&](int64_t, int64_t, int) {
        if (++chunks == 5) flag.store(true);
      });
    };
    CHECK(thrown_code(region) == "CANCELLED", threads, " threads");
    CHECK(chunks.load() < 100, threads, " threads: ", chunks.load(), " chunks were begun");
    CHECK(thrown_code([] { check_cancelled(); }) == "CANCELLED", "between regions");
    const CancelScope whole(nullptr);
    std::atomic<int64_t> elements{0};
    const std::string code = thrown_code([&] { parallel(threads, 1000, 1, [&](int64_t begin, int64_t end, int) { elements += end - begin; }); });
    CHECK(code == "" && elements.load() == 1000, threads, " threads: what must not end half done: ", code);
  }
}

TEST("threads: after a raw fork the pool says so instead of hanging") {
  parallel(2, 100, 1, [](int64_t, int64_t, int) {});   // started
  const pid_t child = fork();
  if (child == 0) {
    alarm(20);
    const std::string code = thrown_code([] { parallel(2, 100, 1, [](int64_t, int64_t, int) {}); });
    _exit(code == "BUG" ? 0 : 1);
  }
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0, status);
}

TEST("threads: a region inside a region is a bug that says so, on whichever thread") {
  for (int at : {0, 299}) {   // the caller takes the first chunks, a helper some of the rest
    const std::string code = thrown_code([&] {
      parallel(2, 300, 1, [&](int64_t begin, int64_t, int) {
        if (begin >= at) parallel(2, 100, 1, [](int64_t, int64_t, int) {});
      });
    });
    CHECK(code == "BUG", "from chunk ", at, ": ", code);
  }
}

}  // namespace isr::test
