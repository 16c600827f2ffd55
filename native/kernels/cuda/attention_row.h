// One query row over blocks of at most 64 keys, by one warp: lanes stand along the keys for the scores, and along the columns for
// what is summed.
#pragma once
#include "kernels/cuda/attention.h"

namespace isr::cuda {

constexpr int kRowWarps = 4, kRowColumns = 8;   // warps of a block of threads; columns of a lane: D up to 256

template <class T>
__device__ inline float dot(const float* a, const T* b, int n) {
  float sum = 0;
  for (int d = 0; d < n; ++d) sum += a[d] * to_float(b[d]);
  return sum;
}

// A row's values in shared memory, for all lanes.
template <class T>
__device__ inline void keep(float* to, const T* from, int n, int lane) {
  for (int d = lane; d < n; d += 32) to[d] = to_float(from[d]);
}

struct RowSums {
  float top = -INFINITY, mass = 0, values[kRowColumns] = {};

  // The next n keys, of which key(j) and value(j) are D values each. `query` and `weight` (64) are the warp's, in shared memory.
  template <class Key, class Value>
  __device__ void add(const float* query, float* weight, int n, const Heads& h, int lane, Key key, Value value) {
    float score[2], best = top, here = 0;
    for (int i = 0; i < 2; ++i) {
      const int j = lane + 32 * i;
      score[i] = j < n ? h.scale * dot(query, key(j), h.size) : -INFINITY;
      best = fmaxf(best, score[i]);
    }
    best = warp_max(best);
    const float shrink = expf(top - best);
    for (int i = 0; i < 2; ++i) {
      const float w = lane + 32 * i < n ? expf(score[i] - best) : 0;
      weight[lane + 32 * i] = w;
      here += w;
    }
    mass = mass * shrink + warp_sum(here);
    top = best;
    __syncwarp();
    for (int c = 0; c < kRowColumns && lane + 32 * c < h.size; ++c) {
      float sum = values[c] * shrink;
      for (int j = 0; j < n; ++j) sum += weight[j] * to_float(value(j)[lane + 32 * c]);
      values[c] = sum;
    }
    __syncwarp();
  }

  template <class T>
  __device__ void store(T* to, const Heads& h, int lane) const {
    for (int c = 0; c < kRowColumns && lane + 32 * c < h.size; ++c) from_float(to[lane + 32 * c], values[c] / mass);
  }
};

}  // namespace isr::cuda
