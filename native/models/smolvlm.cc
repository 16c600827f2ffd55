// SmolVLM2: a SigLIP-like tower that sees each frame for itself, squares of patches joined by one product (pixel shuffle), Llama's
// decoder. A video is its frames, as images, in the prompt.
#include "models/config_keys.h"
#include "models/family.h"
#include "models/parts.h"

namespace isr {
namespace {

constexpr int64_t kMaxWidth = 1 << 16, kMaxPixels = 4096;

// What a file leaves out is the default of transformers' SmolVLMVisionConfig.
TowerConfig read_tower(const ConfigReader& config, int64_t merge) {
  TowerConfig t;
  t.class_token = t.pre_norm = false;
  t.patch_bias = t.post_norm = true;
  t.width = config.integer("hidden_size", 1, kMaxWidth, 1152);
  t.layers = t.run = config.integer("num_hidden_layers", 1, 1024, 12);
  t.heads = config.integer("num_attention_heads", 1, 4096, 16);
  t.mlp_width = config.integer("intermediate_size", 1, 4 * kMaxWidth, 3072);
  t.frame.h = t.frame.w = config.integer("image_size", 1, kMaxPixels, 224);
  t.patch = config.integer("patch_size", 1, kMaxPixels, 32);
  t.eps = static_cast<float>(config.number("layer_norm_eps", 0, 1, 1e-6));
  t.act = read_act(config, "hidden_act", "gelu_pytorch_tanh");
  t.merge = merge;
  if (t.width % t.heads != 0) config.invalid("num_attention_heads", concat("a divisor of hidden_size (", t.width, ")"));
  if (t.width / t.heads > 256) config.invalid("num_attention_heads", "a head size of 256 at most");
  if (t.patch > t.frame.h) config.invalid("patch_size", concat("at most image_size (", t.frame.h, ")"));
  if (t.frame.h / t.patch % merge != 0) config.invalid("image_size", concat("whole squares of scale_factor x scale_factor (", merge, ") patches"));
  if (config.integer("num_channels", 1, 64, 3) != 3) config.invalid("num_channels", "3");
  return t;
}

}  // namespace

ModelConfig read_smolvlm(const Json& json, const std::string& path) {
  const ConfigReader config(json, path);
  const ConfigReader text = config.object("text_config");
  if (const std::string type = text.text("model_type", "llama"); type != "llama")
    text.unsupported(concat("model_type \"", type, "\" of the language model"), "supported is llama");
  ModelConfig out{read_llama_decoder(text, true), VisionConfig{}};
  if (config.boolean("tie_word_embeddings", false)) out.decoder.tied = true;
  for (const char* key : {"pixel_shuffle_factor", "perceiver_config", "_flash_attn_2_enabled", "neftune_noise_alpha"}) text.find(key);   // of the code that they were trained with
  check_keys(text, Keys::Decoder, &out.decoder, out.decoder.notes);
  if (out.decoder.end_tokens.empty() || (!text.listed("eos_token_id") && config.has("eos_token_id"))) out.decoder.end_tokens = config.ids("eos_token_id", out.decoder.vocab, out.decoder.notes);
  VisionConfig& v = *out.vision;
  const ConfigReader vision = config.object("vision_config");
  v.image = v.video = read_tower(vision, config.integer("scale_factor", 1, 16, 2));
  for (const char* key : {"attention_dropout", "size", "max_image_size", "use_base_siglip", "tie_word_embeddings"}) vision.find(key);
  check_keys(vision, Keys::Tower, nullptr, out.decoder.notes);
  v.one_tower = v.image_text = v.video_text = true;   // what frames are from when, and marks around each
  v.projector_layers = 1;
  v.projector_bias = false;
  const int64_t fallback = 128257;
  v.image_token = v.video_token = static_cast<int32_t>(config.integer("image_token_id", 0, out.decoder.vocab - 1, fallback < out.decoder.vocab ? std::optional(fallback) : std::nullopt));
  config.find("_pad_token_id");
  check_keys(config, Keys::Video, &out.decoder, out.decoder.notes);
  return out;
}

void smolvlm_parts(Parts& p, Network& n, const ModelConfig& config) {
  video_parts(p, n, config, [](int64_t, int64_t) { return std::string("modality_projection.proj"); });
}

}  // namespace isr
