// A system that refuses: while one lives, the n-th allocation (operator new or mmap; any thread) fails, or that one and all
// behind it. Defined in refusals_test.cc for the whole binary; sanitizers keep their own mmap and pthread_create.
#pragma once
#include <cstdint>

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define ISR_TEST_REFUSES_MMAP 1
#endif

namespace isr::test {

struct RefuseAllocations {
  RefuseAllocations(int64_t nth, bool all_behind);
  ~RefuseAllocations();
  RefuseAllocations(const RefuseAllocations&) = delete;
  bool refused() const;       // whether any was
};

struct RefuseThreads {
  RefuseThreads();
  ~RefuseThreads();
  RefuseThreads(const RefuseThreads&) = delete;
};

}  // namespace isr::test
