// What tests set of the emulated machine.
#pragma once
#include <cstddef>

namespace isr::emulated {

void set_devices(int count, int driver_error = 0);   // 0: none of the driver's; else what cudaGetDeviceCount() answers
void set_device_memory(size_t bytes);
size_t device_memory_used();

}  // namespace isr::emulated
