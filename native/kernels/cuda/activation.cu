// Activations on whole tensors: forward, and the backward from the saved pre-activation.
#include "kernels/cuda/activation.h"

#include "kernels/cuda/cuda_backend.h"

namespace isr::cuda {
namespace {

constexpr int kBlock = 256;

template <class T, Act kAct, int N>
__global__ void act_rows(Rows<T> y, Rows<const T> pre, int64_t packs, int64_t total) {
  const int64_t i = int64_t{blockIdx.x} * kBlock + threadIdx.x;
  if (i >= total) return;
  const int64_t row = i / packs, col = i % packs * N;
  Pack<N> x = load<N>(pre.row(row) + col);
#pragma unroll
  for (int k = 0; k < N; ++k) x.v[k] = act_value<kAct>(x.v[k]);
  store(y.row(row) + col, x);
}

template <class T, Act kAct, int N>
__global__ void act_rows_backward(Rows<T> dpre, Rows<const T> dy, Rows<const T> pre, int64_t packs, int64_t total) {
  const int64_t i = int64_t{blockIdx.x} * kBlock + threadIdx.x;
  if (i >= total) return;
  const int64_t row = i / packs, col = i % packs * N;
  const Pack<N> x = load<N>(pre.row(row) + col);
  Pack<N> d = load<N>(dy.row(row) + col);
#pragma unroll
  for (int k = 0; k < N; ++k) d.v[k] *= act_derivative<kAct>(x.v[k]);
  store(dpre.row(row) + col, d);
}

// y = silu(gate) * up, pre = [gate | up].
template <class T, int N>
__global__ void swiglu_rows_backward(Rows<T> dpre, Rows<const T> dy, Rows<const T> pre, int64_t width, int64_t packs, int64_t total) {
  const int64_t i = int64_t{blockIdx.x} * kBlock + threadIdx.x;
  if (i >= total) return;
  const int64_t row = i / packs, col = i % packs * N;
  const Pack<N> d = load<N>(dy.row(row) + col), gate = load<N>(pre.row(row) + col), up = load<N>(pre.row(row) + width + col);
  Pack<N> dgate, dup;
#pragma unroll
  for (int k = 0; k < N; ++k) {
    const float s = sigmoid(gate.v[k]);
    dgate.v[k] = d.v[k] * up.v[k] * s * (1.0f + gate.v[k] * (1.0f - s));
    dup.v[k] = d.v[k] * gate.v[k] * s;
  }
  store(dpre.row(row) + col, dgate);
  store(dpre.row(row) + width + col, dup);
}

}  // namespace

void CudaBackend::swiglu_backward(Tensor dpre, Tensor dy, Tensor pre) {
  const int64_t F = dy.cols;
  ISR_ASSERT(pre.cols == 2 * F && dpre.cols == 2 * F && pre.rows == dy.rows && dpre.rows == dy.rows && pre.dtype == dy.dtype &&
             dpre.dtype == dy.dtype, "swiglu_backward: pre and dpre are (T, 2F), dy (T, F)");
  if (dy.rows * F == 0) return;
  with_type(dy.dtype, [&](auto type) {
    using T = decltype(type);
    Packs().and_of(dy).and_of(pre, F).and_of(dpre, F).with([&](auto n) {
      const int64_t packs = F / n.value, total = dy.rows * packs;
      launch(stream(), {"swiglu_backward", ceil_div(total, kBlock), kBlock}, swiglu_rows_backward<T, n.value>, rows_of<T>(dpre), rows_of<const T>(dy),
             rows_of<const T>(pre), F, packs, total);
    });
  });
}

void CudaBackend::act_forward(Tensor y, Tensor pre, Act act) {
  ISR_ASSERT(y.dtype == pre.dtype && y.rows == pre.rows && y.cols == pre.cols, "act_forward: y like pre");
  if (y.rows * y.cols == 0) return;
  with_type(y.dtype, [&](auto type) {
    using T = decltype(type);
    with_act(act, [&](auto tag) {
      Packs().and_of(y).and_of(pre).with([&](auto n) {
        const int64_t packs = y.cols / n.value, total = y.rows * packs;
        launch(stream(), {"act_forward", ceil_div(total, kBlock), kBlock}, act_rows<T, tag.value, n.value>, rows_of<T>(y), rows_of<const T>(pre), packs,
               total);
      });
    });
  });
}

void CudaBackend::act_backward(Tensor dpre, Tensor dy, Tensor pre, Act act) {
  ISR_ASSERT(dy.dtype == pre.dtype && dpre.dtype == pre.dtype && dy.rows == pre.rows && dy.cols == pre.cols && dpre.rows == pre.rows &&
             dpre.cols == pre.cols, "act_backward: dpre and dy like pre");
  if (dy.rows * dy.cols == 0) return;
  with_type(dy.dtype, [&](auto type) {
    using T = decltype(type);
    with_act(act, [&](auto tag) {
      Packs().and_of(dpre).and_of(dy).and_of(pre).with([&](auto n) {
        const int64_t packs = dy.cols / n.value, total = dy.rows * packs;
        launch(stream(), {"act_backward", ceil_div(total, kBlock), kBlock}, act_rows_backward<T, tag.value, n.value>, rows_of<T>(dpre),
               rows_of<const T>(dy), rows_of<const T>(pre), packs, total);
      });
    });
  });
}

}  // namespace isr::cuda
