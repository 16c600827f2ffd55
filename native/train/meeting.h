// What ranks tell each other of a step's items: once, when the first loss needs it. That is behind a forward pass, which waits for
// values that are on their way: messages happen in the order of their start, and would wait for all of them.
#pragma once
#include <functional>
#include <span>
#include <vector>

#include "dist/comm.h"
#include "models/network.h"

namespace isr {

class Meeting {
 public:
  Meeting(Comm& comm, Network& network, size_t items) : comm_(comm), network_(network), items_(items) {}
  // Runs the step's work of this rank, in which it calls tell(), and comes back, or throws, on all ranks alike. `check(first)` comes
  // first: what it throws names items by their place in the step, of which `first` are those of ranks before.
  void hold(const std::function<void(int64_t first)>& check, const std::function<void()>& work);
  // All ranks tell, and know what each said: `facts`, any number of them. Inside of hold(), which this leaves where a rank has failed
  // before it told. False: it was told before.
  bool tell(std::span<const double> facts);

  int64_t first = 0, total = 0;               // items before this rank's, and all of the step
  std::vector<std::vector<double>> facts;     // by rank

 private:
  struct OthersFailed {};
  bool exchange(std::span<const double> facts, bool failed);   // whether a rank has failed

  Comm& comm_;
  Network& network_;
  const size_t items_;
  bool told_ = false;
};

}  // namespace isr
