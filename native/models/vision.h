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
  Weight temporal_qkv, temporal_out, qkv, out, fc1, fc2;   // fc1 of a gated tower: gate and up
  bool windowed = false;
};

// Where rows go, for one grid. Resident; recorded ops read it in backward.
struct TowerPlan {
  explicit TowerPlan(Device& device) : memory(device) {}
  Arena memory;
  RowIndex patch_rows;                      // (T n): row among the patches, -1 for the class token; empty without one
  Ints class_rows, positions, times;        // (T n): 0 or -1; token in the frame; frame
  RowIndex by_place, by_frame;              // (T n): to place-major order and back
  RowIndex squares;                         // (T n): rows of the squares' patches, square by square, frame by frame
  std::vector<int64_t> given;               // (T n), of windows: which row of the pixels each row is; empty: the same
  float* rope = nullptr;                    // (T n, D/2, 2)
  RowMix mixing;                            // of a frame, where a table of positions is resampled; else empty
  AttentionPlan within_frames, within_windows, over_time;
  std::unique_ptr<Prepared> spatial, windows, temporal;
};

struct Tower {
  TowerConfig config;
  Param* class_embedding = nullptr;         // null: no class token (TowerConfig::class_token)
  Param* position_embedding = nullptr;      // (tokens of a frame, C)
  LayerNorm pre_norm, post_norm;            // null: none
  Weight patch;
  std::deque<TowerLayer> layers;
  // Plans of the grids that were seen last are kept; one that a recording tape needs lives as long as that.
  const TowerPlan& plan(Ctx& c, const Grid& grid);

 private:
  struct Kept { Grid grid; std::shared_ptr<TowerPlan> plan; };
  std::deque<Kept> plans_;                  // the one used last is the first
};

// Qwen-VL's projector: a norm of patches, or of whole squares, then an MLP.
struct Merger {
  LayerNorm norm;
  Weight fc1, fc2;
};

struct Vision {
  VisionConfig config;
  std::shared_ptr<Tower> image, video;      // null: such media are refused; one for both, or one each
  std::deque<Weight> projector;
  std::deque<Merger> mergers;               // of the last states, then of each tap
  Tower* tower(bool is_image) { return (is_image ? image : video).get(); }
  bool projects() const { return (!projector.empty() && projector[0].trainable()) || (!mergers.empty() && mergers[0].fc1.trainable()); }   // while trained
  // Features of a frame stack after selection: the rows that stay, or the groups that pooling joins.
  const RowIndex& selection(Backend& be, bool is_image, const Grid& grid);

 private:
  std::optional<Arena> memory_;             // of the selections
  std::map<std::pair<bool, Grid>, RowIndex> selections_;
};

// Rows of a tower's hidden states (t n, C) that go on to the projector, in the order of its rows; where patches are pooled,
// the stride x stride of one row stand one behind another.
std::vector<int32_t> selected_rows(const VisionConfig& config, bool is_image, const Grid& grid);

// Where towers of grids compute: the rows of their windows one behind another, frame by frame; square by square without windows.
struct PatchPlace { int64_t frame, y, x; };
struct PatchOrder {
  std::vector<PatchPlace> places;           // (t h w)
  std::vector<int64_t> given;               // (t h w): which row of the pixels it is
  std::vector<int64_t> window_ends;         // behind the last row of each window
};
PatchOrder patch_order(const TowerConfig& tower, const Grid& grid);

// What a tower's pass gives beside its result.
struct TowerTaps {
  std::vector<Tensor> squares;              // (t h w / merge^2, merge^2 C) of the layers that are tapped
  std::vector<std::vector<float>>* hidden = nullptr;   // if given, gets the states before the first layer and behind each, as float32
};
// Hidden states (t n, C) of the last layer computed. pixels on the host, f32: (t, 3, h, w), or of grids rows of patches.
Tensor tower_forward(Ctx& c, Tower& tower, const float* pixels, const Grid& grid, DType dtype, bool checkpointing, TowerTaps* taps = nullptr);
// Class tokens dropped or kept, patches pooled: what goes into the projector, (rows, C).
Tensor select_features(Ctx& c, Vision& v, bool is_image, Tensor hidden, const Grid& grid);
}  // namespace isr
