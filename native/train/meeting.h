// What ranks tell each other of a step's items: once, when the first loss needs it. That is behind a forward pass, which waits for
// values that are on their way: messages happen in the order of their start, and would wait for all of them.
#pragma once
#include <functional>
#include <span>
#include <vector>

#include "dist/comm.h"
#include "models/model.h"
#include "train/reduction.h"

namespace isr {

class Meeting {
 public:
  Meeting(Comm& comm, Model& model, Reduction& reduction, size_t items) : comm_(comm), model_(model), reduction_(reduction), items_(items) {}
  // Runs the step's work of this rank, in which it calls tell(), and comes back, or throws, on all ranks alike. `check(first)` comes
  // first: what it throws names items by their place in the step, of which `first` are those of ranks before.
  void hold(const std::function<void(int64_t first)>& check, const std::function<void()>& work);
  // All ranks tell, and know what each said: how many micro-batches it has, and `facts`, any number of them. Inside of hold(), which this
  // leaves where a rank has failed before it told. False: it was told before. From here to the end of hold() all ranks exchange gradients.
  bool tell(size_t micro_batches, std::span<const double> facts);

  int64_t first = 0, total = 0;               // items before this rank's, and all of the step
  std::vector<std::vector<double>> facts;     // by rank

 private:
  struct OthersFailed {};
  bool exchange(bool failed, size_t micro_batches, std::span<const double> facts);   // whether a rank has failed

  Comm& comm_;
  Model& model_;
  Reduction& reduction_;
  const size_t items_;
  bool told_ = false;
};

}  // namespace isr
