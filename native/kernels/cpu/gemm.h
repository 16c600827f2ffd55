// Matrix products of the CPU backend: packed layouts and the one driver behind gemm_nt, gemm_nn and gemm_tn.
//
// C (rows, lanes) = A (rows, k) B (k, lanes). Lanes of B run along vectors; rows of A are broadcast.
//   unit    one step of the reduction in 32 bits: a float32, or two neighbouring bfloat16 (an odd k is padded by zero)
//   panel   kPanel lanes of B: unit-major (units, kPanel)
//   tile    up to kTileRows rows of A: unit-major (units, rows)
// An element's sum is one chain over ascending k, whatever the tile, block or thread: partial sums rest in float32 exactly.
#pragma once
#include <cstdint>

#include "kernels/cpu/simd.h"

namespace isr::cpu::ISR_NS {

constexpr int kPanel = 2 * kLanes;
constexpr int kTileRows = ISR_LEVEL >= 2 ? 14 : ISR_LEVEL == 1 ? 6 : 4;  // fills the register file: 2 sums a row

inline int64_t units_of(int64_t k, DType t) { return t == DType::BF16 ? (k + 1) / 2 : k; }
inline int64_t panel_bytes(int64_t k, DType t) { return units_of(k, t) * kPanel * 4; }

// Rows [n0, n0 + count) of w as a view; n0 a multiple of kPanel, w not swiglu.
inline Packed panel_range(const Packed& w, int64_t n0, int64_t count) {
  ISR_ASSERT(!w.swiglu && n0 % kPanel == 0 && n0 >= 0 && count >= 0 && n0 + count <= w.n, "rows ", n0, " + ", count);
  return {static_cast<char*>(w.panels) + n0 / kPanel * panel_bytes(w.k, w.dtype), w.dtype, count, w.k, false};
}

// ---- packing into scratch
enum class Kernel : uint8_t {
  F32,      // float32 x float32
  Pairs,    // bfloat16 pairs x pairs (AVX512_BF16)
  Widened,  // float32 x bfloat16 pairs: A was widened while packing, B is widened in registers
};
constexpr Kernel kBf16Kernel = ISR_LEVEL == 3 ? Kernel::Pairs : Kernel::F32;  // where both operands are packed on the fly
inline int64_t a_unit_bytes(Kernel kernel) { return kernel == Kernel::Widened ? 8 : 4; }
inline int64_t units_of(int64_t k, Kernel kernel) { return kernel == Kernel::F32 ? k : (k + 1) / 2; }

struct Tile { int64_t row; int32_t rows; };  // rows [row, row + rows) of A
// Even tiles rather than full ones and a sliver. The count for `rows`; then the tiles themselves, from row0 on.
inline int64_t tile_count(int64_t rows) { return (rows + kTileRows - 1) / kTileRows; }
inline void fill_tiles(Tile* tiles, int64_t row0, int64_t rows) {
  const int64_t n = tile_count(rows);
  for (int64_t i = 0; i < n; ++i)
    tiles[i] = {row0 + i * rows / n, static_cast<int32_t>((i + 1) * rows / n - i * rows / n)};
}
// Bytes from one packed tile to the next: packers store whole vectors, which run over the end by less than one.
inline int64_t tile_pitch(int64_t units, Kernel kernel) {
  return (units * kTileRows * a_unit_bytes(kernel) + 8 * kLanes + 63) / 64 * 64;
}

// The reduction runs along the rows of x: one tile of x, a transposition. bfloat16 is widened unless the kernel is Pairs.
void pack_tile(void* dst, Kernel kernel, const Tensor& x, Tile tile);
// The reduction runs down the rows, given by address (each holds `cols` elements): tiles of columns, all units; or units
// [u0, u1) of the panels [p0, p1), kPanel columns each.
struct RowTable { const char* const* row; int64_t rows, cols; DType dtype; };
void pack_column_tiles(char* dst, int64_t pitch, Kernel kernel, const RowTable& x, const Tile* tiles, int64_t count);
// Bytes from one panel in scratch to the next: one unit over, for multiples of 4 KB would share a few sets of the caches.
inline int64_t scratch_panel_pitch(int64_t units) { return (units + 1) * kPanel * 4; }
void pack_column_panels(char* dst, int64_t pitch, Kernel kernel, const RowTable& x, int64_t p0, int64_t p1, int64_t u0, int64_t u1);

// ---- the driver
struct Product {
  Kernel kernel = Kernel::F32;
  const char* a = nullptr;       // packed tiles, tile_pitch apart
  int64_t tile_pitch = 0;
  const Tile* tiles = nullptr;
  int64_t tile_count = 0;
  const char* b = nullptr;       // packed panels, panel_pitch apart
  int64_t panel_pitch = 0, panel_count = 0;
  int64_t units = 0;             // length of the reduction
};
// What to do with a finished block of sums: sums (tiles[tile].rows, kPanel) of `panel`; they may be overwritten.
using Finish = FunctionRef<void(int64_t tile, int64_t panel, float* sums)>;
void run_product(CpuBackend& backend, const Product& p, Finish finish);

// Regions that take less than about 50 microseconds run inline: all of `n` as one grain.
inline int64_t grain_or_inline(int threads, int64_t n, double microseconds, int64_t min_grain = 1) {
  return microseconds < 50 ? n : grain_for(threads, n, min_grain);
}

}  // namespace isr::cpu::ISR_NS
