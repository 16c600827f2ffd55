#include "train/meeting.h"

#include <exception>

#include "core/error.h"

namespace isr {

bool Meeting::exchange(std::span<const double> mine, bool failed) {
  told_ = true;
  network_.settle();   // it was a rank without items, or the wait would come anyway
  bool any = false;
  or_abort(comm_, [&] {
    std::vector<double> said{failed ? 1.0 : 0.0, static_cast<double>(items_)};
    said.insert(said.end(), mine.begin(), mine.end());
    facts = all_gather(comm_, said);
    for (size_t r = 0; r < facts.size(); ++r) {
      const auto items = static_cast<int64_t>(facts[r].at(1));
      any = any || facts[r].at(0) != 0;
      total += items;
      if (static_cast<int>(r) < comm_.rank()) first += items;
      facts[r].erase(facts[r].begin(), facts[r].begin() + 2);
    }
  });
  return any;
}

bool Meeting::tell(std::span<const double> mine) {
  if (told_) return false;
  if (exchange(mine, false)) throw OthersFailed();
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
    if (!failure) return;
    if (comm_.size() > 1 && !told_ && !rank_was_lost(failure)) {
      exchange({}, true);
      if (first > 0) check(first);    // the same error, with the item's place
    }
    std::rethrow_exception(failure);
  });
}

}  // namespace isr
