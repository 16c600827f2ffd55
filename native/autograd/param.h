// Parameters as the checkpoint names them, the matrices that products read, and the flat groups that training updates. All
// values are resident. Ops never touch `value` or gradients directly: they ask a Weight for its matrix and a sink for the
// gradient's place.
#pragma once
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "kernels/backend.h"

namespace isr {

struct Group;
struct LowRank;
struct Weight;

// One tensor of the checkpoint. Matrices are (out, in) row-major in the model's type; vectors (norm weights, biases) are
// kept as float32 values that the model's type can represent, so that kernels read one kind.
struct Param {
  std::string name;
  std::vector<int64_t> shape;
  DType dtype = DType::F32;       // type of the model; a vector's values are rounded to it
  void* value = nullptr;          // row-major; null while only a Weight's matrix holds it
  uint32_t version = 0;           // += 1 on every write
  Group* group = nullptr;         // null: frozen
  size_t offset = 0;              // into the group's flat arrays
  bool embedding = false;         // looked up by row: keeps its row-major value beside any panels
  Weight* weight = nullptr;       // whose matrix holds it, rows [weight_row, weight_row + rows())
  int64_t weight_row = 0;

  bool vector() const { return shape.size() == 1; }
  int64_t rows() const { return vector() ? 1 : shape[0]; }
  int64_t cols() const {   // all dimensions but the first as one
    int64_t n = vector() ? shape[0] : 1;
    for (size_t i = 1; i < shape.size(); ++i) n *= shape[i];
    return n;
  }
  int64_t size() const { return rows() * cols(); }
  DType stored() const { return vector() ? DType::F32 : dtype; }   // type of `value`
  Tensor tensor() const { return view(value, stored(), rows(), cols()); }
  float* f32() const { return static_cast<float*>(value); }
  Flat flat() const { return {f32(), size()}; }   // of a vector
  inline bool in_matrix() const;        // `value` is the matrix's own rows
  inline const float* master() const;   // null: not trained here, or by shards
};

// A matrix as products read it: one parameter, or several stacked along the output (q, k, v; gate, up).
struct Weight {
  std::vector<Param*> parts;
  std::vector<Param*> bias;       // empty, or one a part; their values lie one behind another in `bias_value`
  MatrixShape shape;
  std::unique_ptr<Matrix> matrix;
  Buffer bias_value;              // (N) f32, when there is one
  LowRank* low_rank = nullptr;    // what an adapter adds to the product; null: nothing

  int64_t n() const { return shape.n; }
  int64_t k() const { return shape.k; }
  const float* bias_data() const { return bias.empty() ? nullptr : bias_value.data<float>(); }
  bool trains_itself() const {
    for (const Param* p : parts)
      if (p->group) return true;
    for (const Param* p : bias)
      if (p->group) return true;
    return false;
  }
  inline bool trainable() const;   // or what is added to it
  std::vector<Tensor> rows() const {   // row-major parts; without data where the matrix alone holds them
    std::vector<Tensor> all;
    for (const Param* p : parts) all.push_back(p->tensor());
    return all;
  }
};

// A low-rank addition to the parts of a matrix (LoRA, Hu et al. 2021): y = x W^T + scale (x A^T) B^T, part by part.
struct LowRank {
  struct Piece {
    Weight b;                     // (outputs of the part, its rank)
    int64_t output = 0;           // the part's first column of y
    int64_t rank = 0;             // its first column of x A^T
    float scale = 1;
  };
  Weight a;                       // (ranks of all pieces, K): their A, one behind another
  std::deque<Piece> pieces;
  bool whole = false;             // every column of y belongs to a piece

  bool trainable() const { return a.trainable(); }
};

inline bool Weight::trainable() const { return trains_itself() || (low_rank && low_rank->trainable()); }

// Values that come from other ranks (train/values.h): whoever reads them waits first. RANK_LOST.
class Arrivals {
 public:
  virtual ~Arrivals() = default;
  virtual void need(const Group& group) = 0;   // what the device does from now on may read this group's values
  virtual void need_all() = 0;                 // all values, and the host may download what comes of them
};

// Memory for gradients of groups that have none of their own (train/reduction.h).
class GradientLender {
 public:
  virtual ~GradientLender() = default;
  virtual void lend(Group& group) = 0;   // its `grad`, of any contents
};

// Parameters that are updated together: one a block, and embeddings + head + final norm. Flat float32 arrays; of masters and
// moments a rank among several keeps its shard, or all.
struct Group {
  std::vector<Param*> params;
  std::vector<bool> written;      // gradient of params[i] has had its first write in this step
  int64_t size = 0;               // elements, each parameter padded to 64
  int64_t begin = 0, end = 0;     // the shard: whole rows of parameters
  bool sharded = false;           // false: the shard is all of [0, size)
  Arrivals* arrivals = nullptr;   // of its values; null: they are always there
  Buffer grad;                    // (size) f32; with a lender it is there from the first gradient of a micro-batch until all ranks have it
  GradientLender* lender = nullptr;   // null: `grad` is always there
  Buffer sum;                     // (end - begin) f32: the shard's gradient over micro-batches, where there is a lender
  Buffer master, m, v;            // (end - begin) f32
};

inline bool Param::in_matrix() const {
  const Tensor rows = weight && weight->matrix ? weight->matrix->in_place() : Tensor{};
  return rows && value == rows.at(weight_row);
}

inline const float* Param::master() const { return group && !group->sharded ? group->master.data<float>() + offset : nullptr; }

}  // namespace isr
