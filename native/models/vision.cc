#include "models/vision.h"

#include <cmath>

#include "core/bf16.h"

namespace isr {
namespace {

// (frames * patches, 3 p p) rows of a convolution whose stride is its size; (channel, y, x) runs along the row, as in the weight.
Tensor patchify(Ctx& c, const float* pixels, int64_t frames, const TowerConfig& t, DType dtype) {
  const int64_t side = t.image / t.patch, cols = 3 * t.patch * t.patch, plane = t.image * t.image;
  Tensor y = c.tape.alloc(frames * side * side, cols, dtype, false);
  parallel(c.be.threads, frames * side, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t strip = begin; strip < end; ++strip) {
      const int64_t frame = strip / side, py = strip % side;
      for (int64_t px = 0; px < side; ++px) {
        const int64_t row = strip * side + px;
        for (int64_t ch = 0; ch < 3; ++ch)
          for (int64_t dy = 0; dy < t.patch; ++dy) {
            const float* from = pixels + (frame * 3 + ch) * plane + (py * t.patch + dy) * t.image + px * t.patch;
            c.be.cast(y.at(row, (ch * t.patch + dy) * t.patch), dtype, from, DType::F32, t.patch);
          }
      }
    }
  });
  return y;
}

void append_f32(Ctx& c, Tensor x, std::vector<std::vector<float>>* hidden) {
  if (!hidden) return;
  std::vector<float>& to = hidden->emplace_back(static_cast<size_t>(x.rows * x.cols));
  c.be.add(view(to.data(), x.rows, x.cols), false, x);
}

// LanguageBind: the time embedding joins the residual stream in every layer, before the norm.
Tensor attend_over_time(Ctx& c, TowerLayer& l, const TowerPlan& plan, Tensor x, const AttentionShape& s, float eps) {
  x = add(c, x, embedding(c, *l.temporal_embedding, plan.times, x.cols, x.dtype));
  Tensor h = gather_rows(c, layer_norm(c, x, *l.temporal_norm.w, *l.temporal_norm.b, eps), plan.by_place);
  h = attention(c, qkv(c, h, l.temporal_qkv, s, nullptr), plan.temporal, s);
  return linear(c, gather_rows(c, h, plan.by_frame), l.temporal_out, Act::None, x);
}

Tensor tower_layer(Ctx& c, TowerLayer& l, const TowerPlan& plan, Tensor x, const AttentionShape& s, const TowerConfig& t) {
  c.check_cancel();
  if (l.temporal_embedding) x = attend_over_time(c, l, plan, x, s, t.eps);
  Tensor h = layer_norm(c, x, *l.norm1.w, *l.norm1.b, t.eps);
  h = attention(c, qkv(c, h, l.qkv, s, nullptr), plan.spatial, s);
  x = linear(c, h, l.out, Act::None, x);
  h = linear(c, layer_norm(c, x, *l.norm2.w, *l.norm2.b, t.eps), l.fc1, t.act);
  return linear(c, h, l.fc2, Act::None, x);
}

Tensor embed_patches(Ctx& c, Tower& tower, const TowerPlan& plan, const float* pixels, int64_t frames, DType dtype) {
  Tensor patches = linear(c, patchify(c, pixels, frames, tower.config, dtype), tower.patch);
  Tensor x = add(c, gather_rows(c, patches, plan.patch_rows), embedding(c, *tower.class_embedding, plan.class_rows, patches.cols, dtype));
  x = add(c, x, embedding(c, *tower.position_embedding, plan.positions, patches.cols, dtype));
  return layer_norm(c, x, *tower.pre_norm.w, *tower.pre_norm.b, tower.config.eps);
}

AttentionPlan spans_of(int64_t count, int64_t rows) {
  std::vector<Span> spans;
  for (int64_t i = 0; i < count; ++i) spans.push_back({static_cast<int32_t>(i * rows), static_cast<int32_t>((i + 1) * rows), -1});
  return plan_attention(spans, false);
}

}  // namespace

