#include "models/vision.h"

#include <cmath>

namespace isr {
namespace {

// (frames * patches, 3 p p): pixels as rows for a product with the patch embedding.
Tensor patchify(Ctx& c, const float* pixels, int64_t frames, const TowerConfig& t, DType dtype) {
  const int64_t count = frames * t.frame.values();
  Tensor y = c.tape.alloc(frames * t.patches(), 3 * t.patch * t.patch, dtype, false);
  float* there = c.tape.arena().allocate_n<float>(count);
  c.be.device().upload(there, pixels, static_cast<size_t>(count) * sizeof(float));
  c.be.patchify(y, there, frames, t.frame.h, t.frame.w, t.patch);
  return y;
}

void append_f32(Ctx& c, Tensor x, std::vector<std::vector<float>>* hidden) {
  if (!hidden) return;
  std::vector<float>& to = hidden->emplace_back(static_cast<size_t>(x.rows * x.cols));
  download_f32(c.be, c.tape.arena(), to.data(), x);
}

// LanguageBind: the time embedding joins the residual stream in every layer, before the norm.
Tensor attend_over_time(Ctx& c, TowerLayer& l, const TowerPlan& plan, Tensor x, const AttentionShape& s, float eps) {
  x = add(c, x, embedding(c, *l.temporal_embedding, plan.times, x.cols, x.dtype));
  Tensor h = gather_rows(c, layer_norm(c, x, *l.temporal_norm.w, *l.temporal_norm.b, eps), plan.by_place);
  h = attention(c, qkv(c, h, l.temporal_qkv, s, nullptr), *plan.temporal, s);
  return linear(c, gather_rows(c, h, plan.by_frame), l.temporal_out, Act::None, x);
}

Tensor tower_layer(Ctx& c, TowerLayer& l, const TowerPlan& plan, Tensor x, const AttentionShape& s, const TowerConfig& t) {
  c.check_cancel();
  if (l.temporal_embedding) x = attend_over_time(c, l, plan, x, s, t.eps);
  Tensor h = layer_norm(c, x, *l.norm1.w, *l.norm1.b, t.eps);
  h = attention(c, qkv(c, h, l.qkv, s, nullptr), *plan.spatial, s);
  x = linear(c, h, l.out, Act::None, x);
  h = linear(c, layer_norm(c, x, *l.norm2.w, *l.norm2.b, t.eps), l.fc1, t.act);
  return linear(c, h, l.fc2, Act::None, x);
}

Tensor embed_patches(Ctx& c, Tower& tower, const TowerPlan& plan, const float* pixels, int64_t frames, DType dtype) {
  Tensor x = linear(c, patchify(c, pixels, frames, tower.config, dtype), tower.patch);
  if (tower.class_embedding) x = add(c, gather_rows(c, x, plan.patch_rows), embedding(c, *tower.class_embedding, plan.class_rows, x.cols, dtype));
  x = add(c, x, embedding(c, *tower.position_embedding, plan.positions, x.cols, dtype));
  return tower.pre_norm.w ? layer_norm(c, x, *tower.pre_norm.w, *tower.pre_norm.b, tower.config.eps) : x;
}

AttentionPlan spans_of(int64_t count, int64_t rows) {
  std::vector<Span> spans;
  for (int64_t i = 0; i < count; ++i) spans.push_back({static_cast<int32_t>(i * rows), static_cast<int32_t>((i + 1) * rows), -1});
  return plan_attention(spans, false);
}

}  // namespace

const TowerPlan& Tower::plan(Backend& be, const Grid& grid) {
  if (const auto found = plans_.find(grid); found != plans_.end()) return *found->second;
  std::vector<int32_t> patch_rows, class_rows, positions, times, by_place, by_frame;
  const int64_t frames = grid.t, n = config.tokens(grid), rows = frames * n, patches = grid.frame(), before = n - patches;
  for (int64_t f = 0; f < frames; ++f)
    for (int64_t i = 0; i < n; ++i) {
      patch_rows.push_back(i < before ? -1 : static_cast<int32_t>(f * patches + i - before));
      class_rows.push_back(i < before ? 0 : -1);
      positions.push_back(static_cast<int32_t>(i));
      times.push_back(static_cast<int32_t>(f));
      by_frame.push_back(static_cast<int32_t>(i * frames + f));
    }
  for (int64_t i = 0; i < n; ++i)
    for (int64_t f = 0; f < frames; ++f) by_place.push_back(static_cast<int32_t>(f * n + i));
  if (!memory_) memory_.emplace(be.device());
  auto plan = std::make_unique<TowerPlan>();
  TowerPlan& p = *plan;
  if (config.class_token) {
    p.patch_rows = row_index(be, *memory_, patch_rows, frames * patches);
    p.class_rows = resident(be, *memory_, class_rows);
  }
  p.positions = resident(be, *memory_, positions);
  p.within_frames = spans_of(frames, n);
  p.spatial = be.prepare(p.within_frames);
  if (config.frames > 0) {
    p.times = resident(be, *memory_, times);
    p.by_place = row_index(be, *memory_, by_place, rows);
    p.by_frame = row_index(be, *memory_, by_frame, rows);
    p.over_time = spans_of(n, frames);
    p.temporal = be.prepare(p.over_time);
  }
  return *(plans_[grid] = std::move(plan));
}

const RowIndex& Vision::selection(Backend& be, bool is_image, const Grid& grid) {
  if (const auto found = selections_.find({is_image, grid}); found != selections_.end()) return found->second;
  const int64_t s = config.stride(is_image);
  if (!memory_) memory_.emplace(be.device());
  return selections_[{is_image, grid}] = row_index(be, *memory_, selected_rows(config, is_image, grid), grid.t * config.tower(is_image).tokens(grid), s * s);
}

std::vector<int32_t> selected_rows(const VisionConfig& config, bool is_image, const Grid& grid) {
  const int64_t n = config.tower(is_image).tokens(grid), before = n - grid.frame(), s = config.stride(is_image);
  std::vector<int32_t> rows;
  for (int64_t f = 0; f < grid.t; ++f) {
    if (config.keeps_class(is_image)) rows.push_back(static_cast<int32_t>(f * n));
    for (int64_t y = 0; y < grid.h / s; ++y)
      for (int64_t x = 0; x < grid.w / s; ++x)
        for (int64_t k = 0; k < s * s; ++k) rows.push_back(static_cast<int32_t>(f * n + before + (y * s + k / s) * grid.w + x * s + k % s));
  }
  return rows;
}

Tensor tower_forward(Ctx& c, Tower& tower, const float* pixels, const Grid& grid, DType dtype, bool checkpointing, std::vector<std::vector<float>>* hidden) {
  const TowerConfig& t = tower.config;
  const TowerPlan& plan = tower.plan(c.be, grid);
  const int64_t frames = grid.t;
  const int64_t head = t.width / t.heads;
  const AttentionShape s{t.heads, t.heads, head, static_cast<float>(1 / std::sqrt(static_cast<double>(head)))};
  Tensor x;
  if (c.tape.recording()) {
    x = embed_patches(c, tower, plan, pixels, frames, dtype);
  } else {
    x = c.tape.alloc(frames * t.tokens(grid), t.width, dtype, false);
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

Tensor select_features(Ctx& c, Vision& v, bool is_image, Tensor hidden, const Grid& grid) {
  const RowIndex& rows = v.selection(c.be, is_image, grid);
  return rows.per_row == 1 ? gather_rows(c, hidden, rows) : mean_rows(c, hidden, rows);
}

Tensor tower_features(Ctx& c, Vision& v, bool is_image, const float* pixels, const Grid& grid, DType dtype, bool checkpointing) {
  return select_features(c, v, is_image, tower_forward(c, *v.tower(is_image), pixels, grid, dtype, checkpointing), grid);
}

Tensor project(Ctx& c, Vision& v, Tensor features) {
  for (size_t i = 0; i < v.projector.size(); ++i)
    features = linear(c, features, v.projector[i], i + 1 < v.projector.size() ? v.config.projector_act : Act::None);
  return features;
}

}  // namespace isr
