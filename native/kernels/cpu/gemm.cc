// Microkernels and the driver of all matrix products (gemm.h says what the blocks are).
//
// A tile of sums lives in registers for up to kUnitsPerPass steps of the reduction, while a block of tiles rests in the
// second-level cache. Decoding fetches nothing ahead: on one sequential stream the hardware alone is faster.
#include "kernels/cpu/gemm.h"

namespace isr::cpu::ISR_NS {
namespace {

// With 512-bit vectors a unit takes so long that panels may stream from the second-level cache: a block of tiles takes
// 450 KB a pass, a panel up to 128 KB. With narrower ones a panel's stretch (24 KB) rests in the first level, and what comes
// next is fetched ahead.
constexpr bool kFetchAhead = ISR_LEVEL < 2;
constexpr int64_t kUnitsPerPass = kFetchAhead ? 384 : 1024;
constexpr int64_t kBlockTiles = 112 / kTileRows, kBlockPanels = (kFetchAhead ? 256 : 128) / kPanel;
constexpr int64_t kDecodeTiles = 2;  // up to here every panel is read once, whole, and all panels in order
constexpr int64_t kTileFloats = kTileRows * kPanel;

vf broadcast(float x) { return x - vf{}; }  // x - 0 is x, also for -0: a plain broadcast

// The first pass starts from zero; a later one goes on from the stored sums, so a chain does not see where passes end.
template <int R>
inline __attribute__((always_inline)) void read_sums(vf (*s)[2], const float* c, bool first) {
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) s[r][0] = s[r][1] = zero();
  if (first) return;
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) s[r][0] = load(c + r * kPanel), s[r][1] = load(c + r * kPanel + kLanes);
}
template <int R>
inline __attribute__((always_inline)) void write_sums(float* c, const vf (*s)[2]) {
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) store(c + r * kPanel, s[r][0]), store(c + r * kPanel + kLanes, s[r][1]);
}

// One float32 or one bfloat16 pair of a row against a unit's columns.
struct Single {
  static vf spread(float x) { return broadcast(x); }
  static vf add(vf sum, vf a, vf b) { return fma(a, b, sum); }
};
#if ISR_LEVEL == 3
struct Pair {
  static vf spread(float x) { return (vf)_mm512_set1_ps(x); }
  static vf add(vf sum, vf a, vf b) { return (vf)_mm512_dpbf16_ps((__m512)sum, (__m512bh)(__m512)a, (__m512bh)(__m512)b); }
};
#endif

template <class Step, int R>
inline __attribute__((always_inline)) void multiply(const float* a, const float* b, int64_t units, float* c, bool first) {
  vf s[R][2];
  read_sums<R>(s, c, first);
  for (int64_t u = 0; u < units; ++u, a += R, b += kPanel) {
    const vf b0 = load(b), b1 = load(b + kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const vf x = Step::spread(a[r]);
      s[r][0] = Step::add(s[r][0], x, b0);
      s[r][1] = Step::add(s[r][1], x, b1);
    }
  }
  write_sums<R>(c, s);
}
template <int R>
void multiply_f32(const float* a, const float* b, int64_t units, float* c, bool first) { multiply<Single, R>(a, b, units, c, first); }
#if ISR_LEVEL == 3
template <int R>
void multiply_pairs(const float* a, const float* b, int64_t units, float* c, bool first) { multiply<Pair, R>(a, b, units, c, first); }
#endif

// a: two float32 a row and unit, [2 units][rows]; b: a bfloat16 pair a lane and unit, even k in the low half.
template <int R>
void multiply_widened(const float* a, const float* b, int64_t units, float* c, bool first) {
  vf s[R][2];
  read_sums<R>(s, c, first);
  for (int64_t u = 0; u < units; ++u, a += 2 * R, b += kPanel) {
    const vf even0 = (vf)((vu)load(b) << 16), even1 = (vf)((vu)load(b + kLanes) << 16);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const vf x = broadcast(a[r]);
      s[r][0] = fma(x, even0, s[r][0]);
      s[r][1] = fma(x, even1, s[r][1]);
    }
    asm volatile("" : "+r"(b));  // load again: keeping the pairs would push sums out of registers
    const vf odd0 = (vf)((vu)load(b) & 0xffff0000u), odd1 = (vf)((vu)load(b + kLanes) & 0xffff0000u);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const vf x = broadcast(a[R + r]);
      s[r][0] = fma(x, odd0, s[r][0]);
      s[r][1] = fma(x, odd1, s[r][1]);
    }
  }
  write_sums<R>(c, s);
}

