// The decoder of Llama-, Qwen2- and Qwen3-type models, as transformers names it.
#include "models/parts.h"

namespace isr {

void decoder_parts(Parts& p, Network& n, const ModelConfig& config) {
  const DecoderConfig& c = config.decoder;
  const int64_t q = c.heads * c.head_size, kv = c.kv_heads * c.head_size;
  p.begin(Root::Decoder);
  p.group("shared");
  p.block("embed_tokens.");
  p.table("weight", {c.vocab, c.width}, n.token_embedding);
  for (int64_t i = 0; i < c.layers; ++i) {
    Layer& l = n.layers.emplace_back();
    p.group(concat("layer ", i));
    p.block(concat("layers.", i, "."));
    p.vector("input_layernorm.weight", c.width, l.attention_norm);
    p.matrix(l.qkv, {{"self_attn.q_proj", q}, {"self_attn.k_proj", kv}, {"self_attn.v_proj", kv}}, {c.width}, c.qkv_bias);
    p.matrix(l.out, {{"self_attn.o_proj", c.width}}, {q}, c.out_bias);
    if (c.qk_norm) {
      p.vector("self_attn.q_norm.weight", c.head_size, l.q_norm);
      p.vector("self_attn.k_norm.weight", c.head_size, l.k_norm);
    }
    p.vector("post_attention_layernorm.weight", c.width, l.mlp_norm);
    p.matrix(l.gate_up, {{"mlp.gate_proj", c.mlp_width}, {"mlp.up_proj", c.mlp_width}}, {c.width}, c.mlp_bias, true);
    p.matrix(l.down, {{"mlp.down_proj", c.width}}, {c.mlp_width}, c.mlp_bias);
  }
  p.group("shared");
  p.block("norm.");
  p.vector("weight", c.width, n.final_norm);
  p.begin(Root::Head);
  p.claim("bias");
  if (c.tied) p.tie(n.head, n.token_embedding);
  else p.matrix(n.head, {{"", c.vocab}}, {c.width}, false);
}

}  // namespace isr
