// New values of parameters on their way between ranks: whoever updates rows sends them to all, group by group in the order of the
// forward pass, and the next pass waits for a group's where it begins to read them.
#pragma once
#include <deque>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "dist/comm.h"
#include "train/shards.h"

namespace isr {

class SharedValues final : public Arrivals {
 public:
  explicit SharedValues(Comm& comm) : comm_(comm) {}
  // Rows of values that this rank keeps to the others, and theirs into values and then into matrices, of the parameters that `which`
  // names. They stay as they are until they are there. BUG: while values of an earlier update are on their way.
  void start(std::span<Group* const> in_order, const std::function<bool(const Param&)>& which);
  void need(const Group& group) override;
  void need_all() override;

 private:
  struct OnTheirWay {
    const Group* group;
    uint64_t number;                          // of the messages, as Comm counts
    bool there;
    std::vector<std::pair<Param*, Rows>> rows;   // of other ranks
  };
  void land(size_t count);                    // the first so many groups

  Comm& comm_;
  std::deque<OnTheirWay> groups_;
};

}  // namespace isr
