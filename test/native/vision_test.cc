// Towers and projector against the goldens' inner values: hidden states layer by layer, features before and after the
// projector, the rows that reach the decoder. And what attention over time must reduce to.
#include <algorithm>

#include "check.h"
#include "models/score.h"
#include "seeded_model.h"

namespace isr::test {
namespace {

std::vector<float> values(const Checkpoint& file, const std::string& name) {
  const TensorInfo& t = file.get(name);
  std::vector<float> out(static_cast<size_t>(t.elements()));
  std::vector<uint8_t> staging;
  file.read_rows(t, 0, t.rows(), DType::F32, out.data(), staging);
  return out;
}

// (3, T, S, S) -> (T, 3, S, S)
std::vector<float> frames_first(const std::vector<float>& x, int64_t frames) {
  const int64_t plane = static_cast<int64_t>(x.size()) / 3 / frames;
  std::vector<float> y(x.size());
  for (int64_t ch = 0; ch < 3; ++ch)
    for (int64_t f = 0; f < frames; ++f)
      std::copy_n(x.begin() + (ch * frames + f) * plane, plane, y.begin() + (f * 3 + ch) * plane);
  return y;
}

double distance(const std::vector<float>& a, const std::vector<float>& b) {
  CHECK(a.size() == b.size());
  double most = 0;
  for (size_t i = 0; i < a.size(); ++i) most = std::max(most, static_cast<double>(std::abs(a[i] - b[i])));
  return most;
}

const std::string kGolden = "test/golden/";

void check_original(const std::string& family) {
  auto m = Model::load(kGolden + family + "/policy", {});
  const Checkpoint golden = Checkpoint::open_file(kGolden + family + "/cases.safetensors");
  const std::vector<float> pixels = frames_first(values(golden, "case0/video_cthw"), 8);
  {
    Tape quiet(m->arena(), false);
    Ctx c{*m->backend, quiet, nullptr, {}};
    std::vector<std::vector<float>> hidden;
    ArenaScope scope(m->arena());
    TowerTaps taps{{}, &hidden};
    tower_forward(c, *m->vision->video, pixels.data(), m->vision->video->config.grid(8), m->dtype, false, &taps);
    CHECK(hidden.size() == 3);   // before the first layer and behind two of three
    for (size_t k = 0; k < hidden.size(); ++k) CHECK(distance(hidden[k], values(golden, concat("case0/tower_hidden_states/", k))) <= 1e-4);
  }
  const Medium& clip = m->media.add_pixels(*m, false, 8, pixels);
  CHECK(distance(m->media.features(*m, clip.first_id, MediaStore::Stage::Tower, nullptr), values(golden, "case0/tower_features")) <= 1e-4);
  CHECK(distance(m->media.features(*m, clip.first_id, MediaStore::Stage::Projected, nullptr), values(golden, "case0/projected")) <= 1e-4);
  CHECK(m->media.passes == 1);
  const Medium& image = m->media.add_pixels(*m, true, 1, values(golden, "image"));
  CHECK(distance(m->media.features(*m, image.first_id, MediaStore::Stage::Tower, nullptr), values(golden, "image_tower_features")) <= 1e-4);
  CHECK(distance(m->media.features(*m, image.first_id, MediaStore::Stage::Projected, nullptr), values(golden, "image_projected")) <= 1e-4);

  // inputs_embeds: placeholders replaced by the clip's ids, a run of rows for each
  const std::vector<float> given = values(golden, "case0/inputs_embeds");
  const TensorInfo& info = golden.get("case0/input_ids");
  std::vector<int64_t> ids(static_cast<size_t>(info.elements()));
  golden.read(info, 0, info.bytes, ids.data());
  std::vector<int32_t> expanded;
  int32_t next = clip.first_id;
  const int64_t placeholders = std::count_if(ids.begin(), ids.end(), [](int64_t id) { return id < 0; });
  for (int64_t id : ids) {
    if (id >= 0) expanded.push_back(static_cast<int32_t>(id));
    else
      for (int64_t r = 0; r < clip.rows / placeholders; ++r) expanded.push_back(next++);
  }
  ArenaScope scope(m->arena());
  Tape quiet(m->arena(), false);
  Ctx c{*m->backend, quiet, nullptr, {}};
  const SequenceInput sequence{expanded, std::vector<int32_t>(expanded.size(), -1), {}};
  const Batch batch = make_batch({&sequence, 1}, false, m->positioner());
  const ResidentBatch there = make_resident(c, *m, batch, m->media.rows_of(c, *m, expanded, false));
  const Tensor x = embedding(c, *m->token_embedding, there.ids, there.media, m->dtype);
  CHECK(distance({x.f32(), x.f32() + x.rows * x.cols}, given) <= 1e-4);
}

}  // namespace

TEST("vision: hidden states, features and inputs of the original layouts") {
  check_original("llava_hound");
  check_original("video_llava_original");
}

TEST("vision: without temporal attention and embedding the tower is the plain one") {
  auto with = Model::load(kGolden + "llava_hound/policy", {});
  Tower& tower = *with->vision->video;
  const std::vector<float> pixels = frames_first(values(Checkpoint::open_file(kGolden + "llava_hound/cases.safetensors"), "case0/video_cthw"), 8);
  const auto run = [&] {
    ArenaScope scope(with->arena());
    Tape quiet(with->arena(), false);
    Ctx c{*with->backend, quiet, nullptr, {}};
    const Tensor x = tower_forward(c, tower, pixels.data(), tower.config.grid(8), with->dtype, false);
    return std::vector<float>(x.f32(), x.f32() + x.rows * x.cols);
  };
  const std::vector<float> before = run();
  for (TowerLayer& l : tower.layers) {
    std::fill_n(l.temporal_embedding->f32(), l.temporal_embedding->size(), 0.0f);
    const std::vector<float> zeros(static_cast<size_t>(l.temporal_out.n() * l.temporal_out.k()));
    l.temporal_out.matrix->write_rows(0, view(const_cast<float*>(zeros.data()), l.temporal_out.n(), l.temporal_out.k()));
    std::fill_n(l.temporal_out.bias_value.data<float>(), l.temporal_out.n(), 0.0f);
  }
  const std::vector<float> zeroed = run();
  CHECK(distance(before, zeroed) > 0.1);
  for (TowerLayer& l : tower.layers) l.temporal_embedding = nullptr;   // a plain CLIP layer
  CHECK(run() == zeroed);
}

TEST("vision: rows of a medium follow its grid") {
  struct Row { const char* name; int64_t pool; bool cls; Grid grid; std::vector<int32_t> rows; bool token = true; };
  const Row table[] = {
      {"all patches of a wide frame", 1, false, {1, 1, 3}, {1, 2, 3}},
      {"with the class token", 1, true, {1, 2, 1}, {0, 1, 2}},
      {"of a tower without one", 1, true, {2, 1, 2}, {0, 1, 2, 3}, false},
      {"of a tower without one, pooled", 2, false, {1, 2, 4}, {0, 1, 4, 5, 2, 3, 6, 7}, false},
      {"two frames", 1, false, {2, 1, 2}, {1, 2, 4, 5}},
      {"pooled 2 x 2, wider than high", 2, false, {1, 2, 4}, {1, 2, 5, 6, 3, 4, 7, 8}},
      {"pooled, what fills no group is left out", 2, false, {1, 3, 2}, {1, 2, 3, 4}},
  };
  for (const Row& r : table) {
    VisionConfig v;
    v.video = TowerConfig{};
    v.video->class_token = r.token;
    v.pool = r.pool;
    v.video_cls = r.cls;
    CHECK(selected_rows(v, false, r.grid) == r.rows, r.name);
    const int64_t per_row = r.pool * r.pool;
    CHECK(v.rows(false, r.grid) * per_row == static_cast<int64_t>(r.rows.size()), r.name, ": ", v.rows(false, r.grid), " rows");
  }
}

TEST("vision: media ids are ranges of their own; a released one is gone; the store refuses what does not fit") {
  auto m = Model::load(kGolden + "llava_hound/policy", {});
  const std::vector<float> pixels(8 * 3 * 28 * 28, 0.25f);
  const int32_t a = m->media.add_pixels(*m, false, 8, pixels).first_id, b = m->media.add_pixels(*m, false, 8, pixels).first_id;
  CHECK(a >= m->config.vocab && b >= a + 32);
  CHECK(m->media.holds(a) && m->media.holds(a + 31) && m->media.holds(b));
  m->media.release(a);
  CHECK(!m->media.holds(a) && !m->media.holds(a + 31) && m->media.holds(b));
  const auto code = [&](bool image, int64_t frames, size_t size) -> std::string {
    try {
      m->media.add_pixels(*m, image, frames, std::vector<float>(size));
    } catch (const Error& e) {
      return e.code;
    }
    return "none";
  };
  CHECK(code(false, 7, 7 * 3 * 28 * 28) == "INVALID_ARGUMENT");
  CHECK(code(false, 8, 8 * 3 * 28 * 27) == "INVALID_ARGUMENT");
  CHECK(code(true, 2, 2 * 3 * 28 * 28) == "INVALID_ARGUMENT");
  auto text = seeded_model({});
  bool refused = false;
  try {
    text->media.add_pixels(*text, false, 8, pixels);
  } catch (const Error& e) {
    refused = e.code == "INVALID_ARGUMENT";
  }
  CHECK(refused);
}

}  // namespace isr::test
