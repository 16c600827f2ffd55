#include "models/family.h"

#include <algorithm>

namespace isr {

// In models/<family>.cc.
ModelConfig read_llama(const Json& config, const std::string& path);
ModelConfig read_qwen2(const Json& config, const std::string& path);
ModelConfig read_qwen3(const Json& config, const std::string& path);
ModelConfig read_llava_hound(const Json& config, const std::string& path);
ModelConfig read_video_llava_original(const Json& config, const std::string& path);
ModelConfig read_video_llava(const Json& config, const std::string& path);
ModelConfig read_llava_next_video(const Json& config, const std::string& path);
ModelConfig read_qwen2_5_vl(const Json& config, const std::string& path);
ModelConfig read_qwen3_vl(const Json& config, const std::string& path);
void original_video_parts(Parts& parts, Network& network, const ModelConfig& config);
void hf_video_parts(Parts& parts, Network& network, const ModelConfig& config);
void qwen_vl_parts(Parts& parts, Network& network, const ModelConfig& config);
ModelConfig read_smolvlm(const Json& config, const std::string& path);
void smolvlm_parts(Parts& parts, Network& network, const ModelConfig& config);

namespace {

using Prefixes = std::vector<std::string>;
using Roots = std::array<Spellings, kRoots>;

Prefixes tower_names(const std::string& part) { return {part + ".vision_model.", "model." + part + ".vision_model.", part + ".", "model." + part + "."}; }

const char* const kLayer = "layers.0.input_layernorm.weight";
const char* const kTower = "embeddings.class_embedding";
const char* const kTypical = "layers.0.mlp.down_proj.weight";

std::string supported(const Families& families) {
  std::string all;
  for (const Family& f : families) all += concat(all.empty() ? "" : ", ", f.architecture, " (", f.model_type, ")");
  return all;
}

// Names of classes that hold the family's weights: the whole model, or saved without its head (a tied one is not missed).
// transformers itself goes by model_type alone; old files spell a class in other cases.
bool holds(const Family& f, const Json& name) {
  if (!name.string()) return false;
  const auto lower = [](std::string s) {
    std::transform(s.begin(), s.end(), s.begin(), [](unsigned char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : static_cast<char>(c); });
    return s;
  };
  const std::string whole = f.architecture, given = lower(*name.string());
  return given == lower(whole) || given == lower(whole.substr(0, whole.rfind("For")) + "Model");
}

}  // namespace

const Families& all_families() {
  static const Spellings none, decoder{{"model.", ""}, kLayer}, head{{"lm_head."}, "weight"};   // "": saved from the model without its head's class
  static const Roots text{decoder, head, none, none, none};
  static const Roots original{decoder, head, Spellings{{"model.mm_projector.", "mm_projector."}, "0.weight"},
                              Spellings{{"model.image_tower.image_tower.", "image_tower.image_tower."}, kTower},
                              Spellings{{"model.video_tower.video_tower.", "video_tower.video_tower."}, kTower}};
  static const Spellings hf_decoder{{"language_model.model.", "model.language_model.", "language_model."}, kLayer, "model.language_model."};
  static const Spellings hf_head{{"language_model.lm_head.", "lm_head."}, "weight"};
  static const Spellings hf_projector{{"multi_modal_projector.", "model.multi_modal_projector."}, "linear_1.weight"};
  static const Roots both_towers{hf_decoder, hf_head, hf_projector, Spellings{tower_names("image_tower"), kTower}, Spellings{tower_names("video_tower"), kTower}};
  static const Roots one_tower{hf_decoder, hf_head, hf_projector, none, Spellings{tower_names("vision_tower"), kTower}};
  static const Spellings qwen_decoder{{"model.", "model.language_model.", "language_model.model.", "language_model."}, kLayer, "model.language_model."};   // "model.": files before transformers 4.52
  static const Spellings qwen_tower{{"visual.", "model.visual."}, "patch_embed.proj.weight"};
  static const Roots qwen_vl{qwen_decoder, hf_head, qwen_tower, none, qwen_tower};
  static const Roots smolvlm{Spellings{{"model.text_model.", "text_model."}, kLayer}, head, Spellings{{"model.connector.", "connector."}, "modality_projection.proj.weight"},
                             none, Spellings{{"model.vision_model.", "vision_model."}, "embeddings.patch_embedding.weight"}};
  static const Forward reads{.decoder = decoder_forward}, sees{.decoder = decoder_forward, .tower = tower_features, .projector = project};
  static const Families all{
      {.name = "llama", .model_type = "llama", .architecture = "LlamaForCausalLM",
       .read = read_llama, .parts = decoder_parts, .forward = reads, .roots = text, .typical = kTypical},
      {.name = "qwen2", .model_type = "qwen2", .architecture = "Qwen2ForCausalLM",
       .read = read_qwen2, .parts = decoder_parts, .forward = reads, .roots = text, .typical = kTypical},
      {.name = "qwen3", .model_type = "qwen3", .architecture = "Qwen3ForCausalLM",
       .read = read_qwen3, .parts = decoder_parts, .forward = reads, .roots = text, .typical = kTypical},
      {.name = "llava_hound", .model_type = "llava_llama", .architecture = "LlavaLlamaForCausalLM",
       .read = read_llava_hound, .parts = original_video_parts, .forward = sees, .roots = original, .typical = kTypical},
      {.name = "video_llava_original", .model_type = "llava", .architecture = "LlavaLlamaForCausalLM",
       .read = read_video_llava_original, .parts = original_video_parts, .forward = sees, .roots = original, .typical = kTypical},
      {.name = "video_llava", .model_type = "video_llava", .architecture = "VideoLlavaForConditionalGeneration",
       .read = read_video_llava, .parts = hf_video_parts, .forward = sees, .roots = both_towers, .typical = kTypical},
      {.name = "llava_next_video", .model_type = "llava_next_video", .architecture = "LlavaNextVideoForConditionalGeneration",
       .read = read_llava_next_video, .parts = hf_video_parts, .forward = sees, .roots = one_tower, .typical = kTypical, .unread = {"image_newline"}},
      {.name = "smolvlm", .model_type = "smolvlm", .architecture = "SmolVLMForConditionalGeneration",
       .read = read_smolvlm, .parts = smolvlm_parts, .forward = sees, .roots = smolvlm, .typical = kTypical},
      {.name = "qwen2_5_vl", .model_type = "qwen2_5_vl", .architecture = "Qwen2_5_VLForConditionalGeneration",
       .read = read_qwen2_5_vl, .parts = qwen_vl_parts, .forward = sees, .positions = grid_positions, .grid = guessed_grid, .roots = qwen_vl, .typical = kTypical},
      {.name = "qwen3_vl", .model_type = "qwen3_vl", .architecture = "Qwen3VLForConditionalGeneration",
       .read = read_qwen3_vl, .parts = qwen_vl_parts, .forward = sees, .positions = grid_positions, .grid = guessed_grid, .roots = qwen_vl, .typical = kTypical},
  };
  return all;
}

const Family& find_family(const Families& families, const Json& config, const std::string& path) {
  if (!config.object()) throw Error("INVALID_CONFIG", concat(path, ": expected an object, got ", config.kind()), "", path);
  const Json* type = config.find("model_type");
  if (!type || !type->string())
    throw Error("INVALID_CONFIG", concat(path, ": model_type: expected a string, got ", type ? type->kind() : "nothing"),
                "this does not look like the config.json of a transformers checkpoint", path);
  for (const Family& f : families) {
    if (*type->string() != f.model_type) continue;
    const Json* architectures = config.find("architectures");
    if (!architectures || !architectures->array() || architectures->array()->empty()) return f;
    const Json::Array& names = *architectures->array();
    if (std::any_of(names.begin(), names.end(), [&](const Json& n) { return holds(f, n); })) return f;
    throw Error("CHECKPOINT_UNSUPPORTED", concat(path, ": architectures ", to_json(*architectures), " of model_type ", f.model_type),
                concat("supported are ", supported(families)), path);
  }
  throw Error("CHECKPOINT_UNSUPPORTED", concat(path, ": model_type \"", type->string()->substr(0, 80), "\" is not supported"),
              concat("supported are ", supported(families), "; CONTRIBUTING.md says how to add one"), path);
}

}  // namespace isr
