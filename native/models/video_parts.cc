// The projector and the CLIP or LanguageBind towers of the LLaVA line, beside the decoder.
#include "models/parts.h"

namespace isr {
namespace {

void attention(Parts& p, const std::string& name, int64_t width, Weight& qkv, Weight& out) {
  p.matrix(qkv, {{name + ".q_proj", width}, {name + ".k_proj", width}, {name + ".v_proj", width}}, {width}, true);
  p.matrix(out, {{name + ".out_proj", width}}, {width}, true);
}

void layer_parts(Parts& p, TowerLayer& l, const TowerConfig& t) {
  if (t.frames > 0) {
    p.table("temporal_embedding", {1, t.frames, t.width}, l.temporal_embedding);
    p.norm("temporal_layer_norm1", t.width, l.temporal_norm);
    attention(p, "temporal_attn", t.width, l.temporal_qkv, l.temporal_out);
  }
  p.norm("layer_norm1", t.width, l.norm1);
  attention(p, "self_attn", t.width, l.qkv, l.out);
  p.norm("layer_norm2", t.width, l.norm2);
  p.matrix(l.fc1, {{"mlp.fc1", t.mlp_width}}, {t.width}, true);
  p.matrix(l.fc2, {{"mlp.fc2", t.width}}, {t.mlp_width}, true);
}

// Of the layers that are computed.
std::shared_ptr<Tower> tower_parts(Parts& p, Root root, const TowerConfig& t) {
  auto tower = std::make_shared<Tower>();
  tower->config = t;
  p.begin(root);
  p.group("embeddings");
  p.block("embeddings.");
  if (t.class_token) p.vector("class_embedding", t.width, tower->class_embedding);
  p.matrix(tower->patch, {{"patch_embedding", t.width}}, {3, t.patch, t.patch}, t.patch_bias);
  p.table("position_embedding.weight", {t.tokens(), t.width}, tower->position_embedding);
  if (t.pre_norm) {
    p.block("pre_layrnorm.");   // the name is misspelt in every checkpoint
    p.norm("", t.width, tower->pre_norm);
  }
  for (int64_t i = 0; i < t.run; ++i) {
    p.group(concat("layer ", i));
    p.block(concat("encoder.layers.", i, "."));
    layer_parts(p, tower->layers.emplace_back(), t);
  }
  if (t.post_norm) {
    p.group("embeddings");
    p.block("post_layernorm.");
    p.norm("", t.width, tower->post_norm);
  }
  return tower;
}

}  // namespace

void video_parts(Parts& p, Network& n, const ModelConfig& config, std::string (*layer)(int64_t i, int64_t count)) {
  decoder_parts(p, n, config);
  Vision& v = n.vision.emplace();
  v.config = *config.vision;
  p.begin(Root::Projector);
  p.group("projector");
  const TowerConfig* tower = v.config.video ? &*v.config.video : v.config.image ? &*v.config.image : nullptr;
  if (!tower) return;
  p.block("");
  for (int64_t i = 0; i < v.config.projector_layers; ++i)
    p.matrix(v.projector.emplace_back(), {{layer(i, v.config.projector_layers), config.decoder.width}}, {i == 0 ? tower->square() : config.decoder.width},
             v.config.projector_bias);
  if (v.config.image && !v.config.one_tower) v.image = tower_parts(p, Root::ImageTower, *v.config.image);
  if (v.config.video) v.video = tower_parts(p, Root::VideoTower, *v.config.video);
  if (v.config.one_tower) v.image = v.video;
}

// A plain Linear has no number; of a Sequential every second layer is an activation.
void original_video_parts(Parts& p, Network& n, const ModelConfig& config) {
  video_parts(p, n, config, [](int64_t i, int64_t count) { return count == 1 ? std::string() : std::to_string(2 * i); });
}

void hf_video_parts(Parts& p, Network& n, const ModelConfig& config) {
  video_parts(p, n, config, [](int64_t i, int64_t) { return concat("linear_", i + 1); });
}

}  // namespace isr
