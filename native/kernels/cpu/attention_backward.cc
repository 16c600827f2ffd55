// Attention over spans, backward. One task owns one (root tree, kv head): key blocks outside, the tiles that read a block
// inside, so dK and dV of a block stay close, dQ collects in the task's own float32 scratch, and every sum has one order.
// All products are written for the transposed scores S^T (keys, rows): then no probability is ever transposed,
//   S^T = K Q^T    dP^T = V dO^T    P^T = 2^(S^T - lse)    dS^T = P^T (dP^T - delta),   delta = rowsum(dO * O)
//   dV += P^T dO   dK += dS^T Q     dQ^T += K^T dS^T
// and what belongs to a row (lse, delta, mask) lies along the lanes. The softmax scale goes into S and, once, into dQ and dK.
#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/cpu/attention_pack.h"
#include "kernels/cpu/attention.h"

namespace isr::cpu::ISR_NS {
namespace {

struct BackwardCall {
  Tensor dq, dk, dv, dout, q, k, v, out;
  const float* lse;
  const AttentionPlan& plan;
  const AttentionShape& s;
};

// P: operands of the products. Below level 3 a bfloat16 tensor is widened when it is staged, so P is Float32 there.
template <class P>
struct Task {
  using Num = typename P::Num;
  static constexpr int kWords = kKeyBlock / P::kPerWord;
  int dp;
  int64_t part;            // words of a (64, dp) operand
  // by tile of the tree
  uint32_t *qt, *qr, *ot, *outr;   // Q^T, Q, dO^T, dO as operands B
  float* dqt;              // (dp, 64)
  float *lse2, *delta;     // (64)
  // by row of the tree
  float *dk, *dv;          // (rows, dp)
  // of the current key block
  Num *kr, *kt, *vr;       // K (64, dp), K^T (dp, 64), V (64, dp) as operands A
  float *dkb, *dvb;        // (64, dp)
  float *s, *dp_t;         // (kRowGroup, 64): S^T, dP^T
  Num *pt, *dst;           // (kRowGroup, 64): P^T, dS^T as operands A
  uint32_t* ds;            // (64, 64) dS^T as operand B
  Num* stage;              // (64, dp)
  uint32_t* pairs;         // (64, dp) words

  static int64_t tile_bytes(int dp) { return kKeyBlock * (int64_t{dp} * 20 + 8); }
  static int64_t bytes(int dp, int64_t tiles, int64_t rows) {
    return tiles * tile_bytes(dp) + rows * dp * 8 + kKeyBlock * int64_t{dp} * 28 + kRowGroup * kKeyBlock * 16 + kKeyBlock * kKeyBlock * 4;
  }
  Task(char* memory, int dp, int64_t tiles, int64_t rows) : dp(dp), part(page_part_words<P>(dp)) {
    auto take = [&memory](auto*& p, int64_t n) {
      p = reinterpret_cast<std::remove_reference_t<decltype(p)>>(memory);
      memory += n * static_cast<int64_t>(sizeof(*p));
    };
    for (uint32_t** p : {&qt, &qr, &ot, &outr}) take(*p, tiles * part);
    take(dqt, tiles * kKeyBlock * dp);
    take(lse2, tiles * kKeyBlock);
    take(delta, tiles * kKeyBlock);
    take(dk, rows * dp);
    take(dv, rows * dp);
    for (Num** p : {&kr, &kt, &vr, &stage}) take(*p, kKeyBlock * dp);
    take(dkb, kKeyBlock * dp);
    take(dvb, kKeyBlock * dp);
    take(pairs, part);
    for (float** p : {&s, &dp_t}) take(*p, kRowGroup * kKeyBlock);
    for (Num** p : {&pt, &dst}) take(*p, kRowGroup * kKeyBlock);
    take(ds, kWords * kKeyBlock);
  }

