// A bench is a function with a name; it prints its own table. main.cc runs all whose name contains argv[1].
// The machine is shared: keep the best of many short runs, and compare with peak.h's loops measured in the same run.
#pragma once
#include <time.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

namespace isr::bench {

struct Case { std::string name; std::function<void()> run; };
inline std::vector<Case>& cases() { static std::vector<Case> all; return all; }

struct Register {
  Register(std::string name, std::function<void()> run) { cases().push_back({std::move(name), std::move(run)}); }
};

#define ISR_BENCH_CAT2(a, b) a##b
#define ISR_BENCH_CAT(a, b) ISR_BENCH_CAT2(a, b)
#define BENCH(name)                                                                                         \
  static void ISR_BENCH_CAT(bench_, __LINE__)();                                                            \
  static ::isr::bench::Register ISR_BENCH_CAT(reg_, __LINE__)(name, ISR_BENCH_CAT(bench_, __LINE__));       \
  static void ISR_BENCH_CAT(bench_, __LINE__)()

inline double wall_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}
inline double thread_cpu_seconds() {  // of the calling thread: hardly touched by other processes
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

inline double process_cpu_seconds() {  // of all threads together, waiting in short spins included
  timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

// Seconds of the best run of f among at least `runs` runs and at least `budget` seconds. With one thread the clock is
// CPU time, with more it is wall time.
template <class F>
double best_seconds(F&& f, int threads = 1, double budget = 0.2, int runs = 3) {
  const double stop = wall_seconds() + budget;
  double best = 1e30;
  for (int i = 0; i < runs || wall_seconds() < stop; ++i) {
    const double start = threads == 1 ? thread_cpu_seconds() : wall_seconds();
    f();
    best = std::min(best, (threads == 1 ? thread_cpu_seconds() : wall_seconds()) - start);
  }
  return best;
}

}  // namespace isr::bench
