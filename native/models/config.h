// What a decoder is, read from config.json by the family's file (models/llama.cc, ...).
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace isr {

enum class RopeType : uint8_t { Default, Linear, Llama3 };

struct RopeConfig {
  RopeType type = RopeType::Default;
  double theta = 10000, factor = 1, low_freq_factor = 1, high_freq_factor = 4;
  int64_t original_context = 0;
};

struct DecoderConfig {
  std::string model_type, architecture;
  int64_t width = 0, layers = 0, heads = 0, kv_heads = 0, head_size = 0, mlp_width = 0, vocab = 0, context = 0;   // C L H K D F V
  float norm_eps = 1e-5f;
  bool qkv_bias = false, out_bias = false, mlp_bias = false, tied = false;
  RopeConfig rope;
  std::vector<int32_t> end_tokens;          // eos_token_id of config.json and generation_config.json, ascending
  std::vector<std::string> notes;           // what is unusual, for people (dropout ignored, ...)
};

}  // namespace isr
