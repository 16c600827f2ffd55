// Vision towers and the projector: pixels in, rows for the decoder out. Frames are spans of a bidirectional attention; over
// time, the rows of one place in all frames are. Rows stand frame by frame: row f n + i is token i of frame f.
#pragma once
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "autograd/ops.h"
#include "models/family.h"

namespace isr {

struct LayerNorm { Param* w = nullptr; Param* b = nullptr; };

struct TowerLayer {
  Param* temporal_embedding = nullptr;      // (1, frames, C); null: no attention over time
  LayerNorm temporal_norm, norm1, norm2;
  Weight temporal_qkv, temporal_out, qkv, out, fc1, fc2;
};

// Where rows go, for one grid. Resident, and kept with the tower: recorded ops read it in backward.
struct TowerPlan {
  RowIndex patch_rows;                      // (T n): row among the patches, -1 for the class token; empty without one
  Ints class_rows, positions, times;        // (T n): 0 or -1; token in the frame; frame
  RowIndex by_place, by_frame;              // (T n): to place-major order and back
  AttentionPlan within_frames, over_time;
  std::unique_ptr<Prepared> spatial, temporal;
};

struct Tower {
  TowerConfig config;
  Param* class_embedding = nullptr;         // null: no class token (TowerConfig::class_token)
  Param* position_embedding = nullptr;      // (tokens of a frame, C)
  LayerNorm pre_norm;                       // null: none
  Weight patch;
  std::deque<TowerLayer> layers;
  const TowerPlan& plan(Backend& be, const Grid& grid);

 private:
  std::optional<Arena> memory_;             // of the plans
  std::map<Grid, std::unique_ptr<TowerPlan>> plans_;
};

struct Vision {
  VisionConfig config;
  std::unique_ptr<Tower> image, video;      // null: such media are refused
  std::deque<Weight> projector;
  Tower* tower(bool is_image) { return (is_image ? image : video).get(); }
  // Features of a frame stack after selection: the rows that stay, or the groups that pooling joins.
  const RowIndex& selection(Backend& be, bool is_image, const Grid& grid);

 private:
  std::optional<Arena> memory_;             // of the selections
  std::map<std::pair<bool, Grid>, RowIndex> selections_;
};

// Rows of a tower's hidden states (t n, C) that go on to the projector, in the order of its rows; where patches are pooled,
// the stride x stride of one row stand one behind another.
std::vector<int32_t> selected_rows(const VisionConfig& config, bool is_image, const Grid& grid);

// Hidden states (t n, C) of the last layer computed. pixels (t, 3, h, w) f32, on the host. `hidden`: if given, gets the states
// before the first layer and behind each, as float32.
Tensor tower_forward(Ctx& c, Tower& tower, const float* pixels, const Grid& grid, DType dtype, bool checkpointing,
                     std::vector<std::vector<float>>* hidden = nullptr);
// Class tokens dropped or kept, patches pooled: what goes into the projector, (rows, C).
Tensor select_features(Ctx& c, Vision& v, bool is_image, Tensor hidden, const Grid& grid);
}  // namespace isr
