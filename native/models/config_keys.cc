#include "models/config_keys.h"

#include <algorithm>
#include <cmath>
#include <string_view>

namespace isr {
namespace {

using Words = std::vector<std::string_view>;

// transformers writes these into every config; none changes what a forward pass gives.
const Words kEverywhere{
    "_attn_implementation", "_attn_implementation_autoset", "_commit_hash", "_from_model_config", "_name_or_path", "add_cross_attention", "architectures",
    "attn_implementation", "auto_map", "bos_token_id", "chunk_size_feed_forward", "cross_attention_hidden_size", "decoder_start_token_id", "dtype",
    "eos_token_id", "finetuning_task", "id2label", "initializer_factor", "initializer_range", "is_decoder", "is_encoder_decoder", "label2id", "model_type",
    "name_or_path", "output_attentions", "output_hidden_states", "output_scores", "pad_token_id", "prefix", "problem_type", "pruned_heads", "return_dict",
    "return_dict_in_generate", "sep_token_id", "task_specific_params", "tf_legacy_loss", "tie_encoder_decoder", "tie_word_embeddings", "tokenizer_class",
    "torch_dtype", "torchscript", "transformers_version", "unk_token_id", "unsloth_fixed", "unsloth_version", "use_bfloat16", "use_cache"};

// Settings of generation that transformers before 4.50 wrote into every config, towers' too.
const Words kOldGeneration{
    "bad_words_ids", "begin_suppress_tokens", "diversity_penalty", "do_sample", "early_stopping", "encoder_no_repeat_ngram_size", "exponential_decay_length_penalty",
    "forced_bos_token_id", "forced_eos_token_id", "length_penalty", "max_length", "min_length", "no_repeat_ngram_size", "num_beam_groups", "num_beams",
    "num_return_sequences", "remove_invalid_values", "repetition_penalty", "suppress_tokens", "temperature", "top_k", "top_p", "typical_p"};

// Beside them in one kind of object.
const Words& harmless(Keys kind) {
  static const Words decoder{"max_window_layers", "tokenizer_model_max_length", "tokenizer_padding_side", "vocab_size"};
  static const Words video{"X", "freeze_mm_mlp_adapter", "ignore_index", "image_grid_pinpoints", "image_seq_length", "mm_hidden_size", "mm_image_tower", "mm_projector_lr",
                           "mm_video_tower", "mm_vision_tower", "tokenizer_model_max_length", "tokenizer_padding_side", "tune_mm_mlp_adapter", "unfreeze_mm_vision_tower",
                           "use_image_newline_parameter", "video_seq_length", "vocab_size"};
  static const Words tower{"attention_dropout", "audio_mean", "audio_sample_rate", "audio_std", "clip_type", "dropout", "force_patch_dropout", "lora_alpha", "lora_dropout",
                           "lora_r", "num_frames", "num_mel_bins", "projection_dim", "target_length", "video_decode_backend", "vocab_size"};
  static const Words generation{"cache_implementation", "max_length", "max_new_tokens", "transformers_version", "do_sample"};
  switch (kind) {
    case Keys::Decoder: return decoder;
    case Keys::Video: return video;
    case Keys::Tower: return tower;
    default: return generation;
  }
}

// ---- keys that change results, with the value that does not
enum class Neutral : uint8_t { Off, One, True, AllTrue, HeadSize, RootHead, Context, Silu };
struct Refused { const char* key; Neutral neutral; const char* what; };

const std::vector<Refused> kRefused{
    {"quantization_config", Neutral::Off, "quantised weights"},
    {"compression_config", Neutral::Off, "compressed weights"},
    {"quantization", Neutral::Off, "quantised weights"},
    {"attn_logit_softcapping", Neutral::Off, "soft caps on attention scores"},
    {"attention_logit_softcap", Neutral::Off, "soft caps on attention scores"},
    {"final_logit_softcapping", Neutral::Off, "soft caps on logits"},
    {"logits_soft_cap", Neutral::Off, "soft caps on logits"},
    {"embedding_multiplier", Neutral::One, "scaled embeddings"},
    {"embedding_scale", Neutral::One, "scaled embeddings"},
    {"scale_emb", Neutral::One, "scaled embeddings"},
    {"scale_embedding", Neutral::Off, "scaled embeddings"},
    {"residual_multiplier", Neutral::One, "scaled residuals"},
    {"residual_scale", Neutral::One, "scaled residuals"},
    {"scale_depth", Neutral::Off, "scaled residuals"},
    {"logits_scaling", Neutral::One, "scaled logits"},
    {"logit_scale", Neutral::One, "scaled logits"},
    {"lm_head_multiplier", Neutral::One, "scaled logits"},
    {"attention_multiplier", Neutral::RootHead, "a scale of attention scores other than 1 / sqrt(head_dim)"},
    {"attention_scale", Neutral::RootHead, "a scale of attention scores other than 1 / sqrt(head_dim)"},
    {"query_pre_attn_scalar", Neutral::HeadSize, "a scale of attention scores other than 1 / sqrt(head_dim)"},
    {"partial_rotary_factor", Neutral::One, "rotary embeddings of part of a head"},
    {"rotary_pct", Neutral::One, "rotary embeddings of part of a head"},
    {"rotary_dim", Neutral::HeadSize, "rotary embeddings of part of a head"},
    {"rope_interleaved", Neutral::Off, "interleaved rotary embeddings"},
    {"rope_local_base_freq", Neutral::Off, "rotary embeddings of their own for some layers"},
    {"no_rope_layers", Neutral::AllTrue, "layers without rotary embeddings"},
    {"no_rope_layer_interval", Neutral::Off, "layers without rotary embeddings"},
    {"use_rope", Neutral::True, "no rotary embeddings"},
    {"alibi", Neutral::Off, "ALiBi positions"},
    {"qk_norm", Neutral::Off, "norms of queries and keys"},
    {"use_qk_norm", Neutral::Off, "norms of queries and keys"},
    {"qk_layer_norms", Neutral::Off, "norms of queries and keys"},
    {"use_resampler", Neutral::Off, "a resampler of features"},
    {"qk_layernorm", Neutral::Off, "norms of queries and keys"},
    {"use_qkv_bias", Neutral::Off, "biases by this key"},
    {"clip_qkv", Neutral::Off, "clipped queries, keys and values"},
    {"attn_temperature_tuning", Neutral::Off, "attention temperatures by position"},
    {"attention_chunk_size", Neutral::Context, "attention in chunks"},
    {"parallel_attn", Neutral::Off, "attention beside the MLP"},
    {"use_parallel_residual", Neutral::Off, "attention beside the MLP"},
    {"is_causal", Neutral::True, "attention that is not causal"},
    {"causal", Neutral::True, "attention that is not causal"},
    {"use_bidirectional_attention", Neutral::Off, "attention that is not causal"},
    {"cross_attention_layers", Neutral::Off, "cross attention"},
    {"num_local_experts", Neutral::One, "mixtures of experts"},
    {"num_experts", Neutral::One, "mixtures of experts"},
    {"n_routed_experts", Neutral::One, "mixtures of experts"},
    {"hidden_activation", Neutral::Silu, "another activation than silu"},
    {"activation_function", Neutral::Silu, "another activation than silu"},
    {"mm_resampler_type", Neutral::Off, "a resampler of features"},
    {"mm_vision_resampler", Neutral::Off, "a resampler of features"},
    {"mm_spatial_pool_mode", Neutral::Off, "pooled features in this dialect"},
    {"mm_spatial_pool_stride", Neutral::One, "pooled features in this dialect"},
    {"use_mm_proj", Neutral::True, "features without a projector"},
};

bool off(const Json& v) {
  return (v.boolean() && !*v.boolean()) || (v.number() && *v.number() == 0) || (v.string() && v.string()->empty()) || (v.array() && v.array()->empty()) ||
         (v.object() && v.object()->empty());
}

bool truthy(const Json& v) { return (v.boolean() && *v.boolean()) || (v.number() && *v.number() == 1); }

bool near(const Json& v, double wanted) { return v.number() && std::abs(*v.number() - wanted) <= 1e-6 * wanted; }

// `d` null: a value that depends on the decoder's sizes changes nothing there.
bool changes_nothing(const Json& v, Neutral neutral, const DecoderConfig* d) {
  switch (neutral) {
    case Neutral::Off: return off(v);
    case Neutral::One: return near(v, 1) || (v.boolean() && !*v.boolean()) || (v.integer() && *v.integer() == 0);
    case Neutral::True: return truthy(v);
    case Neutral::AllTrue: return v.array() && std::all_of(v.array()->begin(), v.array()->end(), truthy);
    case Neutral::HeadSize: return !d || near(v, static_cast<double>(d->head_size));
    case Neutral::RootHead: return !d || near(v, 1 / std::sqrt(static_cast<double>(d->head_size)));
    case Neutral::Context: return off(v) || (d && v.number() && *v.number() >= static_cast<double>(d->context));
    default: return v.string() && (*v.string() == "silu" || *v.string() == "swish");
  }
}

bool has(const Words& words, const std::string& key) { return std::find(words.begin(), words.end(), key) != words.end(); }

}  // namespace

void check_keys(const ConfigReader& config, Keys kind, const DecoderConfig* decoder, std::vector<std::string>& notes) {
  std::string unknown;
  for (const auto& [key, value] : config.members()) {
    if (value.is_null() || config.asked(key)) continue;
    const auto refused = std::find_if(kRefused.begin(), kRefused.end(), [&](const Refused& r) { return key == r.key; });
    if (refused != kRefused.end() && kind != Keys::Generation) {
      if (changes_nothing(value, refused->neutral, decoder)) continue;
      config.unsupported(concat(config.name(key), " ", shown(value), ": ", refused->what), "supported are checkpoints without it; weights trained with it need code that computes it");
    }
    if (kind == Keys::Generation && (off(value) || near(value, 1))) continue;   // the defaults of most
    if (kind != Keys::Generation && has(kOldGeneration, key)) continue;
    if (has(kEverywhere, key) || has(harmless(kind), key)) continue;
    if (off(value) && !value.number()) continue;   // switched off, or empty
    unknown += concat(unknown.empty() ? "" : ", ", config.name(key), " ", shown(value));
  }
  const size_t slash = config.path().find_last_of('/');
  const std::string file = slash == std::string::npos ? config.path() : config.path().substr(slash + 1);
  if (unknown.empty()) return;
  if (kind == Keys::Generation) notes.push_back(concat(file, ": only its eos_token_id is used, not ", unknown, "; give such settings with a request"));
  else notes.push_back(concat(file, ": keys that nothing here knows, and that are not used: ", unknown));
}

}  // namespace isr