using Multiply = void (*)(const float* a, const float* b, int64_t units, float* c, bool first);

#if ISR_LEVEL >= 2
#define ISR_BY_ROWS(f) \
  {nullptr, f<1>, f<2>, f<3>, f<4>, f<5>, f<6>, f<7>, f<8>, f<9>, f<10>, f<11>, f<12>, f<13>, f<14>}
#elif ISR_LEVEL == 1
#define ISR_BY_ROWS(f) {nullptr, f<1>, f<2>, f<3>, f<4>, f<5>, f<6>}
#else
#define ISR_BY_ROWS(f) {nullptr, f<1>, f<2>, f<3>, f<4>}
#endif
constexpr Multiply kF32[] = ISR_BY_ROWS(multiply_f32);
constexpr Multiply kWidened[] = ISR_BY_ROWS(multiply_widened);
#if ISR_LEVEL == 3
constexpr Multiply kPairs[] = ISR_BY_ROWS(multiply_pairs);
#endif
#undef ISR_BY_ROWS

const Multiply* multiplies(Kernel kernel) {
#if ISR_LEVEL == 3
  if (kernel == Kernel::Pairs) return kPairs;
#endif
  return kernel == Kernel::Widened ? kWidened : kF32;
}

// A panel's pairs as float32, [2 units][kPanel]: worth it when several tiles follow, for then F32's loop does the work.
void widen(float* dst, const float* pairs, int64_t units) {
  for (int64_t u = 0; u < units; ++u, pairs += kPanel, dst += 2 * kPanel) {
    const vu p0 = (vu)load(pairs), p1 = (vu)load(pairs + kLanes);
    store(dst, (vf)(p0 << 16));
    store(dst + kLanes, (vf)(p1 << 16));
    store(dst + kPanel, (vf)(p0 & 0xffff0000u));
    store(dst + kPanel + kLanes, (vf)(p1 & 0xffff0000u));
  }
}

struct Block { int64_t tile0, tile1, panel0, panel1; };

// A worker's scratch: sums of one block of tiles and panels if the reduction takes several passes, else of one tile;
// and one pass of a widened panel.
struct Room { float* sums; float* wide; };

// Asks for part `part` of `parts` of what will be read soon. Only asked for, not read: any address is allowed.
inline void fetch_part(const char* data, int64_t bytes, int64_t part, int64_t parts) {
  const char* end = data + bytes * (part + 1) / parts;
  for (const char* line = data + bytes * part / parts; line < end; line += 64) __builtin_prefetch(line, 0, 2);
}

// While `tile` is multiplied by `panel`: a part of the next panel's stretch and of the tile's next pass.
void fetch_ahead(const Product& p, const Block& block, int64_t tile, int64_t panel, int64_t u, int64_t count) {
  const int64_t stretch = count * kPanel * 4, a_unit = p.tiles[tile].rows * a_unit_bytes(p.kernel);
  const bool last = panel + 1 == block.panel1;
  const char* next = last ? p.b + block.panel0 * p.panel_pitch + (u + count) * kPanel * 4
                          : p.b + (panel + 1) * p.panel_pitch + u * kPanel * 4;
  fetch_part(next, stretch, tile - block.tile0, block.tile1 - block.tile0);
  const char* a_next = p.a + tile * p.tile_pitch + (u + count) * a_unit;
  if (u + count < p.units) fetch_part(a_next, count * a_unit, panel - block.panel0, block.panel1 - block.panel0);
}

