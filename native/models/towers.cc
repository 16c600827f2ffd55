// Finding the towers of the original layouts. Published checkpoints hold them, but nothing in them says how many heads there
// are, which activation, or how many frames: that stands in the config.json of the tower's own repository. In order: a
// video_tower_config.json or image_tower_config.json in the checkpoint, the config.json of a tower folder, and last what
// the tensors' shapes tell with the values of every published tower (64-wide heads, gelu), which is noted.
#include <algorithm>

#include "models/config_keys.h"
#include "models/loader.h"

namespace isr {
namespace {

struct Side { const char* name; const char* config_file; const char* config_key; const char* repository; };
constexpr Side kImage{"image", "image_tower_config.json", "mm_image_tower", "LanguageBind_Image"};
constexpr Side kVideo{"video", "video_tower_config.json", "mm_video_tower", "LanguageBind_Video_merge"};

// Folders that may hold this side's tower, most wanted first. A name in the config counts only as a local path.
std::vector<std::string> candidates(const Side& side, const Json& config, const std::string& dir, const std::string& given) {
  std::vector<std::string> all;
  if (!given.empty()) all = {given + "/" + side.repository, given};
  all.push_back(dir + "/" + side.repository);
  if (const Json* named = config.find(side.config_key); named && named->string() && !named->string()->empty()) {
    const std::string& path = *named->string();
    all.push_back(path[0] == '/' ? path : dir + "/" + path);
  }
  all.push_back(dir + "/../" + side.repository);
  return all;
}

struct Found { TowerPlace place; std::string dir; };

std::optional<Found> find_outside(const Side& side, const std::string& probe, const Json& config, Sources& sources, const std::string& dir, const std::string& given) {
  for (const std::string& folder : candidates(side, config, dir, given)) {
    if (!has_weights(folder)) continue;
    Checkpoint file = Checkpoint::open(folder);
    for (const char* prefix : {"vision_model.", ""}) {
      if (!file.find(prefix + probe)) continue;
      const bool temporal = file.find(concat(prefix, "encoder.layers.0.temporal_embedding")) != nullptr;
      if (temporal != (side.name == kVideo.name)) continue;   // the given folder is the other side's
      sources.files.push_back(std::move(file));
      return Found{{static_cast<int>(sources.files.size()) - 1, prefix}, folder};
    }
  }
  return {};
}

int64_t layer_count(const Checkpoint& file, const std::string& prefix) {
  int64_t n = 0;
  while (n < 1024 && file.find(concat(prefix, "encoder.layers.", n, ".layer_norm1.weight"))) ++n;
  return n;
}

TowerConfig from_shapes(const Checkpoint& file, const std::string& prefix) {
  const auto shape = [&](const std::string& name, size_t rank) {
    const TensorInfo& t = file.get(prefix + name);
    if (t.shape.size() != rank) throw Error("CHECKPOINT_CORRUPT", concat(file.dir(), ": tensor ", t.name, ": expected ", rank, " dimensions, got ", t.shape_text()), "", file.dir());
    return t.shape;
  };
  TowerConfig t;
  const auto patch = shape("embeddings.patch_embedding.weight", 4);
  t.width = patch[0];
  t.patch = patch[3];
  t.layers = layer_count(file, prefix);
  const int64_t tokens = shape("embeddings.position_embedding.weight", 2)[0];
  int64_t side = 1;
  while ((side + 1) * (side + 1) <= tokens - 1) ++side;
  t.frame.h = t.frame.w = side * t.patch;
  t.mlp_width = shape("encoder.layers.0.mlp.fc1.weight", 2)[0];
  t.heads = std::max<int64_t>(1, t.width / 64);
  t.act = Act::GeluErf;
  if (file.find(prefix + "encoder.layers.0.temporal_embedding")) t.frames = shape("encoder.layers.0.temporal_embedding", 3)[1];
  if (t.width < 1 || t.width % t.heads || t.layers < 1 || t.patch < 1 || side * side != tokens - 1)
    throw Error("CHECKPOINT_CORRUPT", concat(file.dir(), ": the shapes of ", prefix, "* are not those of a vision tower"), "", file.dir());
  return t;
}

// `notes` is given where the tower is used as described: keys that nothing knows are told, or refused.
std::optional<TowerConfig> described(const std::string& path, std::vector<std::string>* notes = nullptr) {
  if (!file_exists(path)) return {};
  const Json json = read_json(path, "INVALID_CONFIG", kConfigJson);
  const ConfigReader reader(json, path);
  const ConfigReader vision = reader.has("vision_config") ? reader.object("vision_config") : reader;
  const TowerConfig tower = read_tower(vision, Act::GeluErf);
  if (notes) check_keys(vision, Keys::Tower, nullptr, *notes);
  return tower;
}

// The tower's architecture; notes what was inferred.
TowerConfig describe(const Side& side, const Checkpoint& file, const TowerPlace& place, const std::string& dir, const std::string& tower_dir,
                     std::vector<std::string>& notes) {
  for (const std::string& path : {dir + "/" + side.config_file, tower_dir.empty() ? std::string() : tower_dir + "/config.json"}) {
    if (path.empty()) continue;
    if (const std::optional<TowerConfig> t = described(path, &notes)) return *t;
  }
  const TowerConfig t = from_shapes(file, place.prefix);
  notes.push_back(concat("the ", side.name, " tower's config is not there (", side.config_file, "): ", t.layers, " layers of width ", t.width,
                         " read from its tensors, ", t.heads, " heads and gelu assumed"));
  return t;
}

// The layers whose output the features are.
int64_t layers_run(const Side& side, const VisionConfig& v, const TowerConfig& t, const std::string& dir) {
  const int64_t run = v.feature_layer < 0 ? t.layers + 1 + v.feature_layer : v.feature_layer;
  if (run < 1 || run > t.layers)
    throw Error("INVALID_CONFIG", concat(dir, "/config.json: mm_vision_select_layer: the ", side.name, " tower has ", t.layers, " layers, got ", v.feature_layer));
  return run;
}

void settle_frames(VisionConfig& v) {
  if (v.video && v.video->frames > 0) v.frames = v.video->frames;
  if (v.per_video > 1) v.per_video = v.frames;   // Video-LLaVA's code: a placeholder a frame
}

}  // namespace

bool has_weights(const std::string& dir) {
  for (const char* name : {"model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"})
    if (file_exists(dir + "/" + name)) return true;
  return false;
}

void describe_towers(Config& config, const std::string& dir, const std::string& vision_tower) {
  if (!config.model.vision || !config.model.vision->original) return;
  VisionConfig& v = *config.model.vision;
  const Json json = parse_json(config.text, "INVALID_CONFIG", dir + "/config.json", kConfigJson);
  const auto settle = [&](const Side& side, std::optional<TowerConfig>& tower) {
    tower = described(dir + "/" + side.config_file);
    for (const std::string& folder : candidates(side, json, dir, vision_tower)) {
      if (tower) break;
      tower = described(folder + "/config.json");
      if (tower && (tower->frames > 0) != (side.name == kVideo.name)) tower.reset();   // the other side's, or a folder of a whole model
    }
    if (tower) tower->run = layers_run(side, v, *tower, dir);
  };
  settle(kImage, v.image);
  settle(kVideo, v.video);
  if ((!v.image || !v.video) && has_weights(dir)) {   // the headers of the weights tell as loading would see it
    Sources sources;
    sources.files.push_back(Checkpoint::open(dir));
    find_towers(config, names_in(sources.files[0], *config.family), sources, dir, vision_tower);
    return;
  }
  settle_frames(v);
}

TowerPlaces find_towers(Config& config, const Names& names, Sources& sources, const std::string& dir, const std::string& vision_tower) {
  TowerPlaces places;
  if (!config.model.vision) return places;
  VisionConfig& v = *config.model.vision;
  if (!v.original) {   // inside the checkpoint, described by its config
    if (v.image) places.image = TowerPlace{0, names[Root::ImageTower]};
    if (v.video) places.video = TowerPlace{0, names[Root::VideoTower]};
    return places;
  }
  const Json json = parse_json(config.text, "INVALID_CONFIG", dir + "/config.json", kConfigJson);
  const auto settle = [&](const Side& side, Root root, std::optional<TowerConfig>& tower, std::optional<TowerPlace>& place) {
    const std::string &prefix = names[root], &probe = config.family->root(root).probe;
    std::string tower_dir;
    if (vision_tower.empty() && sources.files[0].find(prefix + probe)) {
      place = TowerPlace{0, prefix};
    } else if (auto found = find_outside(side, probe, json, sources, dir, vision_tower)) {
      place = found->place;
      tower_dir = found->dir;
    } else if (sources.files[0].find(prefix + probe)) {
      place = TowerPlace{0, prefix};   // the given folder holds only the other side
    } else {
      tower.reset();
      config.model.decoder.notes.push_back(concat("no ", side.name, " tower: ", side.name, "s are refused; give its folder as visionTower"));
      return;
    }
    tower = describe(side, sources.files[static_cast<size_t>(place->source)], *place, dir, tower_dir, config.model.decoder.notes);
    tower->run = layers_run(side, v, *tower, dir);
  };
  settle(kImage, Root::ImageTower, v.image, places.image);
  settle(kVideo, Root::VideoTower, v.video, places.video);
  if (!vision_tower.empty() && sources.files.size() == 1)
    throw Error("NOT_FOUND", concat("visionTower: ", vision_tower, " holds no LanguageBind tower (vision_model.* tensors)"),
                "give the folder of LanguageBind_Video_merge, or one that holds it and LanguageBind_Image", vision_tower);
  settle_frames(v);
  return places;
}

}  // namespace isr
