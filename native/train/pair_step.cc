#include "train/pair_step.h"

#include <cmath>

namespace isr {

void pair_answer(Ctx& c, const Batch& batch, const TokenLogp& head, std::span<const float> reference, double* figures, const PairLoss& loss) {
  ISR_ASSERT(reference.size() == batch.scored.size(), reference.size(), " references of ", batch.scored.size(), " scored tokens");
  std::vector<int32_t> sides(batch.rows.size() + 1, 0);
  for (const ScoredRow& row : batch.scored) ++sides[static_cast<size_t>(row.sequence) + 1];
  for (size_t s = 1; s < sides.size(); ++s) sides[s] += sides[s - 1];
  Arena& arena = c.tape.arena();
  float* const there = arena.allocate_n<float>(static_cast<int64_t>(reference.size()));
  c.be.device().upload(there, reference.data(), reference.size() * sizeof(float));
  c.be.pair_loss(head.dlogp, figures, head.logp.f32(), there, resident(c.be, arena, sides), loss);
}

std::vector<float> references_of(const Batch& batch, std::span<const TrainPair> pairs) {
  std::vector<size_t> next(batch.rows.size(), 0);
  std::vector<float> all;
  for (const ScoredRow& row : batch.scored) {
    const auto s = static_cast<size_t>(row.sequence);
    const TrainPair& pair = pairs[s / 2];
    all.push_back((*(s % 2 == 0 ? pair.ref_chosen : pair.ref_rejected))[next[s]++]);
  }
  return all;
}

std::vector<double> figures_of(const LossResult& loss, std::span<const PairLogps> pairs) {
  std::vector<double> all;
  const auto sum = [](const std::vector<float>& x) {
    double s = 0;
    for (float v : x) s += v;
    return s;
  };
  for (size_t i = 0; i < pairs.size(); ++i) {
    const double c = sum(pairs[i].chosen), r = sum(pairs[i].rejected);
    const bool finite = std::isfinite(c) && std::isfinite(r) && std::isfinite(loss.chosen_reward[i] - loss.rejected_reward[i]);
    const double figures[kPairFigures] = {loss.dpo_loss, loss.chosen_reward[i], loss.rejected_reward[i], c, r, finite ? 0.0 : 1.0};
    all.insert(all.end(), std::begin(figures), std::end(figures));
  }
  return all;
}

static double correlation(std::span<const std::pair<double, double>> points) {
  const auto n = static_cast<double>(points.size());
  double x = 0, y = 0, xx = 0, yy = 0, xy = 0;
  for (const auto& [a, b] : points) x += a / n, y += b / n;
  for (const auto& [a, b] : points) xx += (a - x) * (a - x), yy += (b - y) * (b - y), xy += (a - x) * (b - y);
  return xx > 0 && yy > 0 ? xy / std::sqrt(xx * yy) : 0;
}

StepMetrics pair_metrics(std::span<const double> figures, std::span<const PairTokens> pairs, const PairLoss& loss, double gamma, std::vector<int64_t>& not_finite) {
  StepMetrics t;
  std::vector<std::pair<double, double>> lengths_margins;   // (chosen - rejected tokens, margin)
  for (size_t i = 0; i < pairs.size(); ++i) {
    const double* const f = figures.data() + i * kPairFigures;
    const double margin = f[kChosenReward] - f[kRejectedReward];
    const auto& [chosen, rejected] = pairs[i];
    t.dpo_loss += f[kLoss] * loss.per_pair;
    t.chosen_reward += f[kChosenReward] * loss.per_pair;
    t.rejected_reward += f[kRejectedReward] * loss.per_pair;
    t.margin += margin * loss.per_pair;
    t.accuracy += (margin > 0 ? 1.0 : 0.0) * loss.per_pair;
    t.chosen_logp += f[kChosenLogp] * loss.per_pair;
    t.rejected_logp += f[kRejectedLogp] * loss.per_pair;
    t.chosen_tokens += chosen;
    t.rejected_tokens += rejected;
    if (f[kNotFinite] != 0) not_finite.push_back(static_cast<int64_t>(i));
    lengths_margins.emplace_back(static_cast<double>(chosen) - static_cast<double>(rejected), margin);
  }
  if (gamma > 0 && t.chosen_tokens > 0) t.sft_loss = -t.chosen_logp / loss.per_pair / static_cast<double>(t.chosen_tokens);
  t.loss = t.dpo_loss + gamma * t.sft_loss;
  t.length_margin_correlation = correlation(lengths_margins);
  return t;
}

}  // namespace isr
