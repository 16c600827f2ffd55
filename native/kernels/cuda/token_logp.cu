// The head: log-probabilities of given tokens without ever storing logits whole. Rows go by in chunks of 1,024, the vocabulary in
// chunks of 32,768: forward keeps a running maximum and sum per row (online softmax, Milakov & Gimelshein 2018), backward
// recomputes a chunk's logits and turns them into their gradient, which goes into two products. Smaller chunks of rows would
// read the head more often: that is what makes others slow.
#include <algorithm>

#include "kernels/cuda/cuda_backend.h"

namespace isr::cuda {
namespace {

constexpr int kBlock = 256;
constexpr int64_t kRowChunk = 1024, kVocabChunk = 32768;

struct Online {           // over the chunks seen so far
  float top, target;      // largest logit; the target's
  double sum;             // of e^(logit - top)
};

__global__ void begin_rows(Online* online, int64_t rows) {
  const int64_t r = int64_t{blockIdx.x} * kBlock + threadIdx.x;
  if (r < rows) online[r] = {-INFINITY, 0, 0};
}

// A block per row: the next n logits, whose first is that of token `begin`.
__global__ void update_rows(Online* online, Rows<const float> logits, const int32_t* targets, int64_t begin, int64_t n) {
  float* const scratch = shared_as<float>();
  const int64_t r = blockIdx.x;
  const float* const row = logits.row(r);
  float top = -INFINITY;
  for (int64_t c = threadIdx.x; c < n; c += kBlock) top = fmaxf(top, row[c]);
  const Online before = online[r];
  top = fmaxf(block_max(top, scratch), before.top);
  float sum = 0;
  for (int64_t c = threadIdx.x; c < n; c += kBlock) sum += expf(row[c] - top);
  const double all = block_sum(static_cast<double>(sum), reinterpret_cast<double*>(scratch));
  if (threadIdx.x != 0) return;
  const int64_t target = targets[r] - begin;
  online[r] = {top, target >= 0 && target < n ? row[target] : before.target, before.sum * exp(static_cast<double>(before.top) - top) + all};
}

__global__ void end_rows(float* logp, float* lse, const Online* online, int64_t rows) {
  const int64_t r = int64_t{blockIdx.x} * kBlock + threadIdx.x;
  if (r >= rows) return;
  const double log_sum = log(online[r].sum);
  lse[r] = static_cast<float>(online[r].top + log_sum);
  logp[r] = static_cast<float>(static_cast<double>(online[r].target) - online[r].top - log_sum);
}

// d(logp of target)/d(logit) = onehot - softmax, times dlogp.
template <class T>
__global__ void logits_to_gradient(Rows<T> d, Rows<const float> logits, const int32_t* targets, const float* dlogp, const float* lse, int64_t begin,
                                   int64_t n) {
  const int64_t r = blockIdx.y, c = int64_t{blockIdx.x} * kBlock + threadIdx.x;
  if (c >= n) return;
  const float p = expf(logits.row(r)[c] - lse[r]);
  from_float(d.row(r)[c], dlogp[r] * ((c == targets[r] - begin ? 1.0f : 0.0f) - p));
}

constexpr size_t kShared = sizeof(double) * kBlock / 32;

}  // namespace

void CudaBackend::token_logp_forward(float* logp, float* lse, Tensor x, const Matrix& head, Ints targets) {
  const int64_t R = x.rows, V = head.shape.n;
  ISR_ASSERT(targets.n == R, "token_logp: ", targets.n, " targets for ", R, " rows");
  const Tensor w = static_cast<const RowMatrix&>(head).rows;
  const ArenaScope scope(scratch_);
  const int64_t rows = std::min(R, kRowChunk), width = std::min(V, kVocabChunk);
  float* const buffer = scratch_.allocate_n<float>(rows * width);
  Online* const online = scratch_.allocate_n<Online>(rows);
  for (int64_t r0 = 0; r0 < R; r0 += kRowChunk) {
    const int64_t m = std::min(R - r0, kRowChunk);
    launch(stream(), {"token_logp_begin", ceil_div(m, kBlock), kBlock}, begin_rows, online, m);
    for (int64_t n0 = 0; n0 < V; n0 += kVocabChunk) {
      const int64_t n = std::min(V - n0, kVocabChunk);
      const Tensor logits{buffer, m, n, width, DType::F32, -1};
      gemm_nt(logits, x.row_range(r0, m), RowMatrix(device_, {n, w.cols, w.dtype, false}, w.at(n0)), {});
      launch(stream(), {"token_logp_update", static_cast<unsigned>(m), kBlock, kShared}, update_rows, online, rows_of<const float>(logits),
             targets.data + r0, n0, n);
    }
    launch(stream(), {"token_logp_end", ceil_div(m, kBlock), kBlock}, end_rows, logp + r0, lse + r0, online, m);
  }
}

void CudaBackend::token_logp_backward(Tensor dx, bool accumulate, float* dw, bool accumulate_w, const float* dlogp, Tensor x, const Matrix& head,
                                      Tensor head_rows, Ints targets, const float* lse) {
  const int64_t R = x.rows, C = x.cols, V = head.shape.n;
  ISR_ASSERT(targets.n == R && head_rows.rows == V && head_rows.cols == C, "token_logp: ", targets.n, " targets for ", R, " rows; head (", head_rows.rows,
             ", ", head_rows.cols, ")");
  const ArenaScope scope(scratch_);
  const int64_t rows = std::min(R, kRowChunk), width = std::min(V, kVocabChunk);
  float* const buffer = scratch_.allocate_n<float>(rows * width);
  void* const gradients = scratch_.allocate(static_cast<size_t>(rows * width) * size_of(x.dtype));
  float* const total = scratch_.allocate_n<float>(rows * C);
  for (int64_t r0 = 0; r0 < R; r0 += kRowChunk) {
    const int64_t m = std::min(R - r0, kRowChunk);
    const Tensor part = x.row_range(r0, m), sum = view(total, m, C);
    for (int64_t n0 = 0; n0 < V; n0 += kVocabChunk) {
      const int64_t n = std::min(V - n0, kVocabChunk);
      const Tensor logits{buffer, m, n, width, DType::F32, -1}, gradient{gradients, m, n, width, x.dtype, -1}, weights = head_rows.row_range(n0, n);
      gemm_nt(logits, part, RowMatrix(device_, {n, C, weights.dtype, false}, weights.data), {});
      with_type(x.dtype, [&](auto type) {
        using T = decltype(type);
        launch(stream(), {"token_logp_gradient", {ceil_div(n, kBlock), static_cast<unsigned>(m)}, kBlock}, logits_to_gradient<T>, rows_of<T>(gradient),
               rows_of<const float>(logits), targets.data + r0, dlogp + r0, lse + r0, n0, n);
      });
      gemm_nn(sum, n0 > 0, gradient, {&weights, 1});
      if (!dw) continue;
      const GradPart to{dw + n0 * C, nullptr, n, accumulate_w || r0 > 0, false};
      gemm_tn({&to, 1}, gradient, part);
    }
    if (dx) add(dx.row_range(r0, m), accumulate, sum);
  }
  if (R == 0 && dw && !accumulate_w) device_.zero(dw, static_cast<size_t>(V * C) * sizeof(float));
}

}  // namespace isr::cuda
