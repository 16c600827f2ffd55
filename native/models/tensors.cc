// What a checkpoint's tensors are called and how large they are.
#include <algorithm>

#include "models/loader.h"

namespace isr {
namespace {

std::string first_present(const Checkpoint& file, const std::vector<std::string>& spellings, const std::string& probe) {
  for (const std::string& s : spellings)
    if (file.find(s + probe)) return s;
  return spellings.empty() ? std::string() : spellings.front();
}

bool starts_with(const std::string& s, const std::string& prefix) { return !prefix.empty() && s.compare(0, prefix.size(), prefix) == 0; }
bool ends_with(const std::string& s, const std::string& end) { return s.size() >= end.size() && s.compare(s.size() - end.size(), end.size(), end) == 0; }

struct Adder {
  std::vector<TensorSpec>& all;
  std::string prefix;
  void operator()(const std::string& name, std::vector<int64_t> shape) const { all.push_back({prefix + name, std::move(shape), 0, {}}); }
  void matrix(const std::string& name, int64_t out, int64_t in, bool bias) const {
    (*this)(name + ".weight", {out, in});
    if (bias) (*this)(name + ".bias", {out});
  }
  void norm(const std::string& name, int64_t width) const {
    (*this)(name + ".weight", {width});
    (*this)(name + ".bias", {width});
  }
  void attention(const std::string& name, int64_t width) const {
    for (const char* part : {".q_proj", ".k_proj", ".v_proj", ".out_proj"}) matrix(name + part, width, width, true);
  }
};

}  // namespace

Names default_names(const Family& f) {
  const auto first = [](const std::vector<std::string>& all) { return all.empty() ? std::string() : all.front(); };
  return {first(f.decoder), first(f.head), first(f.projector), first(f.image_tower), first(f.video_tower)};
}

Names names_in(const Checkpoint& file, const Family& f) {
  const std::string tower = "embeddings.class_embedding";
  return {first_present(file, f.decoder, "layers.0.input_layernorm.weight"), first_present(file, f.head, ""),
          first_present(file, f.projector, f.projector.empty() || f.projector.front() != "model.mm_projector." ? "linear_1.weight" : "0.weight"),
          first_present(file, f.image_tower, tower), first_present(file, f.video_tower, tower)};
}

std::vector<TensorSpec> decoder_tensors(const Names& names, const DecoderConfig& c) {
  const int64_t q = c.heads * c.head_size, kv = c.kv_heads * c.head_size;
  std::vector<TensorSpec> all;
  const Adder add{all, names.decoder};
  add("embed_tokens.weight", {c.vocab, c.width});
  for (int64_t i = 0; i < c.layers; ++i) {
    const std::string layer = concat("layers.", i, ".");
    add(layer + "input_layernorm.weight", {c.width});
    add.matrix(layer + "self_attn.q_proj", q, c.width, c.qkv_bias);
    add.matrix(layer + "self_attn.k_proj", kv, c.width, c.qkv_bias);
    add.matrix(layer + "self_attn.v_proj", kv, c.width, c.qkv_bias);
    add.matrix(layer + "self_attn.o_proj", c.width, q, c.out_bias);
    add(layer + "post_attention_layernorm.weight", {c.width});
    add.matrix(layer + "mlp.gate_proj", c.mlp_width, c.width, c.mlp_bias);
    add.matrix(layer + "mlp.up_proj", c.mlp_width, c.width, c.mlp_bias);
    add.matrix(layer + "mlp.down_proj", c.width, c.mlp_width, c.mlp_bias);
  }
  add("norm.weight", {c.width});
  if (!c.tied) all.push_back({names.head, {c.vocab, c.width}, 0, {}});
  return all;
}

std::string projector_layer(int64_t i, bool original) { return original ? std::to_string(2 * i) : concat("linear_", i + 1); }

std::vector<TensorSpec> projector_tensors(const Names& names, const ModelConfig& c) {
  std::vector<TensorSpec> all;
  const VisionConfig& v = *c.vision;
  const TowerConfig* tower = v.video ? &*v.video : v.image ? &*v.image : nullptr;
  if (!tower) return all;
  if (v.original && v.projector_layers == 1) {   // a plain Linear has no index
    Adder{all, names.projector.substr(0, names.projector.size() - 1)}.matrix("", c.decoder.width, tower->width, true);
    return all;
  }
  const Adder add{all, names.projector};
  for (int64_t i = 0; i < v.projector_layers; ++i)
    add.matrix(projector_layer(i, v.original), c.decoder.width, i == 0 ? tower->width : c.decoder.width, v.projector_bias);
  return all;
}

std::vector<TensorSpec> tower_tensors(const std::string& prefix, const TowerConfig& t) {
  std::vector<TensorSpec> all;
  const Adder add{all, prefix};
  add("embeddings.class_embedding", {t.width});
  add("embeddings.patch_embedding.weight", {t.width, 3, t.patch, t.patch});
  add("embeddings.position_embedding.weight", {t.tokens(), t.width});
  add.norm("pre_layrnorm", t.width);   // the name is misspelt in every checkpoint
  for (int64_t i = 0; i < t.run; ++i) {
    const std::string layer = concat("encoder.layers.", i, ".");
    if (t.frames > 0) {
      add(layer + "temporal_embedding", {1, t.frames, t.width});
      add.norm(layer + "temporal_layer_norm1", t.width);
      add.attention(layer + "temporal_attn", t.width);
    }
    add.norm(layer + "layer_norm1", t.width);
    add.attention(layer + "self_attn", t.width);
    add.norm(layer + "layer_norm2", t.width);
    add.matrix(layer + "mlp.fc1", t.mlp_width, t.width, true);
    add.matrix(layer + "mlp.fc2", t.width, t.mlp_width, true);
  }
  return all;
}

std::vector<TensorSpec> expected_tensors(const Names& names, const ModelConfig& c) {
  std::vector<TensorSpec> all = decoder_tensors(names, c.decoder);
  const auto append = [&](std::vector<TensorSpec> more) { all.insert(all.end(), more.begin(), more.end()); };
  if (!c.vision) return all;
  append(projector_tensors(names, c));
  if (c.vision->image) append(tower_tensors(names.image_tower, *c.vision->image));
  if (c.vision->video) append(tower_tensors(names.video_tower, *c.vision->video));
  return all;
}

bool ignored_tensor(const std::string& name, const Names& names, const Config& config) {
  if (buffer_tensor(name)) return true;
  if (config.model.decoder.tied && name == names.head) return true;   // a copy of the embeddings
  for (const std::string& part : config.family->unread)
    if (ends_with(name, part)) return true;
  return starts_with(name, names.image_tower) || starts_with(name, names.video_tower);
}

}  // namespace isr
