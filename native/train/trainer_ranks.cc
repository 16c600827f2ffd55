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

bool Trainer::Impl::say(Round& round, const Work& work, bool failed) {
  std::vector<double> mine{static_cast<double>(work.items), failed ? 1.0 : 0.0};
  if (!failed) {
    const std::vector<double> numbers = work.numbers();
    mine.insert(mine.end(), numbers.begin(), numbers.end());
  }
  round.said = true;
  bool well = true;
  or_abort(comm, [&] {
    const std::vector<std::vector<double>> all = all_gather(comm, std::span<const double>(mine));
    for (size_t r = 0; r < all.size(); ++r) {
      const auto theirs = static_cast<int64_t>(all[r][0]);
      round.total += theirs;
      if (r < static_cast<size_t>(comm.rank())) round.first += theirs;
      well = well && all[r][1] == 0;
      round.all.insert(round.all.end(), all[r].begin() + 2, all[r].end());
    }
  });
  if (well) {
    if (round.total == 0) fail("INVALID_ARGUMENT", "items: expected at least one ", o.loss.loss == "sft" ? "sequence" : "pair", ", got none");
    work.told(round);
  }
  return well;
}

void Trainer::Impl::together(const Work& work) {
  struct AnotherFailed {};   // whose error comes with agree()
  agree(comm, [&] {
    Round round;
    bool prepared = false;
    const std::function<void()> say_once = [&] {
      if (!round.said && !say(round, work, false)) throw AnotherFailed{};
    };
    try {
      work.prepare(0);
      prepared = true;
      work.compute(say_once);
      say_once();
    } catch (const AnotherFailed&) {
    } catch (...) {
      if (round.said) throw;
      say(round, work, true);
      if (!prepared && round.first > 0) work.prepare(round.first);   // the same error, which names the item's place in the step
      throw;
    }
  });
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

// Before the update: what is said behind it would wait for the values that are on their way then.
void Trainer::Impl::add_ranks(StepMetrics& metrics) {
  metrics.tokens_computed = tokens_computed;
  metrics.flops = flops;
  if (comm.size() == 1) return;
  const double communication_seconds = comm.seconds() - told_seconds;
  told_seconds += communication_seconds;
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
