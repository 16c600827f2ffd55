// The family table: how a config.json becomes a ModelConfig, and what checkpoints call its tensors.
// A new family is a file beside llama.cc and llava.cc and a row in family.cc.
#pragma once
#include <string>
#include <vector>

#include "io/json.h"
#include "models/config.h"

namespace isr {

// Prefixes of tensor names; `head` is a whole name.
struct Names { std::string decoder, head, projector, image_tower, video_tower; };

struct Family {
  const char* name;                                                    // of the family, as users see it
  const char* model_type;                                              // config.json's model_type
  const char* architecture;                                            // as in its "architectures"
  ModelConfig (*read)(const Json& config, const std::string& path);    // INVALID_CONFIG, CHECKPOINT_UNSUPPORTED
  // What releases of transformers have called each part; of a checkpoint's, the first whose tensors are there.
  std::vector<std::string> decoder, head, projector, image_tower, video_tower;
  std::vector<std::string> unread;                                     // parts of tensor names that belong to the model and are not computed with
};

// CHECKPOINT_UNSUPPORTED names what is supported and where to look.
const Family& find_family(const Json& config, const std::string& path);

ModelConfig read_llama(const Json& config, const std::string& path);
ModelConfig read_qwen2(const Json& config, const std::string& path);
ModelConfig read_llava_hound(const Json& config, const std::string& path);
ModelConfig read_video_llava_original(const Json& config, const std::string& path);
ModelConfig read_video_llava(const Json& config, const std::string& path);
ModelConfig read_llava_next_video(const Json& config, const std::string& path);

// A CLIP-like vision_config; what published files leave out takes the default of transformers' CLIPVisionConfig.
class ConfigReader;
TowerConfig read_tower(const ConfigReader& config, Act fallback_act);
DecoderConfig read_llama_decoder(const ConfigReader& config, bool defaults = false);   // defaults: sizes left out are LlamaConfig's

}  // namespace isr
