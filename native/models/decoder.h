// The decoder: one forward for Llama- and Qwen2-type models, in training (a packed batch under a tape) and in generation
// (rows appended to a KV cache).
#pragma once
#include <span>

#include "models/batch.h"
#include "models/model.h"

namespace isr {

AttentionShape attention_shape(const DecoderConfig& config);

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

// Token rows and media rows, (T, C): the decoder's input. Not recorded.
Tensor embed_tokens(Ctx& c, Model& m, std::span<const int32_t> ids, std::span<const MediaRows> media);

// Hidden states after the final norm, (T, C). `checkpointing`: keep block inputs only.
Tensor decoder_forward(Ctx& c, Model& m, const ResidentBatch& batch, bool checkpointing);

// Cached: rows (T) of several sequences are appended to their pages, then attended. Not recorded.
struct CachedBatch {
  std::vector<int32_t> ids;                   // (T)
  PositionRows positions = PositionRows(1);   // (P, T)
  CachedPlan plan;
};
Tensor decoder_cached(Ctx& c, Model& m, const CachedBatch& batch, std::span<const MediaRows> media, const KvStore& kv);

// Logits (R, V) f32 of hidden rows (R, C).
Tensor logits(Ctx& c, Model& m, Tensor hidden);

}  // namespace isr
