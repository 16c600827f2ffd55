// Decoders. A family's forward (Forward::decoder, models/family.h) is written once; here is what it runs in: in training a
// packed batch under a tape, in generation rows that are appended to a KV cache.
#pragma once
#include <span>

#include "models/batch.h"
#include "models/model.h"

namespace isr {

AttentionShape attention_shape(const DecoderConfig& config);

// One pass through a decoder's blocks. What it points to lives until the tape has run backwards.
struct Pass {
  AttentionShape shape;
  const float* rope = nullptr;                // (T, D/2, 2), for qkv()
  const Prepared* plan = nullptr;             // of the batch; cached: of the rows and their pages
  const KvStore* kv = nullptr;                // null: keys and values are rows of the batch
  bool checkpointing = false;                 // keep blocks' inputs only
  std::span<const MediaRun> media = {};       // of the rows, for families whose features go into several layers

  // (T, (H + 2K) D) = [q | k | v] to (T, H D). Cached: keys and values are appended to the layer's pages first.
  Tensor attend(Ctx& c, Tensor qkv, int64_t layer) const;
  // f(c, x), of the same shape as x: the block that reads `group`'s parameters. f may run again, and after this returned.
  template <class F>
  Tensor block(Ctx& c, Group* group, Tensor x, F&& f) const {
    group_begin(c, group);
    if (c.tape.recording()) return checkpointing ? checkpoint(c, x, f) : f(c, x);
    ArenaScope inside(c.tape.arena());        // nothing inside a block is kept: its result replaces x
    c.be.add(x, false, f(c, x));
    return x;
  }
};

// A batch where kernels and closures can read it: in the tape's arena, so it ends with the tape's scope.
struct ResidentBatch {
  Ints ids;                                   // (T) -1: a media row
  std::vector<MediaRun> media;
  const float* rope = nullptr;                // (T, D/2, 2)
  std::unique_ptr<Prepared> plan;             // of Batch::plan, which outlives it
  RowIndex scored;                            // hidden rows that predict a scored token
  Ints targets;
};
// `media`: features of every medium whose ids stand in the batch (MediaStore::rows_of).
ResidentBatch make_resident(Ctx& c, Model& m, const Batch& batch, std::span<const MediaRows> media);

// Hidden states after the final norm, (T, C). `checkpointing`: keep block inputs only.
Tensor hidden_states(Ctx& c, Model& m, const ResidentBatch& batch, bool checkpointing);

// Cached: rows (T) of several sequences are appended to their pages, then attended. Not recorded.
struct CachedBatch {
  std::vector<int32_t> ids;                   // (T)
  PositionRows positions = PositionRows(1);   // (P, T)
  CachedPlan plan;
  bool decodes() const { return plan.sequences.size() == ids.size(); }   // one new token of each sequence
};
Tensor hidden_states(Ctx& c, Model& m, const CachedBatch& batch, std::span<const MediaRows> media, const KvStore& kv);

// Logits (R, V) f32 of hidden rows (R, C).
Tensor logits(Ctx& c, Model& m, Tensor hidden);

}  // namespace isr
