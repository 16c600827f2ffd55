// Makes an addon with an emulated card, for the TypeScript tests: device "cuda", and "cpu" too where ISR_CUDA_FOR_CPU is set.
// ISR_CUDA_CARDS: how many there are, default 1; ISR_CUDA_NCCL=0: NCCL is looked for and not doubled, =hangs: it hangs in an abort; ISR_CUDA_CRASH: the driver ends whoever asks it; ISR_CUDA_SCHEDULE: the order of
// threads (fibers.h).
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "emulated.h"
#include "fibers.h"
#include "nccl_double.h"
#include "runtime.h"

namespace isr::test {
namespace {

unsigned number(const char* name, unsigned otherwise) {
  const char* const text = std::getenv(name);
  return text ? static_cast<unsigned>(std::atoi(text)) : otherwise;
}

const bool plugged_in = [] {
  emulated::set_devices(static_cast<int>(number("ISR_CUDA_CARDS", 1)));
  emulated::set_schedule(number("ISR_CUDA_SCHEDULE", 0));
  emulated::keep_memory_open();   // that the host leaves it alone is held by native tests
  const char* const nccl = std::getenv("ISR_CUDA_NCCL");
  if (!nccl || std::strcmp(nccl, "0") != 0) use_nccl_double();
  if (nccl && std::strcmp(nccl, "hangs") == 0)
    nccl_double().answer = [](const std::string& call, int) {
      while (call == "ncclCommAbort") std::this_thread::sleep_for(std::chrono::hours(1));
      return 0;
    };
  DeviceKind kind = emulated_kind();
  if (std::getenv("ISR_CUDA_CRASH")) kind.cards = []() -> std::vector<Card> { std::abort(); };
  if (std::getenv("ISR_CUDA_FOR_CPU")) device_kinds().front().make = kind.make;
  device_kinds().push_back(kind);
  return true;
}();

}  // namespace
}  // namespace isr::test
