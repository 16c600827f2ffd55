// One level's backend; compiled once per level. cpu.cc beside it picks one at run time.
#include <memory>

#include "kernels/cpu/cpu_backend.h"

namespace isr::cpu::ISR_NS {

const char* CpuBackend::level() const { return name_of(static_cast<Isa>(ISR_LEVEL)); }

std::unique_ptr<Backend> make(int threads, Device& device) { return std::make_unique<CpuBackend>(threads, device); }

}  // namespace isr::cpu::ISR_NS
