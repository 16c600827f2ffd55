// Signs that this process's work goes on, for whoever looks from outside (dist/heartbeat.h): a job that gives none for very long hangs.
#pragma once
#include <atomic>
#include <cstdint>

namespace isr {

struct Progress {
  std::atomic<uint64_t> signs{0};     // another number: something was done. Each parallel region, block of a model, exchange and file gives some
  std::atomic<int> jobs{0};           // of this package, that run
  std::atomic<int> waits{0};          // for other ranks
};
inline Progress& progress() {
  static Progress all;
  return all;
}
// One writer may overwrite another's: the number changes all the same.
inline void sign_of_progress() {
  std::atomic<uint64_t>& signs = progress().signs;
  signs.store(signs.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
}

struct JobRuns {
  JobRuns() { sign_of_progress(), ++progress().jobs; }
  ~JobRuns() { --progress().jobs; }
  JobRuns(const JobRuns&) = delete;
};
struct WaitsForRanks {
  WaitsForRanks() { ++progress().waits; }
  ~WaitsForRanks() { --progress().waits, sign_of_progress(); }
  WaitsForRanks(const WaitsForRanks&) = delete;
};

}  // namespace isr
