// Ranks as threads of a test.
#pragma once
#include <algorithm>
#include <cstdlib>
#include <functional>
#include <memory>
#include <new>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "core/error.h"
#include "dist/comm.h"
#include "dist/transports.h"

namespace isr::test {

// What each rank's function threw, by rank: "" or the code and the message.
using Outcomes = std::vector<std::string>;

// What carries the messages of run_ranks(): "threads", or a name of transports().
inline const char*& carrier() { static const char* name = "threads"; return name; }

inline std::vector<std::unique_ptr<Comm>> make_ranks(std::span<Device* const> devices) {
  if (std::string(carrier()) == "threads") return make_thread_ranks(devices);
  const bool copies = std::string(carrier()) == "shared, copied";   // long messages go through the rings, too
  if (copies) setenv("ISR_DPO_RANKS_READ", "0", 1);
  const int size = static_cast<int>(devices.size());
  const auto row = std::find_if(transports().begin(), transports().end(), [](const Transport& t) { return std::string(carrier()).starts_with(t.name); });
  std::vector<std::unique_ptr<OpenEnd>> ends;
  std::vector<std::string> addresses;
  for (int r = 0; r < size; ++r) addresses.push_back(ends.emplace_back(row->open({r, size, "127.0.0.1", nullptr}))->address());
  std::vector<std::unique_ptr<Comm>> ranks(devices.size());
  std::vector<std::thread> threads;   // some transports meet in connect()
  for (size_t r = 0; r < ranks.size(); ++r) threads.emplace_back([&, r] { ranks[r] = make_host_comm(std::make_shared<SharedLink>(ends[r]->connect(addresses)), *devices[r]); });
  for (std::thread& t : threads) t.join();
  if (copies) unsetenv("ISR_DPO_RANKS_READ");
  return ranks;
}

inline Outcomes run_ranks(std::span<Device* const> devices, const std::function<void(Comm&)>& work) {
  std::vector<std::unique_ptr<Comm>> ranks = make_ranks(devices);
  Outcomes outcomes(ranks.size());
  std::vector<std::thread> threads;
  for (size_t r = 0; r < ranks.size(); ++r)
    threads.emplace_back([&, r] {
      try {
        work(*ranks[r]);
      } catch (const Error& e) {
        outcomes[r] = e.code + ": " + e.what();
      } catch (const Cancelled&) {
        outcomes[r] = "cancelled";
      } catch (const std::bad_alloc&) {
        outcomes[r] = "no memory";
      }
      ranks[r].reset();   // others must not wait for it
    });
  for (std::thread& t : threads) t.join();
  return outcomes;
}
inline Outcomes run_ranks(int size, const std::function<void(Comm&)>& work) {
  return run_ranks(std::vector<Device*>(static_cast<size_t>(size), &host_device()), work);
}
inline std::string text(const Outcomes& outcomes) {
  std::string all;
  for (const std::string& o : outcomes) all += concat("[", o, "]");
  return all;
}
inline bool all_well(const Outcomes& outcomes) {
  return std::all_of(outcomes.begin(), outcomes.end(), [](const std::string& o) { return o.empty(); });
}

// A test on threads and on every transport that is there.
#ifdef ISR_TEST_GLOO
inline const bool gloo_is_there = setenv("ISR_DPO_GLOO", ISR_TEST_GLOO, 1) == 0;
#endif
#define TEST_CARRIED(name)                                                                                    \
  static void ISR_TEST_CAT(body_, __LINE__)();                                                                \
  static void ISR_TEST_CAT(on_, __LINE__)(const char* by) {                                                   \
    if (std::string(by) == "gloo" && !gloo_missing().empty()) {                                               \
      ::isr::test::skipped() = gloo_missing();                                                                \
      return;                                                                                                 \
    }                                                                                                         \
    ::isr::test::carrier() = by;                                                                              \
    ISR_TEST_CAT(body_, __LINE__)();                                                                          \
    ::isr::test::carrier() = "threads";                                                                       \
  }                                                                                                           \
  static ::isr::test::Register ISR_TEST_CAT(threads_, __LINE__)(name ", threads", [] { ISR_TEST_CAT(on_, __LINE__)("threads"); });       \
  static ::isr::test::Register ISR_TEST_CAT(shared_, __LINE__)(name ", shared memory", [] { ISR_TEST_CAT(on_, __LINE__)("shared"); });   \
  static ::isr::test::Register ISR_TEST_CAT(gloo_, __LINE__)(name ", Gloo", [] { ISR_TEST_CAT(on_, __LINE__)("gloo"); });   \
  static ::isr::test::Register ISR_TEST_CAT(copied_, __LINE__)(name ", shared memory, copied", [] { ISR_TEST_CAT(on_, __LINE__)("shared, copied"); });   \
  static void ISR_TEST_CAT(body_, __LINE__)()

}  // namespace isr::test
