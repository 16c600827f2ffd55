#include "models/score.h"

#include <algorithm>

namespace isr {
namespace {

constexpr int64_t kLogitRows = 256;   // logits of so many rows at once: 128 MB at V = 128k

}  // namespace

void check_ids(const Model& m, const std::vector<int32_t>& ids, const char* what) {
  const DecoderConfig& config = m.config;
  if (ids.empty()) fail("INVALID_ARGUMENT", what, ": expected at least one token id, got none");
  for (size_t i = 0; i < ids.size(); ++i)
    if (ids[i] < 0 || (ids[i] >= config.vocab && !m.media.holds(ids[i])))
      fail("INVALID_ARGUMENT", what, ": ids[", i, "]: expected a token id from 0 to ", config.vocab - 1, ", got ", ids[i]);
  if (static_cast<int64_t>(ids.size()) > config.context)
    throw Error("CONTEXT_OVERFLOW", concat(what, ": ", ids.size(), " tokens, the model's context is ", config.context), "shorten the sequence");
}

ForwardResult forward(Model& m, const ForwardRequest& request, const std::atomic<bool>* cancel) {
  check_ids(m, request.ids, "forward");
  const int64_t count = request.end - request.begin;
  ISR_ASSERT(request.begin >= 0 && count >= 0 && request.end <= static_cast<int64_t>(request.ids.size()), "rows are resolved before");
  const SequenceInput sequence{request.ids, std::vector<int32_t>(request.ids.size(), -1), {}};
  const Batch batch = make_batch({&sequence, 1}, false, m.positioner());
  ForwardResult out;
  for (const std::vector<int32_t>& axis : batch.positions) out.positions.insert(out.positions.end(), axis.begin(), axis.end());
  if (!request.logits && !request.hidden) return out;
  ArenaScope scope(m.arena());
  Tape tape(m.arena(), false);
  Ctx c{*m.backend, tape, cancel, {}};
  const ResidentBatch there = make_resident(c, m, batch, m.media.rows_of(c, m, batch.ids, false));
  const Tensor hidden = hidden_states(c, m, there, false).row_range(request.begin, count);
  if (request.hidden) {
    out.hidden.resize(static_cast<size_t>(count * hidden.cols));
    download_f32(c.be, m.arena(), out.hidden.data(), hidden);
  }
  if (request.logits) {
    out.logits.resize(static_cast<size_t>(count * m.config.vocab));
    for (int64_t row = 0; row < count; row += kLogitRows) {
      c.check_cancel();
      ArenaScope piece(m.arena());
      const Tensor some = logits(c, m, hidden.row_range(row, std::min(kLogitRows, count - row)));
      download_f32(c.be, m.arena(), out.logits.data() + row * m.config.vocab, some);
    }
  }
  return out;
}

std::vector<std::vector<float>> sequence_log_probs(Model& m, const std::vector<SequenceInput>& sequences, bool share, int64_t micro_batch_tokens,
                                                   const std::atomic<bool>* cancel, uint64_t* computed) {
  for (const SequenceInput& s : sequences) check_ids(m, s.ids, "logProbs");
  std::vector<std::vector<float>> out(sequences.size());
  for (const auto& [begin, end] : micro_batches(sequences, 1, share, micro_batch_tokens)) {
    const Batch batch = make_batch(std::span(sequences).subspan(begin, end - begin), share, m.positioner());
    if (computed) *computed += static_cast<uint64_t>(batch.tokens());
    if (batch.scored.empty()) continue;
    ArenaScope scope(m.arena());
    Tape tape(m.arena(), false);
    Ctx c{*m.backend, tape, cancel, {}};
    const ResidentBatch there = make_resident(c, m, batch, m.media.rows_of(c, m, batch.ids, false));
    const Tensor hidden = hidden_states(c, m, there, false);
    const TokenLogp head = token_logp(c, gather_rows(c, hidden, there.scored), m.head, there.targets);
    std::vector<float> logp(batch.scored.size());
    download_f32(c.be, m.arena(), logp.data(), head.logp);
    for (size_t i = 0; i < logp.size(); ++i) out[begin + static_cast<size_t>(batch.scored[i].sequence)].push_back(logp[i]);
  }
  return out;
}

}  // namespace isr
