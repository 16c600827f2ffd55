// Sequences packed into one batch: shared prefixes are found (longest common prefix of ids, never past the last row whose
// target differs) and stand once; every sequence is a path of spans. decisions 4: a row that predicts a scored token is
// never shared, so each branch owns its copy of the last prompt token.
#pragma once
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "kernels/attention_plan.h"
#include "models/positions.h"

namespace isr {

struct SequenceInput {
  std::vector<int32_t> ids;        // (S) expanded
  std::vector<int32_t> targets;    // (S): row t predicts targets[t]; -1 = none
  std::vector<float> weights;      // (S) or empty = 1 (supervised loss only)
};

// targets from a mask over ids: row t - 1 predicts ids[t] where scored[t].
std::vector<int32_t> targets_of(std::span<const int32_t> ids, std::span<const uint8_t> scored);

struct ScoredRow { int32_t row, target, sequence; float weight; };

struct Batch {
  std::vector<int32_t> ids;                        // (T)
  PositionRows positions;                          // (P, T)
  AttentionPlan plan;
  std::vector<ScoredRow> scored;                   // by sequence, then by position in it
  std::vector<int32_t> scored_index, scored_target;   // the columns of `scored` that ops read
  std::vector<std::vector<int32_t>> rows;          // rows[s][t]: batch row of token t of sequence s
  int64_t tokens() const { return static_cast<int64_t>(ids.size()); }
};

// share: find common prefixes; false: every sequence is a root of its own. `position`: the model's rule (Model::positioner).
Batch make_batch(std::span<const SequenceInput> sequences, bool share, const Positioner& position);

// Tokens that make_batch would compute, without building it.
int64_t packed_tokens(std::span<const SequenceInput> sequences, bool share);

// Consecutive ranges [begin, end) of sequences whose packed tokens stay within `budget` (one item may exceed it alone).
// An item is `per_item` sequences that stay together: 2 for a preference pair.
std::vector<std::pair<size_t, size_t>> micro_batches(std::span<const SequenceInput> sequences, size_t per_item, bool share, int64_t budget);

}  // namespace isr
