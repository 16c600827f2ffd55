#include "train/meeting.h"

#include <algorithm>
#include <exception>

#include "core/error.h"

namespace isr {

bool Meeting::exchange(bool failed, size_t micro_batches, std::span<const double> mine) {
  told_ = true;
  model_.settle();   // it is a rank without items, or the wait would come anyway
  bool any = false;
  double most = 0;
  or_abort(comm_, [&] {
    std::vector<double> said{failed ? 1.0 : 0.0, static_cast<double>(items_), static_cast<double>(micro_batches)};
    said.insert(said.end(), mine.begin(), mine.end());
    facts = all_gather(comm_, said);
    for (size_t r = 0; r < facts.size(); ++r) {
      const auto items = static_cast<int64_t>(facts[r].at(1));
      any = any || facts[r].at(0) != 0;
      most = std::max(most, facts[r].at(2));
      total += items;
      if (static_cast<int>(r) < comm_.rank()) first += items;
      facts[r].erase(facts[r].begin(), facts[r].begin() + 3);
    }
  });
  if (!any && total > 0 && comm_.size() > 1) reduction_.open(static_cast<int64_t>(most));
  return any;
}

bool Meeting::tell(size_t micro_batches, std::span<const double> mine) {
  if (told_) return false;
  if (exchange(false, micro_batches, mine)) throw OthersFailed();
  return true;
}

static bool rank_was_lost(const std::exception_ptr& failure) {
  try {
    std::rethrow_exception(failure);
  } catch (const Error& e) {
    return e.code == "RANK_LOST";
  } catch (...) {
    return false;
  }
}

void Meeting::hold(const std::function<void(int64_t first)>& check, const std::function<void()>& work) {
  agree(comm_, [&] {
    std::exception_ptr failure;
    try {
      check(0);
      work();
    } catch (const OthersFailed&) {   // agree() finds out who, and how
    } catch (...) {
      failure = std::current_exception();
    }
    if (failure && rank_was_lost(failure)) std::rethrow_exception(failure);
    if (failure && comm_.size() > 1 && !told_) {
      exchange(true, 0, {});
      if (first > 0) check(first);    // the same error, with the item's place
    }
    reduction_.finish();              // also for a rank that has failed: the others wait for it
    if (failure) std::rethrow_exception(failure);
  });
}

}  // namespace isr
