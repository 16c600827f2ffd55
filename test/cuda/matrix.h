// Matrix instructions of a warp by the fragment layouts of the PTX ISA.
#pragma once
#include "fibers.h"

namespace isr::emulated {

void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
void load_matrix_x4(uint32_t (&r)[4], const void* row, bool transposed);   // counts reads of which two rows share a bank

}  // namespace isr::emulated
