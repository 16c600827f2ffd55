// Activations on whole tensors: the backward of what product epilogues fuse, and the plain forward (activation.h).
#include "kernels/cpu/activation.h"

namespace isr::cpu::ISR_NS {
namespace {

template <Act kAct> struct ActTag { static constexpr Act value = kAct; };

template <class F>
void with_act(Act act, F&& f) {  // the choice stands outside the loops
  switch (act) {
    case Act::GeluErf: return f(ActTag<Act::GeluErf>{});
    case Act::GeluTanh: return f(ActTag<Act::GeluTanh>{});
    case Act::QuickGelu: return f(ActTag<Act::QuickGelu>{});
    case Act::None:
    case Act::SwiGlu: break;
  }
  ISR_ASSERT(false, "an activation of one input was expected");
}

// f(type, t): row t of something that has x's rows and type.
template <class F>
void for_rows(const Crew& threads, Tensor x, F&& f) {
  with_type(x.dtype, [&](auto type) {
    parallel(threads, x.rows, row_grain(threads, x.rows, x.cols), [&](int64_t begin, int64_t end, int) {
      for (int64_t t = begin; t < end; ++t) f(type, t);
    });
  });
}

}  // namespace

// y = silu(gate) * up, pre = [gate | up].
void CpuBackend::swiglu_backward(Tensor dpre, Tensor dy, Tensor pre) {
  const int64_t F = dy.cols;
  ISR_ASSERT(pre.cols == 2 * F && dpre.cols == 2 * F && pre.rows == dy.rows && dpre.rows == dy.rows &&
             pre.dtype == dy.dtype && dpre.dtype == dy.dtype, "swiglu_backward: pre and dpre are (T, 2F), dy (T, F)");
  for_rows(threads, dy, [&](auto type, int64_t t) {
    using E = decltype(type);
    const E *const g = row_of<E>(dy, t), *const gate = row_of<E>(pre, t), *const up = gate + F;
    E* const out = row_of<E>(dpre, t);
    for_lanes(F, [&](int64_t c, auto lanes) {
      const vf a = load_at(gate + c, lanes), d = load_at(g + c, lanes), s = sigmoid(a);
      store_at(out + c, d * load_at(up + c, lanes) * silu_derivative(a, s), lanes);
      store_at(out + F + c, d * (a * s), lanes);
    });
  });
}

void CpuBackend::act_forward(Tensor y, Tensor pre, Act act) {
  ISR_ASSERT(y.dtype == pre.dtype && y.rows == pre.rows && y.cols == pre.cols, "act_forward: y like pre");
  with_act(act, [&](auto tag) {
    for_rows(threads, pre, [&](auto type, int64_t t) {
      using E = decltype(type);
      const E* const in = row_of<E>(pre, t);
      E* const out = row_of<E>(y, t);
      for_lanes(pre.cols, [&](int64_t c, auto lanes) { store_at(out + c, act_value(tag.value, load_at(in + c, lanes)), lanes); });
    });
  });
}

void CpuBackend::act_backward(Tensor dpre, Tensor dy, Tensor pre, Act act) {
  ISR_ASSERT(dy.dtype == pre.dtype && dpre.dtype == pre.dtype && dy.rows == pre.rows && dy.cols == pre.cols &&
             dpre.rows == pre.rows && dpre.cols == pre.cols, "act_backward: dpre and dy like pre");
  with_act(act, [&](auto tag) {
    for_rows(threads, pre, [&](auto type, int64_t t) {
      using E = decltype(type);
      const E *const in = row_of<E>(pre, t), *const g = row_of<E>(dy, t);
      E* const out = row_of<E>(dpre, t);
      for_lanes(pre.cols, [&](int64_t c, auto lanes) {
        store_at(out + c, load_at(g + c, lanes) * act_derivative(tag.value, load_at(in + c, lanes)), lanes);
      });
    });
  });
}

}  // namespace isr::cpu::ISR_NS
