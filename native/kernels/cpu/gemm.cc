// Microkernels and the driver of all matrix products (gemm.h says what the blocks are).
//
// A tile of sums lives in registers for up to kUnitsPerPass steps of the reduction, while a block of tiles rests in the
// second-level cache. Decoding reads every panel from memory once, in one stream. Whether its kernels ask for what comes next
// is a matter of the machine (fetch_distance).
#include "kernels/cpu/gemm.h"

namespace isr::cpu::ISR_NS {
namespace {

// With 512-bit vectors a unit takes so long that panels may stream from the second-level cache: a block of tiles takes
// 450 KB a pass, a panel up to 128 KB. With narrower ones a panel's stretch (24 KB) rests in the first level, and what comes
// next is fetched ahead.
constexpr bool kFetchAhead = ISR_LEVEL < 2;
constexpr int64_t kUnitsPerPass = kFetchAhead ? 384 : 1024;
constexpr int64_t kBlockTiles = 112 / kTileRows, kBlockPanels = (kFetchAhead ? 256 : 128) / kPanel;
// Up to here, which is 16 to 28 rows, every panel is read once, whole, and all in order.
constexpr int64_t kDecodeTiles = kFetchAhead ? 4 : 2;
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

// Asks for the unit that lies `ahead` floats behind b.
template <bool kAhead>
inline __attribute__((always_inline)) void fetch_unit(const float* b, int64_t ahead) {
  if constexpr (kAhead)
    for (int line = 0; line < kPanel; line += 16) __builtin_prefetch(b + ahead + line, 0, 2);
}

template <class Step, int R, bool kAhead>
inline __attribute__((always_inline)) void multiply(const float* a, const float* b, int64_t units, float* c, bool first,
                                                    int64_t ahead) {
  vf s[R][2];
  read_sums<R>(s, c, first);
  for (int64_t u = 0; u < units; ++u, a += R, b += kPanel) {
    fetch_unit<kAhead>(b, ahead);
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
template <int R, bool kAhead>
void multiply_f32(const float* a, const float* b, int64_t units, float* c, bool first, int64_t ahead) {
  multiply<Single, R, kAhead>(a, b, units, c, first, ahead);
}
#if ISR_LEVEL == 3
template <int R, bool kAhead>
void multiply_pairs(const float* a, const float* b, int64_t units, float* c, bool first, int64_t ahead) {
  multiply<Pair, R, kAhead>(a, b, units, c, first, ahead);
}
#endif

// sums += a * b, both vectors of a row. The widened product of a full tile takes every register that there is. GCC moves
// broadcasts forward and gives its sums new registers, until some of them lie in memory at every step, so the order and the
// registers are written down.
inline __attribute__((always_inline)) void add_row(vf (&sums)[2], const float& a, vf b0, vf b1) {
#if ISR_LEVEL == 1 || ISR_LEVEL == 2
  vf x;
  asm volatile(
      "vbroadcastss %[a], %[x]\n\t"
      "vfmadd231ps %[b0], %[x], %[s0]\n\t"
      "vfmadd231ps %[b1], %[x], %[s1]"
      : [s0] "+v"(sums[0]), [s1] "+v"(sums[1]), [x] "=&v"(x)
      : [a] "m"(a), [b0] "v"(b0), [b1] "v"(b1));
#else
  const vf x = broadcast(a);
  sums[0] = fma(x, b0, sums[0]);
  sums[1] = fma(x, b1, sums[1]);
#endif
}

// a: two float32 a row and unit, [2 units][rows]; b: a bfloat16 pair a lane and unit, even k in the low half.
template <int R, bool kAhead>
void multiply_widened(const float* a, const float* b, int64_t units, float* c, bool first, int64_t ahead) {
  vf s[R][2];
  read_sums<R>(s, c, first);
  for (int64_t u = 0; u < units; ++u, a += 2 * R, b += kPanel) {
    fetch_unit<kAhead>(b, ahead);
    const vf even0 = (vf)((vu)load(b) << 16), even1 = (vf)((vu)load(b + kLanes) << 16);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) add_row(s[r], a[r], even0, even1);
    asm volatile("" : "+r"(b));  // load again: keeping the pairs would push sums out of registers
    const vf odd0 = (vf)((vu)load(b) & 0xffff0000u), odd1 = (vf)((vu)load(b + kLanes) & 0xffff0000u);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) add_row(s[r], a[R + r], odd0, odd1);
  }
  write_sums<R>(c, s);
}

using Multiply = void (*)(const float* a, const float* b, int64_t units, float* c, bool first, int64_t ahead);

#if ISR_LEVEL >= 2
#define ISR_BY_ROWS(f, ahead)                                                                                               \
  {nullptr,      f<1, ahead>, f<2, ahead>, f<3, ahead>,  f<4, ahead>,  f<5, ahead>,  f<6, ahead>, f<7, ahead>, f<8, ahead>, \
   f<9, ahead>, f<10, ahead>, f<11, ahead>, f<12, ahead>, f<13, ahead>, f<14, ahead>}
#elif ISR_LEVEL == 1
#define ISR_BY_ROWS(f, ahead) {nullptr, f<1, ahead>, f<2, ahead>, f<3, ahead>, f<4, ahead>, f<5, ahead>, f<6, ahead>}
#else
#define ISR_BY_ROWS(f, ahead) {nullptr, f<1, ahead>, f<2, ahead>, f<3, ahead>, f<4, ahead>}
#endif
#define ISR_KERNELS(f) {ISR_BY_ROWS(f, false), ISR_BY_ROWS(f, true)}
// By whether they fetch a unit ahead, and by rows.
constexpr Multiply kF32[2][kTileRows + 1] = ISR_KERNELS(multiply_f32);
constexpr Multiply kWidened[2][kTileRows + 1] = ISR_KERNELS(multiply_widened);
#if ISR_LEVEL == 3
constexpr Multiply kPairs[2][kTileRows + 1] = ISR_KERNELS(multiply_pairs);
#endif
#undef ISR_KERNELS
#undef ISR_BY_ROWS

Multiply choose_multiply(Kernel kernel, bool ahead, int rows) {
#if ISR_LEVEL == 3
  if (kernel == Kernel::Pairs) return kPairs[ahead][rows];
#endif
  return kernel == Kernel::Widened ? kWidened[ahead][rows] : kF32[ahead][rows];
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

// How many floats ahead of what it reads a tile asks for units while decoding; 0: it does not. The last tile of several asks
// for the next panel, since the others find this one in the cache. A tile alone keeps close to its own stream, and only on
// Intel's cores: others were faster by themselves.
int64_t fetch_distance(const Product& p, int64_t tile, int64_t panel) {
  constexpr int64_t kNear = 768;   // 3 KiB
  if (tile + 1 < p.tile_count || panel + 1 >= p.panel_count) return 0;
  if (p.tile_count > 1) return kFetchAhead || machine_is_intel() ? p.panel_pitch / 4 : 0;
  return machine_is_intel() ? kNear : 0;
}

void multiply_block(const Product& p, const Block& block, int64_t units_per_pass, const Room& room, Finish finish) {
  const bool passes = units_per_pass < p.units, wide = room.wide != nullptr, decode = p.tile_count <= kDecodeTiles;
  const Kernel kernel = wide ? Kernel::F32 : p.kernel;
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
        if (kFetchAhead && !decode) fetch_ahead(p, block, tile, panel, u, count);
        const int64_t ahead = decode ? fetch_distance(p, tile, panel) : 0;
        const Multiply multiply = choose_multiply(kernel, ahead > 0, rows);
        multiply(a, wide ? room.wide : b, wide ? 2 * count : count, c, u == 0, ahead);
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
