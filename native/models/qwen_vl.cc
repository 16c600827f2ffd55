// Qwen2.5-VL and Qwen3-VL: a tower for grids of any size, a projector that joins squares of patches, and Qwen's decoder with positions
// of three axes. Two config dialects: the decoder's keys in text_config, or beside the others (before transformers 4.52).
#include <algorithm>
#include <cmath>

#include "models/config_keys.h"
#include "models/family.h"
#include "models/parts.h"

namespace isr {
namespace {

constexpr int64_t kMaxWidth = 1 << 16, kMaxLayers = 1024;

struct Defaults {                           // of the family's vision config in transformers
  int64_t depth, width, mlp_width, patch;
};

std::vector<int32_t> layers_at(const ConfigReader& config, const char* key, int64_t layers, std::vector<int32_t> fallback) {
  const Json* v = config.find(key);
  if (!v) return fallback;
  const std::string expected = concat("a list of layers from 0 to ", layers - 1, ", ascending");
  if (!v->array()) config.invalid(key, expected);
  std::vector<int32_t> out;
  for (const Json& n : *v->array()) {
    if (!n.integer() || *n.integer() < 0 || *n.integer() >= layers || (!out.empty() && *n.integer() <= out.back())) config.invalid(key, expected);
    out.push_back(static_cast<int32_t>(*n.integer()));
  }
  return out;
}

// Both say how the tower's positions turn: transformers 5 alone writes it.
double rope_theta(const ConfigReader& config) { return config.has("rope_parameters") ? config.object("rope_parameters").number("rope_theta", 1, 1e12, 10000) : 10000; }

TowerConfig read_tower(const ConfigReader& config, const Defaults& d) {
  TowerConfig t;
  t.grids = true;
  t.class_token = false;
  t.layers = t.run = config.integer("depth", 1, kMaxLayers, d.depth);
  t.width = config.integer("hidden_size", 1, kMaxWidth, d.width);
  t.mlp_width = config.integer("intermediate_size", 1, 4 * kMaxWidth, d.mlp_width);
  t.heads = config.integer("num_heads", 1, 4096, 16);
  t.patch = config.integer("patch_size", 1, 256, d.patch);
  t.merge = config.integer("spatial_merge_size", 1, 16, 2);
  t.temporal = config.integer("temporal_patch_size", 1, 16, 2);
  t.eps = 1e-6f;
  t.rope_theta = rope_theta(config);
  if (config.integer(config.has("in_channels") ? "in_channels" : "in_chans", 1, 64, 3) != 3) config.invalid("in_channels", "3");
  config.find("in_chans");
  if (t.width % t.heads != 0) config.invalid("num_heads", concat("a divisor of hidden_size (", t.width, ")"));
  if (t.width / t.heads % 4 != 0 || t.width / t.heads > 256) config.invalid("num_heads", "heads of a multiple of 4 columns, 256 at most (rows and columns turn half of them each)");
  if (t.temporal != 2) config.unsupported(concat(config.name("temporal_patch_size"), " ", t.temporal), "supported is 2");
  return t;
}

// The decoder's keys: in text_config, or beside the others.
template <class Read>
ModelConfig read_both(const ConfigReader& config, Read&& read, RopeAxes axes) {
  const bool apart = config.has("text_config");
  const ConfigReader text = apart ? config.object("text_config") : config;
  ModelConfig out{read(text, axes), VisionConfig{}};
  if (config.boolean("tie_word_embeddings", false)) out.decoder.tied = true;
  if (out.decoder.end_tokens.empty()) out.decoder.end_tokens = config.ids("eos_token_id", out.decoder.vocab, out.decoder.notes);
  VisionConfig& v = *out.vision;
  const auto token = [&](const char* key, int64_t fallback) {
    return static_cast<int32_t>(config.integer(key, 0, out.decoder.vocab - 1, fallback < out.decoder.vocab ? std::optional(fallback) : std::nullopt));
  };
  v.image_token = token("image_token_id", 151655);
  v.video_token = token("video_token_id", 151656);
  for (const char* key : {"vision_start_token_id", "vision_end_token_id", "vision_token_id"}) config.find(key);   // the template and the processor write them
  config.find("vision_config");
  if (apart) {
    text.find("model_type");
    check_keys(text, Keys::Decoder, &out.decoder, out.decoder.notes);
  }
  check_keys(config, apart ? Keys::Video : Keys::Decoder, &out.decoder, out.decoder.notes);
  return out;
}

void settle(ModelConfig& out, const ConfigReader& vision, TowerConfig tower) {
  if (const int64_t width = vision.integer("out_hidden_size", 1, kMaxWidth, out.decoder.width); width != out.decoder.width)
    vision.invalid("out_hidden_size", concat("hidden_size of the decoder (", out.decoder.width, ")"));
  for (const char* key : {"spatial_patch_size", "initializer_range", "model_type"}) vision.find(key);
  check_keys(vision, Keys::Tower, nullptr, out.decoder.notes);
  if (static_cast<int64_t>(tower.taps.size()) > out.decoder.layers)
    vision.invalid("deepstack_visual_indexes", concat("at most num_hidden_layers (", out.decoder.layers, ") layers: each goes behind one of the decoder's"));
  out.vision->one_tower = true;
  out.vision->image = out.vision->video = std::move(tower);
}

}  // namespace

ModelConfig read_qwen2_5_vl(const Json& json, const std::string& path) {
  const ConfigReader config(json, path);
  ModelConfig out = read_both(config, read_qwen2_decoder, RopeAxes::Sections);
  const ConfigReader vision = config.object("vision_config");
  TowerConfig t = read_tower(vision, {32, 3584, 3420, 14});
  if (const std::string act = vision.text("hidden_act", "silu"); act != "silu" && act != "swish")
    vision.unsupported(concat(vision.name("hidden_act"), " \"", act, "\""), "supported are silu and swish, its other name");
  t.rms = t.gated = true;
  t.whole = layers_at(vision, "fullatt_block_indexes", t.layers, {7, 15, 23, 31});
  const int64_t square = t.merge * t.patch, pixels = vision.integer("window_size", 1, 1 << 16, 112);
  if (pixels < square) vision.invalid("window_size", concat("at least spatial_merge_size x patch_size (", square, ")"));
  t.window = pixels / t.merge / t.patch;
  out.vision->tokens_per_second = vision.number("tokens_per_second", 1e-6, 1e6, 4);
  settle(out, vision, std::move(t));
  return out;
}

ModelConfig read_qwen3_vl(const Json& json, const std::string& path) {
  const ConfigReader config(json, path);
  ModelConfig out = read_both(config, read_qwen3_decoder, RopeAxes::Interleaved);
  const ConfigReader vision = config.object("vision_config");
  TowerConfig t = read_tower(vision, {27, 1152, 4304, 16});
  t.act = read_act(vision, "hidden_act", "gelu_pytorch_tanh");
  t.patch_bias = true;
  const int64_t positions = vision.integer("num_position_embeddings", 1, 1 << 20, 2304);
  t.learned = static_cast<int64_t>(std::lround(std::sqrt(static_cast<double>(positions))));
  if (t.learned * t.learned != positions) vision.invalid("num_position_embeddings", "the square of a number");
  out.vision->video_text = true;   // the time of each step
  t.taps = layers_at(vision, "deepstack_visual_indexes", t.layers, {8, 16, 24});
  settle(out, vision, std::move(t));
  return out;
}

void qwen_vl_parts(Parts& p, Network& n, const ModelConfig& config) {
  decoder_parts(p, n, config);
  const TowerConfig& t = *config.vision->video;
  Vision& v = n.vision.emplace();
  v.config = *config.vision;
  v.image = v.video = std::make_shared<Tower>();
  Tower& tower = *v.video;
  tower.config = t;
  const auto norm = [&](const std::string& name, int64_t width, LayerNorm& at) {
    if (t.rms) p.vector(name + ".weight", width, at.w);
    else p.norm(name, width, at);
  };
  p.begin(Root::VideoTower);
  p.group("embeddings");
  p.block("patch_embed.");
  p.matrix(tower.patch, {{"proj", t.width}}, {3, t.temporal, t.patch, t.patch}, t.patch_bias);
  if (t.learned > 0) {
    p.block("pos_embed.");
    p.table("weight", {t.learned * t.learned, t.width}, tower.position_embedding);
  }
  for (int64_t i = 0; i < t.run; ++i) {
    TowerLayer& l = tower.layers.emplace_back();
    l.windowed = t.window > 0 && std::find(t.whole.begin(), t.whole.end(), static_cast<int32_t>(i)) == t.whole.end();
    p.group(concat("layer ", i));
    p.block(concat("blocks.", i, "."));
    norm("norm1", t.width, l.norm1);
    p.matrix(l.qkv, {{"attn.qkv", 3 * t.width}}, {t.width}, true);
    p.matrix(l.out, {{"attn.proj", t.width}}, {t.width}, true);
    norm("norm2", t.width, l.norm2);
    if (t.gated) p.matrix(l.fc1, {{"mlp.gate_proj", t.mlp_width}, {"mlp.up_proj", t.mlp_width}}, {t.width}, true, true);
    else p.matrix(l.fc1, {{"mlp.linear_fc1", t.mlp_width}}, {t.width}, true);
    p.matrix(l.fc2, {{t.gated ? "mlp.down_proj" : "mlp.linear_fc2", t.width}}, {t.mlp_width}, true);
  }
  p.begin(Root::Projector);
  p.group("projector");
  const int64_t square = t.square();
  const auto merger = [&](const std::string& name, const char* norm_name, int64_t width, const char* first, const char* second) {
    Merger& m = v.mergers.emplace_back();
    p.block(name);
    norm(norm_name, width, m.norm);
    p.matrix(m.fc1, {{first, square}}, {square}, true);
    p.matrix(m.fc2, {{second, config.decoder.width}}, {square}, true);
  };
  if (t.rms) merger("merger.", "ln_q", t.width, "mlp.0", "mlp.2");
  else merger("merger.", "norm", t.width, "linear_fc1", "linear_fc2");
  for (size_t i = 0; i < t.taps.size(); ++i) merger(concat("deepstack_merger_list.", i, "."), "norm", square, "linear_fc1", "linear_fc2");
}

// Text takes the next number on every axis. A square of a medium stands at (time, row, column) behind what was before the medium;
// what follows stands behind its longer edge, as in transformers 5 (4 looked at the times, too: long videos differ there). Where
// frames stand apart in text, each is a medium of its own.
SequencePositions grid_positions(std::span<const int32_t> ids, std::span<const PlacedMedium> media, const VisionConfig* vision) {
  SequencePositions out;
  out.axes = 3;
  const auto length = static_cast<int64_t>(ids.size());
  out.values.resize(static_cast<size_t>(3 * length));
  int64_t next = 0;
  const auto put = [&](int64_t at, int64_t time, int64_t row, int64_t column) {
    const int64_t values[] = {time, row, column};
    for (int64_t axis = 0; axis < 3; ++axis) out.values[static_cast<size_t>(axis * length + at)] = static_cast<int32_t>(values[axis]);
  };
  int64_t at = 0;
  for (const PlacedMedium& m : media) {
    for (; at < m.begin; ++at, ++next) put(at, next, next, next);
    const TowerConfig& t = *vision->video;
    const int64_t rows = m.grid.h / t.merge, columns = m.grid.w / t.merge;
    int64_t base = next;
    for (int64_t i = 0; i < m.rows; ++i, ++at) {
      const int64_t square = m.from + i, frame = square / (rows * columns), row = square / columns % rows, column = square % columns;
      const bool apart = vision->tokens_per_second == 0;
      if (apart && square % (rows * columns) == 0) base = next;
      next = base + std::max(rows, columns);
      const int64_t time = apart ? 0 : static_cast<int64_t>(static_cast<float>(frame) * static_cast<float>(m.seconds) * static_cast<float>(vision->tokens_per_second));
      put(at, base + time, base + row, base + column);
    }
  }
  for (; at < length; ++at, ++next) put(at, next, next, next);
  out.shift = static_cast<int32_t>(next - length);
  return out;
}

}  // namespace isr
