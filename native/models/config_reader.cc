#include "models/config_reader.h"

#include <cmath>

namespace isr {
namespace {

// Far above any published model; they keep products of sizes inside 64 bits and refuse nonsense before memory is asked for.
constexpr int64_t kMaxWidth = 1 << 20, kMaxLayers = 1024, kMaxHeads = 4096, kMaxVocab = 1 << 24, kMaxContext = 1 << 27;

}  // namespace

const Json* ConfigReader::find(const char* key) const {
  asked_->insert(key);
  const Json* v = json_.find(key);
  return v && v->is_null() ? nullptr : v;
}

bool ConfigReader::has(const char* key) const { return find(key) != nullptr; }

void ConfigReader::invalid(const char* key, const std::string& expected) const {
  const Json* v = json_.find(key);
  throw Error("INVALID_CONFIG", concat(path_, ": ", where_, key, ": expected ", expected, ", got ", v ? shown(*v) : "nothing"),
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

std::vector<int32_t> ConfigReader::ids(const char* key, int64_t vocab, std::vector<std::string>& notes) const {
  const Json* v = find(key);
  if (!v) return {};
  const std::string expected = concat("a token id below ", vocab, ", or a list of them");
  std::vector<int32_t> out;
  const auto take = [&](const Json& id) {
    if (id.integer() && *id.integer() < 0) {
      notes.push_back(concat(path_, ": ", where_, key, " ", *id.integer(), " is no token: nothing ends there, as in transformers"));
      return;
    }
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

void read_shape(DecoderConfig& out, const ConfigReader& config, bool defaults, int64_t head_size) {
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
  if (!config.has("head_dim") && head_size == 0 && out.width % out.heads != 0)
    config.invalid("num_attention_heads", concat("a divisor of hidden_size (", out.width, "), or head_dim beside it"));
  out.head_size = config.integer("head_dim", 1, 256, head_size > 0 ? head_size : out.width / out.heads);
  if (out.head_size < 1 || out.head_size > 256) config.invalid("hidden_size", "a head size (hidden_size / num_attention_heads) of 256 at most");
  if (out.head_size % 2 != 0) config.invalid(config.has("head_dim") ? "head_dim" : "hidden_size", "an even head size (rotary embeddings pair its halves)");
  if (out.heads % out.kv_heads != 0) config.invalid("num_key_value_heads", concat("a divisor of num_attention_heads (", out.heads, ")"));
}

}  // namespace isr
