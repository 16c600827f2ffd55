#include "autograd/ops.h"

#include <algorithm>
#include <array>
#include <utility>

namespace isr {
namespace {

Tensor none() { return {}; }

struct GradSink {
  float* dst = nullptr;           // null: frozen
  bool accumulate = false;
};

// Where the gradient of p goes: '=' on the first write of a step (of a micro-batch, where memory is lent), '+=' afterwards.
GradSink sink(Param& p) {
  if (!p.group) return {};
  Group& g = *p.group;
  if (g.lender && !g.grad) g.lender->lend(g);
  size_t i = 0;
  while (g.params[i] != &p) ++i;
  const bool again = g.written[i];
  g.written[i] = true;
  return {g.grad.data<float>() + p.offset, again};
}

// Products of several parts keep one sink a part; the columns of dy belong to the parts in order.
std::vector<GradPart> grad_parts(Weight& w) {
  std::vector<GradPart> parts;
  for (size_t i = 0; i < w.parts.size(); ++i) {
    const GradSink dw = sink(*w.parts[i]);
    const GradSink db = w.bias.empty() ? GradSink{} : sink(*w.bias[i]);
    parts.push_back({dw.dst, db.dst, w.parts[i]->rows(), dw.accumulate, db.accumulate});
  }
  return parts;
}

// dx (+)= dy W.
void input_gradient(Ctx& c, const Tape::Sink& dx, Tensor dy, const Weight& w) {
  const std::vector<Tensor> rows = w.rows();
  for (const Tensor& r : rows) ISR_ASSERT(r.data, "a gradient flows through a matrix that has no row-major values");
  c.be.gemm_nn(dx.grad, dx.accumulate, dy, rows);
}

// Memory until the tape's scope ends, and until the workspace's does.
Tensor temporary(Ctx& c, int64_t rows, int64_t cols, DType dtype) {
  return view(c.tape.arena().allocate(static_cast<size_t>(rows * cols) * size_of(dtype)), dtype, rows, cols);
}
Tensor scratch(Ctx& c, int64_t rows, int64_t cols, DType dtype) {
  return view(c.be.workspace().allocate(static_cast<size_t>(rows * cols) * size_of(dtype)), dtype, rows, cols);
}

void scale_pieces(Ctx& c, const LowRank& l, Tensor ranks) {
  for (const LowRank::Piece& p : l.pieces) {
    if (p.scale == 1) continue;
    const Tensor part = ranks.columns(p.rank, p.b.k());
    c.be.pool_rows(part, false, part, {}, 1, p.scale);
  }
}

// What an adapter adds to x W^T goes to `to` (T, N), and the product is added to that. Returns scale x A^T (T, ranks), which
// backward reads; nothing where there is no adapter.
Tensor low_rank(Ctx& c, Tensor to, Tensor x, const Weight& w) {
  if (!w.low_rank) return none();
  const LowRank& l = *w.low_rank;
  const Tensor ranks = temporary(c, x.rows, l.a.n(), x.dtype);
  c.be.gemm_nt(ranks, x, *l.a.matrix, {});
  scale_pieces(c, l, ranks);
  if (!l.whole) c.be.device().zero(to.data, static_cast<size_t>(to.rows * to.cols) * size_of(to.dtype));
  for (const LowRank::Piece& p : l.pieces) c.be.gemm_nt(to.columns(p.output, p.b.n()), ranks.columns(p.rank, p.b.k()), *p.b.matrix, {});
  return ranks;
}

// dB = dy^T (scale x A^T), dA = (scale dy B)^T x.
void low_rank_backward(Ctx& c, const Tape::Sink& dx, Tensor dy, Tensor x, LowRank& l, Tensor ranks) {
  const bool trains = l.trainable();
  if (!trains && !dx.grad) return;
  const Tensor dranks = scratch(c, x.rows, l.a.n(), x.dtype);
  for (LowRank::Piece& p : l.pieces) {
    const Tensor part = dy.columns(p.output, p.b.n());
    if (trains) c.be.gemm_tn(grad_parts(p.b), part, ranks.columns(p.rank, p.b.k()));
    input_gradient(c, {dranks.columns(p.rank, p.b.k()), false}, part, p.b);
  }
  scale_pieces(c, l, dranks);
  if (trains) c.be.gemm_tn(grad_parts(l.a), dranks, x);
  if (dx.grad) input_gradient(c, {dx.grad, true}, dranks, l.a);
}

// Backward of y = x W^T (+ bias) and of what an adapter added: dW before dX, so that x's gradient may take dy's place in cache.
// Within a scope of the workspace.
void product_backward(Ctx& c, Tensor dy, Tensor x, Weight& w, Tensor ranks) {
  if (w.trains_itself()) c.be.gemm_tn(grad_parts(w), dy, x);
  const Tape::Sink dx = c.tape.sink(x);
  if (dx.grad) input_gradient(c, dx, dy, w);
  if (ranks) low_rank_backward(c, dx, dy, x, *w.low_rank, ranks);
}

}  // namespace

Ints resident(Backend& be, Arena& arena, std::span<const int32_t> values) {
  int32_t* p = arena.allocate_n<int32_t>(static_cast<int64_t>(values.size()));
  be.device().upload(p, values.data(), values.size_bytes());
  return {p, static_cast<int64_t>(values.size())};
}

RowIndex row_index(Backend& be, Arena& arena, std::span<const int32_t> rows, int64_t input_rows, int64_t per_row, bool backward) {
  for (const int32_t of : rows) ISR_ASSERT(of >= -1 && of < input_rows, "index ", of, " of ", input_rows, " rows");
  if (!backward) return {resident(be, arena, rows), {}, per_row};
  std::vector<int32_t> owner(static_cast<size_t>(input_rows), -1);
  for (size_t i = 0; i < rows.size(); ++i) {
    const int32_t of = rows[i];
    if (of == -1) continue;
    int32_t& to = owner[static_cast<size_t>(of)];
    ISR_ASSERT(to == -1, "row ", of, " is gathered twice: its gradient would be lost");
    to = static_cast<int32_t>(static_cast<int64_t>(i) / per_row);
  }
  return {resident(be, arena, rows), resident(be, arena, owner), per_row};
}

void download_f32(Backend& be, Arena& arena, float* host, Tensor rows) {
  if (rows.rows == 0) return;
  if (rows.dtype == DType::F32 && rows.contiguous()) return be.device().download(host, rows.data, static_cast<size_t>(rows.rows * rows.cols) * sizeof(float));
  constexpr int64_t kRows = 256;   // at a time
  ArenaScope scope(arena);
  const Tensor piece = view(arena.allocate_n<float>(std::min(kRows, rows.rows) * rows.cols), std::min(kRows, rows.rows), rows.cols);
  for (int64_t row = 0; row < rows.rows; row += kRows) {
    const Tensor part = piece.row_range(0, std::min(kRows, rows.rows - row));
    be.add(part, false, rows.row_range(row, part.rows));
    be.device().download(host + row * rows.cols, part.data, static_cast<size_t>(part.rows * part.cols) * sizeof(float));
  }
}

Tensor embedding(Ctx& c, Param& table, Ints ids, int64_t width, DType dtype) {
  const int64_t rows = table.size() / width;
  Tensor y = c.tape.alloc(ids.n, width, dtype, table.group != nullptr);
  c.be.embedding_forward(y, view(table.value, table.stored(), rows, width), ids);
  c.tape.record("embedding", y, [=, &c, &table] {
    const GradSink dw = sink(table);
    c.be.embedding_backward(dw.dst, dw.accumulate, c.tape.grad(y), ids, rows);
  });
  return y;
}

namespace {

bool wanted(std::span<const MediaRun> media) {
  return std::any_of(media.begin(), media.end(), [](const MediaRun& r) { return r.features.slot >= 0; });
}

// A gradient of which parts are added to: zero at first.
Tensor part_sink(Ctx& c, Tensor x) {
  const Tape::Sink dx = c.tape.sink(x);
  if (dx.grad && !dx.accumulate) c.be.device().zero(dx.grad.data, static_cast<size_t>(dx.grad.rows * dx.grad.cols) * size_of(dx.grad.dtype));
  return dx.grad;
}

// In the order of rows; a row of features may stand in the batch several times.
void media_backward(Ctx& c, Tensor dy, std::span<const MediaRun> media, int64_t column) {
  for (const MediaRun& r : media)
    if (const Tensor dx = part_sink(c, r.features)) c.be.add(dx.row_range(r.from, r.count).columns(column, dy.cols), true, dy.row_range(r.row, r.count));
}

}  // namespace

Tensor embedding(Ctx& c, Param& table, Ints ids, std::span<const MediaRun> media, DType dtype) {
  Tensor y = c.tape.alloc(ids.n, table.cols(), dtype, table.group || wanted(media));
  c.be.embedding_forward(y, table.tensor(), ids);
  for (const MediaRun& r : media) c.be.add(y.row_range(r.row, r.count), false, r.features.row_range(r.from, r.count).columns(0, y.cols));
  c.tape.record("embedding", y, [=, &c, &table, runs = std::vector(media.begin(), media.end())] {
    const Tensor dy = c.tape.grad(y);
    if (table.group) {
      const GradSink dw = sink(table);
      c.be.embedding_backward(dw.dst, dw.accumulate, dy, ids, table.rows());
    }
    media_backward(c, dy, runs, 0);
  });
  return y;
}

Tensor add_media(Ctx& c, Tensor x, std::span<const MediaRun> media, int64_t column) {
  if (media.empty()) return x;
  Tensor y = x;
  if (c.tape.recording()) {
    y = c.tape.alloc(x.rows, x.cols, x.dtype, x.slot >= 0 || wanted(media));
    c.be.add(y, false, x);
  }
  for (const MediaRun& r : media) c.be.add(y.row_range(r.row, r.count), true, r.features.row_range(r.from, r.count).columns(column, y.cols));
  c.tape.record("add_media", y, [=, &c, runs = std::vector(media.begin(), media.end())] {
    const Tensor dy = c.tape.grad(y);
    const Tape::Sink dx = c.tape.sink(x);
    if (dx.grad) c.be.add(dx.grad, dx.accumulate, dy);
    media_backward(c, dy, runs, column);
  });
  return y;
}

Tensor rms_norm(Ctx& c, Tensor x, Param& w, float eps) {
  Tensor y = c.tape.alloc(x.rows, x.cols, x.dtype, x.slot >= 0 || w.group);
  float* rstd = y.slot >= 0 ? c.tape.arena().allocate_n<float>(x.rows * (x.cols / w.size())) : nullptr;
  c.be.rms_norm_forward(y, rstd, x, w.flat(), eps);
  c.tape.record("rms_norm", y, [=, &c, &w] {
    const GradSink dw = sink(w);
    const Tape::Sink dx = c.tape.sink(x);
    c.be.rms_norm_backward(dx.grad, dx.accumulate, dw.dst, dw.accumulate, c.tape.grad(y), x, w.flat(), rstd);
  });
  return y;
}

// Rows of `width` columns each, of rows that have a multiple of them.
static Tensor cut(Tensor x, int64_t width) {
  if (!x || x.cols == width) return x;
  ISR_ASSERT(x.contiguous() && x.cols % width == 0, "rows of ", x.cols, " columns are not cut into rows of ", width);
  return view(x.data, x.dtype, x.rows * (x.cols / width), width);
}

Tensor layer_norm(Ctx& c, Tensor x, Param& w, Param& b, float eps) {
  Tensor y = c.tape.alloc(x.rows, x.cols, x.dtype, x.slot >= 0 || w.group);
  const int64_t width = w.size(), rows = x.rows * (x.cols / width);
  float* mean = c.tape.arena().allocate_n<float>(rows);
  float* rstd = c.tape.arena().allocate_n<float>(rows);
  c.be.layer_norm_forward(cut(y, width), mean, rstd, cut(x, width), w.f32(), b.f32(), eps);
  c.tape.record("layer_norm", y, [=, &c, &w, &b] {
    const GradSink dw = sink(w), db = sink(b);
    ISR_ASSERT(!dw.dst || !db.dst || dw.accumulate == db.accumulate, "a norm's weight and bias are used together");
    const Tape::Sink dx = c.tape.sink(x);
    c.be.layer_norm_backward(cut(dx.grad, width), dx.accumulate, dw.dst, db.dst, dw.accumulate, cut(c.tape.grad(y), width), cut(x, width), w.f32(), mean, rstd);
  });
  return y;
}

Tensor linear(Ctx& c, Tensor x, Weight& w, Act act, Tensor residual) {
  ISR_ASSERT(act != Act::SwiGlu, "swiglu has an op of its own");
  Tensor y = c.tape.alloc(x.rows, w.n(), x.dtype, x.slot >= 0 || residual.slot >= 0 || w.trainable());
  Tensor pre = (y.slot >= 0 || w.low_rank) && act != Act::None ? temporary(c, x.rows, w.n(), x.dtype) : none();
  const Tensor ranks = low_rank(c, pre ? pre : y, x, w);
  c.be.gemm_nt(y, x, *w.matrix, {w.bias_data(), act, pre, residual, static_cast<bool>(ranks)});
  c.tape.record("linear", y, [=, &c, &w] {
    Tensor dy = c.tape.grad(y);
    if (residual.slot >= 0) {
      const Tape::Sink dr = c.tape.sink(residual);
      c.be.add(dr.grad, dr.accumulate, dy);
    }
    ArenaScope scope(c.be.workspace());
    if (act != Act::None) {
      Tensor dpre = scratch(c, dy.rows, dy.cols, dy.dtype);
      c.be.act_backward(dpre, dy, pre, act);
      dy = dpre;
    }
    product_backward(c, dy, x, w, ranks);
  });
  return y;
}

Tensor swiglu(Ctx& c, Tensor x, Weight& w) {
  Tensor y = c.tape.alloc(x.rows, w.n() / 2, x.dtype, x.slot >= 0 || w.trainable());
  Tensor pre = y.slot >= 0 || w.low_rank ? temporary(c, x.rows, w.n(), x.dtype) : none();
  const Tensor ranks = low_rank(c, pre, x, w);
  c.be.gemm_nt(y, x, *w.matrix, {w.bias_data(), Act::SwiGlu, pre, none(), static_cast<bool>(ranks)});
  c.tape.record("swiglu", y, [=, &c, &w] {
    ArenaScope scope(c.be.workspace());
    Tensor dpre = scratch(c, pre.rows, pre.cols, pre.dtype);
    c.be.swiglu_backward(dpre, c.tape.grad(y), pre);
    product_backward(c, dpre, x, w, ranks);
  });
  return y;
}

namespace {

// Columns of q and of k in [q | k | v], each with its norm and what backward needs: the heads before it, and 1 / rms of each.
struct NormedHeads {
  Param* w = nullptr;
  int64_t begin = 0, heads = 0;
  Tensor before;
  float* rstd = nullptr;
};

std::array<NormedHeads, 2> norm_heads(Ctx& c, Tensor y, const AttentionShape& s, const HeadNorms& norms) {
  std::array<NormedHeads, 2> all{NormedHeads{norms.q, 0, s.heads, {}, nullptr}, NormedHeads{norms.k, s.heads * s.head_size, s.kv_heads, {}, nullptr}};
  for (NormedHeads& n : all) {
    if (!n.w) continue;
    const Tensor part = y.columns(n.begin, n.heads * s.head_size);
    n.before = part;
    if (y.slot >= 0) {
      n.before = temporary(c, part.rows, part.cols, part.dtype);
      n.rstd = c.tape.arena().allocate_n<float>(part.rows * n.heads);
      c.be.add(n.before, false, part);
    }
    c.be.rms_norm_forward(part, n.rstd, n.before, n.w->flat(), norms.eps);
  }
  return all;
}

}  // namespace

Tensor qkv(Ctx& c, Tensor x, Weight& w, const AttentionShape& s, const float* rope, const HeadNorms& norms) {
  const int64_t rotated = s.heads + s.kv_heads;   // q and k heads stand side by side
  Tensor y = c.tape.alloc(x.rows, w.n(), x.dtype, x.slot >= 0 || w.trainable() || (norms.q && norms.q->group) || (norms.k && norms.k->group));
  const Tensor ranks = low_rank(c, y, x, w);
  c.be.gemm_nt(y, x, *w.matrix, {w.bias_data(), Act::None, none(), none(), static_cast<bool>(ranks)});
  const std::array<NormedHeads, 2> normed = norm_heads(c, y, s, norms);
  if (rope) c.be.rope(y.columns(0, rotated * s.head_size), rope, rotated, s.head_size, false);
  c.tape.record("qkv", y, [=, &c, &w] {
    Tensor dy = c.tape.grad(y);   // this closure is its last reader: changed in place
    if (rope) c.be.rope(dy.columns(0, rotated * s.head_size), rope, rotated, s.head_size, true);
    for (const NormedHeads& n : normed) {
      if (!n.w) continue;
      const GradSink dw = sink(*n.w);
      const Tensor part = dy.columns(n.begin, n.heads * s.head_size);
      c.be.rms_norm_backward(part, false, dw.dst, dw.accumulate, part, n.before, n.w->flat(), n.rstd);
    }
    ArenaScope scope(c.be.workspace());
    product_backward(c, dy, x, w, ranks);
  });
  return y;
}

Tensor attention(Ctx& c, Tensor qkv, const Prepared& plan, const AttentionShape& s) {
  const int64_t q_cols = s.heads * s.head_size, kv_cols = s.kv_heads * s.head_size;
  Tensor y = c.tape.alloc(qkv.rows, q_cols, qkv.dtype, qkv.slot >= 0);
  float* lse = c.tape.arena().allocate_n<float>(qkv.rows * s.heads);
  const Tensor q = qkv.columns(0, q_cols), k = qkv.columns(q_cols, kv_cols), v = qkv.columns(q_cols + kv_cols, kv_cols);
  c.be.attention_forward(y, lse, q, k, v, plan, s);
  c.tape.record("attention", y, [=, &c, &plan] {
    const auto [d, again] = c.tape.sink(qkv);
    ISR_ASSERT(!again, "attention is the only consumer of its qkv: the kernel writes and never adds");
    c.be.attention_backward(d.columns(0, q_cols), d.columns(q_cols, kv_cols), d.columns(q_cols + kv_cols, kv_cols), c.tape.grad(y), q, k, v, y, lse, plan, s);
  });
  return y;
}

Tensor gather_rows(Ctx& c, Tensor x, const RowIndex& index) {
  Tensor y = c.tape.alloc(index.rows.n, x.cols, x.dtype, x.slot >= 0);
  c.be.gather_rows(y, false, x, index.rows);
  c.tape.record("gather_rows", y, [=, &c] {
    const Tape::Sink dx = c.tape.sink(x);
    c.be.gather_rows(dx.grad, dx.accumulate, c.tape.grad(y), index.owner);
  });
  return y;
}

Tensor mean_rows(Ctx& c, Tensor x, const RowIndex& index) {
  const float scale = 1.0f / static_cast<float>(index.per_row);
  Tensor y = c.tape.alloc(index.rows.n / index.per_row, x.cols, x.dtype, x.slot >= 0);
  c.be.pool_rows(y, false, x, index.rows, index.per_row, scale);
  c.tape.record("mean_rows", y, [=, &c] {
    const Tape::Sink dx = c.tape.sink(x);
    c.be.pool_rows(dx.grad, dx.accumulate, c.tape.grad(y), index.owner, 1, scale);
  });
  return y;
}

Tensor join_rows(Ctx& c, Tensor x, const RowIndex& index, int64_t n) {
  Tensor y = c.tape.alloc(index.rows.n / n, n * x.cols, x.dtype, x.slot >= 0);
  c.be.gather_rows(cut(y, x.cols), false, x, index.rows);
  c.tape.record("join_rows", y, [=, &c] {
    const Tape::Sink dx = c.tape.sink(x);
    c.be.gather_rows(dx.grad, dx.accumulate, cut(c.tape.grad(y), x.cols), index.owner);
  });
  return y;
}

Tensor beside(Ctx& c, std::span<const Tensor> parts) {
  int64_t cols = 0;
  bool needs = false;
  for (const Tensor& p : parts) cols += p.cols, needs = needs || p.slot >= 0;
  Tensor y = c.tape.alloc(parts[0].rows, cols, parts[0].dtype, needs);
  int64_t at = 0;
  for (const Tensor& p : parts) c.be.add(y.columns(std::exchange(at, at + p.cols), p.cols), false, p);
  c.tape.record("beside", y, [=, &c, all = std::vector(parts.begin(), parts.end())] {
    const Tensor dy = c.tape.grad(y);
    int64_t from = 0;
    for (const Tensor& p : all) {
      const Tensor part = dy.columns(std::exchange(from, from + p.cols), p.cols);
      const Tape::Sink dx = c.tape.sink(p);
      if (dx.grad) c.be.add(dx.grad, dx.accumulate, part);
    }
  });
  return y;
}

Tensor columns(Ctx& c, Tensor x, int64_t begin, int64_t count) {
  Tensor y = c.tape.alloc(x.rows, count, x.dtype, x.slot >= 0);
  c.be.add(y, false, x.columns(begin, count));
  c.tape.record("columns", y, [=, &c] {
    if (const Tensor dx = part_sink(c, x)) c.be.add(dx.columns(begin, count), true, c.tape.grad(y));
  });
  return y;
}

namespace {

// f(first row, weights (n, V)) for some rows of a mix at a time, as a dense matrix that products read.
template <class F>
void with_mixed_rows(Ctx& c, const RowMix& mix, int64_t table_rows, DType dtype, F&& f) {
  constexpr size_t kRows = 512;
  const auto width = static_cast<size_t>(table_rows);
  std::vector<float> dense;
  for (size_t first = 0; first < mix.rows.size(); first += kRows) {
    const size_t n = std::min(kRows, mix.rows.size() - first);
    dense.assign(n * width, 0);
    for (size_t i = 0; i < n; ++i)
      for (size_t k = 0; k < 4; ++k) dense[i * width + static_cast<size_t>(mix.rows[first + i][k])] += mix.weights[first + i][k];
    ArenaScope scope(c.tape.arena());
    const Tensor wide = view(c.tape.arena().allocate_n<float>(static_cast<int64_t>(dense.size())), static_cast<int64_t>(n), table_rows);
    c.be.device().upload(wide.data, dense.data(), dense.size() * sizeof(float));
    const Tensor weights = dtype == DType::F32 ? wide : temporary(c, wide.rows, wide.cols, dtype);
    if (dtype != DType::F32) c.be.add(weights, false, wide);
    f(static_cast<int64_t>(first), weights);
  }
}

}  // namespace

Tensor mix(Ctx& c, Param& table, const RowMix& rows, int64_t times, DType dtype) {
  const auto n = static_cast<int64_t>(rows.rows.size());
  Tensor y = c.tape.alloc(times * n, table.cols(), dtype, table.group != nullptr);
  with_mixed_rows(c, rows, table.rows(), dtype, [&](int64_t first, Tensor weights) {
    c.be.gemm_nn(y.row_range(first, weights.rows), false, weights, std::array{table.tensor()});
  });
  for (int64_t i = 1; i < times; ++i) c.be.add(y.row_range(i * n, n), false, y.row_range(0, n));
  c.tape.record("mix", y, [=, &c, &table, &rows] {
    const Tensor dy = c.tape.grad(y);
    with_mixed_rows(c, rows, table.rows(), dtype, [&](int64_t first, Tensor weights) {
      for (int64_t i = 0; i < times; ++i) {
        const GradSink dw = sink(table);
        c.be.gemm_tn(std::array{GradPart{dw.dst, nullptr, table.rows(), dw.accumulate, false}}, weights, dy.row_range(i * n + first, weights.rows));
      }
    });
  });
  return y;
}

Tensor add(Ctx& c, Tensor a, Tensor b) {
  Tensor y = c.tape.alloc(a.rows, a.cols, a.dtype, a.slot >= 0 || b.slot >= 0);
  c.be.add(y, false, a);
  c.be.add(y, true, b);
  c.tape.record("add", y, [=, &c] {
    for (Tensor x : {a, b}) {
      const Tape::Sink dx = c.tape.sink(x);
      if (dx.grad) c.be.add(dx.grad, dx.accumulate, c.tape.grad(y));
    }
  });
  return y;
}

TokenLogp token_logp(Ctx& c, Tensor x, Weight& head, Ints targets) {
  const bool needs = x.slot >= 0 || head.trainable();
  TokenLogp out;
  out.logp = c.tape.alloc(x.rows, 1, DType::F32, needs);
  out.lse = temporary(c, x.rows, 1, DType::F32);
  c.be.token_logp_forward(out.logp.f32(), out.lse.f32(), x, *head.matrix, targets);
  if (out.logp.slot < 0) return out;
  out.dlogp = c.tape.arena().allocate_n<float>(x.rows);
  c.tape.record("token_logp", out.logp, [=, &c, &head] {
    const GradSink dw = sink(*head.parts[0]);
    const Tape::Sink dx = c.tape.sink(x);
    c.be.token_logp_backward(dx.grad, dx.accumulate, dw.dst, dw.accumulate, out.dlogp, x, *head.matrix, head.rows()[0], targets, out.lse.f32());
  });
  c.tape.seed(out.logp, view(out.dlogp, x.rows, 1));
  return out;
}

Tensor checkpoint(Ctx& c, Tensor x, const std::function<Tensor(Ctx&, Tensor)>& block) {
  ISR_ASSERT(!c.inside_checkpoint, "checkpoint() does not nest");
  Arena& arena = c.tape.arena();
  Tensor y = c.tape.alloc(x.rows, x.cols, x.dtype, true);   // before the mark: survives it
  {
    ArenaScope inside(arena);
    Tape quiet(arena, false);
    Ctx inner{c.be, quiet, c.cancel, {}, true};
    Tensor result = block(inner, x);
    ISR_ASSERT(result.rows == y.rows && result.cols == y.cols && result.dtype == y.dtype, "a checkpointed block keeps its input's shape");
    c.be.add(y, false, result);
  }
  c.tape.record("checkpoint", y, [=, &c, &arena] {
    const Tape::Sink dx = c.tape.sink(x);   // taken before the mark, as is y's gradient
    const Tensor dy = c.tape.grad(y);
    ArenaScope inside(arena);
    Tape again(arena, true);
    Ctx inner{c.be, again, c.cancel, c.ready, true};
    Tensor result = block(inner, again.input(x, dx));
    if (result.slot < 0) return;            // nothing inside is trained, and nobody wants dx
    again.seed(result, dy);
    again.backward();
  });
  return y;
}

void group_begin(Ctx& c, Group* group) {
  if (!group || !c.tape.recording()) return;
  if (group->arrivals) group->arrivals->need(*group);
  if (c.ready) c.tape.record_always("group_begin", [&c, group] { c.ready(*group); });
}

}  // namespace isr
