// Makes an addon with an emulated card, for the TypeScript tests: device "cuda", and "cpu" too where ISR_CUDA_FOR_CPU is set.
// ISR_CUDA_CARDS: how many there are, default 1; ISR_CUDA_CRASH: the driver ends whoever asks it; ISR_CUDA_SCHEDULE: the order of
// threads (fibers.h).
#include <cstdlib>

#include "emulated.h"
#include "fibers.h"
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
  DeviceKind kind = emulated_kind();
  if (std::getenv("ISR_CUDA_CRASH")) kind.cards = []() -> std::vector<Card> { std::abort(); };
  if (std::getenv("ISR_CUDA_FOR_CPU")) device_kinds().front().make = kind.make;
  device_kinds().push_back(kind);
  return true;
}();

}  // namespace
}  // namespace isr::test
