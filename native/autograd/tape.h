// A linear tape of closures. An op computes its result and, when a gradient will be wanted, records one closure;
// backward() runs them last to first. No graph, no views: tape tensors never alias, so a gradient's first write is '='
// and every later one '+='. Gradients live in blocks that are used again as soon as their owner's closure has run.
#pragma once
#include <functional>
#include <vector>

#include "core/memory.h"
#include "core/tensor.h"

namespace isr {

class Tape {
 public:
  struct Sink { Tensor grad; bool accumulate; };   // grad.data null: nobody wants it

  Tape(Arena& arena, bool recording) : arena_(arena), recording_(recording) {}

  bool recording() const { return recording_; }
  Arena& arena() { return arena_; }

  // An activation. `needs_grad`: some input needs one, or a trainable parameter was used.
  Tensor alloc(int64_t rows, int64_t cols, DType dtype, bool needs_grad) {
    Tensor t = view(arena_.allocate(static_cast<size_t>(rows * cols) * size_of(dtype)), dtype, rows, cols);
    if (recording_ && needs_grad) t.slot = new_slot(t);
    return t;
  }
  // An input from outside (a checkpoint's block input) whose gradient goes to memory that outlives this tape.
  Tensor input(Tensor x, Sink outer) {
    x.slot = -1;
    if (recording_ && outer.grad) {
      x.slot = new_slot(x);
      slots_.back().grad = outer.grad.data;
      slots_.back().written = outer.accumulate;
      slots_.back().borrowed = true;
    }
    return x;
  }
  void record(const char* op, Tensor y, std::function<void()> backward) {
    if (recording_ && y.slot >= 0) steps_.push_back({op, y.slot, std::move(backward)});
  }
  // A closure that runs whatever gradients there are (a group's last use, in reverse order).
  void record_always(const char* op, std::function<void()> backward) {
    if (recording_) steps_.push_back({op, -1, std::move(backward)});
  }

  Tensor grad(Tensor y) const {  // the gradient that arrived at y
    const Slot& s = slots_[static_cast<size_t>(y.slot)];
    ISR_ASSERT(s.written, "gradient read before it was written");
    return view(s.grad, y.dtype, s.rows, s.cols);
  }
  Sink sink(Tensor x) {          // where to write the gradient of x
    if (x.slot < 0) return {{}, false};
    Slot& s = slots_[static_cast<size_t>(x.slot)];
    if (!s.grad) s.grad = take(s.bytes);
    const bool again = s.written;
    s.written = true;
    return {view(s.grad, x.dtype, s.rows, s.cols), again};
  }
  void seed(Tensor y, Tensor dy) {  // start of backward: y's gradient is dy, which is not copied
    Slot& s = slots_[static_cast<size_t>(y.slot)];
    s.grad = dy.data;
    s.written = s.borrowed = true;
  }
  void backward() {
    for (size_t i = steps_.size(); i-- > 0;) {
      Step& step = steps_[i];
      if (step.slot < 0) {
        step.run();
        continue;
      }
      Slot& s = slots_[static_cast<size_t>(step.slot)];
      if (!s.written) continue;  // no consumer had a gradient for it
      step.run();
      give(slots_[static_cast<size_t>(step.slot)]);
    }
    steps_.clear();
  }

 private:
  struct Slot { void* grad; size_t bytes; int64_t rows, cols; bool written, borrowed; };
  struct Step { const char* op /* for the debugger */; int32_t slot; std::function<void()> run; };
  struct Free { size_t bytes; void* p; };

  int32_t new_slot(const Tensor& t) {
    slots_.push_back({nullptr, static_cast<size_t>(t.rows * t.cols) * size_of(t.dtype), t.rows, t.cols, false, false});
    return static_cast<int32_t>(slots_.size() - 1);
  }
  void* take(size_t bytes) {
    for (size_t i = free_.size(); i-- > 0;)
      if (free_[i].bytes == bytes) {
        void* p = free_[i].p;
        free_.erase(free_.begin() + static_cast<std::ptrdiff_t>(i));
        return p;
      }
    return arena_.allocate(bytes);
  }
  void give(Slot& s) {
    if (s.grad && !s.borrowed) free_.push_back({s.bytes, s.grad});
    s.grad = nullptr;
  }

  Arena& arena_;
  bool recording_;
  std::vector<Slot> slots_;
  std::vector<Step> steps_;
  std::vector<Free> free_;
};

}  // namespace isr
