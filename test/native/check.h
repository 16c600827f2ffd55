// A test is a function with a name; a failed CHECK says where, with what and what it compared, and the test goes on.
// main.cc runs all whose name contains argv[1] and ends with "N passed, N failed, N skipped".
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "comparison.h"
#include "core/cpu.h"
#include "core/error.h"
#include "core/rng.h"

namespace isr::test {

struct Case { std::string name; std::function<void()> run; };
inline std::vector<Case>& cases() { static std::vector<Case> all; return all; }
inline int& failures() { static int n = 0; return n; }

// A test that needs what this machine lacks says so and returns: it is counted and named as skipped.
inline std::string& skipped() { static std::string why; return why; }

struct Register {
  Register(std::string name, std::function<void()> run) { cases().push_back({std::move(name), std::move(run)}); }
};

#define ISR_TEST_CAT2(a, b) a##b
#define ISR_TEST_CAT(a, b) ISR_TEST_CAT2(a, b)
#define TEST(name)                                                                                       \
  static void ISR_TEST_CAT(test_, __LINE__)();                                                           \
  static ::isr::test::Register ISR_TEST_CAT(reg_, __LINE__)(name, ISR_TEST_CAT(test_, __LINE__));        \
  static void ISR_TEST_CAT(test_, __LINE__)()

// Where failed checks go instead of being printed and counted, while a test of CHECK itself listens.
inline std::vector<std::string>*& listener() { static std::vector<std::string>* none = nullptr; return none; }

inline std::string failure_text(const char* file, int line, const char* condition, const std::string& sides, const std::string& message) {
  return concat(file, ":", line, ": ", condition, sides.empty() ? "" : ": ", sides, "  [", message, "]");
}

inline void record_failure(const std::string& said) {
  if (listener()) return listener()->push_back(said);
  ++failures();
  std::printf("  %s\n", said.c_str());
}

// The parts are written to a message, which is made only for a failure. A comparison's two sides are in it without being named.
#define CHECK(cond, ...)                                                                                        \
  do {                                                                                                          \
    if (const ::isr::compared::Outcome outcome_ = ::isr::compared::Decomposer() <=> cond; !outcome_.holds)      \
      ::isr::test::record_failure(                                                                              \
          ::isr::test::failure_text(__FILE__, __LINE__, #cond, outcome_.sides, ::isr::concat(__VA_ARGS__)));    \
  } while (0)

// The code of the error that f throws; "" if it throws none.
template <class F>
std::string thrown_code(F&& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.code;
  } catch (const Cancelled&) {
    return "CANCELLED";
  }
  return "";
}

// Levels that this machine runs; every kernel test loops over them.
inline std::vector<Isa> levels() {
  std::vector<Isa> all;
  for (Isa isa : {Isa::Generic, Isa::Avx2, Isa::Avx512, Isa::Avx512Bf16})
    if (isa_supported(isa)) all.push_back(isa);
  return all;
}

// Seeded values in [-1, 1), the same on every machine.
inline std::vector<float> random_values(int64_t n, uint64_t seed, float scale = 1) {
  std::vector<float> x(static_cast<size_t>(n));
  const Philox draw(seed);
  for (int64_t i = 0; i < n; ++i) x[static_cast<size_t>(i)] = scale * (2 * unit_float(draw(0, static_cast<uint64_t>(i))[0]) - 1);
  return x;
}

}  // namespace isr::test
