// dX (+)= dY W: the gradient of a product's input. The reduction runs down the rows of W, so its row-major truth already
// has dX's lanes side by side; panels are cut from it into scratch, a range of dX's columns at a time.
#include "kernels/cpu/gemm.h"

namespace isr::cpu::ISR_NS {
namespace {

constexpr int64_t kTileBytes = int64_t{32} << 20;   // of packed dY at a time: W is cut anew for each run of rows
constexpr int64_t kPanelBytes = int64_t{8} << 20;   // of panels cut from W at a time: they stay in the third-level cache

template <class T>
void finish_tile(const Tensor& dx, bool accumulate, Tile tile, int64_t column, const float* sums) {
  for (int half = 0; half < 2; ++half, column += kLanes) {
    const int n = dx.cols - column < kLanes ? static_cast<int>(dx.cols - column) : kLanes;
    if (n <= 0) return;
    for (int r = 0; r < tile.rows; ++r) {
      T* to = dx.as<T>() + (tile.row + r) * dx.stride + column;
      const vf v = load(sums + r * kPanel + half * kLanes);
      if (n == kLanes) store(to, accumulate ? load(to) + v : v);
      else store_n(to, accumulate ? load_n(to, n) + v : v, n);
    }
  }
}

int64_t check(const Tensor& dx, const Tensor& dy, std::span<const Tensor> w) {
  int64_t n = 0;
  for (const Tensor& part : w) {
    ISR_ASSERT(part.data, "[gemm_nn] a gradient flows through a matrix that has no row-major values");
    ISR_ASSERT(part.cols == dx.cols && part.contiguous() && part.dtype == dy.dtype, "[gemm_nn] w (", part.rows, ", ", part.cols, ") ",
               name_of(part.dtype), " for dx of ", dx.cols, " columns, dy ", name_of(dy.dtype));
    n += part.rows;
  }
  ISR_ASSERT(n == dy.cols && dx.rows == dy.rows && dx.dtype == dy.dtype, "[gemm_nn] dx (", dx.rows, ", ", dx.cols,
             "), dy (", dy.rows, ", ", dy.cols, "), w ", n, " rows");
  return n;
}

}  // namespace

void CpuBackend::gemm_nn(Tensor dx, bool accumulate, Tensor dy, std::span<const Tensor> w) {
  const int64_t n = check(dx, dy, w);
  if (dx.rows == 0 || dx.cols == 0) return;
  const Kernel kernel = dy.dtype == DType::F32 ? Kernel::F32 : kBf16Kernel;
  const auto finish = dx.dtype == DType::F32 ? finish_tile<float> : finish_tile<uint16_t>;
  const int64_t units = units_of(n, kernel), pitch = tile_pitch(units, kernel), panel_pitch = scratch_panel_pitch(units);
  ArenaScope scope(scratch);
  const char** rows = scratch.allocate_n<const char*>(n);
  for (int64_t i = 0; const Tensor& part : w)
    for (int64_t r = 0; r < part.rows; ++r)
      rows[i++] = static_cast<const char*>(part.at(r));
  const RowTable table{rows, n, dx.cols, dy.dtype};

  const int64_t panels = (dx.cols + kPanel - 1) / kPanel;
  const int64_t most_panels = kPanelBytes / panel_pitch < panels ? kPanelBytes / panel_pitch + 1 : panels;
  const int64_t most_tiles = kTileBytes / pitch < 16 ? 16 : kTileBytes / pitch;
  const int64_t runs = (tile_count(dx.rows) + most_tiles - 1) / most_tiles;
  char* b = scratch.allocate_n<char>(most_panels * panel_pitch);
  for (int64_t run = 0; run < runs; ++run) {
    const int64_t row0 = dx.rows * run / runs, count = tile_count(dx.rows * (run + 1) / runs - row0);
    ArenaScope inner(scratch);
    Tile* tiles = scratch.allocate_n<Tile>(count);
    char* a = scratch.allocate_n<char>(count * pitch);
    fill_tiles(tiles, row0, dx.rows * (run + 1) / runs - row0);
    parallel(threads, count, grain_or_inline(threads, count, static_cast<double>(dx.rows * n) / 1e3),
             [&](int64_t begin, int64_t end, int) {
               for (int64_t i = begin; i < end; ++i) pack_tile(a + i * pitch, kernel, dy, tiles[i]);
             });
    for (int64_t p0 = 0; p0 < panels; p0 += most_panels) {
      const int64_t some = panels - p0 < most_panels ? panels - p0 : most_panels;
      // Pieces of 32 units over all panels of the run: whole row segments, read in order.
      const int64_t pieces = (units + 31) / 32;
      parallel(threads, pieces, grain_or_inline(threads, pieces, static_cast<double>(some * kPanel * n) / 4e3),
               [&](int64_t begin, int64_t end, int) {
                 const int64_t u1 = end * 32 < units ? end * 32 : units;
                 pack_column_panels(b - p0 * panel_pitch, panel_pitch, kernel, table, p0, p0 + some, begin * 32, u1);
               });
      Product p;
      p.kernel = kernel, p.a = a, p.tile_pitch = pitch, p.tiles = tiles, p.tile_count = count;
      p.b = b, p.panel_pitch = panel_pitch, p.panel_count = some, p.units = units;
      run_product(*this, p, [&](int64_t tile, int64_t panel, float* sums) {
        finish(dx, accumulate, tiles[tile], (p0 + panel) * kPanel, sums);
      });
    }
  }
}

}  // namespace isr::cpu::ISR_NS
