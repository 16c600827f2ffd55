#include "models/config_reader.h"

#include <cmath>

namespace isr {
namespace {

// Far above any published model; they keep products of sizes inside 64 bits and refuse nonsense before memory is asked for.
constexpr int64_t kMaxWidth = 1 << 20, kMaxLayers = 1024, kMaxHeads = 4096, kMaxVocab = 1 << 24, kMaxContext = 1 << 27;

std::string shown(const Json* v) {
  if (!v) return "nothing";
  std::string text = to_json(*v);
  return text.size() > 80 ? text.substr(0, 80) + "..." : text;
}

}  // namespace

const Json* ConfigReader::find(const char* key) const {
  const Json* v = json_.find(key);
  return v && v->is_null() ? nullptr : v;
}

bool ConfigReader::has(const char* key) const { return find(key) != nullptr; }

void ConfigReader::invalid(const char* key, const std::string& expected) const {
  throw Error("INVALID_CONFIG", concat(path_, ": ", where_, key, ": expected ", expected, ", got ", shown(json_.find(key))),
              "compare the file with the one that the checkpoint was published with", path_);
}

void ConfigReader::unsupported(const std::string& what, const std::string& hint) const {
  throw Error("CHECKPOINT_UNSUPPORTED", concat(path_, ": ", what), hint, path_);
}

int64_t ConfigReader::integer(const char* key, int64_t low, int64_t high, std::optional<int64_t> fallback) const {
  const Json* v = find(key);
  if (!v && fallback) return *fallback;
  std::optional<int64_t> n = v ? v->integer() : std::nullopt;
  if (!n || *n < low || *n > high) invalid(key, concat("an integer from ", low, " to ", high));
  return *n;
}

double ConfigReader::number(const char* key, double low, double high, std::optional<double> fallback) const {
  const Json* v = find(key);
  if (!v && fallback) return *fallback;
  std::optional<double> n = v ? v->number() : std::nullopt;
  if (!n || !(*n >= low && *n <= high)) invalid(key, concat("a number from ", low, " to ", high));
  return *n;
}

bool ConfigReader::boolean(const char* key, bool fallback) const {
  const Json* v = find(key);
  if (!v) return fallback;
  if (!v->boolean()) invalid(key, "true or false");
  return *v->boolean();
}

std::string ConfigReader::text(const char* key, const std::string& fallback) const {
  const Json* v = find(key);
  if (!v) return fallback;
  if (!v->string()) invalid(key, "a string");
  return *v->string();
}

std::vector<int32_t> ConfigReader::ids(const char* key, int64_t vocab) const {
  const Json* v = find(key);
  if (!v) return {};
  const std::string expected = concat("a token id below ", vocab, ", or a list of them");
  std::vector<int32_t> out;
  const auto take = [&](const Json& id) {
    if (!id.integer() || *id.integer() < 0 || *id.integer() >= vocab) invalid(key, expected);
    out.push_back(static_cast<int32_t>(*id.integer()));
  };
  if (v->array()) {
    for (const Json& id : *v->array()) take(id);
  } else {
    take(*v);
  }
  return out;
}

ConfigReader ConfigReader::object(const char* key) const {
  const Json* v = find(key);
  if (!v || !v->object()) invalid(key, "an object");
  return ConfigReader(*v, path_, where_ + key + ".");
}

// transformers 5 writes rope_parameters; before it was rope_theta beside rope_scaling (type or rope_type).
RopeConfig read_rope(const ConfigReader& config) {
  RopeConfig rope;
  const bool joined = config.has("rope_parameters");
  const char* key = joined ? "rope_parameters" : "rope_scaling";
  const auto theta = [](const ConfigReader& c, double fallback) { return c.number("rope_theta", 1, 1e12, fallback); };
  rope.theta = theta(config, 10000);
  if (!config.has(key)) return rope;
  const ConfigReader r = config.object(key);
  rope.theta = theta(r, rope.theta);
  const std::string type = r.text("rope_type", r.text("type", "default"));
  if (type == "default") return rope;
  if (type != "linear" && type != "llama3")
    r.unsupported(concat("rotary embeddings of type \"", type, "\""), "supported are default, linear and llama3");
  rope.factor = r.number("factor", 1, 1e6);
  rope.type = type == "linear" ? RopeType::Linear : RopeType::Llama3;
  if (rope.type == RopeType::Linear) return rope;
  rope.low_freq_factor = r.number("low_freq_factor", 1e-3, 1e6);
  rope.high_freq_factor = r.number("high_freq_factor", 1e-3, 1e6);
  rope.original_context = r.integer("original_max_position_embeddings", 1, kMaxContext);
  if (rope.high_freq_factor <= rope.low_freq_factor) r.invalid("high_freq_factor", "more than low_freq_factor");
  return rope;
}

void read_shape(DecoderConfig& out, const ConfigReader& config, bool defaults) {
  const auto size = [&](const char* key, int64_t high, int64_t fallback) {
    return config.integer(key, 1, high, defaults ? std::optional<int64_t>(fallback) : std::nullopt);
  };
  out.width = size("hidden_size", kMaxWidth, 4096);
  out.layers = size("num_hidden_layers", kMaxLayers, 32);
  out.heads = size("num_attention_heads", kMaxHeads, 32);
  out.kv_heads = config.integer("num_key_value_heads", 1, kMaxHeads, out.heads);
  out.mlp_width = size("intermediate_size", kMaxWidth, 11008);
  out.vocab = size("vocab_size", kMaxVocab, 32000);
  out.context = size("max_position_embeddings", kMaxContext, 2048);
  out.norm_eps = static_cast<float>(config.number("rms_norm_eps", 0, 1, 1e-6));
  if (!config.has("head_dim") && out.width % out.heads != 0)
    config.invalid("num_attention_heads", concat("a divisor of hidden_size (", out.width, "), or head_dim beside it"));
  out.head_size = config.integer("head_dim", 1, 256, out.width / out.heads);
  if (out.head_size < 1 || out.head_size > 256) config.invalid("hidden_size", "a head size (hidden_size / num_attention_heads) of 256 at most");
  if (out.head_size % 2 != 0) config.invalid(config.has("head_dim") ? "head_dim" : "hidden_size", "an even head size (rotary embeddings pair its halves)");
  if (out.heads % out.kv_heads != 0) config.invalid("num_key_value_heads", concat("a divisor of num_attention_heads (", out.heads, ")"));
}

}  // namespace isr