  void as_operands(uint32_t* transposed, uint32_t* straight, int rows) const {  // of stage
    const int words = dp / P::kPerWord;
    transpose_words(transposed, kKeyBlock, reinterpret_cast<const uint32_t*>(stage), words, rows, words);
    pair_rows(straight, stage, rows, dp);
  }
};

template <class P, class In>
void pack_tile(const BackwardCall& f, Task<P>& t, const QueryTile& tile, int64_t slot, int64_t head) {
  const int d = static_cast<int>(f.s.head_size), rows = padded(tile.rows, 16), dp = t.dp;
  stage_rows(t.stage, f.q.as<In>() + tile.row * f.q.stride + head * d, f.q.stride, tile.rows, d, dp);
  zero_rows(t.stage, tile.rows, rows, dp);
  t.as_operands(t.qt + slot * t.part, t.qr + slot * t.part, rows);
  const In* dout = f.dout.as<In>() + tile.row * f.dout.stride + head * d;
  stage_rows(t.stage, dout, f.dout.stride, tile.rows, d, dp);
  zero_rows(t.stage, tile.rows, rows, dp);
  t.as_operands(t.ot + slot * t.part, t.outr + slot * t.part, rows);
  zero_rows(t.dqt + slot * kKeyBlock * dp, 0, kKeyBlock, dp);
  float *lse2 = t.lse2 + slot * kKeyBlock, *delta = t.delta + slot * kKeyBlock;
  for (int r = 0; r < rows; ++r) {
    lse2[r] = INFINITY;  // rows that are not there: probability 0
    delta[r] = 0;
    if (r >= tile.rows) continue;
    lse2[r] = f.lse[(tile.row + r) * f.s.heads + head] * 1.44269504088896341f;
    const In* o = f.out.as<In>() + (tile.row + r) * f.out.stride + head * d;
    const In* g = dout + r * f.dout.stride;
    vf total = zero();
    for_lanes(d, [&](int64_t i, auto lanes) { total = fma(load_at(o + i, lanes), load_at(g + i, lanes), total); });
    delta[r] = sum(total);
  }
}

// K, K^T and V of the block, and zero sums.
template <class P, class In>
void pack_block(const BackwardCall& f, Task<P>& t, const KeyBlock& block, int64_t kv_head) {
  const int d = static_cast<int>(f.s.head_size), dp = t.dp, rows = padded(block.count, 16);
  stage_block(t.vr, f.plan, block, f.v.as<In>() + kv_head * d, f.v.stride, d, dp);
  stage_block(t.kr, f.plan, block, f.k.as<In>() + kv_head * d, f.k.stride, d, dp);
  pair_rows(t.pairs, t.kr, rows, dp);
  transpose_words(reinterpret_cast<uint32_t*>(t.kt), Task<P>::kWords, t.pairs, dp, rows / P::kPerWord, dp);
  zero_rows(t.dkb, 0, rows, dp);
  zero_rows(t.dvb, 0, rows, dp);
}

// P^T and dS^T of keys [key, key + n) (n even) from S^T and dP^T, as operand A each and dS^T as operand B too.
// first_seen: keys that row 0 of the tile sees, counted from the block's first; grow: 1 if each next row sees one more.
template <class P>
void probabilities(Task<P>& t, const float* lse2, const float* delta, float scale2, int key, int n, int col, int cols, int first_seen, int grow) {
  const bool masked = first_seen + col * grow < key + n;
  for (int c = col; c < cols; c += kLanes) {
    const vf l = zero() - load(lse2 + c), de = load(delta + c);
    const vi seen = (lane_index() + c) * grow + first_seen;
    for (int r = 0; r < n; r += 2) {
      vf p[2], ds[2];
      for (int i = 0; i < 2; ++i) {
        const int at = (r + i) * kKeyBlock + c;
        p[i] = exp2_of<P>(fma(load(t.s + at), broadcast(scale2), l));
        if (masked) p[i] = select(vi{} + (key + r + i) < seen, p[i], zero());
        ds[i] = p[i] * (load(t.dp_t + at) - de);
        store(t.pt + at, p[i]);
        store(t.dst + at, ds[i]);
      }
      uint32_t* words = t.ds + (key + r) / P::kPerWord * kKeyBlock + c;
      if constexpr (P::kPerWord == 1) {
        store(reinterpret_cast<float*>(words), ds[0]);
        store(reinterpret_cast<float*>(words) + kKeyBlock, ds[1]);
      } else {
        const vu low = __builtin_convertvector(to_bf16(ds[0]), vu), high = __builtin_convertvector(to_bf16(ds[1]), vu);
        const vu both = low | high << 16;
        std::memcpy(words, &both, sizeof both);
      }
    }
  }
}

// What a block and one tile that reads it give each other.
template <class P>
void meet(const BackwardCall& f, Task<P>& t, const KeyBlock& block, const QueryTile& tile, int64_t slot) {
  const int dp = t.dp, cols = padded(tile.rows, 16), keys = padded(block.count, 2), depth = dp / P::kPerWord;
  const uint32_t *qt = t.qt + slot * t.part, *qr = t.qr + slot * t.part, *ot = t.ot + slot * t.part, *outr = t.outr + slot * t.part;
  const float *lse2 = t.lse2 + slot * kKeyBlock, *delta = t.delta + slot * kKeyBlock;
  const int grow = f.plan.causal, first_seen = grow ? tile.logical + 1 - block.logical : block.count;
  const float scale2 = f.s.scale * 1.44269504088896341f;
  for (int key = 0; key < keys; key += kRowGroup) {
    const int n = keys - key < kRowGroup ? keys - key : kRowGroup;
    // Rows before `col` see none of these keys.
    const int col = key < first_seen ? 0 : (key - first_seen + 1) / 16 * 16, words = (cols - col) / P::kPerWord;
    const Product<P> scores{t.s + col, kKeyBlock, t.kr + key * dp, dp, qt + col, kKeyBlock, depth};
    const Product<P> dprob{t.dp_t + col, kKeyBlock, t.vr + key * dp, dp, ot + col, kKeyBlock, depth};
    product<P>(Into::Set, scores, n, cols - col);
    product<P>(Into::Set, dprob, n, cols - col);
    for (int r = 0; r < n; r += P::kPerWord)
      std::memset(t.ds + (key + r) / P::kPerWord * kKeyBlock, 0, sizeof(uint32_t) * static_cast<size_t>(col));
    probabilities(t, lse2, delta, scale2, key, n, col, cols, first_seen, grow);
    const int64_t line = col / P::kPerWord * dp;
    product<P>(Into::Add, {t.dvb + key * dp, dp, t.pt + col, kKeyBlock, outr + line, dp, words}, n, dp);
    product<P>(Into::Add, {t.dkb + key * dp, dp, t.dst + col, kKeyBlock, qr + line, dp, words}, n, dp);
  }
  product<P>(Into::Add, {t.dqt + slot * kKeyBlock * dp, kKeyBlock, t.kt, kKeyBlock, t.ds, kKeyBlock, keys / P::kPerWord}, dp, cols);
}

template <class P>
void add_block(const BackwardCall& f, Task<P>& t, const KeyBlock& block) {
  for (int i = 0; i < block.segments; ++i) {
    const KeySegment& g = f.plan.segments[static_cast<size_t>(block.first_segment + i)];
    const int64_t to = int64_t{g.tree_row} * t.dp, from = int64_t{g.offset} * t.dp;
    for (int64_t c = 0; c < g.count * t.dp; c += kLanes) {
      store(t.dk + to + c, load(t.dk + to + c) + load(t.dkb + from + c));
      store(t.dv + to + c, load(t.dv + to + c) + load(t.dvb + from + c));
    }
  }
}

template <class In>
void write_row(const Tensor& x, int64_t row, int64_t col, const float* from, float scale, int64_t d) {
  In* to = x.as<In>() + row * x.stride + col;
  for_lanes(d, [&](int64_t i, auto lanes) { store_at(to + i, load_at(from + i, lanes) * broadcast(scale), lanes); });
}

template <class P, class In>
void backward_task(const BackwardCall& f, Task<P>& t, int64_t tree, int64_t kv_head) {
  const AttentionPlan& plan = f.plan;
  const size_t at = static_cast<size_t>(tree);
  const int64_t d = f.s.head_size, group = f.s.heads / f.s.kv_heads;
  const int64_t tile0 = plan.tree_first_tile[at], tile1 = plan.tree_first_tile[at + 1];
  std::memset(t.dk, 0, sizeof(float) * static_cast<size_t>(int64_t{plan.tree_rows[at]} * t.dp));
  std::memset(t.dv, 0, sizeof(float) * static_cast<size_t>(int64_t{plan.tree_rows[at]} * t.dp));
  for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
    for (int64_t i = tile0; i < tile1; ++i) pack_tile<P, In>(f, t, plan.tiles[static_cast<size_t>(i)], i - tile0, head);
    for (int64_t b = plan.tree_first_block[at]; b < plan.tree_first_block[at + 1]; ++b) {
      const KeyBlock& block = plan.blocks[static_cast<size_t>(b)];
      pack_block<P, In>(f, t, block, kv_head);
      for (int64_t i = block.first_reader; i < block.first_reader + block.readers; ++i) {
        const int64_t tile = plan.readers[static_cast<size_t>(i)];
        meet(f, t, block, plan.tiles[static_cast<size_t>(tile)], tile - tile0);
      }
      add_block(f, t, block);
    }
    for (int64_t i = tile0; i < tile1; ++i) {
      const QueryTile& tile = plan.tiles[static_cast<size_t>(i)];
      float* dq = reinterpret_cast<float*>(t.dkb);  // free between blocks
      transpose_words(reinterpret_cast<uint32_t*>(dq), t.dp, reinterpret_cast<const uint32_t*>(t.dqt + (i - tile0) * kKeyBlock * t.dp),
                      kKeyBlock, t.dp, padded(tile.rows, 4));
      for (int r = 0; r < tile.rows; ++r) write_row<In>(f.dq, tile.row + r, head * d, dq + r * t.dp, f.s.scale, d);
    }
  }
  for (int64_t i = tile0; i < tile1; ++i) {
    const QueryTile& tile = plan.tiles[static_cast<size_t>(i)];
    for (int r = 0; r < tile.rows; ++r) {
      write_row<In>(f.dk, tile.row + r, kv_head * d, t.dk + (tile.tree_row + r) * t.dp, f.s.scale, d);
      write_row<In>(f.dv, tile.row + r, kv_head * d, t.dv + (tile.tree_row + r) * t.dp, 1.0f, d);
    }
  }
}

template <class P, class In>
void backward(const BackwardCall& f, const Crew& threads, Arena& scratch) {
  const AttentionPlan& plan = f.plan;
  const int dp = head_padded(f.s);
  int64_t tiles = 0, rows = 0;  // of the largest tree
  for (size_t t = 0; t < plan.tree_rows.size(); ++t) {
    const int64_t n = plan.tree_first_tile[t + 1] - plan.tree_first_tile[t];
    tiles = n > tiles ? n : tiles;
    rows = plan.tree_rows[t] > rows ? plan.tree_rows[t] : rows;
  }
  const int64_t bytes = Task<P>::bytes(dp, tiles, rows), tasks = plan.trees * f.s.kv_heads;
  ArenaScope scope(scratch);
  const int64_t flops = tasks == 0 ? 0 : average_tile_flops(plan, f.s) * 5 / 2 * static_cast<int64_t>(plan.tiles.size()) / plan.trees;
  const int64_t grain = work_grain(threads, tasks, flops);
  char* memory = scratch.allocate_n<char>(workers_of(threads, tasks, grain) * bytes);
  parallel(threads, tasks, grain, [&](int64_t begin, int64_t end, int worker) {
    Task<P> t(memory + worker * bytes, dp, tiles, rows);
    for (int64_t i = begin; i < end; ++i) backward_task<P, In>(f, t, i / f.s.kv_heads, i % f.s.kv_heads);
  });
}

}  // namespace

void CpuBackend::attention_backward(Tensor dq, Tensor dk, Tensor dv, Tensor dout, Tensor q, Tensor k, Tensor v, Tensor out, const float* lse,
                                    const Prepared& prepared, const AttentionShape& s) {
  const AttentionPlan& plan = plan_of(prepared);
  check_attention(q, k, v, plan, s);
  check_attention(dq, dk, dv, plan, s);
  check_attention(dout, k, v, plan, s);
  check_attention(out, k, v, plan, s);
  ISR_ASSERT(dq.dtype == q.dtype, "dq ", name_of(dq.dtype), ", q ", name_of(q.dtype));
  const BackwardCall f{dq, dk, dv, dout, q, k, v, out, lse, plan, s};
  if (q.dtype == DType::F32) return backward<Float32, float>(f, threads, scratch);
#if ISR_LEVEL == 3
  backward<Bfloat16, uint16_t>(f, threads, scratch);
#else
  backward<Float32, uint16_t>(f, threads, scratch);
#endif
}

}  // namespace isr::cpu::ISR_NS
