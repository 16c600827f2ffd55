#include "autograd/ops.h"

#include <algorithm>
#include <cstring>

namespace isr {
namespace {

Tensor none() { return {}; }

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

// Backward of y = x W^T (+ bias): dW before dX, so that x's gradient may take dy's place in cache.
void product_backward(Ctx& c, Tensor dy, Tensor x, Weight& w) {
  if (w.trainable()) c.be.gemm_tn(grad_parts(w), dy, x);
  const Tape::Sink dx = c.tape.sink(x);
  if (!dx.grad) return;
  const std::vector<WeightRows> rows = w.rows();
  for (const WeightRows& r : rows) ISR_ASSERT(r.data, "a gradient flows through a matrix that has no row-major values");
  c.be.gemm_nn(dx.grad, dx.accumulate, dy, rows);
}

// Scratch for one backward step.
Tensor temporary(Ctx& c, int64_t rows, int64_t cols, DType dtype) {
  return view(c.tape.arena().allocate(static_cast<size_t>(rows * cols) * size_of(dtype)), dtype, rows, cols);
}

}  // namespace

Tensor embedding(Ctx& c, Param& table, std::span<const int32_t> ids, int64_t width, DType dtype) {
  const int64_t rows = table.size() / width;
  Tensor y = c.tape.alloc(static_cast<int64_t>(ids.size()), width, dtype, table.group != nullptr);
  c.be.embedding_forward(y, {table.value, table.vector() ? DType::F32 : table.dtype, rows, width}, ids);
  c.tape.record("embedding", y, [=, &c, &table] {
    const GradSink dw = sink(table);
    c.be.embedding_backward(dw.dst, dw.accumulate, c.tape.grad(y), ids, rows);
  });
  return y;
}

namespace {

struct MediaRun { int32_t row, count; Tensor features; int32_t from; };   // batch rows [row, row + count) are features [from, ...)

// Longest runs of consecutive media ids; their places in `text` become -1.
std::vector<MediaRun> media_runs(std::vector<int32_t>& text, int64_t vocab, std::span<const MediaRows> media) {
  std::vector<MediaRun> runs;
  for (size_t t = 0; t < text.size();) {
    const int32_t id = text[t];
    if (id < vocab) {
      ++t;
      continue;
    }
    const auto clip = std::find_if(media.begin(), media.end(), [&](const MediaRows& m) { return id >= m.first_id && id - m.first_id < m.rows.rows; });
    ISR_ASSERT(clip != media.end(), "media id ", id, " of no clip of this batch");
    const int32_t from = id - clip->first_id;
    int32_t count = 0;
    while (t < text.size() && text[t] == id + count && from + count < clip->rows.rows) text[t++] = -1, ++count;
    runs.push_back({static_cast<int32_t>(t) - count, count, clip->rows, from});
  }
  return runs;
}

}  // namespace

Tensor embedding(Ctx& c, Param& table, std::span<const int32_t> ids, std::span<const MediaRows> media, DType dtype) {
  std::vector<int32_t> text(ids.begin(), ids.end());
  const std::vector<MediaRun> runs = media_runs(text, table.rows(), media);
  const bool wanted = std::any_of(runs.begin(), runs.end(), [](const MediaRun& r) { return r.features.slot >= 0; });
  Tensor y = c.tape.alloc(static_cast<int64_t>(ids.size()), table.cols(), dtype, table.group || wanted);
  c.be.embedding_forward(y, {table.value, table.dtype, table.rows(), table.cols()}, text);
  for (const MediaRun& r : runs) c.be.add(y.row_range(r.row, r.count), false, r.features.row_range(r.from, r.count));
  c.tape.record("embedding", y, [=, &c, &table, text = std::move(text)] {
    const Tensor dy = c.tape.grad(y);
    if (table.group) {
      const GradSink dw = sink(table);
      c.be.embedding_backward(dw.dst, dw.accumulate, dy, text, table.rows());
    }
    for (const MediaRun& r : runs) {   // in the order of rows; a row of features may stand in the batch several times
      const Tape::Sink dx = c.tape.sink(r.features);
      if (!dx.grad) continue;
      if (!dx.accumulate) std::memset(dx.grad.data, 0, static_cast<size_t>(dx.grad.rows * dx.grad.cols) * size_of(dx.grad.dtype));
      c.be.add(dx.grad.row_range(r.from, r.count), true, dy.row_range(r.row, r.count));
    }
  });
  return y;
}

Tensor rms_norm(Ctx& c, Tensor x, Param& w, float eps) {
  Tensor y = c.tape.alloc(x.rows, x.cols, x.dtype, x.slot >= 0 || w.group);
  float* rstd = y.slot >= 0 ? c.tape.arena().allocate_n<float>(x.rows) : nullptr;
  c.be.rms_norm_forward(y, rstd, x, w.f32(), eps);
  c.tape.record("rms_norm", y, [=, &c, &w] {
    const GradSink dw = sink(w);
    const Tape::Sink dx = c.tape.sink(x);
    c.be.rms_norm_backward(dx.grad, dx.accumulate, dw.dst, dw.accumulate, c.tape.grad(y), x, w.f32(), rstd);
  });
  return y;
}

Tensor layer_norm(Ctx& c, Tensor x, Param& w, Param& b, float eps) {
  Tensor y = c.tape.alloc(x.rows, x.cols, x.dtype, x.slot >= 0 || w.group);
  float* mean = c.tape.arena().allocate_n<float>(x.rows);
  float* rstd = c.tape.arena().allocate_n<float>(x.rows);
  c.be.layer_norm_forward(y, mean, rstd, x, w.f32(), b.f32(), eps);
  c.tape.record("layer_norm", y, [=, &c, &w, &b] {
    const GradSink dw = sink(w), db = sink(b);
    ISR_ASSERT(!dw.dst || !db.dst || dw.accumulate == db.accumulate, "a norm's weight and bias are used together");
    const Tape::Sink dx = c.tape.sink(x);
    c.be.layer_norm_backward(dx.grad, dx.accumulate, dw.dst, db.dst, dw.accumulate, c.tape.grad(y), x, w.f32(), mean, rstd);
  });
  return y;
}

Tensor linear(Ctx& c, Tensor x, Weight& w, Act act, Tensor residual) {
  ISR_ASSERT(act != Act::SwiGlu, "swiglu has an op of its own");
  Tensor y = c.tape.alloc(x.rows, w.n(), x.dtype, x.slot >= 0 || residual.slot >= 0 || w.trainable());
  Tensor pre = y.slot >= 0 && act != Act::None ? temporary(c, x.rows, w.n(), x.dtype) : none();
  c.be.gemm_nt(y, x, w.packed, {w.bias_data(), act, pre, residual});
  c.tape.record("linear", y, [=, &c, &w] {
    Tensor dy = c.tape.grad(y);
    if (residual.slot >= 0) {
      const Tape::Sink dr = c.tape.sink(residual);
      c.be.add(dr.grad, dr.accumulate, dy);
    }
    ArenaScope scope(c.be.scratch);
    if (act != Act::None) {
      Tensor dpre = view(c.be.scratch.allocate(static_cast<size_t>(dy.rows * dy.cols) * size_of(dy.dtype)), dy.dtype, dy.rows, dy.cols);
      c.be.act_backward(dpre, dy, pre, act);
      dy = dpre;
    }
    product_backward(c, dy, x, w);
  });
  return y;
}

Tensor swiglu(Ctx& c, Tensor x, Weight& w) {
  Tensor y = c.tape.alloc(x.rows, w.n() / 2, x.dtype, x.slot >= 0 || w.trainable());
  Tensor pre = y.slot >= 0 ? temporary(c, x.rows, w.n(), x.dtype) : none();
  c.be.gemm_nt(y, x, w.packed, {w.bias_data(), Act::SwiGlu, pre, none()});
  c.tape.record("swiglu", y, [=, &c, &w] {
    ArenaScope scope(c.be.scratch);
    Tensor dpre = view(c.be.scratch.allocate(static_cast<size_t>(pre.rows * pre.cols) * size_of(pre.dtype)), pre.dtype, pre.rows, pre.cols);
    c.be.swiglu_backward(dpre, c.tape.grad(y), pre);
    product_backward(c, dpre, x, w);
  });
  return y;
}

Tensor qkv(Ctx& c, Tensor x, Weight& w, const AttentionShape& s, const float* rope) {
  const int64_t rotated = s.heads + s.kv_heads;   // q and k heads stand side by side
  Tensor y = c.tape.alloc(x.rows, w.n(), x.dtype, x.slot >= 0 || w.trainable());
  c.be.gemm_nt(y, x, w.packed, {w.bias_data(), Act::None, none(), none()});
  if (rope) c.be.rope(y.columns(0, rotated * s.head_size), rope, rotated, s.head_size, false);
  c.tape.record("qkv", y, [=, &c, &w] {
    Tensor dy = c.tape.grad(y);   // this closure is its last reader: rotated back in place
    if (rope) c.be.rope(dy.columns(0, rotated * s.head_size), rope, rotated, s.head_size, true);
    product_backward(c, dy, x, w);
  });
  return y;
}

Tensor attention(Ctx& c, Tensor qkv, const AttentionPlan& plan, const AttentionShape& s) {
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

// Row `of` of an input goes to row `by` of the result, and to no other; -1 is no row.
static void own(std::vector<int32_t>& owner, int32_t of, int32_t by) {
  if (of == -1) return;
  ISR_ASSERT(of >= 0 && of < static_cast<int32_t>(owner.size()), "index ", of, " of ", owner.size(), " rows");
  int32_t& to = owner[static_cast<size_t>(of)];
  ISR_ASSERT(to == -1, "row ", of, " is gathered twice: its gradient would be lost");
  to = by;
}

Tensor gather_rows(Ctx& c, Tensor x, std::span<const int32_t> index) {
  const auto count = static_cast<int64_t>(index.size());
  Tensor y = c.tape.alloc(count, x.cols, x.dtype, x.slot >= 0);
  c.be.gather_rows(y, false, x, index);
  c.tape.record("gather_rows", y, [=, &c] {
    const Tape::Sink dx = c.tape.sink(x);
    std::vector<int32_t> inverse(static_cast<size_t>(x.rows), -1);
    for (int64_t i = 0; i < count; ++i) own(inverse, index[static_cast<size_t>(i)], static_cast<int32_t>(i));
    c.be.gather_rows(dx.grad, dx.accumulate, c.tape.grad(y), inverse);
  });
  return y;
}

Tensor mean_rows(Ctx& c, Tensor x, std::span<const int32_t> index, int64_t n) {
  const float scale = 1.0f / static_cast<float>(n);
  Tensor y = c.tape.alloc(static_cast<int64_t>(index.size()) / n, x.cols, x.dtype, x.slot >= 0);
  c.be.pool_rows(y, false, x, index, n, scale);
  c.tape.record("mean_rows", y, [=, &c] {
    const Tape::Sink dx = c.tape.sink(x);
    std::vector<int32_t> owner(static_cast<size_t>(x.rows), -1);
    for (size_t i = 0; i < index.size(); ++i) own(owner, index[i], static_cast<int32_t>(static_cast<int64_t>(i) / n));
    c.be.pool_rows(dx.grad, dx.accumulate, c.tape.grad(y), owner, 1, scale);
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

TokenLogp token_logp(Ctx& c, Tensor x, Weight& head, std::span<const int32_t> targets) {
  const bool needs = x.slot >= 0 || head.trainable();
  TokenLogp out;
  out.logp = c.tape.alloc(x.rows, 1, DType::F32, needs);
  out.lse = temporary(c, x.rows, 1, DType::F32);
  c.be.token_logp_forward(out.logp.f32(), out.lse.f32(), x, head.packed, targets);
  if (out.logp.slot < 0) return out;
  out.dlogp = c.tape.arena().allocate_n<float>(x.rows);
  c.tape.record("token_logp", out.logp, [=, &c, &head] {
    const GradSink dw = sink(*head.parts[0]);
    const Tape::Sink dx = c.tape.sink(x);
    c.be.token_logp_backward(dx.grad, dx.accumulate, dw.dst, dw.accumulate, out.dlogp, x, head.packed, head.rows()[0], targets, out.lse.f32());
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
  if (!group || !c.ready) return;
  c.tape.record_always("group_begin", [&c, group] { c.ready(*group); });
}

}  // namespace isr
