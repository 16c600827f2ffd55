// The decoder: one forward for Llama- and Qwen2-type models, in training (a packed batch under a tape) and in generation
// (rows appended to a KV cache).
#pragma once
#include <span>

#include "models/batch.h"
#include "models/model.h"

namespace isr {

AttentionShape attention_shape(const DecoderConfig& config);

// (T, D/2, 2) cos, sin of `positions`, computed in float64; from the model's arena.
float* rope_table(Arena& arena, const DecoderConfig& config, std::span<const int32_t> positions);

// Hidden states after the final norm, (T, C). `checkpointing`: keep block inputs only.
// `media`: features of every medium whose ids stand in the batch (MediaStore::rows_of).
Tensor decoder_forward(Ctx& c, Model& m, const Batch& batch, std::span<const MediaRows> media, bool checkpointing);

// Cached: rows (T) of several sequences are appended to their pages, then attended. Not recorded.
struct CachedBatch {
  std::vector<int32_t> ids, positions;        // (T)
  std::vector<KvRow> rows;                    // (T) where each row's key and value go
  CachedPlan plan;
};
Tensor decoder_cached(Ctx& c, Model& m, const CachedBatch& batch, std::span<const MediaRows> media, const KvStore& kv);

// Logits (R, V) f32 of hidden rows (R, C).
Tensor logits(Ctx& c, Model& m, Tensor hidden);

}  // namespace isr
