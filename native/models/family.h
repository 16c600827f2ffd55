// The family table: how a config.json becomes a ModelConfig, which parts the model has, what is computed with them, and
// where checkpoints keep them. A new family is a file beside llama.cc and llava.cc and a row in family.cc.
#pragma once
#include <array>
#include <string>
#include <vector>

#include "io/json.h"
#include "models/config.h"
#include "models/positions.h"

namespace isr {

class Parts;
struct Ctx;
struct Network;
struct Pass;
struct Vision;

// Where names of tensors begin.
enum class Root : uint8_t { Decoder, Head, Projector, ImageTower, VideoTower };
constexpr size_t kRoots = 5;

// The prefixes of one checkpoint; empty: the family has no such root.
struct Names {
  std::array<std::string, kRoots> prefixes;
  const std::string& operator[](Root root) const { return prefixes[static_cast<size_t>(root)]; }
  std::string head() const { return (*this)[Root::Head] + "weight"; }
};

// What releases of transformers have called a root; of a checkpoint's, the first that `probe` follows in some name.
struct Spellings {
  std::vector<std::string> prefixes;
  std::string probe;
  std::string modules = {};                          // of today's modules, where their names are not the first spelling's
  const std::string& module_prefix() const { return modules.empty() ? prefixes.front() : modules; }
};

// What a family computes with its network.
struct Forward {
  // Hidden states (T, C) after the final norm, of token and media rows x (T, C); models/decoder.h says how blocks run.
  Tensor (*decoder)(Ctx& c, Network& n, const DecoderConfig& config, Tensor x, const Pass& pass);
  // A medium's features, (rows, width of its tower), from its pixels (frames, 3, h, w), on the host; then its rows of the
  // decoder, (rows, C). Null: a text family.
  Tensor (*tower)(Ctx& c, Vision& v, bool is_image, const float* pixels, const Grid& grid, DType dtype, bool checkpointing) = nullptr;
  Tensor (*projector)(Ctx& c, Vision& v, Tensor features) = nullptr;
};

inline Grid grid_of_frames(const TowerConfig& tower, int64_t frames) { return tower.grid(frames); }
// Of a tower that takes any grid: frames of 8 x 8 squares, for plans.
inline Grid guessed_grid(const TowerConfig& tower, int64_t frames) { return {(frames + tower.temporal - 1) / tower.temporal, 8 * tower.merge, 8 * tower.merge}; }

struct Family {
  const char* name;                                                    // of the family, as users see it
  const char* model_type;                                              // config.json's model_type
  const char* architecture;                                            // as in its "architectures"
  ModelConfig (*read)(const Json& config, const std::string& path);    // INVALID_CONFIG, CHECKPOINT_UNSUPPORTED
  void (*parts)(Parts& parts, Network& network, const ModelConfig& config);   // declares every parameter (models/parts.h)
  Forward forward;
  // Positions (P, S) of a sequence; `vision` is null for a text model. Null: tokens stand where they are counted.
  SequencePositions (*positions)(std::span<const int32_t> ids, std::span<const PlacedMedium> media, const VisionConfig* vision) = nullptr;
  // Patches (t, h, w) of a medium of so many frames, as its tower cuts it; of one that takes any grid: a guess.
  Grid (*grid)(const TowerConfig& tower, int64_t frames) = grid_of_frames;
  std::array<Spellings, kRoots> roots;                                 // by Root
  std::string typical;                                                 // tensor below the decoder's root whose type is the checkpoint's
  std::vector<std::string> unread = {};                                // ends of tensor names that belong to the model and are not computed with
  const Spellings& root(Root root) const { return roots[static_cast<size_t>(root)]; }
};

using Families = std::vector<Family>;
const Families& all_families();

// CHECKPOINT_UNSUPPORTED names what is supported and where to look.
const Family& find_family(const Families& families, const Json& config, const std::string& path);

// Parts that families share.
void decoder_parts(Parts& parts, Network& network, const ModelConfig& config);
// A tower and a projector of numbered products beside the decoder; `layer`: what the i-th of so many is called.
void video_parts(Parts& parts, Network& network, const ModelConfig& config, std::string (*layer)(int64_t i, int64_t count));

// decoder.cc: Llama's, Qwen2's and Qwen3's. vision.cc: towers and projectors. qwen_vl.cc: positions.
Tensor decoder_forward(Ctx& c, Network& n, const DecoderConfig& config, Tensor x, const Pass& pass);
Tensor tower_features(Ctx& c, Vision& v, bool is_image, const float* pixels, const Grid& grid, DType dtype, bool checkpointing);
Tensor project(Ctx& c, Vision& v, Tensor features);
SequencePositions grid_positions(std::span<const int32_t> ids, std::span<const PlacedMedium> media, const VisionConfig* vision);

// A CLIP-like vision_config; what published files leave out takes the default of transformers' CLIPVisionConfig.
class ConfigReader;
enum class RopeAxes : uint8_t;
Act read_act(const ConfigReader& config, const char* key, const char* fallback);
TowerConfig read_tower(const ConfigReader& config, Act fallback_act);
DecoderConfig read_llama_decoder(const ConfigReader& config, bool defaults = false);   // defaults: sizes left out are LlamaConfig's
DecoderConfig read_qwen2_decoder(const ConfigReader& config, RopeAxes axes = {});
DecoderConfig read_qwen3_decoder(const ConfigReader& config, RopeAxes axes = {});

}  // namespace isr
