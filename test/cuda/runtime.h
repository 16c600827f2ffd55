// What tests set of the emulated machine.
#pragma once
#include <cstddef>

namespace isr::emulated {

void set_devices(int count, int driver_error = 0);   // 0: none of the driver's; else what cudaGetDeviceCount() answers
void keep_memory_open();                             // before the first allocation: quicker, and nobody sees a read by the host
void set_capability(int major, int minor);
void set_device_memory(size_t bytes);
size_t device_memory_used();
size_t things_held();                                // blocks of memory, pinned ones, streams, events and graphs that nobody has given back
size_t graphs_launched();
size_t waits();                                      // of the host for a stream or an event, also as part of a copy or of giving memory back

}  // namespace isr::emulated
