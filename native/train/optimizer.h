// Masters, moments and gradients of the trained parameters in flat groups, and the AdamW step that writes values and
// matrices. Several ranks add their gradients in the ranks' order; each keeps masters and moments of its shard and sends the
// values that it has updated (ZeRO stage 1: Rajbhandari et al. 2020), or keeps all of them. Both give the same bits. Values go
// on their way at the end of a step, and the model waits for them where it reads them (Network::arrivals).
#pragma once
#include <array>
#include <deque>
#include <functional>
#include <span>
#include <vector>

#include "dist/comm.h"
#include "models/model.h"
#include "train/reduction.h"
#include "train/shards.h"
#include "train/values.h"

namespace isr {

struct OptimizerOptions { double beta1, beta2, eps, weight_decay; bool decay_norms; };

class Optimizer {
 public:
  // Takes the parameters of `parts`, or fails and takes none. Where ranks are several, `masters` has masters and moments by shards, and
  // `gradients` those of the decoder's blocks, too.
  struct Sharing { bool masters = true, gradients = false; };
  Optimizer(Model& model, std::vector<Model::Part> parts, Comm& comm, Sharing sharing);
  ~Optimizer();                               // trained values stay in the model
  Optimizer(const Optimizer&) = delete;

  void zero();                                // forget this step's gradients
  // Between several ranks: gradients become their sums in here. What a rank has not written counts as zeros.
  Reduction reduction;
  void end_reduction();                       // behind reduction.finish(), by all ranks: which parameters were written by any
  uint64_t gradient_bytes() const;
  void each_gradient(const std::function<void(const Param&, const float*)>& take);   // by all ranks: whole ones, resident, of what was written
  double grad_norm();                         // L2 over all that were written, float64, the same on every rank
  // One step; parameters without a gradient are left alone. Not cancelled: all or nothing.
  void step(double learning_rate, double grad_scale, const OptimizerOptions& o);
  // All ranks call; rank 0 does `work`, in which the model has every master, the others send it theirs until it ends.
  void with_masters(const std::function<void()>& work);
  bool written(const Param& p) const;

  struct State { Param* param; int64_t steps; };   // steps: updates that this parameter has had
  std::vector<State> states;
  // A saved state on its way in: arrays are filled while the trainer keeps its own, and commit() puts all of them in place.
  class Staging {
   public:
    explicit Staging(Optimizer& optimizer);   // forgets this step's gradients
    float* place(const Param& p, Buffer Group::*array);          // where the shard's rows of its master, m or v go
    // updates: of each of `states`. Cannot fail, but where a rank is lost.
    void commit(std::span<const int64_t> updates);

   private:
    Optimizer& o_;
    std::deque<Buffer> master_, m_, v_;       // by group; masters go where gradients are, unless they are sharded
    std::vector<AdamWItem> items_;
  };
  Rows shard_rows(const Param& p) const { return rows_within(p, p.group->begin, p.group->end); }

 private:
  struct Place { Param* param; Group* group; void* value; };
  void place(std::vector<Param*> params, bool lent, std::vector<Place>& places);
  void fill(Place& to);
  void take_over(const std::vector<Place>& places) noexcept;
  const float* grad_rows(const Param& p, const Rows& rows) const;   // of this rank's shard
  AdamWItem item_of(const State& s) const;    // the shard's rows, without the step's own numbers
  static bool alias(const Param& p, const Group& g) { return p.dtype == DType::F32 && !p.vector() && !g.sharded; }   // the master is the value

  // ---- several ranks
  std::vector<int64_t> cuts(const Group& g) const { return shard_cuts(g, comm_.size()); }
  void agree_on_written();
  void ask_masters(const Param& p, int64_t begin, int64_t count, float* dst);
  bool answer_masters();                      // one question; false: there are no more
  std::array<int64_t, 3> hear(std::array<int64_t, 3> question);   // rank 0's
  void keep_rows_behind();                    // dX of frozen parts that a gradient flows through reads row-major values
  void weights_changed();

  Model& m_;
  const std::vector<Model::Part> parts_;
  Comm& comm_;
  const bool sharded_, lends_;                // lends_: blocks' gradients are shared out
  std::deque<Group> groups_;
  std::vector<Group*> forward_;               // in the order of the forward pass
  SharedValues shared_;
  std::deque<Buffer> values_;                 // row-major bfloat16 values of matrices, while training
  std::vector<void*> old_values_;             // what Param::value was before, by state
};

}  // namespace isr
