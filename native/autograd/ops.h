// Recorded ops: each calls a forward kernel and records one closure that calls the backward kernel.
// Shapes as in kernels/backend.h; a result needs a gradient if an input does or a trainable parameter was used.
#pragma once
#include <atomic>
#include <functional>
#include <span>

#include "autograd/param.h"
#include "autograd/tape.h"

namespace isr {

struct Ctx {
  Backend& be;
  Tape& tape;
  const std::atomic<bool>* cancel = nullptr;
  std::function<void(Group&)> ready;     // called in backward when a group has its last gradient (distributed training)
  bool inside_checkpoint = false;

  void check_cancel() const {
    if (cancel && cancel->load(std::memory_order_relaxed)) throw Cancelled();
  }
};

Tensor embedding(Ctx& c, Param& table, std::span<const int32_t> ids, int64_t width, DType dtype);   // (T, C) rows of a table of `width` columns; id -1: zeros; ids must outlive the tape
// Token rows and media rows: an id in [first_id, first_id + rows.rows) of some clip is that row of its features.
struct MediaRows { int32_t first_id; Tensor rows; };   // rows (n, C)
Tensor embedding(Ctx& c, Param& table, std::span<const int32_t> ids, std::span<const MediaRows> media, DType dtype);   // (T, C)
Tensor rms_norm(Ctx& c, Tensor x, Param& w, float eps);                                      // (T, C)
Tensor layer_norm(Ctx& c, Tensor x, Param& w, Param& b, float eps);                          // (T, C)
Tensor linear(Ctx& c, Tensor x, Weight& w, Act act = Act::None, Tensor residual = {});       // (T, N); residual (T, N) is added last
Tensor swiglu(Ctx& c, Tensor x, Weight& gate_up);                                            // (T, F)
// Projections of one product, rotated: (T, (H + 2K) D) = [q | k | v]. rope null: not rotated.
Tensor qkv(Ctx& c, Tensor x, Weight& w, const AttentionShape& s, const float* rope);
Tensor attention(Ctx& c, Tensor qkv, const AttentionPlan& plan, const AttentionShape& s);    // (T, H D)
Tensor gather_rows(Ctx& c, Tensor x, std::span<const int32_t> index);                        // index injective but for -1, a row of zeros; must outlive the tape
Tensor add(Ctx& c, Tensor a, Tensor b);
Tensor mean_rows(Ctx& c, Tensor x, std::span<const int32_t> index, int64_t n);              // (index.size() / n, C): means of n rows; index injective but for -1, which counts as zeros; must outlive the tape

// Log-probs of targets under the head. Two phases: the forward returns them to the host; when the loss has answered, its
// gradient is put in `dlogp` (R) before backward().
struct TokenLogp {
  Tensor logp, lse;              // (R, 1) f32
  float* dlogp = nullptr;        // (R); null when nothing is recorded
};
TokenLogp token_logp(Ctx& c, Tensor x, Weight& head, std::span<const int32_t> targets);      // targets must outlive the tape

// Runs block(x) without keeping what is inside it; backward runs it again. Not to be nested.
Tensor checkpoint(Ctx& c, Tensor x, const std::function<Tensor(Ctx&, Tensor)>& block);

// Recorded before a group's first use: in backward it runs after the group's last gradient.
void group_begin(Ctx& c, Group* group);

}  // namespace isr
