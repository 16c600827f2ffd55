// Checkpoints of any shape with seeded values, written to a folder: the small models of tests and the bench's large one.
// Matrices are uniform with standard deviation 0.02 (wider for tiny models, so that logits differ), norms 1 +- 0.1.
#pragma once
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "core/bf16.h"
#include "core/rng.h"
#include "io/file.h"
#include "io/safetensors.h"
#include "models/loader.h"

namespace isr::test {

struct ModelSpec {
  int64_t width = 48, layers = 2, heads = 4, kv_heads = 2, mlp_width = 80, vocab = 160, context = 2048;
  std::string dtype = "F32";          // F32 | BF16
  float scale = 0.2f;                 // matrices are uniform in [-scale, scale]
  bool tied = false, attention_bias = false;
  uint64_t seed = 1;
};

// The bench's decoder: 134.1 M parameters.
inline ModelSpec bench_spec(const std::string& dtype) { return {768, 12, 12, 12, 2048, 32000, 4096, dtype, 0.0346f, false, false, 1}; }

inline std::string config_text(const ModelSpec& s) {
  return concat("{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"hidden_size\":", s.width, ",\"num_hidden_layers\":", s.layers,
                ",\"num_attention_heads\":", s.heads, ",\"num_key_value_heads\":", s.kv_heads, ",\"intermediate_size\":", s.mlp_width, ",\"vocab_size\":", s.vocab,
                ",\"max_position_embeddings\":", s.context, ",\"rms_norm_eps\":1e-05,\"rope_theta\":10000.0,\"tie_word_embeddings\":", s.tied ? "true" : "false",
                ",\"attention_bias\":", s.attention_bias ? "true" : "false", ",\"bos_token_id\":1,\"eos_token_id\":2}");
}

inline void make_config(const std::string& dir, const ModelSpec& spec) {
  make_folders(dir);
  write_file_atomic(dir + "/config.json", config_text(spec));
}

inline void write_model(const std::string& dir, const ModelSpec& spec) {
  make_config(dir, spec);
  const Config config = read_config(dir);
  std::vector<NewTensor> tensors;
  uint64_t index = 0;
  for (const TensorSpec& t : expected_tensors(*config.family, default_names(*config.family), config.model)) {
    const bool norm = t.shape.size() == 1 && t.name.find("norm") != std::string::npos;
    const float scale = norm ? 0.1f : spec.scale, shift = norm ? 1.0f : 0.0f;
    const FileDType dtype = spec.dtype == "BF16" ? FileDType::BF16 : FileDType::F32;
    const Philox draw(spec.seed * 1000003 + index++);
    tensors.push_back({t.name, dtype, t.shape, nullptr, [=](uint64_t begin, uint64_t count, void* dst) {
      const uint64_t first = begin / size_of(dtype), n = count / size_of(dtype);
      for (uint64_t i = 0; i < n; ++i) {
        // 16 bits a value, eight values a draw
        const uint64_t at = first + i;
        static thread_local uint64_t block = ~uint64_t{0}, owner = 0;
        static thread_local std::array<uint32_t, 4> bits;
        if (block != at / 8 || owner != draw.key[0]) {
          block = at / 8;
          owner = draw.key[0];
          bits = draw(0, block);
        }
        const uint32_t u = (bits[at % 8 / 2] >> (16 * (at % 2))) & 0xffff;
        const float x = shift + scale * (static_cast<float>(u) / 32767.5f - 1.0f);
        if (dtype == FileDType::BF16) static_cast<uint16_t*>(dst)[i] = f32_to_bf16(x);
        else static_cast<float*>(dst)[i] = x;
      }
    }});
  }
  write_safetensors(dir + "/model.safetensors", tensors, {{"format", "pt"}});
}

// A folder that is removed with the object.
struct ScratchFolder {
  std::string path;
  ScratchFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "isr-dpo-XXXXXX").string();
    if (!mkdtemp(name.data())) fail("IO", "mkdtemp ", name);
    path = name;
  }
  ~ScratchFolder() { std::filesystem::remove_all(path); }
  ScratchFolder(const ScratchFolder&) = delete;
};

inline std::unique_ptr<Model> seeded_model(const ModelSpec& spec, const LoadOptions& options = {}) {
  ScratchFolder dir;
  write_model(dir.path, spec);
  return Model::load(dir.path, options);   // the open file outlives its folder
}

inline std::vector<int32_t> random_ids(int64_t n, int64_t vocab, uint64_t seed) {
  std::vector<int32_t> ids;
  const Philox draw(seed);
  for (int64_t i = 0; i < n; ++i) ids.push_back(static_cast<int32_t>(3 + draw(1, static_cast<uint64_t>(i))[0] % static_cast<uint32_t>(vocab - 3)));
  return ids;
}

}  // namespace isr::test
