// What ranks tell each other of a step: how many items each has, what the loss needs of all of them, and what the figures are made of.
#include "train/trainer_impl.h"

namespace isr {

std::vector<double> Trainer::Impl::of_all(std::span<const double> mine) {
  std::vector<double> all;
  or_abort(comm, [&] {
    for (const std::vector<double>& one : all_gather(comm, mine)) all.insert(all.end(), one.begin(), one.end());
  });
  return all;
}

std::vector<double> token_counts(const std::vector<TrainPair>& pairs) {
  std::vector<double> counts;
  for (const TrainPair& p : pairs)
    for (const std::vector<float>* side : {&*p.ref_chosen, &*p.ref_rejected}) counts.push_back(static_cast<double>(side->size()));
  return counts;
}

std::vector<PairTokens> tokens_of(const std::vector<std::vector<double>>& counts) {
  std::vector<PairTokens> tokens;
  for (const std::vector<double>& rank : counts)
    for (size_t i = 0; i < rank.size(); i += 2) tokens.push_back({static_cast<int64_t>(rank[i]), static_cast<int64_t>(rank[i + 1])});
  return tokens;
}

std::vector<PairLogps> Trainer::Impl::logps_of_all(const std::vector<TrainPair>& pairs, const std::vector<PairReference>& now, std::span<const PairTokens> tokens) {
  std::vector<double> mine;
  for (size_t i = 0; i < pairs.size(); ++i)
    for (const std::vector<float>* side : {&now[i].chosen, &now[i].rejected, &*pairs[i].ref_chosen, &*pairs[i].ref_rejected})
      mine.insert(mine.end(), side->begin(), side->end());
  const std::vector<double> all = of_all(mine);
  std::vector<PairLogps> logps;
  auto at = all.begin();
  const auto next = [&](int64_t n) {
    std::vector<float> side;
    for (int64_t i = 0; i < n; ++i) side.push_back(static_cast<float>(*at++));
    return side;
  };
  for (const PairTokens& t : tokens) {
    PairLogps& p = logps.emplace_back();
    p.chosen = next(t.chosen), p.rejected = next(t.rejected), p.ref_chosen = next(t.chosen), p.ref_rejected = next(t.rejected);
  }
  return logps;
}

void Trainer::Impl::add_ranks(StepMetrics& metrics, double communication_seconds) {
  metrics.tokens_computed = tokens_computed;
  metrics.flops = flops;
  if (comm.size() == 1) return;
  const double mine[] = {static_cast<double>(tokens_computed), flops, metrics.compute_seconds, communication_seconds};
  const std::vector<double> all = of_all(mine);
  metrics.tokens_computed = 0;
  metrics.flops = 0;
  for (size_t i = 0; i < all.size(); i += std::size(mine)) {
    metrics.tokens_computed += static_cast<int64_t>(all[i]);
    metrics.flops += all[i + 1];
    metrics.ranks.push_back({static_cast<int64_t>(all[i]), all[i + 2], all[i + 3]});
  }
}

}  // namespace isr
