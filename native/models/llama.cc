// LlamaForCausalLM and Qwen2ForCausalLM: one decoder, different switches.
#include "models/config_reader.h"
#include "models/family.h"

namespace isr {
namespace {

DecoderConfig read_common(const ConfigReader& config, bool defaults) {
  DecoderConfig out;
  read_shape(out, config, defaults);
  out.rope = read_rope(config);
  out.tied = config.boolean("tie_word_embeddings", false);
  if (const std::string act = config.text("hidden_act", "silu"); act != "silu")
    config.unsupported("hidden_act \"" + act + "\"", "supported is silu");
  if (config.has("quantization_config"))
    config.unsupported("quantised weights (quantization_config)", "use the full-precision checkpoint that it was made from");
  if (config.number("attention_dropout", 0, 1, 0) > 0)
    out.notes.push_back("attention_dropout is set in the config; it is not applied, as in the reference code's DPO");
  if (config.integer("pretraining_tp", 1, 1 << 20, 1) > 1)
    out.notes.push_back("pretraining_tp > 1 only changes the order of sums; the plain order is used");
  out.end_tokens = config.ids("eos_token_id", out.vocab);
  return out;
}

}  // namespace

DecoderConfig read_llama_decoder(const ConfigReader& config, bool defaults) {
  DecoderConfig out = read_common(config, defaults);
  out.qkv_bias = out.out_bias = config.boolean("attention_bias", false);
  out.mlp_bias = config.boolean("mlp_bias", false);
  return out;
}

ModelConfig read_llama(const Json& json, const std::string& path) { return {read_llama_decoder(ConfigReader(json, path)), {}}; }

ModelConfig read_qwen2(const Json& json, const std::string& path) {
  const ConfigReader config(json, path);
  DecoderConfig out = read_common(config, false);
  out.qkv_bias = true;
  // Shared prefixes need full attention (docs/decisions): a window that never bites is fine.
  if (config.boolean("use_sliding_window", false) && config.has("sliding_window") &&
      config.integer("sliding_window", 1, int64_t{1} << 40) < out.context)
    config.unsupported("sliding-window attention (use_sliding_window)", "use a checkpoint without it");
  return {out, {}};
}

}  // namespace isr
