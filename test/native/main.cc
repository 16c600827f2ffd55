// native_tests [part of a name]: the tests whose names hold it. ISR_TEST_SHARD=I/N: of those every N-th, from the I-th (0 is the first).
#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "check.h"

int main(int argc, char** argv) {
  using namespace isr::test;
  int passed = 0, failed = 0, left_out = 0, shard = 0, shards = 1, found = 0;
  if (const char* const text = std::getenv("ISR_TEST_SHARD"); text && (std::sscanf(text, "%d/%d", &shard, &shards) != 2 || shards < 1)) {
    std::printf("ISR_TEST_SHARD: expected I/N, got %s\n", text);
    return 2;
  }
  for (const Case& c : cases()) {
    if (argc > 1 && c.name.find(argv[1]) == std::string::npos) continue;
    if (found++ % shards != shard) continue;
    const int before = failures();
    skipped().clear();
    const auto start = std::chrono::steady_clock::now();
    try {
      c.run();
    } catch (const std::exception& e) {
      ++failures();
      std::printf("  unexpected exception: %s\n", e.what());
    }
    const double s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    const bool ok = failures() == before;
    if (ok && !skipped().empty()) {
      std::printf("skipped test: %s: %s\n", c.name.c_str(), skipped().c_str());
      ++left_out;
      continue;
    }
    std::printf("%s %s (%.2f s)\n", ok ? "ok  " : "FAIL", c.name.c_str(), s);
    std::fflush(stdout);
    ++(ok ? passed : failed);
  }
  std::printf("%d passed, %d failed, %d skipped\n", passed, failed, left_out);
  return failed ? 1 : 0;
}
