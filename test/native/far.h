// A device that is everything the host is not, for tests: its memory can be read and written inside kernels and copies alone
// (any other access faults), what is called runs late, in order and on a thread of its own, and every address that a
// call is given is looked up. So a missing wait, a read by the host, an upload whose source was trusted to stay, and an
// address of the host's all fail, on the machine that has no accelerator.
#pragma once
#include <memory>

#include "kernels/backend.h"

namespace isr::test {

// A CPU backend of this level behind such a device. Its calls run when somebody waits, or when a few hundred have queued up.
std::unique_ptr<Backend> make_far_backend(Isa level, int threads);

// From now on in this process, models can be loaded on the device "far".
void add_far_kind();

// From now on in this process, the device "cpu" is that.
void put_models_far_away();

}  // namespace isr::test
