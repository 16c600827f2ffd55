// A family that exists in tests alone, with names and a stacking of its own, and checkpoints of any declared family.
#pragma once
#include <algorithm>
#include <string>
#include <vector>

#include "check.h"
#include "models/config_reader.h"
#include "models/parts.h"
#include "seeded_model.h"

namespace isr::test {

constexpr int64_t kWide = 32, kDeep = 2, kInner = 48, kWords = 96;

inline std::string toy_config(const std::string& type, const std::string& more = "") {
  return concat("{\"model_type\":\"", type, "\",\"architectures\":[\"ToyForCausalLM\"],\"wide\":", kWide, ",\"deep\":", kDeep, ",\"heads\":4,\"inner\":", kInner,
                ",\"words\":", kWords, more, "}");
}

// Keys of its own, no defaults; the decoder is Llama's.
inline ModelConfig read_toy(const Json& json, const std::string& path) {
  const ConfigReader config(json, path);
  DecoderConfig c;
  c.width = config.integer("wide", 1, 4096);
  c.layers = config.integer("deep", 1, 64);
  c.heads = c.kv_heads = config.integer("heads", 1, 64);
  c.head_size = c.width / c.heads;
  c.mlp_width = config.integer("inner", 1, 4096);
  c.vocab = config.integer("words", 1, 4096);
  c.context = 128;
  c.tied = true;
  c.end_tokens = {2};
  return {c, {}};
}

inline void toy_parts(Parts& p, Network& n, const ModelConfig& config) {
  const DecoderConfig& c = config.decoder;
  p.begin(Root::Decoder);
  p.group("shared");
  p.block("words.");
  p.table("table", {c.vocab, c.width}, n.token_embedding);
  for (int64_t i = 0; i < c.layers; ++i) {
    Layer& l = n.layers.emplace_back();
    p.group(concat("layer ", i));
    p.block(concat("blocks.", i, "."));
    p.matrix(l.qkv, {{"qkv", 3 * c.width}}, {c.width}, false);   // one tensor where Llama has three
    p.matrix(l.out, {{"out", c.width}}, {c.width}, false);
    p.vector("before", c.width, l.attention_norm);
    p.matrix(l.gate_up, {{"gate", c.mlp_width}, {"up", c.mlp_width}}, {c.width}, false, true);
    p.matrix(l.down, {{"down", c.width}}, {c.mlp_width}, false);
    p.vector("between", c.width, l.mlp_norm);
  }
  p.group("shared");
  p.block("last.");
  p.vector("norm", c.width, n.final_norm);
  p.begin(Root::Head);
  p.tie(n.head, n.token_embedding);
}

// Vectors are near 1, as norms are.
inline std::vector<float> values_of(const TensorSpec& t, uint64_t seed) {
  int64_t n = 1;
  for (int64_t d : t.shape) n *= d;
  std::vector<float> x = random_values(n, seed, 0.2f);
  if (t.shape.size() == 1)
    for (float& v : x) v += 1;
  return x;
}

inline NewTensor tensor(const std::string& name, std::vector<int64_t> shape, std::vector<float> values) {
  return {name, FileDType::F32, std::move(shape), nullptr, [values = std::move(values)](uint64_t begin, uint64_t count, void* dst) {
            std::copy_n(reinterpret_cast<const char*>(values.data()) + begin, count, static_cast<char*>(dst));
          }};
}

// A checkpoint of the family that the config names. `root`: how the decoder's names begin; empty: as by default.
inline void write_declared(const std::string& dir, const std::string& config_json, const Families& families, const std::string& root = "", const std::string& more = "") {
  make_folders(dir);
  write_file_atomic(dir + "/config.json", config_json);
  const Config config = read_config(dir, families);
  Names names = default_names(*config.family);
  if (!root.empty()) names.prefixes[0] = root;
  std::vector<NewTensor> tensors;
  uint64_t seed = 1;
  for (const TensorSpec& t : expected_tensors(*config.family, names, config.model)) tensors.push_back(tensor(t.name, t.shape, values_of(t, seed++)));
  if (!more.empty()) tensors.push_back(tensor(more, {4}, {1, 2, 3, 4}));
  write_safetensors(dir + "/model.safetensors", tensors, {{"format", "pt"}});
}

}  // namespace isr::test
