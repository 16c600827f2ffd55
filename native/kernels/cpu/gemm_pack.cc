// Packing of matrices into panels and tiles (gemm.h). Everything moves in 32-bit units: a float32 or a bfloat16 pair.
// Rows that become lanes are transposed kLanes x kLanes in registers; rows that run along the reduction are copied.
#include <utility>

#include "kernels/cpu/gemm.h"

namespace isr::cpu::ISR_NS {
namespace {

// ---- transposition: log2(kLanes) rounds that swap blocks of S between rows i and i + S
template <int S, size_t... I>
vf low_blocks(vf a, vf b, std::index_sequence<I...>) {
  return __builtin_shufflevector(a, b, static_cast<int>((I & S) ? I - S + kLanes : I)...);
}
template <int S, size_t... I>
vf high_blocks(vf a, vf b, std::index_sequence<I...>) {
  return __builtin_shufflevector(a, b, static_cast<int>((I & S) ? I + kLanes : I + S)...);
}
template <int S>
void swap_blocks(vf* v) {
  using Lanes = std::make_index_sequence<kLanes>;
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    if (i & S) continue;
    const vf a = v[i], b = v[i + S];
    v[i] = low_blocks<S>(a, b, Lanes{});
    v[i + S] = high_blocks<S>(a, b, Lanes{});
  }
}
void transpose(vf* v) {
  swap_blocks<1>(v);
  swap_blocks<2>(v);
#if ISR_LEVEL >= 1
  swap_blocks<4>(v);
#endif
#if ISR_LEVEL >= 2
  swap_blocks<8>(v);
#endif
}

// kLanes units of a row from `unit` on, as raw bits; elements at `k` and beyond read as 0.
vf load_units(const char* row, int64_t unit, int64_t k, int element) {
  const int64_t left = k * element - unit * 4;
  if (left >= kLanes * 4) return load(reinterpret_cast<const float*>(row + unit * 4));
  float tmp[kLanes] = {};
  if (left > 0) std::memcpy(tmp, row + unit * 4, static_cast<size_t>(left));
  return load(tmp);
}

// ---- packed weights. A group is kLanes lanes, half a panel: the rows of w that are transposed together.
struct Group { float* lanes; int64_t first, count; };  // lanes (units, kPanel) of rows [first, first + count)

Group group_of(const Packed& w, int64_t row) {
  const int64_t half = w.n / 2;
  const bool up = w.swiglu && row >= half;
  const int64_t base = up ? half : 0, end = w.swiglu && !up ? half : w.n;
  const int64_t g = (row - base) / kLanes, first = base + g * kLanes;
  const int64_t panel = w.swiglu ? g : g / 2, part = w.swiglu ? up : g % 2;
  float* lanes = reinterpret_cast<float*>(static_cast<char*>(w.panels) + panel * panel_bytes(w.k, w.dtype)) + part * kLanes;
  return {lanes, first, first + kLanes < end ? kLanes : end - first};
}

// Rows [row0, row1) of w that lie in group g, from src (the row row0).
void pack_group(const Packed& w, const Group& g, int64_t row0, int64_t row1, const char* src, int64_t row_bytes) {
  const int element = static_cast<int>(size_of(w.dtype));
  const int64_t units = units_of(w.k, w.dtype);
  const int lane0 = static_cast<int>(row0 - g.first), rows = static_cast<int>(row1 - row0);
  if (rows == g.count) {  // the group is this call's alone: whole vectors, with zeros in padding lanes
    for (int64_t u = 0; u < units; u += kLanes) {
      vf v[kLanes];
      for (int r = 0; r < kLanes; ++r) v[r] = r < rows ? load_units(src + r * row_bytes, u, w.k, element) : zero();
      transpose(v);
      const int64_t count = units - u < kLanes ? units - u : kLanes;
      for (int64_t i = 0; i < count; ++i) store(g.lanes + (u + i) * kPanel, v[i]);
    }
    return;
  }
  for (int r = 0; r < rows; ++r)  // other rows of the group may be written by other threads right now
    for (int64_t u = 0; u < units; ++u) {
      const int64_t left = w.k * element - u * 4;
      float bits = 0;
      std::memcpy(&bits, src + r * row_bytes + u * 4, static_cast<size_t>(left < 4 ? left : 4));
      std::memcpy(g.lanes + u * kPanel + lane0 + r, &bits, 4);
    }
}

void unpack_group(const Packed& w, const Group& g, int64_t row0, int64_t row1, char* dst, int64_t row_bytes) {
  const int64_t units = units_of(w.k, w.dtype);
  const int lane0 = static_cast<int>(row0 - g.first), rows = static_cast<int>(row1 - row0);
  for (int64_t u = 0; u < units; u += kLanes) {
    vf v[kLanes];
    for (int i = 0; i < kLanes; ++i) v[i] = u + i < units ? load(g.lanes + (u + i) * kPanel) : zero();
    transpose(v);
    const int64_t left = row_bytes - u * 4, bytes = left < kLanes * 4 ? left : kLanes * 4;
    for (int r = 0; r < rows; ++r) std::memcpy(dst + r * row_bytes + u * 4, &v[lane0 + r], static_cast<size_t>(bytes));
  }
}

// ---- tiles of A
template <int kElement, bool kWiden>
void pack_tile_as(float* dst, const Tensor& x, Tile tile) {
  const int rows = tile.rows;
  const int64_t units = units_of(x.cols, x.dtype);
  if (rows == 1 && !kWiden && units > 0) {
    dst[units - 1] = 0;  // the half that an odd row lacks
    std::memcpy(dst, x.at(tile.row), static_cast<size_t>(x.cols * kElement));
    return;
  }
  for (int64_t u = 0; u < units; u += kLanes) {
    vf v[kLanes];
    for (int r = 0; r < kLanes; ++r)
      v[r] = r < rows ? load_units(static_cast<const char*>(x.at(tile.row + r)), u, x.cols, kElement) : zero();
    transpose(v);
    const int64_t count = units - u < kLanes ? units - u : kLanes;
    for (int64_t i = 0; i < count; ++i) {  // a whole vector a unit: the next one overwrites what runs over
      if constexpr (kWiden) {
        store(dst + (u + i) * 2 * rows, (vf)((vu)v[i] << 16));
        store(dst + (u + i) * 2 * rows + rows, (vf)((vu)v[i] & 0xffff0000u));
      } else {
        store(dst + (u + i) * rows, v[i]);
      }
    }
  }
}

// ---- rows along the reduction: lane vectors of unit u, columns [c, c + n), n <= kLanes
struct Unit { const char* even; const char* odd; };  // the rows it is made of; odd: null beyond the last row or for F32

template <class T, bool kAsPairs>
vf lanes_of(const Unit& unit, int64_t c, int n) {
  const T* even = reinterpret_cast<const T*>(unit.even) + c;
  const vf lo = n == kLanes ? load(even) : load_n(even, n);
  if constexpr (!kAsPairs) return lo;
  if (!unit.odd) return (vf)((vu)lo >> 16);
  const T* odd = reinterpret_cast<const T*>(unit.odd) + c;
  const vf hi = n == kLanes ? load(odd) : load_n(odd, n);
  return (vf)((vu)lo >> 16 | (vu)hi);
}

template <bool kAsPairs>
Unit unit_at(const RowTable& x, int64_t u) {
  if constexpr (!kAsPairs) return {x.row[u], nullptr};
  return {x.row[2 * u], 2 * u + 1 < x.rows ? x.row[2 * u + 1] : nullptr};
}

template <class T, bool kAsPairs>
void column_tiles(char* dst, int64_t pitch, const RowTable& x, const Tile* tiles, int64_t count) {
  const int64_t units = kAsPairs ? (x.rows + 1) / 2 : x.rows;
  for (int64_t u = 0; u < units; ++u) {
    const Unit unit = unit_at<kAsPairs>(x, u);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t c = tiles[i].row, left = x.cols - c;
      float* to = reinterpret_cast<float*>(dst + i * pitch) + u * tiles[i].rows;
      store(to, lanes_of<T, kAsPairs>(unit, c, left < kLanes ? static_cast<int>(left) : kLanes));
    }
  }
}

