// Vision towers and the projector: pixels in, rows for the decoder out. Frames are spans of a bidirectional attention; over
// time, the rows of one place in all frames are. Rows stand frame by frame: row f n + i is token i of frame f.
#pragma once
#include <deque>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "autograd/ops.h"
#include "models/config.h"

namespace isr {

struct LayerNorm { Param* w = nullptr; Param* b = nullptr; };

struct TowerLayer {
  Param* temporal_embedding = nullptr;      // (1, frames, C); null: no attention over time
  LayerNorm temporal_norm, norm1, norm2;
  Weight temporal_qkv, temporal_out, qkv, out, fc1, fc2;
};

// Where rows go, for one number of frames. Kept with the tower: recorded ops read it in backward.
struct TowerPlan {
  std::vector<int32_t> patch_rows;          // (T n): row among the patches, -1 for the class token
  std::vector<int32_t> class_rows, positions, times;   // (T n): 0 or -1; token in the frame; frame
  std::vector<int32_t> by_place, by_frame;  // (T n): to place-major order and back
  AttentionPlan spatial, temporal;
};

struct Tower {
  TowerConfig config;
  Param* class_embedding = nullptr;
  Param* position_embedding = nullptr;
  LayerNorm pre_norm;
  Weight patch;
  std::deque<TowerLayer> layers;
  const TowerPlan& plan(int64_t frames);

 private:
  std::map<int64_t, TowerPlan> plans_;
};

struct Vision {
  VisionConfig config;
  std::unique_ptr<Tower> image, video;      // null: such media are refused
  std::deque<Weight> projector;
  Tower* tower(bool is_image) { return (is_image ? image : video).get(); }
  // Features of a frame stack after selection: the rows that stay, or the groups that pooling joins.
  struct Selection { std::vector<int32_t> rows; int64_t per_row; };
  const Selection& selection(bool is_image, int64_t frames);

 private:
  std::map<std::pair<bool, int64_t>, Selection> selections_;
};

// Hidden states (frames n, C) of the last layer computed. pixels (frames, 3, S, S) f32. `hidden`: if given, gets the states
// before the first layer and behind each, as float32.
Tensor tower_forward(Ctx& c, Tower& tower, const float* pixels, int64_t frames, DType dtype, bool checkpointing,
                     std::vector<std::vector<float>>* hidden = nullptr);
// Class tokens dropped or kept, patches pooled: what goes into the projector, (rows, C).
Tensor select_features(Ctx& c, Vision& v, bool is_image, Tensor hidden, int64_t frames);
Tensor project(Ctx& c, Vision& v, Tensor features);   // (rows, width of the decoder)

}  // namespace isr
