#include "models/family.h"

#include <algorithm>

namespace isr {
namespace {

constexpr Family kFamilies[] = {
    {"llama", "LlamaForCausalLM", read_llama, "model.", "lm_head.weight"},
    {"qwen2", "Qwen2ForCausalLM", read_qwen2, "model.", "lm_head.weight"},
};

std::string supported() {
  std::string all;
  for (const Family& f : kFamilies) all += concat(all.empty() ? "" : ", ", f.architecture, " (", f.model_type, ")");
  return all;
}

}  // namespace

const Family& find_family(const Json& config, const std::string& path) {
  if (!config.object()) throw Error("INVALID_CONFIG", concat(path, ": expected an object, got ", config.kind()), "", path);
  const Json* type = config.find("model_type");
  if (!type || !type->string())
    throw Error("INVALID_CONFIG", concat(path, ": model_type: expected a string, got ", type ? type->kind() : "nothing"),
                "this does not look like the config.json of a transformers checkpoint", path);
  for (const Family& f : kFamilies) {
    if (*type->string() != f.model_type) continue;
    const Json* architectures = config.find("architectures");
    if (!architectures || !architectures->array() || architectures->array()->empty()) return f;
    const Json::Array& names = *architectures->array();
    if (std::any_of(names.begin(), names.end(), [&](const Json& n) { return n.string() && *n.string() == f.architecture; })) return f;
    throw Error("CHECKPOINT_UNSUPPORTED", concat(path, ": architectures ", to_json(*architectures), " of model_type ", f.model_type),
                concat("supported are ", supported()), path);
  }
  throw Error("CHECKPOINT_UNSUPPORTED", concat(path, ": model_type \"", type->string()->substr(0, 80), "\" is not supported"),
              concat("supported are ", supported(), "; CONTRIBUTING.md says how to add one"), path);
}

}  // namespace isr
