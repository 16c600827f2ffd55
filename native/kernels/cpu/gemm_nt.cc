// Y = act(X W^T + bias) + residual over packed weights. X is packed into tiles, in runs of rows that bound the scratch;
// what follows the product (bias, activation, residual, rounding) happens while a block of sums is in the first-level cache.
#include "kernels/cpu/activation.h"
#include "kernels/cpu/gemm.h"

namespace isr::cpu::ISR_NS {
namespace {

constexpr int64_t kScratchBytes = int64_t{8} << 20;  // of packed X: it stays in the third-level cache

template <class T>
vf as_stored(vf v) {
  if constexpr (sizeof(T) == 2) return (vf)(__builtin_convertvector(to_bf16(v), vu) << 16);
  return v;
}

// Columns [c, c + n) of one row, n <= kLanes. T: the type of y and residual; P: of pre.
template <class T, class P>
struct Lanes {
  const Tensor& y;
  const Epilogue& e;

  vf begun(int64_t row, int64_t column, vf v, int n) const {
    if (e.accumulate) v += e.pre ? load_n_or_all(e.pre.as<P>() + row * e.pre.stride + column, n) : load_n_or_all(y.as<T>() + row * y.stride + column, n);
    return e.bias ? v + load_n_or_all(e.bias + column, n) : v;
  }
  void save(int64_t row, int64_t column, vf v, int n) const {
    if (e.pre) store_n_or_all(e.pre.as<P>() + row * e.pre.stride + column, v, n);
  }
  void finish(int64_t row, int64_t column, vf v, int n) const {
    if (e.residual) v += load_n_or_all(e.residual.as<T>() + row * e.residual.stride + column, n);
    store_n_or_all(y.as<T>() + row * y.stride + column, v, n);
  }

