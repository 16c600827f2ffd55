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

// One block: attention and mlp, each on a normalised input and added to the residual stream.
template <class Attend>
Tensor decoder_block(Ctx& c, Layer& l, Tensor x, float eps, const AttentionShape& s, const float* rope, Attend&& attend) {
  c.check_cancel();
  Tensor normed = rms_norm(c, x, *l.attention_norm, eps);
  Tensor attended = attend(c, qkv(c, normed, l.qkv, s, rope));
  x = linear(c, attended, l.out, Act::None, x);
  Tensor inner = swiglu(c, rms_norm(c, x, *l.mlp_norm, eps), l.gate_up);
  return linear(c, inner, l.down, Act::None, x);
}

// Without a tape nothing inside a block is kept: its result replaces x.
template <class Block>
Tensor run_quietly(Ctx& c, Tensor x, Block&& block) {
  ArenaScope inside(c.tape.arena());
  c.be.add(x, false, block(c, x));
  return x;
}

}  // namespace

AttentionShape attention_shape(const DecoderConfig& c) {
  return {c.heads, c.kv_heads, c.head_size, static_cast<float>(1 / std::sqrt(static_cast<double>(c.head_size)))};
}

float* rope_table(Arena& arena, const DecoderConfig& config, std::span<const int32_t> positions) {
  const std::vector<double> frequencies = inverse_frequencies(config);
  float* table = arena.allocate_n<float>(static_cast<int64_t>(positions.size() * frequencies.size() * 2));
  float* p = table;
  for (int32_t position : positions)
    for (double w : frequencies) {
      const double angle = position * w;
      *p++ = static_cast<float>(std::cos(angle) * config.rope.attention_factor);
      *p++ = static_cast<float>(std::sin(angle) * config.rope.attention_factor);
    }
  return table;
}

Tensor decoder_forward(Ctx& c, Model& m, const Batch& batch, std::span<const MediaRows> media, bool checkpointing) {
  const AttentionShape s = attention_shape(m.config);
  const float eps = m.config.norm_eps;
  const float* rope = rope_table(c.tape.arena(), m.config, batch.positions);
  const AttentionPlan& plan = batch.plan;
  group_begin(c, m.shared_group);
  Tensor x = embedding(c, *m.token_embedding, batch.ids, media, m.dtype);
  for (Layer& layer : m.layers) {
    const auto block = [&layer, &plan, s, eps, rope](Ctx& inner, Tensor in) {
      return decoder_block(inner, layer, in, eps, s, rope, [&plan, &s](Ctx& c2, Tensor projected) { return attention(c2, projected, plan, s); });
    };
    group_begin(c, layer.group);
    if (!c.tape.recording()) x = run_quietly(c, x, block);
    else x = checkpointing ? checkpoint(c, x, block) : block(c, x);
  }
  return rms_norm(c, x, *m.final_norm, eps);
}

Tensor decoder_cached(Ctx& c, Model& m, const CachedBatch& batch, std::span<const MediaRows> media, const KvStore& kv) {
  ISR_ASSERT(!c.tape.recording(), "cached attention is not differentiated");
  const AttentionShape s = attention_shape(m.config);
  const float eps = m.config.norm_eps;
  const float* rope = rope_table(c.tape.arena(), m.config, batch.positions);
  const int64_t q_cols = s.heads * s.head_size, kv_cols = s.kv_heads * s.head_size;
  Tensor x = embedding(c, *m.token_embedding, batch.ids, media, m.dtype);
  int64_t index = 0;
  for (Layer& layer : m.layers) {
    const auto attend = [&](Ctx& inner, Tensor p) {
      inner.be.kv_append(kv, index, p.columns(q_cols, kv_cols), p.columns(q_cols + kv_cols, kv_cols), batch.rows, s);
      Tensor out = inner.tape.alloc(p.rows, q_cols, p.dtype, false);
      inner.be.attention_cached(out, p.columns(0, q_cols), kv, index, batch.plan, s);
      return out;
    };
    run_quietly(c, x, [&](Ctx& inner, Tensor in) { return decoder_block(inner, layer, in, eps, s, rope, attend); });
    ++index;
  }
  return rms_norm(c, x, *m.final_norm, eps);
}

Tensor logits(Ctx& c, Model& m, Tensor hidden) {
  Tensor y = c.tape.alloc(hidden.rows, m.head.n(), DType::F32, false);
  c.be.gemm_nt(y, hidden, m.head.packed, {});
  return y;
}

}  // namespace isr
