// Picks the CPU backend of a level. Compiled once, for any machine.
#include "kernels/backend.h"

namespace isr {
namespace cpu {
namespace generic { std::unique_ptr<Backend> make(int threads); }
namespace avx2 { std::unique_ptr<Backend> make(int threads); }
namespace avx512 { std::unique_ptr<Backend> make(int threads); }
namespace avx512bf16 { std::unique_ptr<Backend> make(int threads); }
}  // namespace cpu

std::unique_ptr<Backend> make_cpu_backend(Isa level, int threads) {
  if (!isa_supported(level))
    throw Error("DEVICE_UNAVAILABLE", concat("instruction-set level ", name_of(level), " is not available on this machine"));
  switch (level) {
    case Isa::Avx512Bf16: return cpu::avx512bf16::make(threads);
    case Isa::Avx512: return cpu::avx512::make(threads);
    case Isa::Avx2: return cpu::avx2::make(threads);
    default: return cpu::generic::make(threads);
  }
}

}  // namespace isr
