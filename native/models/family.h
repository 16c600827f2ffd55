// The family table: how a config.json becomes a DecoderConfig, and what the checkpoint calls its tensors.
// A new text family is a file beside llama.cc and a row in family.cc.
#pragma once
#include <string>

#include "io/json.h"
#include "models/config.h"

namespace isr {

struct Family {
  const char* model_type;                                              // config.json's model_type
  const char* architecture;                                            // as in its "architectures"
  DecoderConfig (*read)(const Json& config, const std::string& path);  // INVALID_CONFIG, CHECKPOINT_UNSUPPORTED
  const char* prefix;                                                  // of the decoder's tensors: "model."
  const char* head;                                                    // "lm_head.weight"
};

// CHECKPOINT_UNSUPPORTED names what is supported and where to look.
const Family& find_family(const Json& config, const std::string& path);

DecoderConfig read_llama(const Json& config, const std::string& path);
DecoderConfig read_qwen2(const Json& config, const std::string& path);

}  // namespace isr
