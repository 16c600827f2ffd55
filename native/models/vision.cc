#include "models/vision.h"

#include <algorithm>
#include <cmath>

namespace isr {
namespace {

// (rows, values of a patch) for a product with the patch embedding.
Tensor patch_rows(Ctx& c, const float* pixels, int64_t frames, const TowerConfig& t, const TowerPlan& plan, DType dtype) {
  Tensor y = c.tape.alloc(t.grids ? plan.squares.rows.n : frames * t.patches(), t.patch_values(), dtype, false);
  const int64_t count = t.grids ? y.rows * y.cols : frames * t.frame.values();
  float* there = c.tape.arena().allocate_n<float>(count);
  std::vector<float> ordered;   // rows as they are computed
  for (const int64_t row : plan.given) ordered.insert(ordered.end(), pixels + row * y.cols, pixels + (row + 1) * y.cols);
  c.be.device().upload(there, ordered.empty() ? pixels : ordered.data(), static_cast<size_t>(count) * sizeof(float));
  if (t.grids) c.be.add(y, false, view(there, y.rows, y.cols));
  else c.be.patchify(y, there, frames, t.frame.h, t.frame.w, t.patch);
  return y;
}

Tensor normed(Ctx& c, Tensor x, const LayerNorm& n, float eps) { return n.b ? layer_norm(c, x, *n.w, *n.b, eps) : rms_norm(c, x, *n.w, eps); }

void append_f32(Ctx& c, Tensor x, const TowerTaps* taps) {
  if (!taps || !taps->hidden) return;
  std::vector<float>& to = taps->hidden->emplace_back(static_cast<size_t>(x.rows * x.cols));
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
  Tensor h = normed(c, x, l.norm1, t.eps);
  h = attention(c, qkv(c, h, l.qkv, s, plan.rope), l.windowed ? *plan.windows : *plan.spatial, s);
  x = linear(c, h, l.out, Act::None, x);
  h = normed(c, x, l.norm2, t.eps);
  h = t.gated ? swiglu(c, h, l.fc1) : linear(c, h, l.fc1, t.act);
  return linear(c, h, l.fc2, Act::None, x);
}

Tensor embed_patches(Ctx& c, Tower& tower, const TowerPlan& plan, const float* pixels, int64_t frames, DType dtype) {
  Tensor x = linear(c, patch_rows(c, pixels, frames, tower.config, plan, dtype), tower.patch);
  if (tower.class_embedding) x = add(c, gather_rows(c, x, plan.patch_rows), embedding(c, *tower.class_embedding, plan.class_rows, x.cols, dtype));
  if (!plan.mixing.rows.empty()) x = add(c, x, mix(c, *tower.position_embedding, plan.mixing, frames, dtype));
  else if (tower.position_embedding) x = add(c, x, embedding(c, *tower.position_embedding, plan.positions, x.cols, dtype));
  return tower.pre_norm.w ? layer_norm(c, x, *tower.pre_norm.w, *tower.pre_norm.b, tower.config.eps) : x;
}

// One behind another, up to each of `ends`.
std::vector<Span> spans_to(std::span<const int64_t> ends) {
  std::vector<Span> spans;
  for (const int64_t end : ends) spans.push_back({spans.empty() ? 0 : spans.back().end, static_cast<int32_t>(end), -1});
  return spans;
}

AttentionPlan spans_of(int64_t count, int64_t rows) {
  std::vector<Span> spans;
  for (int64_t i = 0; i < count; ++i) spans.push_back({static_cast<int32_t>(i * rows), static_cast<int32_t>((i + 1) * rows), -1});
  return plan_attention(spans, false);
}

// Of frames of one size: a row for each patch, and for the class token before them.
void plan_frames(Backend& be, const TowerConfig& config, const Grid& grid, TowerPlan& p) {
  Arena& memory = p.memory;
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
  if (config.class_token) {
    p.patch_rows = row_index(be, memory, patch_rows, frames * patches);
    p.class_rows = resident(be, memory, class_rows);
  }
  if (config.merge > 1) {
    PatchOrder order = patch_order(config, grid);   // square by square
    std::vector<int32_t> squares;
    for (const PatchPlace& at : order.places) squares.push_back(static_cast<int32_t>(at.frame * n + before + at.y * grid.w + at.x));
    p.squares = row_index(be, memory, squares, rows);
  }
  p.positions = resident(be, memory, positions);
  p.within_frames = spans_of(frames, n);
  p.spatial = be.prepare(p.within_frames);
  if (config.frames > 0) {
    p.times = resident(be, memory, times);
    p.by_place = row_index(be, memory, by_place, rows);
    p.by_frame = row_index(be, memory, by_frame, rows);
    p.over_time = spans_of(n, frames);
    p.temporal = be.prepare(p.over_time);
  }
}

// Bilinear weights of a square table's rows for the patches of a frame; the table's corners are the grid's.
RowMix resampled(const TowerConfig& config, const Grid& grid, std::span<const PatchPlace> frame) {
  const int64_t side = config.learned;
  struct Between { int64_t low, high; double share; };
  const auto between = [&](int64_t i, int64_t n) {
    const double at = n > 1 ? static_cast<double>(i) * static_cast<double>(side - 1) / static_cast<double>(n - 1) : 0;
    const auto low = static_cast<int64_t>(at);
    return Between{low, std::min(low + 1, side - 1), at - static_cast<double>(low)};
  };
  RowMix mix;
  for (const PatchPlace& p : frame) {
    const Between y = between(p.y, grid.h), x = between(p.x, grid.w);
    const auto row = [&](int64_t down, int64_t across) { return static_cast<int32_t>(down * side + across); };
    const auto weight = [](double w) { return static_cast<float>(w); };
    mix.rows.push_back({row(y.low, x.low), row(y.low, x.high), row(y.high, x.low), row(y.high, x.high)});
    mix.weights.push_back({weight((1 - y.share) * (1 - x.share)), weight((1 - y.share) * x.share), weight(y.share * (1 - x.share)), weight(y.share * x.share)});
  }
  return mix;
}

// Half of a head's pairs turn by the row, half by the column.
float* grid_rope(Backend& be, Arena& memory, const TowerConfig& config, std::span<const PatchPlace> places) {
  const int64_t pairs = config.width / config.heads / 2, half = pairs / 2;
  std::vector<double> inverse;
  std::vector<int32_t> axis, positions;
  for (int32_t a : {0, 1})
    for (int64_t i = 0; i < half; ++i) {
      inverse.push_back(std::pow(config.rope_theta, -static_cast<double>(i) / static_cast<double>(half)));
      axis.push_back(a);
    }
  for (const PatchPlace& p : places) positions.push_back(static_cast<int32_t>(p.y));
  for (const PatchPlace& p : places) positions.push_back(static_cast<int32_t>(p.x));
  float* table = memory.allocate_n<float>(static_cast<int64_t>(places.size()) * 2 * pairs);
  be.rope_table(table, resident(be, memory, positions), {inverse, 1, 2, axis});
  return table;
}

// Of grids: rows in the order of patch_order().
void plan_grid(Backend& be, const TowerConfig& config, const Grid& grid, TowerPlan& p) {
  Arena& memory = p.memory;
  PatchOrder order = patch_order(config, grid);
  const auto rows = static_cast<int64_t>(order.places.size()), square = config.merge * config.merge;
  p.within_frames = spans_of(grid.t, grid.frame());
  p.spatial = be.prepare(p.within_frames);
  if (config.window > 0) {
    p.within_windows = plan_attention(spans_to(order.window_ends), false);
    p.windows = be.prepare(p.within_windows);
  }
  if (config.rope_theta > 0) p.rope = grid_rope(be, memory, config, order.places);
  if (config.learned > 0) p.mixing = resampled(config, grid, std::span(order.places).first(static_cast<size_t>(grid.frame())));
  std::vector<int32_t> squares(static_cast<size_t>(rows));   // given square by square: the place of each row in that order
  for (size_t i = 0; i < order.given.size(); ++i) squares[static_cast<size_t>(order.given[i])] = static_cast<int32_t>(i);
  ISR_ASSERT(rows % square == 0, "a grid of whole squares");
  p.squares = row_index(be, memory, squares, rows);
  if (config.window > 0) p.given = std::move(order.given);
}


}  // namespace

const TowerPlan& Tower::plan(Ctx& c, const Grid& grid) {
  constexpr size_t kKept = 32;
  auto found = std::find_if(plans_.begin(), plans_.end(), [&](const Kept& k) { return k.grid == grid; });
  if (found == plans_.end()) {
    auto plan = std::make_shared<TowerPlan>(c.be.device());
    config.grids ? plan_grid(c.be, config, grid, *plan) : plan_frames(c.be, config, grid, *plan);
    plans_.push_front({grid, std::move(plan)});
    if (plans_.size() > kKept) plans_.pop_back();
  } else {
    std::rotate(plans_.begin(), found, found + 1);
  }
  const std::shared_ptr<TowerPlan>& plan = plans_.front().plan;
  c.tape.record_always("tower plan", [keep = plan] {});
  return *plan;
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

PatchOrder patch_order(const TowerConfig& tower, const Grid& grid) {
  PatchOrder order;
  const int64_t merge = tower.merge, rows = grid.h / merge, columns = grid.w / merge;   // of squares
  const int64_t edge = tower.window > 0 ? tower.window : std::max(rows, columns);
  const auto square = [&](int64_t frame, int64_t row, int64_t column) {
    const int64_t first = ((frame * rows + row) * columns + column) * merge * merge;
    for (int64_t i = 0; i < merge * merge; ++i) {
      order.places.push_back({frame, row * merge + i / merge, column * merge + i % merge});
      order.given.push_back(first + i);
    }
  };
  for (int64_t frame = 0; frame < grid.t; ++frame)
    for (int64_t top = 0; top < rows; top += edge)
      for (int64_t left = 0; left < columns; left += edge) {
        for (int64_t row = top; row < std::min(top + edge, rows); ++row)
          for (int64_t column = left; column < std::min(left + edge, columns); ++column) square(frame, row, column);
        order.window_ends.push_back(static_cast<int64_t>(order.places.size()));
      }
  return order;
}

Tensor tower_forward(Ctx& c, Tower& tower, const float* pixels, const Grid& grid, DType dtype, bool checkpointing, TowerTaps* taps) {
  const TowerConfig& t = tower.config;
  const TowerPlan& plan = tower.plan(c, grid);
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
  append_f32(c, x, taps);
  int32_t index = 0;
  for (TowerLayer& layer : tower.layers) {
    const auto block = [&layer, &plan, &t, s](Ctx& inner, Tensor in) { return tower_layer(inner, layer, plan, in, s, t); };
    if (c.tape.recording()) {
      x = checkpointing ? checkpoint(c, x, block) : block(c, x);
    } else {
      ArenaScope inside(c.tape.arena());
      c.be.add(x, false, block(c, x));
    }
    append_f32(c, x, taps);
    if (taps && std::find(t.taps.begin(), t.taps.end(), index) != t.taps.end()) taps->squares.push_back(join_rows(c, x, plan.squares, t.merge * t.merge));
    ++index;
  }
  return tower.post_norm.w ? normed(c, x, tower.post_norm, t.eps) : x;
}

Tensor select_features(Ctx& c, Vision& v, bool is_image, Tensor hidden, const Grid& grid) {
  const RowIndex& rows = v.selection(c.be, is_image, grid);
  return rows.per_row == 1 ? gather_rows(c, hidden, rows) : mean_rows(c, hidden, rows);
}

Tensor tower_features(Ctx& c, Vision& v, bool is_image, const float* pixels, const Grid& grid, DType dtype, bool checkpointing) {
  Tower& tower = *v.tower(is_image);
  TowerTaps taps;
  const Tensor last = tower_forward(c, tower, pixels, grid, dtype, checkpointing, &taps);
  const int64_t square = tower.config.merge * tower.config.merge;
  if (square == 1 && taps.squares.empty() && !tower.config.grids) return select_features(c, v, is_image, last, grid);
  taps.squares.insert(taps.squares.begin(), join_rows(c, last, tower.plan(c, grid).squares, square));
  return taps.squares.size() == 1 ? taps.squares[0] : beside(c, taps.squares);
}

// Qwen-VL's: each level through a projector of its own.
static Tensor merge(Ctx& c, Vision& v, Tensor features) {
  const TowerConfig& t = v.video->config;
  std::vector<Tensor> parts;
  for (Merger& m : v.mergers) {
    const auto at = static_cast<int64_t>(parts.size()) * t.square();
    const Tensor part = v.mergers.size() == 1 ? features : columns(c, features, at, t.square());
    parts.push_back(linear(c, linear(c, normed(c, part, m.norm, t.eps), m.fc1, v.config.projector_act), m.fc2));
  }
  return parts.size() == 1 ? parts[0] : beside(c, parts);
}

Tensor project(Ctx& c, Vision& v, Tensor features) {
  if (!v.mergers.empty()) return merge(c, v, features);
  for (size_t i = 0; i < v.projector.size(); ++i)
    features = linear(c, features, v.projector[i], i + 1 < v.projector.size() ? v.config.projector_act : Act::None);
  return features;
}

}  // namespace isr