const TowerPlan& Tower::plan(int64_t frames) {
  const auto [it, fresh] = plans_.try_emplace(frames);
  TowerPlan& p = it->second;
  if (!fresh) return p;
  const int64_t n = config.tokens();
  for (int64_t f = 0; f < frames; ++f)
    for (int64_t i = 0; i < n; ++i) {
      p.patch_rows.push_back(i == 0 ? -1 : static_cast<int32_t>(f * (n - 1) + i - 1));
      p.class_rows.push_back(i == 0 ? 0 : -1);
      p.positions.push_back(static_cast<int32_t>(i));
      p.times.push_back(static_cast<int32_t>(f));
      p.by_frame.push_back(static_cast<int32_t>(i * frames + f));
    }
  p.spatial = spans_of(frames, n);
  if (config.frames == 0) return p;
  for (int64_t i = 0; i < n; ++i)
    for (int64_t f = 0; f < frames; ++f) p.by_place.push_back(static_cast<int32_t>(f * n + i));
  p.temporal = spans_of(n, frames);
  return p;
}

const Vision::Selection& Vision::selection(bool is_image, int64_t frames) {
  const auto [it, fresh] = selections_.try_emplace({is_image, frames});
  Selection& s = it->second;
  if (!fresh) return s;
  const TowerConfig& t = tower(is_image)->config;
  const int64_t n = t.tokens(), side = t.image / t.patch, pool = is_image ? 1 : config.pool;
  s.per_row = pool * pool;
  for (int64_t f = 0; f < frames; ++f) {
    if (is_image ? config.image_cls : config.video_cls) s.rows.push_back(static_cast<int32_t>(f * n));
    for (int64_t y = 0; y < side / pool; ++y)
      for (int64_t x = 0; x < side / pool; ++x)
        for (int64_t k = 0; k < pool * pool; ++k)
          s.rows.push_back(static_cast<int32_t>(f * n + 1 + (y * pool + k / pool) * side + x * pool + k % pool));
  }
  return s;
}

Tensor tower_forward(Ctx& c, Tower& tower, const float* pixels, int64_t frames, DType dtype, bool checkpointing, std::vector<std::vector<float>>* hidden) {
  const TowerConfig& t = tower.config;
  const TowerPlan& plan = tower.plan(frames);
  const int64_t head = t.width / t.heads;
  const AttentionShape s{t.heads, t.heads, head, static_cast<float>(1 / std::sqrt(static_cast<double>(head)))};
  Tensor x;
  if (c.tape.recording()) {
    x = embed_patches(c, tower, plan, pixels, frames, dtype);
  } else {
    x = c.tape.alloc(frames * t.tokens(), t.width, dtype, false);
    ArenaScope inside(c.tape.arena());
    c.be.add(x, false, embed_patches(c, tower, plan, pixels, frames, dtype));
  }
  append_f32(c, x, hidden);
  for (TowerLayer& layer : tower.layers) {
    const auto block = [&layer, &plan, &t, s](Ctx& inner, Tensor in) { return tower_layer(inner, layer, plan, in, s, t); };
    if (c.tape.recording()) {
      x = checkpointing ? checkpoint(c, x, block) : block(c, x);
    } else {
      ArenaScope inside(c.tape.arena());
      c.be.add(x, false, block(c, x));
    }
    append_f32(c, x, hidden);
  }
  return x;
}

Tensor select_features(Ctx& c, Vision& v, bool is_image, Tensor hidden, int64_t frames) {
  const Vision::Selection& s = v.selection(is_image, frames);
  return s.per_row == 1 ? gather_rows(c, hidden, s.rows) : mean_rows(c, hidden, s.rows, s.per_row);
}

Tensor project(Ctx& c, Vision& v, Tensor features) {
  for (size_t i = 0; i < v.projector.size(); ++i)
    features = linear(c, features, v.projector[i], i + 1 < v.projector.size() ? v.config.projector_act : Act::None);
  return features;
}

}  // namespace isr
