// What a model is, read from config.json by the family's file (models/llama.cc, models/llava.cc).
#pragma once
#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "kernels/backend.h"

namespace isr {

enum class RopeType : uint8_t { Default, Linear, Llama3, Yarn };

struct RopeConfig {
  RopeType type = RopeType::Default;
  double theta = 10000, factor = 1, low_freq_factor = 1, high_freq_factor = 4;
  double beta_fast = 32, beta_slow = 1;     // yarn: turns over the original context between which pairs go from one rule to the other
  double attention_factor = 1;              // yarn: of the rotated queries and keys
  bool truncate = true;                     // yarn: the two pairs that the betas stand for are whole numbers
  int64_t original_context = 0;
  std::vector<int32_t> axis;                // (D/2): which axis of its position a pair turns by (models/positions.h); empty: there is one
  bool operator==(const RopeConfig&) const = default;
};

struct DecoderConfig {
  std::string model_type, architecture;
  int64_t width = 0, layers = 0, heads = 0, kv_heads = 0, head_size = 0, mlp_width = 0, vocab = 0, context = 0;   // C L H K D F V
  float norm_eps = 1e-5f;
  bool qkv_bias = false, out_bias = false, mlp_bias = false, qk_norm = false, tied = false;
  RopeConfig rope;
  std::vector<int32_t> end_tokens;          // eos_token_id of config.json and generation_config.json, ascending
  std::vector<std::string> notes;           // what is unusual, for people (dropout ignored, ...)
};

// Patches of a medium, as a tower cuts it: t frames of h rows and w columns.
struct Grid {
  int64_t t = 1, h = 1, w = 1;
  int64_t frame() const { return h * w; }
  auto operator<=>(const Grid&) const = default;
};

struct FrameSize {                          // in pixels
  int64_t h = 0, w = 0;
  int64_t values() const { return 3 * h * w; }
};

// A vision transformer: CLIP's; with `frames` LanguageBind's, whose layers attend over time first; with `grids` Qwen-VL's.
struct TowerConfig {
  int64_t width = 0, layers = 0, heads = 0, mlp_width = 0, patch = 0;
  FrameSize frame;                          // what is left beside whole patches is not seen
  bool class_token = true;                  // a row before a frame's patches
  int64_t run = 0;                          // layers computed: the features are the output of the last of them
  int64_t frames = 0;                       // of a clip, for attention over time; 0: frames are independent
  Act act = Act::QuickGelu;
  float eps = 1e-5f;
  bool patch_bias = false;
  bool pre_norm = true, post_norm = false;  // of what goes into the first layer, and of what comes out of the last
  bool rms = false, gated = false;          // RMSNorms for LayerNorms; an MLP of gate, up and down
  int64_t merge = 1;                        // squares of merge x merge patches become one row, side by side
  bool grids = false;                       // media come as rows of patches, square by square, with their grid; `frame` is not used
  int64_t temporal = 1;                     // frames of a patch
  double rope_theta = 0;                    // of rotary positions (row, column); 0: none
  int64_t learned = 0;                      // edge of a square table of positions, resampled to the grid; 0: one row a token
  int64_t window = 0;                       // edge, in squares, of the windows that attend within themselves; 0: frames do
  std::vector<int32_t> whole;               // layers in which frames do, where there are windows
  std::vector<int32_t> taps;                // layers whose output goes to the decoder's first layers, too (deepstack)
  Grid grid(int64_t frame_count) const { return {frame_count, frame.h / patch, frame.w / patch}; }
  int64_t tokens(const Grid& g) const { return g.frame() + (class_token ? 1 : 0); }   // rows of a frame
  int64_t patches() const { return grid(1).frame(); }
  int64_t tokens() const { return tokens(grid(1)); }
  int64_t square() const { return merge * merge * width; }
  int64_t features() const { return (1 + static_cast<int64_t>(taps.size())) * square(); }   // columns of what goes into the projector
  int64_t patch_values() const { return 3 * temporal * patch * patch; }
  int64_t pixel_values(const Grid& g) const { return grids ? g.t * g.frame() * patch_values() : g.t * frame.values(); }   // of a medium
};

// How media become rows of the decoder.
struct VisionConfig {
  bool original = false;                    // placeholders outside the vocabulary (-200, -201); else token ids, one per row
  std::optional<TowerConfig> image, video;  // absent: such media are refused
  bool one_tower = false;                   // both kinds go through the same weights
  bool image_text = false, video_text = false;   // such a medium is rows and text between them, which its prompts of ids hold
  bool image_cls = false, video_cls = false;   // whether the class token's row stays, if there is one
  int64_t pool = 1;                         // stride of average pooling over a frame's patches (video)
  int64_t projector_layers = 2;
  Act projector_act = Act::GeluErf;
  bool projector_bias = true;
  int32_t image_token = -1, video_token = -1;
  int64_t per_video = 1;                    // placeholders a video (original layouts)
  int64_t frames = 8;                       // sampled from a video when nothing else is said
  int64_t feature_layer = -2;               // of hidden_states; -2: the last layer but one
  double tokens_per_second = 0;             // grids: positions that a second of a video takes; 0: its frames stand apart, in text

  const TowerConfig& tower(bool is_image) const { return is_image ? *image : *video; }
  int64_t levels() const { return video ? static_cast<int64_t>(video->taps.size()) : 0; }   // of the decoder's layers that features are added behind
  int64_t stride(bool is_image) const { return is_image ? 1 : pool; }
  bool keeps_class(bool is_image) const { return (is_image ? image_cls : video_cls) && tower(is_image).class_token; }
  // Rows of the decoder that one medium takes.
  int64_t rows(bool is_image, const Grid& g) const {
    const int64_t s = stride(is_image) * tower(is_image).merge;
    return g.t * (g.h / s * (g.w / s) + (keeps_class(is_image) ? 1 : 0));
  }
};

struct ModelConfig {
  DecoderConfig decoder;
  std::optional<VisionConfig> vision;       // absent: a text model
};

}  // namespace isr
