// LlamaForCausalLM, Qwen2ForCausalLM and Qwen3ForCausalLM: one decoder, different switches.
#include <algorithm>

#include "models/config_keys.h"
#include "models/family.h"

namespace isr {
namespace {

// The activation of the MLP: transformers calls x * sigmoid(x) silu or swish.
void check_activation(const ConfigReader& config) {
  const std::string act = config.text("hidden_act", "silu");
  if (act != "silu" && act != "swish") config.unsupported(concat(config.name("hidden_act"), " \"", act, "\""), "supported are silu and swish, its other name");
}

// An absent key is not a null one: LlamaConfig ends at 2 then.
std::vector<int32_t> end_tokens(const ConfigReader& config, DecoderConfig& c, bool llama) {
  if (llama && !config.listed("eos_token_id") && c.vocab > 2) return {2};
  return config.ids("eos_token_id", c.vocab, c.notes);
}

// `head_size`: of a config without head_dim; 0: width / heads.
DecoderConfig read_common(const ConfigReader& config, bool defaults, bool llama, int64_t head_size = 0, RopeAxes axes = RopeAxes::One) {
  DecoderConfig out;
  read_shape(out, config, defaults, head_size);
  out.rope = read_rope(config, out.context, out.notes, axes);
  if (axes != RopeAxes::One && static_cast<int64_t>(out.rope.axis.size()) != out.head_size / 2)
    config.unsupported(concat("mrope_section: ", out.rope.axis.size(), " pairs, and heads of ", out.head_size, " columns have ", out.head_size / 2),
                       "supported are sections that make up the whole head");
  out.tied = config.boolean("tie_word_embeddings", false);
  check_activation(config);
  for (const char* key : {"attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop"})
    if (config.number(key, 0, 1, 0) > 0) out.notes.push_back(concat(config.name(key), " is set in the config; it is not applied, as in the reference code's DPO"));
  if (config.integer("pretraining_tp", 1, 1 << 20, 1) > 1)
    out.notes.push_back("pretraining_tp > 1 only changes the order of sums; the plain order is used");
  out.end_tokens = end_tokens(config, out, llama);
  return out;
}

// Layers whose attention is windowed. Shared prefixes need full attention (docs/decisions): a window is fine where no layer uses it
// or none is shorter than the context.
void check_windows(const ConfigReader& config, const DecoderConfig& c) {
  constexpr int64_t kLongest = int64_t{1} << 40;
  const bool on = config.boolean("use_sliding_window", false);
  const int64_t window = !on || (config.listed("sliding_window") && !config.has("sliding_window")) ? kLongest : config.integer("sliding_window", 1, kLongest, 4096);
  const int64_t first = config.integer("max_window_layers", 0, kLongest, 28);
  const Json* types = config.find("layer_types");
  if (types && (!types->array() || static_cast<int64_t>(types->array()->size()) != c.layers)) config.invalid("layer_types", concat("a list of num_hidden_layers (", c.layers, ") words"));
  for (int64_t i = 0; i < c.layers; ++i) {
    const Json* type = types ? &(*types->array())[static_cast<size_t>(i)] : nullptr;
    const std::string* word = type ? type->string() : nullptr;
    if (type && (!word || (*word != "full_attention" && *word != "sliding_attention")))
      config.unsupported(concat(config.name("layer_types"), "[", i, "] ", shown(*type)), "supported is full_attention");
    if ((word ? *word == "sliding_attention" : i >= first) && window < c.context)
      config.unsupported(concat("sliding-window attention: ", config.name("sliding_window"), " ", window, " of layer ", i, " is shorter than max_position_embeddings ", c.context),
                         "use a checkpoint without it, or lower max_position_embeddings to the window if your texts are that short");
  }
}

// Llama itself has no windows, and transformers passes over these keys without a word.
void check_no_windows(const ConfigReader& config, DecoderConfig& c) {
  const Json* types = config.find("layer_types");
  const auto full = [](const Json& t) { return t.string() && *t.string() == "full_attention"; };
  if (types && !(types->array() && std::all_of(types->array()->begin(), types->array()->end(), full)))
    config.unsupported(concat(config.name("layer_types"), " ", shown(*types)), "supported is full_attention in all layers");
  const bool on = config.boolean("use_sliding_window", true);
  if (on && config.integer("sliding_window", 0, int64_t{1} << 40, c.context) < c.context)
    c.notes.push_back(concat(config.name("sliding_window"), " ", shown(*config.find("sliding_window")), " is not used: LlamaForCausalLM attends to everything, here as in transformers"));
}

}  // namespace

DecoderConfig read_llama_decoder(const ConfigReader& config, bool defaults) {
  DecoderConfig out = read_common(config, defaults, true);
  out.qkv_bias = out.out_bias = config.boolean("attention_bias", false);
  out.mlp_bias = config.boolean("mlp_bias", false);
  check_no_windows(config, out);
  return out;
}

DecoderConfig read_qwen2_decoder(const ConfigReader& config, RopeAxes axes) {
  DecoderConfig out = read_common(config, false, false, 0, axes);
  out.qkv_bias = true;
  check_windows(config, out);
  return out;
}

DecoderConfig read_qwen3_decoder(const ConfigReader& config, RopeAxes axes) {
  DecoderConfig out = read_common(config, false, false, 128, axes);   // Qwen3Config's head_dim
  out.qkv_bias = out.out_bias = config.boolean("attention_bias", false);
  out.qk_norm = true;
  check_windows(config, out);
  return out;
}

static ModelConfig text_model(const Json& json, const std::string& path, DecoderConfig (*read)(const ConfigReader& config)) {
  const ConfigReader config(json, path);
  DecoderConfig out = read(config);
  check_keys(config, Keys::Decoder, &out, out.notes);
  return {out, {}};
}

ModelConfig read_llama(const Json& json, const std::string& path) {
  return text_model(json, path, [](const ConfigReader& c) { return read_llama_decoder(c); });
}
ModelConfig read_qwen2(const Json& json, const std::string& path) {
  return text_model(json, path, [](const ConfigReader& c) { return read_qwen2_decoder(c); });
}
ModelConfig read_qwen3(const Json& json, const std::string& path) {
  return text_model(json, path, [](const ConfigReader& c) { return read_qwen3_decoder(c); });
}

}  // namespace isr
