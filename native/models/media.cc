#include "models/media.h"

#include <algorithm>

#include "core/bf16.h"
#include "models/model.h"

namespace isr {
namespace {

constexpr int64_t kLastId = INT32_MAX;

VisionConfig& vision_of(Model& m, bool image) {
  const char* what = image ? "images" : "videos";
  if (!m.vision)
    throw Error("INVALID_ARGUMENT", concat("media: ", m.family, " is a text model and takes no media"), "leave media out, or load a video model");
  if (!m.vision->tower(image)) throw Error("INVALID_ARGUMENT", concat("media: this ", m.family, " checkpoint takes no ", what), "load one that has the tower, or give visionTower");
  return m.vision->config;
}

Buffer stored(Model& m, const std::vector<float>& values) {
  Device& device = m.backend->device();
  Buffer b(device, values.size() * size_of(m.dtype));
  if (m.dtype == DType::F32) {
    device.upload(b.data(), values.data(), b.bytes());
    return b;
  }
  std::vector<uint16_t> narrow(values.size());
  std::transform(values.begin(), values.end(), narrow.begin(), f32_to_bf16);
  device.upload(b.data(), narrow.data(), b.bytes());
  return b;
}

Tensor kept(Model& m, const Buffer& b, int64_t rows) {
  return view(b.data(), m.dtype, rows, static_cast<int64_t>(b.bytes() / size_of(m.dtype)) / rows);
}

Buffer copy_of(Ctx& c, Tensor x) {
  Buffer b(c.be.device(), static_cast<size_t>(x.rows * x.cols) * size_of(x.dtype));
  c.be.add(view(b.data(), x.dtype, x.rows, x.cols), false, x);
  return b;
}

// Before towers and projector read their values.
void need_values(const Ctx& c, Model& m) {
  if (!c.tape.recording()) return m.settle();
  if (!m.arrivals) return;
  for (Part part : {Part::Vision, Part::Projector})
    for (const std::vector<Param*>& params : m.groups(part))
      if (params.front()->group) m.arrivals->need(*params.front()->group);
}

bool trained(const Tower& t) { return t.patch.trainable(); }

}  // namespace

Medium& MediaStore::insert(Model& m, Medium medium) {
  const auto first_free = [&] {
    for (const auto& [first, other] : media_)
      if (next_ < first + other.rows && first < next_ + medium.rows) next_ = first + other.rows;
  };
  next_ = std::max(next_, m.config.vocab);
  first_free();
  if (next_ + medium.rows > kLastId) {
    next_ = m.config.vocab;
    ++epoch;
    first_free();
  }
  if (next_ + medium.rows > kLastId) fail("OUT_OF_MEMORY", "media: no ids are left for ", medium.rows, " more rows");
  medium.first_id = static_cast<int32_t>(next_);
  next_ += medium.rows;
  return media_[medium.first_id] = std::move(medium);
}

const Medium& MediaStore::add_pixels(Model& m, bool image, int64_t frames, std::vector<float> pixels) {
  const VisionConfig& v = vision_of(m, image);
  const TowerConfig& t = m.vision->tower(image)->config;
  if (t.grids) fail("INVALID_ARGUMENT", "media: expected pixels as rows of patches with their grid (gridThw), got ", frames, " frames");
  if (image && frames != 1) fail("INVALID_ARGUMENT", "media: expected one image, got ", frames);
  if (!image && t.frames > 0 && frames != t.frames)
    throw Error("INVALID_ARGUMENT", concat("media: this model's tower takes clips of ", t.frames, " frames, got ", frames), "its attention over time has one embedding a frame");
  if (frames < 1 || static_cast<int64_t>(pixels.size()) != frames * t.frame.values())
    fail("INVALID_ARGUMENT", "media: expected pixels (", frames, ", 3, ", t.frame.h, ", ", t.frame.w, "), got ", pixels.size(), " values");
  Medium medium;
  medium.image = image, medium.grid = m.declaration().grid(t, frames), medium.rows = v.rows(image, medium.grid), medium.pixels = std::move(pixels);
  return insert(m, std::move(medium));
}

namespace {

void check_grid(const TowerConfig& t, bool image, const Grid& g) {
  if (!t.grids) fail("INVALID_ARGUMENT", "media: this model's tower takes frames of one size, and no grid");
  constexpr int64_t kMax = 1 << 20;
  if (g.t < 1 || g.h < t.merge || g.w < t.merge || g.h % t.merge != 0 || g.w % t.merge != 0 || g.t > kMax || g.h > kMax || g.w > kMax || g.t * g.h > kMax || g.t * g.h * g.w > kMax)
    fail("INVALID_ARGUMENT", "media: gridThw: expected times, rows and columns of patches, the last two multiples of ", t.merge, ", ", kMax, " patches at most, got (", g.t, ", ", g.h, ", ", g.w,
         ")");
  if (image && g.t != 1) fail("INVALID_ARGUMENT", "media: gridThw: expected one step of time for an image, got ", g.t);
}

}  // namespace

const Medium& MediaStore::add_patches(Model& m, bool image, const Grid& grid, double seconds, std::vector<float> pixels) {
  const VisionConfig& v = vision_of(m, image);
  const TowerConfig& t = m.vision->tower(image)->config;
  check_grid(t, image, grid);
  if (static_cast<int64_t>(pixels.size()) != t.pixel_values(grid))
    fail("INVALID_ARGUMENT", "media: expected pixels (", grid.t * grid.frame(), ", ", t.patch_values(), ") for gridThw (", grid.t, ", ", grid.h, ", ", grid.w, "), got ", pixels.size(), " values");
  Medium medium;
  medium.image = image, medium.grid = grid, medium.seconds = seconds, medium.rows = v.rows(image, grid), medium.pixels = std::move(pixels);
  return insert(m, std::move(medium));
}

const Medium& MediaStore::add_features(Model& m, bool image, Stage stage, int64_t rows, const std::vector<float>& values, const Grid* grid, double seconds) {
  const VisionConfig& v = vision_of(m, image);
  const TowerConfig& t = m.vision->tower(image)->config;
  const int64_t width = stage == Stage::Tower ? t.features() : m.config.width * (1 + v.levels());
  Medium medium;
  if (t.grids) {
    if (!grid) fail("INVALID_ARGUMENT", "media: expected features with the grid of their patches (gridThw)");
    check_grid(t, image, *grid);
    if (rows != v.rows(image, *grid) || static_cast<int64_t>(values.size()) != rows * width)
      fail("INVALID_ARGUMENT", "media: expected features (", v.rows(image, *grid), ", ", width, ") for gridThw (", grid->t, ", ", grid->h, ", ", grid->w, "), got ", rows, " rows and ", values.size(),
           " values");
    medium.grid = *grid;
  } else {
    if (grid) check_grid(t, image, *grid);
    const int64_t a_frame = v.rows(image, m.declaration().grid(t, 1));
    if (rows < 1 || rows % a_frame != 0 || (t.frames > 0 && !image && rows != a_frame * t.frames) || static_cast<int64_t>(values.size()) != rows * width)
      fail("INVALID_ARGUMENT", "media: expected features of (frames x ", a_frame, ", ", width, "), got ", rows, " rows and ", values.size(), " values");
    medium.grid = m.declaration().grid(t, rows / a_frame);
  }
  medium.image = image, medium.seconds = seconds, medium.rows = rows;
  (stage == Stage::Tower ? medium.tower : medium.projected) = stored(m, values);
  medium.tower_version = m.vision_version;
  medium.projected_version = m.projector_version;
  return insert(m, std::move(medium));
}

void MediaStore::release(int32_t first_id) { media_.erase(first_id); }

const Medium* MediaStore::find(int32_t id) const {
  auto it = media_.upper_bound(id);
  if (it == media_.begin()) return nullptr;
  --it;
  return id - it->first < it->second.rows ? &it->second : nullptr;
}

bool MediaStore::holds(int32_t id) const { return find(id) != nullptr; }

const Medium& MediaStore::get(int32_t first_id) const {
  const auto it = media_.find(first_id);
  ISR_ASSERT(it != media_.end(), "no medium has the ids from ", first_id);
  return it->second;
}

// What a family declares (all_families() in family.cc) says how its towers see.
void MediaStore::need_tower(Ctx& c, Model& m, Medium& x) {
  if (x.tower && x.tower_version == m.vision_version) return;
  if (x.pixels.empty())
    throw Error("INVALID_ARGUMENT", "media: features are given, but the tower behind them has been trained since, or their earlier stage is asked for",
                "give the video itself");
  ArenaScope scope(c.tape.arena());
  ++passes;
  x.tower = copy_of(c, m.declaration().forward.tower(c, *m.vision, x.image, x.pixels.data(), x.grid, m.dtype, false));
  x.tower_version = m.vision_version;
}

void MediaStore::need_projected(Ctx& c, Model& m, Medium& x) {
  if (x.projected && x.projected_version == m.projector_version) return;
  need_tower(c, m, x);
  ArenaScope scope(c.tape.arena());
  x.projected = copy_of(c, m.declaration().forward.projector(c, *m.vision, kept(m, x.tower, x.rows)));
  x.projected_version = m.projector_version;
}

std::vector<PlacedMedium> MediaStore::placed(std::span<const int32_t> ids, int64_t vocab) const {
  std::vector<PlacedMedium> all;
  for (size_t t = 0; t < ids.size(); ++t) {
    if (ids[t] < vocab) continue;
    const Medium* x = find(ids[t]);
    ISR_ASSERT(x, "id ", ids[t], " belongs to no medium");
    const size_t begin = t;
    while (t + 1 < ids.size() && ids[t + 1] == ids[t] + 1 && ids[t + 1] - x->first_id < x->rows) ++t;
    all.push_back({static_cast<int64_t>(begin), static_cast<int64_t>(t + 1 - begin), ids[begin] - x->first_id, x->grid, x->seconds});
  }
  return all;
}

std::vector<float> MediaStore::features(Model& m, int32_t first_id, Stage stage, const std::atomic<bool>* cancel) {
  Medium* x = find(first_id);
  ISR_ASSERT(x, "no medium has the id ", first_id);
  m.settle();
  ArenaScope scope(m.arena());
  Tape quiet(m.arena(), false);
  Ctx c{*m.backend, quiet, cancel, {}};
  stage == Stage::Tower ? need_tower(c, m, *x) : need_projected(c, m, *x);
  const Tensor rows = kept(m, stage == Stage::Tower ? x->tower : x->projected, x->rows);
  std::vector<float> out(static_cast<size_t>(rows.rows * rows.cols));
  download_f32(*m.backend, m.arena(), out.data(), rows);
  return out;
}

std::vector<MediaRows> MediaStore::rows_of(Ctx& c, Model& m, std::span<const int32_t> ids, bool checkpointing) {
  std::vector<MediaRows> all;
  std::vector<Medium*> seen;
  for (size_t t = 0; t < ids.size(); ++t) {
    if (ids[t] < m.config.vocab) continue;
    Medium* x = find(ids[t]);
    ISR_ASSERT(x, "id ", ids[t], " belongs to no medium");
    while (t + 1 < ids.size() && ids[t + 1] > ids[t] && ids[t + 1] - x->first_id < x->rows) ++t;   // the rest of its run
    if (std::find(seen.begin(), seen.end(), x) == seen.end()) seen.push_back(x);
  }
  if (!seen.empty()) need_values(c, m);
  for (Medium* x : seen) {
    const bool vision = c.tape.recording() && trained(*m.vision->tower(x->image));
    const bool projector = c.tape.recording() && m.vision->projects();
    if (!vision && !projector) {
      Tape quiet(c.tape.arena(), false);
      Ctx inner{c.be, quiet, c.cancel, {}};
      need_projected(inner, m, *x);
      all.push_back({x->first_id, kept(m, x->projected, x->rows)});
      continue;
    }
    Tensor features;
    if (vision) {
      if (x->pixels.empty()) throw Error("INVALID_ARGUMENT", "media: features are given, but the tower is trained", "give the video itself, or train without `vision`");
      ++passes;
      features = m.declaration().forward.tower(c, *m.vision, x->image, x->pixels.data(), x->grid, m.dtype, checkpointing);
    } else {
      Tape quiet(c.tape.arena(), false);
      Ctx inner{c.be, quiet, c.cancel, {}};
      need_tower(inner, m, *x);
      features = kept(m, x->tower, x->rows);
    }
    all.push_back({x->first_id, m.declaration().forward.projector(c, *m.vision, features)});
  }
  return all;
}

}  // namespace isr
