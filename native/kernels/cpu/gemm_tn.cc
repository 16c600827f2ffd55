// dW (+)= dY^T X and db (+)= column sums of dY: the gradients of a product's parameters, in float32.
// The reduction runs over tokens in runs of kRun rows, each summed from zero and then added to dW: fixed whatever the threads.
#include "kernels/cpu/gemm.h"

namespace isr::cpu::ISR_NS {
namespace {

constexpr int64_t kRun = 1024, kChunk = 64;  // tokens
constexpr int64_t kTilesPerTask = 8;
static_assert(kRun % kChunk == 0);

struct Target { float* dw; bool accumulate; };  // of a tile: its first row in dW

// Columns [c, c + n) of dy, n <= kLanes, in chunks of 64 rows.
template <class T>
vf column_sums(const Tensor& dy, int64_t c, int n) {
  vf total = zero();
  for (int64_t t0 = 0; t0 < dy.rows; t0 += kChunk) {
    const int64_t t1 = t0 + kChunk < dy.rows ? t0 + kChunk : dy.rows;
    vf chunk = zero();
    for (int64_t t = t0; t < t1; ++t) {
      const T* p = dy.as<T>() + t * dy.stride + c;
      chunk += n == kLanes ? load(p) : load_n(p, n);
    }
    total += chunk;
  }
  return total;
}

void bias_gradient(const GradPart& part, const Tensor& dy, int64_t column, int64_t i) {
  const int n = part.rows - i < kLanes ? static_cast<int>(part.rows - i) : kLanes;
  const vf sums = dy.dtype == DType::F32 ? column_sums<float>(dy, column + i, n) : column_sums<uint16_t>(dy, column + i, n);
  store_n(part.db + i, part.accumulate_bias ? load_n(part.db + i, n) + sums : sums, n);
}

void finish_tile(const Target& target, int rows, int64_t k, int64_t column, bool add, const float* sums) {
  for (int half = 0; half < 2; ++half, column += kLanes) {
    const int n = k - column < kLanes ? static_cast<int>(k - column) : kLanes;
    if (n <= 0) return;
    for (int r = 0; r < rows; ++r) {
      float* to = target.dw + r * k + column;
      const vf v = load(sums + r * kPanel + half * kLanes);
      if (n == kLanes) store(to, add ? load(to) + v : v);
      else store_n(to, add ? load_n(to, n) + v : v, n);
    }
  }
}

}  // namespace

void CpuBackend::gemm_tn(std::span<const GradPart> dw, Tensor dy, Tensor x) {
  int64_t n = 0, count = 0;
  for (const GradPart& part : dw) {
    n += part.rows;
    if (part.dw) count += tile_count(part.rows);
  }
  ISR_ASSERT(n == dy.cols && dy.rows == x.rows && dy.dtype == x.dtype, "[gemm_tn] dy (", dy.rows, ", ", dy.cols, ") ",
             name_of(dy.dtype), ", x (", x.rows, ", ", x.cols, ") ", name_of(x.dtype), ", parts of ", n, " rows");
  ArenaScope scope(scratch);
  Tile* tiles = scratch.allocate_n<Tile>(count);      // row: column of dy
  Target* targets = scratch.allocate_n<Target>(count);
  int64_t filled = 0, column = 0;
  for (const GradPart& part : dw) {
    if (part.dw) {
      fill_tiles(tiles + filled, column, part.rows);
      for (const int64_t end = filled + tile_count(part.rows); filled < end; ++filled)
        targets[filled] = {part.dw + (tiles[filled].row - column) * x.cols, part.accumulate};
    }
    if (part.db) {
      const int64_t groups = (part.rows + kLanes - 1) / kLanes;
      parallel(threads, groups, grain_or_inline(threads, groups, static_cast<double>(dy.rows * part.rows) / 4e3),
               [&](int64_t begin, int64_t end, int) {
                 for (int64_t g = begin; g < end; ++g) bias_gradient(part, dy, column, g * kLanes);
               });
    }
    column += part.rows;
  }
  if (count == 0 || x.cols == 0) return;

  const Kernel kernel = dy.dtype == DType::F32 ? Kernel::F32 : kBf16Kernel;
  const int64_t most = units_of(dy.rows < kRun ? dy.rows : kRun, kernel), pitch = tile_pitch(most, kernel);
  const int64_t panels = (x.cols + kPanel - 1) / kPanel, panel_pitch = most * kPanel * 4;
  char* a = scratch.allocate_n<char>(count * pitch);
  char* b = scratch.allocate_n<char>(panels * panel_pitch);
  const char** rows = scratch.allocate_n<const char*>(2 * kRun);
  for (int64_t t0 = 0; t0 < dy.rows || t0 == 0; t0 += kRun) {
    const int64_t tokens = dy.rows - t0 < kRun ? dy.rows - t0 : kRun, units = units_of(tokens, kernel);
    for (int64_t t = 0; t < tokens; ++t) {
      rows[t] = static_cast<const char*>(dy.at(t0 + t));
      rows[kRun + t] = static_cast<const char*>(x.at(t0 + t));
    }
    const RowTable dy_rows{rows, tokens, dy.cols, dy.dtype}, x_rows{rows + kRun, tokens, x.cols, x.dtype};
    // The first tasks pack tiles of dy, the others panels of x.
    const int64_t a_tasks = (count + kTilesPerTask - 1) / kTilesPerTask, b_tasks = (panels + 3) / 4;
    parallel(threads, a_tasks + b_tasks,
             grain_or_inline(threads, a_tasks + b_tasks, static_cast<double>(tokens * (n + x.cols)) / 4e3),
             [&](int64_t begin, int64_t end, int) {
               for (int64_t i = begin; i < end; ++i) {
                 if (i < a_tasks) {
                   const int64_t first = i * kTilesPerTask, left = count - first;
                   pack_column_tiles(a + first * pitch, pitch, kernel, dy_rows, tiles + first, left < kTilesPerTask ? left : kTilesPerTask);
                 } else {
                   const int64_t p0 = (i - a_tasks) * 4, p1 = p0 + 4 < panels ? p0 + 4 : panels;
                   pack_column_panels(b, panel_pitch, kernel, x_rows, p0, p1, 0, units);
                 }
               }
             });
    Product p;
    p.kernel = kernel, p.a = a, p.tiles = tiles, p.tile_count = count, p.tile_pitch = pitch;
    p.b = b, p.panel_pitch = panel_pitch, p.panel_count = panels, p.units = units;
    run_product(*this, p, [&](int64_t tile, int64_t panel, float* sums) {
      finish_tile(targets[tile], tiles[tile].rows, x.cols, panel * kPanel, t0 > 0 || targets[tile].accumulate, sums);
    });
  }
}

}  // namespace isr::cpu::ISR_NS
