// dW (+)= dY^T X and db (+)= column sums of dY: the gradients of a product's parameters, in float32.
// The reduction runs over tokens in even runs of at most kRun rows, each summed from zero and then added to dW: a function
// of the number of tokens alone.
#include "kernels/cpu/gemm.h"

namespace isr::cpu::ISR_NS {
namespace {

constexpr int64_t kRun = 2048, kChunk = 64;  // tokens
constexpr int64_t kTilesPerTask = 8, kPanelsPerTask = 4;
constexpr int kVectors = 4, kStrip = kVectors * kLanes;  // columns of a bias gradient at a time

struct Target { float* dw; bool accumulate; };  // of a tile: its first row in dW

// dW is written straight to memory: ask for the next tile's lines while its sums are computed.
void prefetch_tile(const Target& target, int rows, int64_t k, int64_t column) {
  for (int r = 0; r < rows; ++r)
    for (int64_t c = column; c < column + kPanel && c < k; c += 16) __builtin_prefetch(target.dw + r * k + c, 1);
}

// db of rows [i, i + n) of a part, n <= kStrip; they are columns [c, c + n) of dy. Wide strips read whole cache lines.
template <class T>
void bias_gradient(const GradPart& part, const Tensor& dy, int64_t c, int64_t i, int64_t n) {
  vf total[kVectors] = {};
  for (int64_t t0 = 0; t0 < dy.rows; t0 += kChunk) {
    const int64_t t1 = t0 + kChunk < dy.rows ? t0 + kChunk : dy.rows;
    vf chunk[kVectors] = {};
    for (int64_t t = t0; t < t1; ++t) {
      const T* p = dy.as<T>() + t * dy.stride + c;
      if (n == kStrip) {
        for (int j = 0; j < kVectors; ++j) chunk[j] += load(p + j * kLanes);
      } else {
        for_lanes(n, [&](int64_t at, auto lanes) { chunk[at / kLanes] += load_at(p + at, lanes); });
      }
    }
    for (int j = 0; j < kVectors; ++j) total[j] += chunk[j];
  }
  for_lanes(n, [&](int64_t at, auto lanes) {
    float* to = part.db + i + at;
    store_at(to, part.accumulate_bias ? load_at(to, lanes) + total[at / kLanes] : total[at / kLanes], lanes);
  });
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

void bias_gradients(const Crew& threads, std::span<const GradPart> parts, const Tensor& dy) {
  int64_t column = 0;
  for (const GradPart& part : parts) {
    const int64_t strips = part.db ? (part.rows + kStrip - 1) / kStrip : 0;
    parallel(threads, strips, grain_or_inline(threads, strips, static_cast<double>(dy.rows * part.rows) / 8e3),
             [&](int64_t begin, int64_t end, int) {
               for (int64_t i = begin * kStrip; i < end * kStrip && i < part.rows; i += kStrip) {
                 const int64_t n = part.rows - i < kStrip ? part.rows - i : kStrip;
                 if (dy.dtype == DType::F32) bias_gradient<float>(part, dy, column + i, i, n);
                 else bias_gradient<uint16_t>(part, dy, column + i, i, n);
               }
             });
    column += part.rows;
  }
}

// Tiles of the parts that want dW; a tile never crosses parts. Its row is a column of dy.
struct Tiles { Tile* tile; Target* target; int64_t count; };
Tiles plan_tiles(Arena& scratch, std::span<const GradPart> parts, int64_t k) {
  int64_t count = 0, filled = 0, column = 0;
  for (const GradPart& part : parts) count += part.dw ? tile_count(part.rows) : 0;
  const Tiles plan{scratch.allocate_n<Tile>(count), scratch.allocate_n<Target>(count), count};
  for (const GradPart& part : parts) {
    if (part.dw) {
      fill_tiles(plan.tile + filled, column, part.rows);
      for (const int64_t end = filled + tile_count(part.rows); filled < end; ++filled)
        plan.target[filled] = {part.dw + (plan.tile[filled].row - column) * k, part.accumulate};
    }
    column += part.rows;
  }
  return plan;
}

RowTable row_table(Arena& scratch, const Tensor& x) {
  const char** rows = scratch.allocate_n<const char*>(x.rows);
  for (int64_t t = 0; t < x.rows; ++t) rows[t] = static_cast<const char*>(x.at(t));
  return {rows, x.rows, x.cols, x.dtype};
}

// dW (+)= dY^T X over one run of tokens.
void multiply_run(CpuBackend& backend, const Tiles& plan, const Tensor& dy, const Tensor& x, bool add) {
  const Kernel kernel = dy.dtype == DType::F32 ? Kernel::F32 : kBf16Kernel;
  const Crew& threads = backend.threads;
  const int64_t units = units_of(dy.rows, kernel), pitch = tile_pitch(units, kernel), panel_pitch = scratch_panel_pitch(units);
  const int64_t panels = (x.cols + kPanel - 1) / kPanel;
  ArenaScope scope(backend.scratch);
  char* a = backend.scratch.allocate_n<char>(plan.count * pitch);
  char* b = backend.scratch.allocate_n<char>(panels * panel_pitch);
  const RowTable dy_rows = row_table(backend.scratch, dy), x_rows = row_table(backend.scratch, x);

  // The first tasks pack tiles of dy, the others panels of x.
  const int64_t a_tasks = (plan.count + kTilesPerTask - 1) / kTilesPerTask;
  const int64_t tasks = a_tasks + (panels + kPanelsPerTask - 1) / kPanelsPerTask;
  const double elements = static_cast<double>(dy.rows * (dy.cols + x.cols));
  parallel(threads, tasks, grain_or_inline(threads, tasks, elements / 4e3), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      if (i < a_tasks) {
        const int64_t first = i * kTilesPerTask, left = plan.count - first;
        pack_column_tiles(a + first * pitch, pitch, kernel, dy_rows, plan.tile + first,
                          left < kTilesPerTask ? left : kTilesPerTask);
      } else {
        const int64_t p0 = (i - a_tasks) * kPanelsPerTask, p1 = p0 + kPanelsPerTask;
        pack_column_panels(b, panel_pitch, kernel, x_rows, p0, p1 < panels ? p1 : panels, 0, units);
      }
    }
  });
  Product p;
  p.kernel = kernel, p.a = a, p.tiles = plan.tile, p.tile_count = plan.count, p.tile_pitch = pitch;
  p.b = b, p.panel_pitch = panel_pitch, p.panel_count = panels, p.units = units;
  run_product(backend, p, [&](int64_t tile, int64_t panel, float* sums) {
    if (tile + 1 < plan.count) prefetch_tile(plan.target[tile + 1], plan.tile[tile + 1].rows, x.cols, panel * kPanel);
    finish_tile(plan.target[tile], plan.tile[tile].rows, x.cols, panel * kPanel, add || plan.target[tile].accumulate, sums);
  });
}

}  // namespace

void CpuBackend::gemm_tn(std::span<const GradPart> dw, Tensor dy, Tensor x) {
  int64_t n = 0;
  for (const GradPart& part : dw) n += part.rows;
  ISR_ASSERT(n == dy.cols && dy.rows == x.rows && dy.dtype == x.dtype, "[gemm_tn] dy (", dy.rows, ", ", dy.cols, ") ",
             name_of(dy.dtype), ", x (", x.rows, ", ", x.cols, ") ", name_of(x.dtype), ", parts of ", n, " rows");
  bias_gradients(threads, dw, dy);
  ArenaScope scope(scratch);
  const Tiles plan = plan_tiles(scratch, dw, x.cols);
  if (plan.count == 0 || x.cols == 0) return;
  const int64_t runs = dy.rows > kRun ? (dy.rows + kRun - 1) / kRun : 1;
  for (int64_t run = 0; run < runs; ++run) {
    const int64_t t0 = dy.rows * run / runs, tokens = dy.rows * (run + 1) / runs - t0;
    multiply_run(*this, plan, dy.row_range(t0, tokens), x.row_range(t0, tokens), run > 0);
  }
}

}  // namespace isr::cpu::ISR_NS
