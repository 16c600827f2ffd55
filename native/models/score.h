// Inference without generation: outputs of one sequence, and log-probs of scored tokens of many, packed with shared prefixes.
#pragma once
#include <atomic>
#include <vector>

#include "models/decoder.h"

namespace isr {

struct ForwardRequest {
  std::vector<int32_t> ids;
  int64_t begin = 0, end = 0;          // rows, resolved: 0 <= begin <= end <= ids.size()
  bool logits = false, hidden = false;
};
struct ForwardResult {
  std::vector<float> logits, hidden;   // (end - begin, V), (end - begin, C): after the final norm
  std::vector<int32_t> positions;      // (P, S)
};
ForwardResult forward(Model& m, const ForwardRequest& request, const std::atomic<bool>* cancel);

// One array a sequence: log-prob (nats) of each row that has a target, in order. `computed` += packed tokens, if given.
std::vector<std::vector<float>> sequence_log_probs(Model& m, const std::vector<SequenceInput>& sequences, bool share, int64_t micro_batch_tokens,
                                                   const std::atomic<bool>* cancel, uint64_t* computed = nullptr);

// INVALID_ARGUMENT for ids that are neither in [0, V) nor of a medium, CONTEXT_OVERFLOW for more than the context's tokens.
void check_ids(const Model& m, const std::vector<int32_t>& ids, const char* what);

}  // namespace isr
