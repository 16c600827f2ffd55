// Makes an addon whose models live on the emulated card, for the TypeScript tests. ISR_CUDA_SCHEDULE chooses the order of threads
// (fibers.h).
#include <cstdlib>

#include "emulated.h"
#include "kernels/devices.h"

static const bool away = [] {
  for (isr::DeviceKind& kind : isr::device_kinds())
    if (kind.name == "cpu")
      kind.make = [](int) {
        const char* const schedule = std::getenv("ISR_CUDA_SCHEDULE");
        return isr::test::make_emulated_cuda(schedule ? static_cast<unsigned>(std::atoi(schedule)) : 0);
      };
  return true;
}();
