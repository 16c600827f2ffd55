// Clips and images that prompts refer to. A medium gets a range of ids behind the vocabulary, one per row of its features, so a
// prompt is ids throughout and a shared prefix is a common prefix of ids: same media, same ids. Features are computed when
// first asked for and again when the weights behind them have changed.
#pragma once
#include <map>
#include <utility>

#include "models/positions.h"
#include "models/vision.h"

namespace isr {

class Model;

struct MediaRows { int32_t first_id; Tensor rows; };   // an id in [first_id, first_id + rows.rows) is that row (n, C)

struct Medium {
  int32_t first_id = 0;
  bool image = false;
  Grid grid;                                 // of its patches
  double seconds = 0;                        // per step of the grid along time; 0: unknown
  int64_t rows = 0;                          // of the decoder
  std::vector<float> pixels;                 // (frames, 3, h, w), or rows of patches, on the host; empty where only features were given
  Buffer tower, projected;                   // (rows, columns of its tower), (rows, C of the decoder and of each level) in the model's type, resident
  uint64_t tower_version = 0, projected_version = 0;   // of the weights they were computed with
};

class MediaStore {
 public:
  // pixels (frames, 3, h, w) of the tower's frame size. INVALID_ARGUMENT: the model takes no such media, another size or number of frames.
  const Medium& add_pixels(Model& m, bool image, int64_t frames, std::vector<float> pixels);
  // The same of towers that take any grid: pixels (t h w, values of a patch), square by square.
  const Medium& add_patches(Model& m, bool image, const Grid& grid, double seconds, std::vector<float> pixels);
  enum class Stage { Tower, Projected };
  // Features (rows, tower's columns | C and levels), f32, as `features` gave them. `grid`: of towers that take any; else null.
  const Medium& add_features(Model& m, bool image, Stage stage, int64_t rows, const std::vector<float>& values, const Grid* grid = nullptr, double seconds = 0);
  void release(int32_t first_id);
  const Medium& get(int32_t first_id) const;
  bool holds(int32_t id) const;              // id of some row of some medium

  std::vector<PlacedMedium> placed(std::span<const int32_t> ids, int64_t vocab) const;   // the media of a sequence, in its order
  // (rows, width) f32; computes what is missing. `passes` counts tower passes.
  std::vector<float> features(Model& m, int32_t first_id, Stage stage, const std::atomic<bool>* cancel);
  // Features of the media that occur in `ids`, after the projector. Under a recording tape, parts that are trained are
  // recorded; otherwise all is computed once and kept.
  std::vector<MediaRows> rows_of(Ctx& c, Model& m, std::span<const int32_t> ids, bool checkpointing);

  uint64_t passes = 0;
  uint64_t epoch = 0;                        // += 1 when ids begin again: prefixes cached by id are stale then

 private:
  Medium& insert(Model& m, Medium medium);
  void need_tower(Ctx& c, Model& m, Medium& medium);
  void need_projected(Ctx& c, Model& m, Medium& medium);
  const Medium* find(int32_t id) const;     // whose row has this id; null: nobody's
  Medium* find(int32_t id) { return const_cast<Medium*>(std::as_const(*this).find(id)); }

  std::map<int32_t, Medium> media_;          // by first id
  int64_t next_ = 0;
};

}  // namespace isr