void multiply_block(const Product& p, const Block& block, int64_t units_per_pass, const Room& room, Finish finish) {
  const bool passes = units_per_pass < p.units, wide = room.wide != nullptr;
  const bool ahead = kFetchAhead && p.tile_count > kDecodeTiles;
  const Multiply* multiply = multiplies(wide ? Kernel::F32 : p.kernel);
  const int64_t unit = a_unit_bytes(p.kernel);
  for (int64_t u = 0; u < p.units || u == 0; u += units_per_pass) {
    const int64_t count = p.units - u < units_per_pass ? p.units - u : units_per_pass;
    float* c = room.sums;
    for (int64_t panel = block.panel0; panel < block.panel1; ++panel) {
      const float* b = reinterpret_cast<const float*>(p.b + panel * p.panel_pitch) + u * kPanel;
      if (wide) widen(room.wide, b, count);
      for (int64_t tile = block.tile0; tile < block.tile1; ++tile) {
        const int rows = p.tiles[tile].rows;
        const float* a = reinterpret_cast<const float*>(p.a + tile * p.tile_pitch + u * rows * unit);
        if (ahead) fetch_ahead(p, block, tile, panel, u, count);
        multiply[rows](a, wide ? room.wide : b, wide ? 2 * count : count, c, u == 0);
        if (u + count >= p.units) finish(tile, panel, c);
        if (passes) c += kTileFloats;
      }
    }
  }
}

struct Blocking {
  int64_t tiles, panels, units_per_pass;
  int64_t tile_blocks(const Product& p) const { return (p.tile_count + tiles - 1) / tiles; }
  int64_t panel_blocks(const Product& p) const { return (p.panel_count + panels - 1) / panels; }
  int64_t count(const Product& p) const { return tile_blocks(p) * panel_blocks(p); }
};

// At least four blocks a thread, so that a thread that loses its core delays the region by one block at most.
Blocking choose_blocking(const Product& p, int threads) {
  if (p.tile_count <= kDecodeTiles)  // decoding: each panel once, whole, in long sequential stretches
    return {p.tile_count, grain_for(threads, p.panel_count), p.units > 0 ? p.units : 1};
  const int64_t blocks = (p.tile_count + kBlockTiles - 1) / kBlockTiles;
  Blocking b{(p.tile_count + blocks - 1) / blocks, kBlockPanels, kUnitsPerPass};
  while (b.count(p) < 4 * threads && b.panels > 1) --b.panels;
  while (b.count(p) < 4 * threads && b.tiles > 2) b.tiles = (b.tiles + 1) / 2;
  return b;
}

double microseconds(const Product& p) {  // a lower estimate: 50 multiply-adds and 30 bytes of panels a nanosecond
  double rows = 0;
  for (int64_t i = 0; i < p.tile_count; ++i) rows += p.tiles[i].rows;
  const double per_row = p.kernel == Kernel::F32 ? 1 : 2;
  const double work = static_cast<double>(p.panel_count * p.units) * kPanel;
  const double compute = work * per_row * rows / (ISR_LEVEL == 0 ? 1e4 : 5e4), memory = work * 4 / 3e4;
  return compute > memory ? compute : memory;
}

}  // namespace

void run_product(CpuBackend& backend, const Product& p, Finish finish) {
  if (p.tile_count == 0 || p.panel_count == 0) return;
  const Crew& threads = backend.threads;
  const Blocking b = choose_blocking(p, threads);
  const bool passes = b.units_per_pass < p.units;
  const int64_t floats = passes ? b.tiles * b.panels * kTileFloats : kTileFloats;
  ArenaScope scope(backend.scratch);
  const bool wide = p.kernel == Kernel::Widened && p.tile_count > kDecodeTiles;
  const int64_t wide_floats = wide ? b.units_per_pass * 2 * kPanel : 0;
  float* sums = backend.scratch.allocate_n<float>((floats + wide_floats) * threads);
  const int64_t panel_blocks = b.panel_blocks(p), count = b.count(p);
  const int64_t grain = microseconds(p) < 50 ? count : 1;
  parallel(threads, count, grain, [&](int64_t begin, int64_t end, int worker) {
    float* mine = sums + worker * (floats + wide_floats);
    const Room room{mine, wide ? mine + floats : nullptr};
    for (int64_t i = begin; i < end; ++i) {
      const int64_t tile0 = i / panel_blocks * b.tiles, panel0 = i % panel_blocks * b.panels;
      const int64_t tile1 = tile0 + b.tiles, panel1 = panel0 + b.panels;
      const Block block{tile0, tile1 < p.tile_count ? tile1 : p.tile_count, panel0,
                        panel1 < p.panel_count ? panel1 : p.panel_count};
      multiply_block(p, block, b.units_per_pass, room, finish);
    }
  });
}

}  // namespace isr::cpu::ISR_NS
