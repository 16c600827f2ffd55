// Recorded ops: each calls a forward kernel and records one closure that calls the backward kernel.
// Shapes as in kernels/backend.h; a result needs a gradient if an input does or a trainable parameter was used.
#pragma once
#include <array>
#include <atomic>
#include <functional>
#include <span>

#include "autograd/param.h"
#include "core/progress.h"
#include "autograd/tape.h"

namespace isr {

struct Ctx {
  Backend& be;
  Tape& tape;
  const std::atomic<bool>* cancel = nullptr;
  std::function<void(Group&)> ready;     // called in backward when a group has its last gradient (distributed training)
  bool inside_checkpoint = false;

  void check_cancel() const {
    sign_of_progress();
    if (cancel && cancel->load(std::memory_order_relaxed)) throw Cancelled();
  }
};

// Indices that an op reads, forward and backward. Resident, and made once for each batch: ops keep no memory of their own.
struct RowIndex {
  Ints rows;                       // of the input, in the order of the result; -1: a row of zeros
  Ints owner;                      // of each input row: the result row that reads it, -1: none. Empty where there is no backward
  int64_t per_row = 1;             // input rows for each result row
};
// In the arena. BUG: an index outside [0, input_rows), or one twice where `backward` comes: its gradient would be lost.
RowIndex row_index(Backend& be, Arena& arena, std::span<const int32_t> rows, int64_t input_rows, int64_t per_row = 1, bool backward = true);
Ints resident(Backend& be, Arena& arena, std::span<const int32_t> values);
// (rows, cols) as float32 to the host; waits.
void download_f32(Backend& be, Arena& arena, float* host, Tensor rows);

Tensor embedding(Ctx& c, Param& table, Ints ids, int64_t width, DType dtype);   // (T, C) rows of a table of `width` columns; id -1: zeros
// Token rows (id -1: none) and media rows: batch rows [row, row + count) are rows [from, from + count) of some features.
struct MediaRun { int32_t row, count; Tensor features; int32_t from; };   // features (n, C or more): the first C columns
Tensor embedding(Ctx& c, Param& table, Ints ids, std::span<const MediaRun> media, DType dtype);   // (T, C)
// x with features added to it: rows [row, row + count) get columns [column, column + C) of rows [from, from + count). In place where nothing is recorded.
Tensor add_media(Ctx& c, Tensor x, std::span<const MediaRun> media, int64_t column);         // (T, C)
Tensor rms_norm(Ctx& c, Tensor x, Param& w, float eps);                                      // (T, C); a norm of fewer columns: each C / w of them
Tensor layer_norm(Ctx& c, Tensor x, Param& w, Param& b, float eps);                          // (T, C); the same
Tensor linear(Ctx& c, Tensor x, Weight& w, Act act = Act::None, Tensor residual = {});       // (T, N); residual (T, N) is added last
Tensor swiglu(Ctx& c, Tensor x, Weight& gate_up);                                            // (T, F)
// Projections of one product, rotated: (T, (H + 2K) D) = [q | k | v]. rope null: not rotated. `norms`: RMSNorms of each head of q and
// of k before that (Qwen3), weights (D); null: none.
struct HeadNorms { Param *q = nullptr, *k = nullptr; float eps = 0; };
Tensor qkv(Ctx& c, Tensor x, Weight& w, const AttentionShape& s, const float* rope, const HeadNorms& norms = {});
Tensor attention(Ctx& c, Tensor qkv, const Prepared& plan, const AttentionShape& s);    // (T, H D)
Tensor gather_rows(Ctx& c, Tensor x, const RowIndex& index);                                 // (index.rows.n, C)
Tensor join_rows(Ctx& c, Tensor x, const RowIndex& index, int64_t n);                        // (index.rows.n / n, n C): n rows side by side
Tensor beside(Ctx& c, std::span<const Tensor> parts);                                        // (T, sum of C): their columns, one behind another
Tensor columns(Ctx& c, Tensor x, int64_t begin, int64_t count);                              // (T, count)
// Rows of a table that is resampled: each is a sum of four of the table's, weighted. An op that is recorded reads it in backward.
struct RowMix {
  std::vector<std::array<int32_t, 4>> rows;
  std::vector<std::array<float, 4>> weights;
};
Tensor mix(Ctx& c, Param& table, const RowMix& rows, int64_t times, DType dtype);            // (times n, C), `times` over
Tensor add(Ctx& c, Tensor a, Tensor b);
Tensor mean_rows(Ctx& c, Tensor x, const RowIndex& index);                                   // (index.rows.n / per_row, C): means of per_row rows; -1 counts as zeros

// Log-probs of targets under the head. Two phases: the host downloads them; when the loss has answered, its gradient is
// uploaded to `dlogp` (R) before backward().
struct TokenLogp {
  Tensor logp, lse;              // (R, 1) f32
  float* dlogp = nullptr;        // (R); null when nothing is recorded
};
TokenLogp token_logp(Ctx& c, Tensor x, Weight& head, Ints targets);

// Runs block(x) without keeping what is inside it; backward runs it again. Not to be nested.
Tensor checkpoint(Ctx& c, Tensor x, const std::function<Tensor(Ctx&, Tensor)>& block);

// Before a group's first use, which waits for its values. In backward Ctx::ready runs there, after the group's last gradient.
void group_begin(Ctx& c, Group* group);

}  // namespace isr
