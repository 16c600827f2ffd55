// The CUDA backend on a machine without a GPU: its kernels on fibers (fibers.h), cuBLASLt by its documented meaning.
#pragma once
#include <memory>
#include <string>

#include "kernels/backend.h"
#include "kernels/devices.h"

namespace isr::test {

std::unique_ptr<Backend> make_emulated_cuda(unsigned schedule = 0, int index = 0);
// Makes descriptors of products with the cuBLASLt that is installed, and gives its name; DEVICE_UNAVAILABLE: none is.
std::string describe_to_installed();
void describe_to_double();   // as at the beginning
DeviceKind emulated_kind();   // "cuda" under the schedule that was last chosen

}  // namespace isr::test
