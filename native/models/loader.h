// From a folder to a Model: config, tensors by name and shape, then reading and packing in parallel.
#pragma once
#include "models/model.h"
#include "models/parts.h"

namespace isr {

struct Config {                       // config.json and generation_config.json
  const Family* family = nullptr;
  ModelConfig model;
  std::string text;                   // config.json as it stands, for the hash
};
Config read_config(const std::string& dir, const Families& families = all_families());
FileDType stored_dtype(const Config& config);   // what config.json says the weights are stored as

struct Sources {                      // the checkpoint, and towers that stand beside it
  std::vector<Checkpoint> files;
  const TensorInfo* find(const TensorSpec& s) const { return files[static_cast<size_t>(s.source)].find(s.in_file()); }
};

// ---- names (tensors.cc)
Names default_names(const Family& family);
Names names_in(const Checkpoint& file, const Family& family);         // the spellings that this checkpoint uses
// Tensors that belong to the model and are not computed with: layers behind the feature layer, buffers, tied copies.
bool ignored_tensor(const std::string& name, const Names& names, const Config& config);

// ---- extra_tensors.cc
using Aliases = std::vector<std::pair<std::string, std::string>>;     // a name in the file, and the parameter's
// Where config.json ties the head to the embeddings: a head in the file that is another matrix unties them (noted), an equal
// one is a second name. Where only the head is there, `specs` (if given) read the embeddings from it.
Aliases tie_tensors(Config& config, const Names& names, const Checkpoint& file, std::vector<TensorSpec>* specs);
// Adds what the file holds again under another release's names; CHECKPOINT_UNSUPPORTED where the values differ.
void find_second_names(const Family& family, const Names& names, const Checkpoint& file, const std::vector<TensorSpec>& specs, Aliases& aliases);
bool buffer_tensor(const std::string& name);                          // computed from the config, whatever the file says

// ---- towers.cc. Towers of the original layouts are described by their own config.json, or by their tensors, and may stand
// in a folder beside the checkpoint (`vision_tower`, or where the config says). Completes config.vision; adds files.
struct TowerPlace { int source = 0; std::string prefix; };            // prefix of the tensors in that file
struct TowerPlaces {
  std::optional<TowerPlace> image, video;
  const TowerPlace* at(Root root) const {
    const std::optional<TowerPlace>* place = root == Root::ImageTower ? &image : root == Root::VideoTower ? &video : nullptr;
    return place && *place ? &**place : nullptr;
  }
};
// The same for plans, from config files alone where they describe both sides; no weights need to be there.
void describe_towers(Config& config, const std::string& dir, const std::string& vision_tower);
bool has_weights(const std::string& dir);                             // files by the names that are looked for
TowerPlaces find_towers(Config& config, const Names& names, Sources& sources, const std::string& dir, const std::string& vision_tower);
// Tensors inside layers that are computed, which the config does not ask for (biases, norms of queries, scales, attention over
// time): they would change results. Biases of zeros are not among them.
std::vector<std::string> foreign_tensors(const Config& config, const Names& names, const Sources& sources, const Declared& wanted);

}  // namespace isr
