#include "core/cpu.h"

#include <cpuid.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <thread>

#include "core/error.h"

namespace isr {
namespace {

struct Cpuid {
  unsigned a = 0, b = 0, c = 0, d = 0;
  Cpuid(unsigned leaf, unsigned sub) { __get_cpuid_count(leaf, sub, &a, &b, &c, &d); }
};

uint64_t xcr0() {
  unsigned lo = 0, hi = 0;
  __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
  return (static_cast<uint64_t>(hi) << 32) | lo;
}

Isa detect() {
  const Cpuid one(1, 0), seven(7, 0), seven1(7, 1);
  const bool osxsave = one.c & (1u << 27), fma = one.c & (1u << 12), f16c = one.c & (1u << 29);
  if (!osxsave || (xcr0() & 6) != 6) return Isa::Generic;
  if (!(fma && f16c && (seven.b & (1u << 5)))) return Isa::Generic;
  const unsigned need = (1u << 16) | (1u << 17) | (1u << 30) | (1u << 31);  // F, DQ, BW, VL
  if ((xcr0() & 0xe6) != 0xe6 || (seven.b & need) != need) return Isa::Avx2;
  return (seven1.a & (1u << 5)) ? Isa::Avx512Bf16 : Isa::Avx512;
}

Isa from_environment() {
  const char* wish = std::getenv("ISR_DPO_ISA");
  if (!wish || !*wish) return default_isa();
  for (Isa isa : {Isa::Generic, Isa::Avx2, Isa::Avx512, Isa::Avx512Bf16}) {
    if (std::string(wish) != name_of(isa)) continue;
    if (isa_supported(isa)) return isa;
    throw Error("DEVICE_UNAVAILABLE", concat("ISR_DPO_ISA=", wish, ": this machine has ", name_of(machine_isa()), " at most"),
                concat("unset ISR_DPO_ISA, or set it to ", name_of(machine_isa()), " or lower"));
  }
  throw Error("DEVICE_UNAVAILABLE", concat("ISR_DPO_ISA=", wish, ": expected generic, avx2, avx512 or avx512bf16"),
              "correct or unset ISR_DPO_ISA");
}

// "max 100000" or "200000 100000" (cgroup v2); the file is absent outside a cgroup.
int cgroup_cpus() {
  std::ifstream f("/sys/fs/cgroup/cpu.max");
  std::string quota;
  double period = 0;
  if (f >> quota >> period && quota != "max" && period > 0)
    return std::max(1, static_cast<int>(std::ceil(std::atof(quota.c_str()) / period)));
  std::ifstream q("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), p("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
  double v1 = -1;
  if (q >> v1 && p >> period && v1 > 0 && period > 0) return std::max(1, static_cast<int>(std::ceil(v1 / period)));
  return 1 << 20;
}

}  // namespace

const char* name_of(Isa isa) {
  constexpr const char* names[] = {"generic", "avx2", "avx512", "avx512bf16"};
  return names[static_cast<int>(isa)];
}

Isa machine_isa() {
  static const Isa isa = std::min(detect(), static_cast<Isa>(ISR_MAX_LEVEL));
  return isa;
}

bool machine_is_intel() {
  static const bool is = [] {
    const Cpuid zero(0, 0);
    return zero.b == 0x756e6547 && zero.d == 0x49656e69 && zero.c == 0x6c65746e;   // "Genu" "ineI" "ntel"
  }();
  return is;
}

// Intel's cores add bfloat16 pairs at half the rate of float32: widening them first is faster.
Isa default_isa() { return machine_is_intel() ? std::min(machine_isa(), Isa::Avx512) : machine_isa(); }

bool isa_supported(Isa isa) { return isa <= machine_isa(); }

Isa chosen_isa() {
  static const Isa isa = from_environment();
  return isa;
}

int machine_threads() {
  cpu_set_t set;
  int n = static_cast<int>(std::thread::hardware_concurrency());
  if (sched_getaffinity(0, sizeof set, &set) == 0) n = CPU_COUNT(&set);
  return std::max(1, std::min(n, cgroup_cpus()));
}

size_t machine_memory() {
  size_t bytes = static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<size_t>(sysconf(_SC_PAGE_SIZE));
  for (const char* path : {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    std::ifstream f(path);
    std::string text;
    if (f >> text && text != "max") bytes = std::min<size_t>(bytes, std::strtoull(text.c_str(), nullptr, 10));
  }
  return bytes;
}

}  // namespace isr
