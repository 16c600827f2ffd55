// The CUDA backend on a machine without a GPU: its kernels on fibers (fibers.h), cuBLASLt by its documented meaning.
#pragma once
#include <memory>

#include "kernels/backend.h"

namespace isr::test {

std::unique_ptr<Backend> make_emulated_cuda(unsigned schedule = 0);

}  // namespace isr::test