  template <class U>
  static vf load_n_or_all(const U* p, int n) { return n == kLanes ? load(p) : load_n(p, n); }
  template <class U>
  static void store_n_or_all(U* p, vf v, int n) {
    if (n == kLanes) store(p, v);
    else store_n(p, v, n);
  }
};

// The activation always sees the pre-activation as y's type holds it, saved or not: training and inference agree.
template <class T, class P>
void finish_plain(const Tensor& y, const Epilogue& e, Tile tile, int64_t column, const float* sums) {
  const Lanes<T, P> lanes{y, e};
  for (int half = 0; half < 2; ++half, column += kLanes) {
    const int n = y.cols - column < kLanes ? static_cast<int>(y.cols - column) : kLanes;
    if (n <= 0) return;
    for (int r = 0; r < tile.rows; ++r) {
      vf v = lanes.begun(tile.row + r, column, load(sums + r * kPanel + half * kLanes), n);
      lanes.save(tile.row + r, column, v, n);
      if (e.act != Act::None) v = act_value(e.act, as_stored<T>(v));
      lanes.finish(tile.row + r, column, v, n);
    }
  }
}

template <class T, class P>
void finish_swiglu(const Tensor& y, const Epilogue& e, Tile tile, int64_t column, const float* sums) {
  const Lanes<T, P> lanes{y, e};
  const int n = y.cols - column < kLanes ? static_cast<int>(y.cols - column) : kLanes;
  for (int r = 0; r < tile.rows; ++r) {
    const vf gate = lanes.begun(tile.row + r, column, load(sums + r * kPanel), n);
    const vf up = lanes.begun(tile.row + r, y.cols + column, load(sums + r * kPanel + kLanes), n);
    lanes.save(tile.row + r, column, gate, n);
    lanes.save(tile.row + r, y.cols + column, up, n);
    lanes.finish(tile.row + r, column, silu(as_stored<T>(gate)) * as_stored<T>(up), n);
  }
}

using FinishTile = void (*)(const Tensor& y, const Epilogue& e, Tile tile, int64_t column, const float* sums);

template <class T, class P>
FinishTile finish_as(bool swiglu) { return swiglu ? finish_swiglu<T, P> : finish_plain<T, P>; }

FinishTile choose_finish(const Tensor& y, const Epilogue& e, bool swiglu) {
  const bool half_y = y.dtype == DType::BF16, half_pre = e.pre ? e.pre.dtype == DType::BF16 : half_y;
  if (half_y) return half_pre ? finish_as<uint16_t, uint16_t>(swiglu) : finish_as<uint16_t, float>(swiglu);
  return half_pre ? finish_as<float, uint16_t>(swiglu) : finish_as<float, float>(swiglu);
}

void check(const Tensor& y, const Tensor& x, const Packed& w, const Epilogue& e) {
  ISR_ASSERT(x.dtype == w.dtype && x.cols == w.k && x.rows == y.rows && y.cols == (w.swiglu ? w.n / 2 : w.n),
             "[gemm_nt] y (", y.rows, ", ", y.cols, "), x (", x.rows, ", ", x.cols, ") ", name_of(x.dtype), ", w (", w.n,
             ", ", w.k, ") ", name_of(w.dtype));
  ISR_ASSERT(w.swiglu == (e.act == Act::SwiGlu), "[gemm_nt] SwiGlu goes with weights packed for it");
  ISR_ASSERT(!e.pre || (e.pre.rows == y.rows && e.pre.cols == w.n), "[gemm_nt] pre (", e.pre.rows, ", ", e.pre.cols, ")");
  ISR_ASSERT(!e.accumulate || e.pre || e.act == Act::None, "[gemm_nt] what is added to an activation's input needs `pre`");
  ISR_ASSERT(!e.residual || (e.residual.rows == y.rows && e.residual.cols == y.cols && e.residual.dtype == y.dtype),
             "[gemm_nt] residual (", e.residual.rows, ", ", e.residual.cols, ") ", name_of(e.residual.dtype), " for y ",
             name_of(y.dtype));
}

}  // namespace

void CpuBackend::gemm_nt(Tensor y, Tensor x, const Packed& w, const Epilogue& e) {
  check(y, x, w, e);
  if (y.rows == 0 || y.cols == 0) return;
  const Kernel kernel = w.dtype == DType::F32 ? Kernel::F32 : ISR_LEVEL == 3 ? Kernel::Pairs : Kernel::Widened;
  const FinishTile finish = choose_finish(y, e, w.swiglu);
  const int64_t units = units_of(w.k, w.dtype), pitch = tile_pitch(units, kernel);
  const int64_t columns = w.swiglu ? kLanes : kPanel;
  const int64_t most_tiles = kScratchBytes / pitch < 16 ? 16 : kScratchBytes / pitch;
  const int64_t runs = (tile_count(x.rows) + most_tiles - 1) / most_tiles;
  for (int64_t run = 0; run < runs; ++run) {
    const int64_t row0 = x.rows * run / runs, rows = x.rows * (run + 1) / runs - row0, count = tile_count(rows);
    ArenaScope scope(scratch);
    Tile* tiles = scratch.allocate_n<Tile>(count);
    char* a = scratch.allocate_n<char>(count * pitch);
    fill_tiles(tiles, row0, rows);
    parallel(threads, count, grain_or_inline(threads, count, static_cast<double>(rows * w.k) / 1e3),
             [&](int64_t begin, int64_t end, int) {
               for (int64_t i = begin; i < end; ++i) pack_tile(a + i * pitch, kernel, x, tiles[i]);
             });
    Product p;
    p.kernel = kernel, p.a = a, p.tile_pitch = pitch, p.tiles = tiles, p.tile_count = count;
    p.b = static_cast<const char*>(w.panels), p.panel_pitch = units * kPanel * 4;
    p.panel_count = (y.cols + columns - 1) / columns;
    p.units = units;
    run_product(*this, p, [&](int64_t tile, int64_t panel, float* sums) {
      finish(y, e, tiles[tile], panel * columns, sums);
    });
  }
}

}  // namespace isr::cpu::ISR_NS
