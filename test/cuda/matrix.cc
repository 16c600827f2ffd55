#include "matrix.h"

#include "core/bf16.h"

namespace isr::emulated {
namespace {

float half_of(uint32_t pair, int high) { return bf16_to_f32(static_cast<uint16_t>(high ? pair >> 16 : pair)); }

}  // namespace

// a: lane (g, t) = (l / 4, l % 4) holds rows g and g + 8, columns 2t, 2t + 1 and 8 beyond; b: column g, rows 2t, 2t + 1 and 8
// beyond; d: rows g and g + 8, columns 2t and 2t + 1.
void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  struct Given { uint32_t a[4], b[2]; float d[4]; } given;
  struct Taken { float d[4]; } taken;
  std::memcpy(given.a, a, sizeof given.a);
  std::memcpy(given.b, b, sizeof given.b);
  std::memcpy(given.d, d, sizeof given.d);
  meet(~0u, "mma.sync", &given, &taken, [](const Meeting& m) {
    float A[16][16], B[16][8], D[16][8];
    ++counters().mma;
    for (int l = 0; l < static_cast<int>(kWarp); ++l) {
      if (!m.in[l]) kernel_error("multiplies matrices in a warp that is not whole");
      const Given& x = *static_cast<const Given*>(m.in[l]);
      const int g = l / 4, t = 2 * (l % 4);
      for (int h = 0; h < 2; ++h) {
        A[g][t + h] = half_of(x.a[0], h), A[g + 8][t + h] = half_of(x.a[1], h);
        A[g][t + 8 + h] = half_of(x.a[2], h), A[g + 8][t + 8 + h] = half_of(x.a[3], h);
        B[t + h][g] = half_of(x.b[0], h), B[t + 8 + h][g] = half_of(x.b[1], h);
        D[g][t + h] = x.d[h], D[g + 8][t + h] = x.d[2 + h];
      }
    }
    for (int i = 0; i < 16; ++i)
      for (int k = 0; k < 16; ++k)
        for (int j = 0; j < 8; ++j) D[i][j] += A[i][k] * B[k][j];
    for (int l = 0; l < static_cast<int>(kWarp); ++l) {
      const int g = l / 4, t = 2 * (l % 4);
      *static_cast<Taken*>(m.out[l]) = {{D[g][t], D[g][t + 1], D[g + 8][t], D[g + 8][t + 1]}};
    }
  });
  std::memcpy(d, taken.d, sizeof taken.d);
}

void load_matrix_x4(uint32_t (&r)[4], const void* row, bool transposed) {
  struct Taken { uint32_t r[4]; } taken;
  const char* const shared = shared_memory();
  if (reinterpret_cast<uintptr_t>(row) & 15) kernel_error("loads a row of a matrix from an address that is no multiple of 16");
  if (static_cast<const char*>(row) < shared || static_cast<const char*>(row) + 16 > shared + shared_bytes())
    kernel_error("loads a row of a matrix from outside of its shared memory");
  uint16_t own[8];   // read by the lane that names the row, so that races show
  std::memcpy(own, row, sizeof own);
  struct Given { const void* at; uint16_t row[8]; } given;
  given.at = row;
  std::memcpy(given.row, own, sizeof own);
  meet(~0u, transposed ? "ldmatrix.trans" : "ldmatrix", &given, &taken, [transposed](const Meeting& m) {
    const Given* rows[kWarp];
    for (unsigned l = 0; l < kWarp; ++l) {
      if (!m.in[l]) kernel_error("loads matrices in a warp that is not whole");
      rows[l] = static_cast<const Given*>(m.in[l]);
    }
    for (unsigned matrix = 0; matrix < 4; ++matrix) {
      unsigned banks = 0;   // groups of four
      bool conflict = false;
      for (unsigned i = 0; i < 8; ++i) {
        const unsigned bank = 1u << (reinterpret_cast<uintptr_t>(rows[8 * matrix + i]->at) / 16 % 8);
        conflict |= (banks & bank) != 0;
        banks |= bank;
      }
      ++counters().ldmatrix;
      counters().conflicts += conflict;
      for (unsigned l = 0; l < kWarp; ++l) {
        const unsigned g = l / 4, t = 2 * (l % 4);
        const uint16_t low = transposed ? rows[8 * matrix + t]->row[g] : rows[8 * matrix + g]->row[t];
        const uint16_t high = transposed ? rows[8 * matrix + t + 1]->row[g] : rows[8 * matrix + g]->row[t + 1];
        static_cast<Taken*>(m.out[l])->r[matrix] = low | static_cast<uint32_t>(high) << 16;
      }
    }
  });
  std::memcpy(r, taken.r, sizeof taken.r);
}

}  // namespace isr::emulated
