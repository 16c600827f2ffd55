#include "models/decoder.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <optional>

namespace isr {
namespace {

// llama3: Llama 3.1's scaling by wavelength.
double scaled_llama3(double w, const RopeConfig& r) {
  const double turns = static_cast<double>(r.original_context) * w / (2 * std::numbers::pi);   // of this pair over the original context
  const double smooth = (turns - r.low_freq_factor) / (r.high_freq_factor - r.low_freq_factor);
  if (turns < r.low_freq_factor) return w / r.factor;
  return turns <= r.high_freq_factor ? w * ((1 - smooth) / r.factor + smooth) : w;
}

// yarn: pairs that turn often keep their frequency, slow ones are divided by the factor, and between the two pairs that turn
// beta_fast and beta_slow times over the original context the rule changes linearly (arXiv 2309.00071, as in transformers).
struct YarnRamp {
  YarnRamp(const RopeConfig& r, int64_t head_size) {
    const auto pair_of = [&](double turns) {
      return static_cast<double>(head_size) * std::log(static_cast<double>(r.original_context) / (turns * 2 * std::numbers::pi)) / (2 * std::log(r.theta));
    };
    low = pair_of(r.beta_fast);
    high = pair_of(r.beta_slow);
    if (r.truncate) {
      low = std::floor(low);
      high = std::ceil(high);
    }
    low = std::max(low, 0.0);
    high = std::min(high, static_cast<double>(head_size - 1));
    if (low == high) high += 0.001;
  }
  double divided(int64_t pair) const { return std::clamp((static_cast<double>(pair) - low) / (high - low), 0.0, 1.0); }   // share of the slow rule
  double low = 0, high = 0;
};

// Inverse frequencies of the rotary pairs, in float64.
std::vector<double> inverse_frequencies(const DecoderConfig& config) {
  const RopeConfig& r = config.rope;
  const int64_t half = config.head_size / 2;
  std::vector<double> f(static_cast<size_t>(half));
  std::optional<YarnRamp> yarn;
  if (r.type == RopeType::Yarn) yarn.emplace(r, config.head_size);
  for (int64_t i = 0; i < half; ++i) {
    double w = std::pow(r.theta, -2.0 * static_cast<double>(i) / static_cast<double>(config.head_size));
    if (r.type == RopeType::Linear) w /= r.factor;
    if (r.type == RopeType::Llama3) w = scaled_llama3(w, r);
    if (yarn) w = w / r.factor * yarn->divided(i) + w * (1 - yarn->divided(i));
    f[static_cast<size_t>(i)] = w;
  }
  return f;
}

// (T, D/2, 2) cos, sin of `positions`; from the tape's arena.
const float* rope_table(Ctx& c, Model& m, const PositionRows& positions) {
  const RopeConfig& rope = m.config.rope;
  if (m.rope_frequencies.empty()) m.rope_frequencies = inverse_frequencies(m.config);
  float* table = c.tape.arena().allocate_n<float>(static_cast<int64_t>(positions[0].size()) * m.config.head_size);
  std::vector<int32_t> joined;   // of several axes
  for (size_t axis = 0; positions.size() > 1 && axis < positions.size(); ++axis) joined.insert(joined.end(), positions[axis].begin(), positions[axis].end());
  const std::vector<int32_t>& all = positions.size() > 1 ? joined : positions[0];
  c.be.rope_table(table, resident(c.be, c.tape.arena(), all), {m.rope_frequencies, rope.attention_factor, static_cast<int64_t>(positions.size()), rope.axis});
  return table;
}

// Longest runs of consecutive media ids; their places in `text` become -1.
std::vector<MediaRun> media_runs(std::vector<int32_t>& text, int64_t vocab, std::span<const MediaRows> media) {
  std::vector<MediaRun> runs;
  for (size_t t = 0; t < text.size();) {
    const int32_t id = text[t];
    if (id < vocab) {
      ++t;
      continue;
    }
    const auto clip = std::find_if(media.begin(), media.end(), [&](const MediaRows& m) { return id >= m.first_id && id - m.first_id < m.rows.rows; });
    ISR_ASSERT(clip != media.end(), "media id ", id, " of no clip of this batch");
    const int32_t from = id - clip->first_id;
    int32_t count = 0;
    while (t < text.size() && text[t] == id + count && from + count < clip->rows.rows) text[t++] = -1, ++count;
    runs.push_back({static_cast<int32_t>(t) - count, count, clip->rows, from});
  }
  return runs;
}

// The decoder's input as embedding() takes it.
struct TokenRows { Ints ids; std::vector<MediaRun> media; };
TokenRows token_rows(Ctx& c, Model& m, std::span<const int32_t> ids, std::span<const MediaRows> media) {
  std::vector<int32_t> text(ids.begin(), ids.end());
  std::vector<MediaRun> runs = media_runs(text, m.config.vocab, media);
  return {resident(c.be, c.tape.arena(), text), std::move(runs)};
}

// One block: attention and mlp, each on a normalised input and added to the residual stream.
Tensor decoder_block(Ctx& c, Layer& l, Tensor x, float eps, const Pass& pass, int64_t index) {
  c.check_cancel();
  Tensor normed = rms_norm(c, x, *l.attention_norm, eps);
  Tensor attended = pass.attend(c, qkv(c, normed, l.qkv, pass.shape, pass.rope, {l.q_norm, l.k_norm, eps}), index);
  x = linear(c, attended, l.out, Act::None, x);
  Tensor inner = swiglu(c, rms_norm(c, x, *l.mlp_norm, eps), l.gate_up);
  return linear(c, inner, l.down, Act::None, x);
}

}  // namespace

AttentionShape attention_shape(const DecoderConfig& c) {
  return {c.heads, c.kv_heads, c.head_size, static_cast<float>(1 / std::sqrt(static_cast<double>(c.head_size)))};
}

Tensor Pass::attend(Ctx& c, Tensor qkv, int64_t layer) const {
  if (!kv) return attention(c, qkv, *plan, shape);
  ISR_ASSERT(!c.tape.recording(), "cached attention is not differentiated");
  const int64_t q_cols = shape.heads * shape.head_size, kv_cols = shape.kv_heads * shape.head_size;
  c.be.kv_append(*kv, layer, qkv.columns(q_cols, kv_cols), qkv.columns(q_cols + kv_cols, kv_cols), *plan, shape);
  Tensor out = c.tape.alloc(qkv.rows, q_cols, qkv.dtype, false);
  c.be.attention_cached(out, qkv.columns(0, q_cols), *kv, layer, *plan, shape);
  return out;
}

ResidentBatch make_resident(Ctx& c, Model& m, const Batch& batch, std::span<const MediaRows> media) {
  ResidentBatch r;
  r.plan = c.be.prepare(batch.plan);
  r.rope = rope_table(c, m, batch.positions);
  TokenRows rows = token_rows(c, m, batch.ids, media);
  r.ids = rows.ids;
  r.media = std::move(rows.media);
  r.scored = row_index(c.be, c.tape.arena(), batch.scored_index, batch.tokens(), 1, c.tape.recording());
  r.targets = resident(c.be, c.tape.arena(), batch.scored_target);
  return r;
}

Tensor decoder_forward(Ctx& c, Network& n, const DecoderConfig& config, Tensor x, const Pass& pass) {
  const int64_t levels = n.vision ? n.vision->config.levels() : 0;   // deepstack
  int64_t index = 0;
  for (Layer& layer : n.layers) {
    x = pass.block(c, layer.group, x, [&layer, pass, index, eps = config.norm_eps](Ctx& inner, Tensor in) {
      return decoder_block(inner, layer, in, eps, pass, index);
    });
    ++index;
    if (index <= levels) x = add_media(c, x, pass.media, index * x.cols);
  }
  return rms_norm(c, x, *n.final_norm, config.norm_eps);
}

Tensor hidden_states(Ctx& c, Model& m, const ResidentBatch& batch, bool checkpointing) {
  if (!c.tape.recording()) m.settle();
  const Pass pass{attention_shape(m.config), batch.rope, batch.plan.get(), nullptr, checkpointing, batch.media};
  group_begin(c, m.shared_group);
  const Tensor x = embedding(c, *m.token_embedding, batch.ids, batch.media, m.dtype);
  return m.declaration().forward.decoder(c, m, m.config, x, pass);
}

// All that the calls of a step of decoding depend on: memory that is taken inside the step follows `hidden` in the arena.
static std::vector<uint64_t> decoding_key(Ctx& c, const Model& m, Tensor x, Tensor hidden, const Pass& pass) {
  const auto place = [](const void* p) { return static_cast<uint64_t>(reinterpret_cast<uintptr_t>(p)); };
  std::vector<uint64_t> key{place(&m), static_cast<uint64_t>(x.rows), place(x.data), place(hidden.data), place(pass.rope), place(pass.kv->blocks[0]),
                            static_cast<uint64_t>(pass.kv->page_count), c.be.workspace().total(), m.adapter_switches};
  pass.plan->add_to(key);
  return key;
}

Tensor hidden_states(Ctx& c, Model& m, const CachedBatch& batch, std::span<const MediaRows> media, const KvStore& kv) {
  m.settle();
  const float* rope = rope_table(c, m, batch.positions);
  const std::unique_ptr<Prepared> plan = c.be.prepare(batch.plan);
  const TokenRows rows = token_rows(c, m, batch.ids, media);
  const Pass pass{attention_shape(m.config), rope, plan.get(), &kv, false, rows.media};
  const Tensor x = embedding(c, *m.token_embedding, rows.ids, rows.media, m.dtype);
  if (!batch.decodes()) return m.declaration().forward.decoder(c, m, m.config, x, pass);
  const Tensor hidden = c.tape.alloc(x.rows, x.cols, x.dtype, false);
  c.be.repeat(decoding_key(c, m, x, hidden, pass), [&] {
    const ArenaScope inside(c.tape.arena());
    c.be.add(hidden, false, m.declaration().forward.decoder(c, m, m.config, x, pass));
  });
  return hidden;
}

Tensor logits(Ctx& c, Model& m, Tensor hidden) {
  Tensor y = c.tape.alloc(hidden.rows, m.head.n(), DType::F32, false);
  c.be.gemm_nt(y, hidden, *m.head.matrix, {});
  return y;
}

}  // namespace isr