template <class T, bool kAsPairs>
void column_panels(char* dst, int64_t pitch, const RowTable& x, int64_t p0, int64_t p1, int64_t u0, int64_t u1) {
  for (int64_t u = u0; u < u1; ++u) {
    const Unit unit = unit_at<kAsPairs>(x, u);
    for (int64_t p = p0; p < p1; ++p) {
      float* to = reinterpret_cast<float*>(dst + p * pitch) + u * kPanel;
      for (int half = 0; half < 2; ++half) {
        const int64_t c = p * kPanel + half * kLanes, left = x.cols - c;
        store(to + half * kLanes, left <= 0 ? zero() : lanes_of<T, kAsPairs>(unit, c, left < kLanes ? static_cast<int>(left) : kLanes));
      }
    }
  }
}

}  // namespace

size_t CpuBackend::matrix_bytes(const MatrixShape& s) const {
  const int64_t panels = s.swiglu ? (s.n / 2 + kLanes - 1) / kLanes : (s.n + kPanel - 1) / kPanel;
  return static_cast<size_t>(panels * panel_bytes(s.k, s.dtype));
}

void CpuBackend::pack(const Packed& w, int64_t row0, Tensor src) const {
  ISR_ASSERT(src.cols == w.k && src.contiguous() && src.dtype == w.dtype && row0 >= 0 && row0 + src.rows <= w.n, "[pack] rows ",
             row0, " + ", src.rows, " of (", w.n, ", ", w.k, ") from (", src.rows, ", ", src.cols, ")");
  ISR_ASSERT(!w.swiglu || w.n % 2 == 0, "[pack] swiglu needs as many gate as up rows, n is ", w.n);
  const int64_t row_bytes = w.k * static_cast<int64_t>(size_of(w.dtype)), end = row0 + src.rows;
  for (int64_t row = row0; row < end;) {
    const Group g = group_of(w, row);
    const int64_t stop = g.first + g.count < end ? g.first + g.count : end;
    pack_group(w, g, row, stop, static_cast<const char*>(src.data) + (row - row0) * row_bytes, row_bytes);
    row = stop;
  }
}

