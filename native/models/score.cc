#include "models/score.h"

#include <algorithm>

namespace isr {
namespace {

constexpr int64_t kLogitRows = 256;   // logits of so many rows at once: 128 MB at V = 128k

void copy_f32(Backend& be, Tensor rows, float* dst) { be.add(view(dst, rows.rows, rows.cols), false, rows); }

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
  const Batch batch = make_batch({&sequence, 1}, false);
  ForwardResult out;
  out.positions = batch.positions;
  if (!request.logits && !request.hidden) return out;
  ArenaScope scope(m.arena);
  Tape tape(m.arena, false);
  Ctx c{*m.backend, tape, cancel, {}};
  const Tensor hidden = decoder_forward(c, m, batch, m.media.rows_of(c, m, batch.ids, false), false).row_range(request.begin, count);
  if (request.hidden) {
    out.hidden.resize(static_cast<size_t>(count * hidden.cols));
    if (count) copy_f32(*m.backend, hidden, out.hidden.data());
  }
  if (request.logits) {
    out.logits.resize(static_cast<size_t>(count * m.config.vocab));
    for (int64_t row = 0; row < count; row += kLogitRows) {
      c.check_cancel();
      const int64_t rows = std::min(kLogitRows, count - row);
      m.backend->gemm_nt(view(out.logits.data() + row * m.config.vocab, rows, m.config.vocab), hidden.row_range(row, rows), m.head.packed, {});
    }
  }
  return out;
}

std::vector<std::vector<float>> sequence_log_probs(Model& m, const std::vector<SequenceInput>& sequences, bool share, int64_t micro_batch_tokens,
                                                   const std::atomic<bool>* cancel, uint64_t* computed) {
  for (const SequenceInput& s : sequences) check_ids(m, s.ids, "logProbs");
  std::vector<std::vector<float>> out(sequences.size());
  for (const auto& [begin, end] : micro_batches(sequences, 1, share, micro_batch_tokens)) {
    const Batch batch = make_batch(std::span(sequences).subspan(begin, end - begin), share);
    if (computed) *computed += static_cast<uint64_t>(batch.tokens());
    if (batch.scored.empty()) continue;
    ArenaScope scope(m.arena);
    Tape tape(m.arena, false);
    Ctx c{*m.backend, tape, cancel, {}};
    const Tensor hidden = decoder_forward(c, m, batch, m.media.rows_of(c, m, batch.ids, false), false);
    const TokenLogp logp = token_logp(c, gather_rows(c, hidden, batch.scored_index), m.head, batch.scored_target);
    for (size_t i = 0; i < batch.scored.size(); ++i) out[begin + static_cast<size_t>(batch.scored[i].sequence)].push_back(logp.logp.f32()[i]);
  }
  return out;
}

}  // namespace isr
