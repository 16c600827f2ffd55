// Video LLMs of the LLaVA line: a CLIP or LanguageBind tower, an MLP projector, a Llama decoder. Two config dialects: the
// original code's (mm_* keys beside the decoder's own; the towers are described elsewhere, see towers.cc) and transformers'
// (text_config, vision_config).
#include "models/config_keys.h"
#include "models/family.h"

namespace isr {
namespace {

constexpr int64_t kMaxTowerWidth = 1 << 16, kMaxPixels = 4096;

// -2: the output of the last layer but one. Counts hidden_states, whose first is the embeddings.
int64_t layers_for(int64_t feature_layer, int64_t layers, const ConfigReader& config, const char* key) {
  const int64_t run = feature_layer < 0 ? layers + 1 + feature_layer : feature_layer;
  if (run == 0) config.unsupported(concat(config.name(key), " ", feature_layer, ": features before the first layer"), concat("supported are the outputs of layers 1 to ", layers));
  if (run < 1 || run > layers) config.invalid(key, concat("a layer from ", -layers, " to ", layers));
  return run;
}

// A number, or a list with one (features of several layers, side by side, are another projector).
int64_t read_feature_layer(const ConfigReader& config, const char* key) {
  const Json* v = config.find(key);
  if (!v || !v->array()) return config.integer(key, -1024, 1024, -2);
  if (v->array()->size() > 1)
    config.unsupported(concat(config.name(key), " ", shown(*v), ": features of several layers, joined"), "supported is one layer, as a number or a list of one");
  const std::optional<int64_t> n = v->array()->empty() ? std::nullopt : v->array()->front().integer();
  if (!n || *n < -1024 || *n > 1024) config.invalid(key, "a layer's number, or a list of one");
  return *n;
}

bool keeps_class(const ConfigReader& config, const char* key, const char* fallback, const char* without, const char* with) {
  const std::string strategy = config.text(key, fallback);
  if (strategy != without && strategy != with)
    config.unsupported(concat(config.name(key), " \"", strategy, "\""), concat("supported are ", without, " and ", with));
  return strategy == with;
}

// ---- the original code's dialect
ModelConfig read_original(const Json& json, const std::string& path) {
  const ConfigReader config(json, path);
  ModelConfig out{read_llama_decoder(config), VisionConfig{}};
  VisionConfig& v = *out.vision;
  v.original = true;
  const std::string projector = config.text("mm_projector_type", "linear");
  if (projector == "linear") {
    v.projector_layers = 1;
  } else if (projector.size() == 10 && projector.rfind("mlp", 0) == 0 && projector.substr(4) == "x_gelu" && projector[3] >= '1' && projector[3] <= '9') {
    v.projector_layers = projector[3] - '0';
  } else {
    config.unsupported(concat("mm_projector_type \"", projector, "\""), "supported are linear and mlpNx_gelu");
  }
  for (const char* key : {"mm_use_x_start_end", "mm_use_im_start_end", "mm_use_x_patch_token", "mm_use_im_patch_token"})
    if (config.boolean(key, false)) config.unsupported(concat(key, " true (start and end tokens around media)"), "use a checkpoint without them");
  v.feature_layer = read_feature_layer(config, "mm_vision_select_layer");
  v.image_cls = keeps_class(config, "mm_vision_select_feature", "patch", "patch", "cls_patch");
  v.image = TowerConfig{};   // described by the tower's own config or tensors
  v.video = TowerConfig{};
  v.image_token = -200;
  if (const std::string aspect = config.text("image_aspect_ratio", ""); !aspect.empty())
    out.decoder.notes.push_back(concat("image_aspect_ratio \"", aspect, "\" is not used: images are resized and cropped as in the reference code's inference"));
  check_keys(config, Keys::Video, &out.decoder, out.decoder.notes);
  return out;
}

// ---- transformers' dialect
// What a family's config takes where its file has no such key.
struct HfDefaults { int64_t image_token, video_token; };

ModelConfig read_hf(const ConfigReader& config, HfDefaults defaults) {
  const ConfigReader text = config.object("text_config");
  if (const std::string type = text.text("model_type", "llama"); type != "llama")
    text.unsupported(concat("model_type \"", type, "\" of the language model"), "supported is llama");
  ModelConfig out{read_llama_decoder(text, true), VisionConfig{}};
  if (config.boolean("tie_word_embeddings", false)) out.decoder.tied = true;
  check_keys(text, Keys::Decoder, &out.decoder, out.decoder.notes);
  if (out.decoder.end_tokens.empty() || (!text.listed("eos_token_id") && config.has("eos_token_id"))) out.decoder.end_tokens = config.ids("eos_token_id", out.decoder.vocab, out.decoder.notes);
  VisionConfig& v = *out.vision;
  const ConfigReader vision = config.object("vision_config");
  if (const std::string type = vision.text("model_type", "clip_vision_model"); type != "clip_vision_model")
    vision.unsupported(concat(vision.name("model_type"), " \"", type, "\""), "supported is clip_vision_model");
  const TowerConfig tower = read_tower(vision, Act::QuickGelu);
  if (tower.frames > 0) vision.unsupported(concat(vision.name("add_time_attn"), " true: attention over time"), "this layout has none; use the original checkpoint");
  check_keys(vision, Keys::Tower, nullptr, out.decoder.notes);
  v.video = tower;
  v.feature_layer = read_feature_layer(config, "vision_feature_layer");
  v.video->run = layers_for(v.feature_layer, tower.layers, config, "vision_feature_layer");
  v.projector_act = read_act(config, "projector_hidden_act", "gelu");
  v.projector_bias = config.boolean("multimodal_projector_bias", true);
  const auto token = [&](const char* key, const char* other, int64_t fallback) {
    return static_cast<int32_t>(config.integer(config.has(key) ? key : other, 0, out.decoder.vocab - 1, fallback < out.decoder.vocab ? std::optional(fallback) : std::nullopt));
  };
  v.image_token = token("image_token_index", "image_token_id", defaults.image_token);
  v.video_token = token("video_token_index", "video_token_id", defaults.video_token);
  return out;
}

}  // namespace

Act read_act(const ConfigReader& config, const char* key, const char* fallback) {
  const std::string act = config.text(key, fallback);
  if (act == "gelu" || act == "gelu_python") return Act::GeluErf;
  if (act == "quick_gelu") return Act::QuickGelu;
  if (act == "gelu_pytorch_tanh" || act == "gelu_new" || act == "gelu_fast") return Act::GeluTanh;
  config.unsupported(concat(config.name(key), " \"", act, "\""), "supported are gelu, quick_gelu, gelu_pytorch_tanh");
}

TowerConfig read_tower(const ConfigReader& config, Act fallback_act) {
  TowerConfig t;
  t.width = config.integer("hidden_size", 1, kMaxTowerWidth, 768);
  t.layers = config.integer("num_hidden_layers", 1, 1024, 12);
  t.heads = config.integer("num_attention_heads", 1, 4096, 12);
  t.mlp_width = config.integer("intermediate_size", 1, 4 * kMaxTowerWidth, 3072);
  t.frame.h = t.frame.w = config.integer("image_size", 1, kMaxPixels, 224);
  t.patch = config.integer("patch_size", 1, kMaxPixels, 32);
  t.eps = static_cast<float>(config.number("layer_norm_eps", 0, 1, 1e-5));
  t.act = config.has("hidden_act") ? read_act(config, "hidden_act", "") : fallback_act;
  t.run = t.layers;
  if (config.boolean("add_time_attn", false)) t.frames = config.integer("num_frames", 1, 4096, 8);
  if (t.width % t.heads != 0) config.invalid("num_attention_heads", concat("a divisor of hidden_size (", t.width, ")"));
  if (t.width / t.heads > 256) config.invalid("num_attention_heads", "a head size of 256 at most");
  if (t.patch > t.frame.h) config.invalid("patch_size", concat("at most image_size (", t.frame.h, ")"));
  if (config.integer("num_channels", 1, 64, 3) != 3) config.invalid("num_channels", "3");
  return t;
}

ModelConfig read_llava_hound(const Json& json, const std::string& path) {
  ModelConfig out = read_original(json, path);
  out.vision->video_token = -201;
  out.vision->video_cls = out.vision->image_cls;
  return out;
}

// Video-LLaVA's code: a video is a run of <image> placeholders, one per frame, and its class tokens stay.
ModelConfig read_video_llava_original(const Json& json, const std::string& path) {
  ModelConfig out = read_original(json, path);
  out.vision->video_token = -200;
  out.vision->per_video = 8;
  out.vision->video_cls = true;
  return out;
}

ModelConfig read_video_llava(const Json& json, const std::string& path) {
  const ConfigReader config(json, path);
  ModelConfig out = read_hf(config, {32000, 32001});
  VisionConfig& v = *out.vision;
  v.image = v.video;
  v.image_cls = keeps_class(config, "vision_feature_select_strategy", "default", "default", "full");
  v.video_cls = true;
  out.decoder.notes.push_back("this layout has no attention over time: it is another model than the original Video-LLaVA");
  check_keys(config, Keys::Video, &out.decoder, out.decoder.notes);
  return out;
}

ModelConfig read_llava_next_video(const Json& json, const std::string& path) {
  const ConfigReader config(json, path);
  ModelConfig out = read_hf(config, {32001, 32000});
  VisionConfig& v = *out.vision;
  if (keeps_class(config, "vision_feature_select_strategy", "default", "default", "full"))
    config.unsupported("vision_feature_select_strategy \"full\"", "the class token has no place in a pooled grid");
  if (const std::string mode = config.text("spatial_pool_mode", "average"); mode != "average")
    config.unsupported(concat("spatial_pool_mode \"", mode, "\""), "supported is average");
  v.pool = config.integer("spatial_pool_stride", 1, v.video->grid(1).h, 2);
  check_keys(config, Keys::Video, &out.decoder, out.decoder.notes);
  return out;
}

}  // namespace isr