void CpuBackend::unpack(Tensor dst, const Packed& w, int64_t row0) const {
  ISR_ASSERT(dst.cols == w.k && dst.contiguous() && dst.dtype == w.dtype && row0 >= 0 && row0 + dst.rows <= w.n, "[unpack] rows ",
             row0, " + ", dst.rows, " of ", w.n);
  const int64_t row_bytes = w.k * static_cast<int64_t>(size_of(w.dtype)), end = row0 + dst.rows;
  for (int64_t row = row0; row < end;) {
    const Group g = group_of(w, row);
    const int64_t stop = g.first + g.count < end ? g.first + g.count : end;
    unpack_group(w, g, row, stop, dst.as<char>() + (row - row0) * row_bytes, row_bytes);
    row = stop;
  }
}

void pack_tile(void* dst, Kernel kernel, const Tensor& x, Tile tile) {
  float* to = static_cast<float*>(dst);
  if (x.dtype == DType::F32) pack_tile_as<4, false>(to, x, tile);
  else if (kernel == Kernel::Pairs) pack_tile_as<2, false>(to, x, tile);
  else pack_tile_as<2, true>(to, x, tile);
}

void pack_column_tiles(char* dst, int64_t pitch, Kernel kernel, const RowTable& x, const Tile* tiles, int64_t count) {
  if (x.dtype == DType::F32) column_tiles<float, false>(dst, pitch, x, tiles, count);
  else if (kernel == Kernel::Pairs) column_tiles<uint16_t, true>(dst, pitch, x, tiles, count);
  else column_tiles<uint16_t, false>(dst, pitch, x, tiles, count);
}

void pack_column_panels(char* dst, int64_t pitch, Kernel kernel, const RowTable& x, int64_t p0, int64_t p1, int64_t u0, int64_t u1) {
  if (x.dtype == DType::F32) column_panels<float, false>(dst, pitch, x, p0, p1, u0, u1);
  else if (kernel == Kernel::Pairs) column_panels<uint16_t, true>(dst, pitch, x, p0, p1, u0, u1);
  else column_panels<uint16_t, false>(dst, pitch, x, p0, p1, u0, u1);
}

}  // namespace isr::cpu::ISR_NS
