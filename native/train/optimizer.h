// Masters, moments and gradients of the trained parameters in flat groups, and the AdamW step that writes values and
// matrices. One rank: a group's shard is the whole group.
#pragma once
#include <deque>
#include <span>
#include <vector>

#include "models/model.h"

namespace isr {

struct OptimizerOptions { double beta1, beta2, eps, weight_decay; bool decay_norms; };

class Optimizer {
 public:
  Optimizer(Model& model, std::vector<Model::Part> parts);   // takes their parameters, or fails and takes none
  ~Optimizer();                               // trained values stay in the model
  Optimizer(const Optimizer&) = delete;

  void zero() noexcept;                       // forget this step's gradients
  double grad_norm();                         // L2 over all that were written, float64
  // One step; parameters without a gradient are left alone. Not cancelled: all or nothing.
  void step(double learning_rate, double grad_scale, const OptimizerOptions& o);
  bool written(const Param& p) const;
  const float* grad(const Param& p) const { return p.group->grad.data<float>() + p.offset; }

  struct State { Param* param; int64_t steps; };   // steps: updates that this parameter has had
  std::vector<State> states;
  // A saved state on its way in: arrays are filled while the trainer keeps its own, and commit() puts all of them in place.
  class Staging {
   public:
    explicit Staging(Optimizer& optimizer);   // forgets this step's gradients
    float* place(const Param& p, Buffer Group::*array);          // where its master, m or v goes
    void commit(std::span<const int64_t> updates);               // updates: of each of `states`; cannot fail

   private:
    Optimizer& o_;
    std::deque<Buffer> m_, v_;                // by group
    std::vector<AdamWItem> items_;
  };

 private:
  struct Place { Param* param; Group* group; size_t offset; void* value; };
  void place(std::vector<Param*> params, std::vector<Place>& places);
  void fill(Place& to);
  void take_over(const std::vector<Place>& places) noexcept;
  AdamWItem item_of(const State& s) const;    // without the step's own numbers

  void keep_rows_behind();                    // dX of frozen parts that a gradient flows through reads row-major values
  void weights_changed();

  Model& m_;
  const std::vector<Model::Part> parts_;
  std::deque<Group> groups_;
  std::deque<Buffer> values_;                 // row-major bfloat16 values of matrices, while training
  std::vector<void*> old_values_;             // what Param::value was before, by state
};

}  // namespace isr
