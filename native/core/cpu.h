// Instruction-set levels of the CPU backend, chosen once per process.
#pragma once
#include <string>

namespace isr {

enum class Isa { Generic = 0, Avx2 = 1, Avx512 = 2, Avx512Bf16 = 3 };

const char* name_of(Isa);        // "generic" | "avx2" | "avx512" | "avx512bf16"
Isa machine_isa();               // the highest level that cpuid, the operating system and the build allow
bool isa_supported(Isa);
Isa default_isa();               // the fastest of this machine (docs/decisions/levels-by-pragma.md)
Isa chosen_isa();                // default_isa(), or ISR_DPO_ISA at first use; DEVICE_UNAVAILABLE if the machine lacks it
bool machine_is_intel();
int machine_threads();           // min(CPU affinity, cgroup cpu.max rounded up), at least 1
size_t machine_memory();         // bytes: min(physical, cgroup memory.max)

}  // namespace isr
