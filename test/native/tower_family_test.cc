// Towers by their declaration: frames that are wider than high, with a class token and without one, against a float64 tower
// that knows nothing of the engine; loaded, trained and saved like any other family's.
#include <algorithm>
#include <cmath>

#include "attention_reference.h"
#include "infer/generator.h"
#include "models/score.h"
#include "reference.h"
#include "toy_family.h"
#include "train/trainer.h"

namespace isr::test {
namespace {

using reference::Vec;

constexpr int64_t kFrames = 2, kEyeWidth = 24, kEyeLayers = 2, kPatch = 4;
constexpr FrameSize kFrame{8, 12};
const char* const kEye = "eye.";

ModelConfig read_seeing(const Json& json, const std::string& path) {
  ModelConfig c = read_toy(json, path);
  TowerConfig t;
  t.width = kEyeWidth, t.layers = t.run = kEyeLayers, t.heads = 3, t.mlp_width = 40;
  t.patch = kPatch, t.frame = kFrame, t.act = Act::GeluErf;
  t.class_token = ConfigReader(json, path).boolean("class_token", false);
  VisionConfig& v = c.vision.emplace();
  v.video = t;
  v.video_cls = true;   // kept where there is one
  return c;
}

// A tower without the norm before its first layer.
void seeing_parts(Parts& p, Network& n, const ModelConfig& config) {
  toy_parts(p, n, config);
  Vision& v = n.vision.emplace();
  v.config = *config.vision;
  const TowerConfig& t = *v.config.video;
  p.begin(Root::Projector);
  p.group("bridge");
  p.block("");
  p.matrix(v.projector.emplace_back(), {{"project", config.decoder.width}}, {t.width}, true);
  v.video = std::make_unique<Tower>();
  v.video->config = t;
  p.begin(Root::VideoTower);
  p.group("in");
  p.block("in.");
  if (t.class_token) p.vector("class", t.width, v.video->class_embedding);
  p.matrix(v.video->patch, {{"patch", t.width}}, {3, t.patch, t.patch}, true);
  p.table("places", {t.tokens(), t.width}, v.video->position_embedding);
  for (int64_t i = 0; i < t.run; ++i) {
    TowerLayer& l = v.video->layers.emplace_back();
    p.group(concat("layer ", i));
    p.block(concat(i, "."));
    p.norm("before", t.width, l.norm1);
    p.matrix(l.qkv, {{"q", t.width}, {"k", t.width}, {"v", t.width}}, {t.width}, true);
    p.matrix(l.out, {{"out", t.width}}, {t.width}, true);
    p.norm("between", t.width, l.norm2);
    p.matrix(l.fc1, {{"up", t.mlp_width}}, {t.width}, true);
    p.matrix(l.fc2, {{"down", t.width}}, {t.mlp_width}, true);
  }
}

const Families& with_seeing() {
  static const Families all = [] {
    Families rows = all_families();
    const Spellings none;
    rows.push_back({.name = "seeing", .model_type = "seeing", .architecture = "ToyForCausalLM", .read = read_seeing, .parts = seeing_parts,
                    .forward = {.decoder = decoder_forward, .tower = tower_features, .projector = project},
                    .roots = {Spellings{{"toy."}, "words.table"}, Spellings{{"toy_head."}, "weight"}, Spellings{{"bridge."}, "project.weight"}, none,
                              Spellings{{kEye}, "in.places"}},
                    .typical = "blocks.0.down.weight"});
    return rows;
  }();
  return all;
}

LoadOptions seeing_options() {
  LoadOptions o;
  o.families = &with_seeing();
  o.threads = 2;
  return o;
}

void write_seeing(const std::string& dir, bool class_token) {
  write_declared(dir, toy_config("seeing", concat(",\"class_token\":", class_token ? "true" : "false")), with_seeing());
}

std::vector<float> clip_pixels(uint64_t seed) { return random_values(kFrames * kFrame.values(), seed); }

// The tower from its definition, frame by frame, in float64.
struct Oracle {
  Model& m;
  bool class_token;
  Vec<double> of(const std::string& name) const {
    const std::vector<float> x = m.parameter(kEye + name);
    return {x.begin(), x.end()};
  }
  Vec<double> linear(const Vec<double>& x, const std::string& name, size_t inputs) const { return reference::linear(x, of(name + ".weight"), of(name + ".bias"), inputs); }
  Vec<double> norm(const Vec<double>& x, const std::string& name) const {
    return reference::layer_norm(x, of(name + ".weight"), of(name + ".bias"), static_cast<double>(TowerConfig().eps));
  }
  static void add(Vec<double>& x, const Vec<double>& y) {
    for (size_t i = 0; i < x.size(); ++i) x[i] += y[i];
  }
  Vec<double> frame(const float* pixels) const {
    Vec<double> patches;
    for (int64_t py = 0; py < kFrame.h; py += kPatch)
      for (int64_t px = 0; px < kFrame.w; px += kPatch)
        for (int64_t ch = 0; ch < 3; ++ch)
          for (int64_t y = 0; y < kPatch; ++y)
            for (int64_t x = 0; x < kPatch; ++x) patches.push_back(static_cast<double>(pixels[(ch * kFrame.h + py + y) * kFrame.w + px + x]));
    Vec<double> x = linear(patches, "in.patch", 3 * kPatch * kPatch);
    if (class_token) {
      const Vec<double> token = of("in.class");
      x.insert(x.begin(), token.begin(), token.end());
    }
    add(x, of("in.places"));
    const std::vector<Span> whole{{0, static_cast<int32_t>(static_cast<int64_t>(x.size()) / kEyeWidth), -1}};
    const AttentionShape s{3, 3, kEyeWidth / 3, static_cast<float>(1 / std::sqrt(kEyeWidth / 3.0))};
    for (int64_t i = 0; i < kEyeLayers; ++i) {
      const std::string l = concat(i, ".");
      const Vec<double> h = norm(x, l + "before");
      add(x, linear(reference::attention(linear(h, l + "q", kEyeWidth), linear(h, l + "k", kEyeWidth), linear(h, l + "v", kEyeWidth), whole, false, s), l + "out", kEyeWidth));
      add(x, linear(reference::map(linear(norm(x, l + "between"), l + "up", kEyeWidth), reference::gelu_erf<double>), l + "down", 40));
    }
    return x;
  }
};

double distance(const std::vector<float>& got, const Vec<double>& want) {
  CHECK(got.size() == want.size(), got.size(), " and ", want.size());
  double most = 0;
  for (size_t i = 0; i < std::min(got.size(), want.size()); ++i) most = std::max(most, std::abs(static_cast<double>(got[i]) - want[i]));
  return most;
}

// A prompt with the clip in it, and an answer.
SequenceInput asked(const Medium& clip) {
  SequenceInput s;
  s.ids = {5, 8};
  for (int64_t i = 0; i < clip.rows; ++i) s.ids.push_back(clip.first_id + static_cast<int32_t>(i));
  std::vector<uint8_t> scored(s.ids.size(), 0);
  for (int32_t id : {7, 20, 31, 9}) s.ids.push_back(id);
  scored.resize(s.ids.size(), 1);
  s.targets = targets_of(s.ids, scored);
  return s;
}

}  // namespace

TEST("tower: frames that are wider than high, with a class token and without, against the definition") {
  for (bool class_token : {false, true}) {
    const ScratchFolder dir;
    write_seeing(dir.path, class_token);
    const auto m = Model::load(dir.path, seeing_options());
    const std::vector<float> pixels = clip_pixels(7);
    const Medium& clip = m->media.add_pixels(*m, false, kFrames, pixels);
    CHECK(clip.grid == (Grid{kFrames, 2, 3}) && clip.rows == kFrames * (6 + class_token), clip.rows, " rows");
    const Oracle oracle{*m, class_token};
    Vec<double> want;
    for (int64_t f = 0; f < kFrames; ++f) {
      const Vec<double> rows = oracle.frame(pixels.data() + f * kFrame.values());
      want.insert(want.end(), rows.begin(), rows.end());
    }
    const std::vector<float> got = m->media.features(*m, clip.first_id, MediaStore::Stage::Tower, nullptr);
    CHECK(distance(got, want) < 1e-5, class_token, ": ", distance(got, want));
    CHECK(*std::max_element(want.begin(), want.end()) > 1, "something to see");
    CHECK(m->media.features(*m, clip.first_id, MediaStore::Stage::Projected, nullptr).size() == static_cast<size_t>(clip.rows * kWide));
    CHECK(Model::outline(dir.path, seeing_options())->parameters == m->parameters);
    CHECK(thrown_code([&] { m->media.add_pixels(*m, false, kFrames, std::vector<float>(static_cast<size_t>(kFrames * 3 * 12 * 12))); }) == "INVALID_ARGUMENT", "square frames");
  }
}

TEST("tower: one without a class token is trained with what follows it, saved and loaded again") {
  const ScratchFolder dir;
  write_seeing(dir.path + "/model", false);
  const auto m = Model::load(dir.path + "/model", seeing_options());
  const std::vector<float> pixels = clip_pixels(3);
  const SequenceInput s = asked(m->media.add_pixels(*m, false, kFrames, pixels));
  TrainerOptions o;
  o.learning_rate = 1e-2;
  o.loss.loss = "sft";
  o.train_vision = o.train_projector = true;
  const std::vector<float> before = m->parameter("eye.in.places"), patch = m->parameter("eye.in.patch.weight");
  std::vector<double> losses;
  {
    Trainer trainer(*m, o);
    // The gradient of the places' table, by differences.
    Trainer::Gradients all;
    trainer.gradients_sft({s}, {"eye.in.places"}, all, nullptr);
    const std::vector<float>& gradient = all.at("eye.in.places").second;
    float* const places = m->by_name.at("eye.in.places")->f32();
    for (const size_t i : {size_t{0}, size_t{30}, size_t{143}}) {
      const float kept = places[i], step = 0.02f;
      const auto loss_at = [&](float x) {
        Trainer::Gradients none;
        places[i] = x;
        return trainer.gradients_sft({s}, {}, none, nullptr).loss;
      };
      const double slope = (loss_at(kept + step) - loss_at(kept - step)) / (2 * static_cast<double>(step)), got = static_cast<double>(gradient[i]);
      places[i] = kept;
      CHECK(std::abs(got - slope) < 2e-4 + 0.02 * std::abs(slope), i, ": gradient ", got, ", slope ", slope);
    }
    for (int step = 0; step < 5; ++step) losses.push_back(trainer.train_step_sft({s}, nullptr).loss);
  }
  CHECK(losses.back() < losses.front() - 0.1, losses.front(), " to ", losses.back());
  CHECK(m->parameter("eye.in.places") != before && m->parameter("eye.in.patch.weight") != patch);
  m->save(dir.path + "/trained");
  const auto again = Model::load(dir.path + "/trained", seeing_options());
  CHECK(again->hash() == m->hash());
  const auto seen = [&](Model& model) {
    const Medium& clip = model.media.add_pixels(model, false, kFrames, pixels);
    return model.media.features(model, clip.first_id, MediaStore::Stage::Projected, nullptr);
  };
  CHECK(seen(*again) == seen(*m));
}

}  // namespace isr::test
