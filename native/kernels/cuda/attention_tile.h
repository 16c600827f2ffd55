// Tiles of 64 rows in shared memory, and products of a warp with them. kD: columns, a multiple of 16 of at least D; rows are
// padded by 16 bytes, so that no eight rows of a matrix load share a bank.
#pragma once
#include "kernels/cuda/attention.h"
#include "kernels/cuda/ptx.h"

namespace isr::cuda {

constexpr float kLog2E = 1.4426950408889634f, kLn2 = 0.69314718055994531f;
constexpr int kTileThreads = 128;

template <int kD> constexpr int kRow = kD + 8;                       // elements from row to row
template <int kD> constexpr int kTileSize = kKeyBlock * kRow<kD>;    // elements

// Rows [0, rows) of a tensor's head, zeros behind them and behind its D columns. All threads of the block.
template <int kD>
__device__ __forceinline__ void load_tile(Bf16* to, Rows<const Bf16> from, int64_t row, int rows, int64_t column, int size) {
  constexpr int kPieces = kD / 8;
  for (int i = static_cast<int>(threadIdx.x); i < kKeyBlock * kPieces; i += kTileThreads) {
    const int r = i / kPieces, c = i % kPieces * 8;
    const bool valid = r < rows && c < size;
    copy_async(to + r * kRow<kD> + c, valid ? from.row(row + r) + column + c : from.data, valid);
  }
}

// A page of packed keys or values (attention_forward.cu), which has no tail to care for.
template <int kD>
__device__ __forceinline__ void load_page(Bf16* to, const Bf16* page) {
  constexpr int kPieces = kD / 8;
  for (int i = static_cast<int>(threadIdx.x); i < kKeyBlock * kPieces; i += kTileThreads)
    copy_async(to + i / kPieces * kRow<kD> + i % kPieces * 8, page + i * 8, true);
}

// The A fragment of rows [row, row + 16), columns [16 k, 16 k + 16) of a tile.
template <int kD>
__device__ __forceinline__ void left_fragment(uint32_t (&a)[4], const Bf16* tile, int row, int k, int lane) {
  load_matrices(a, tile + (row + lane % 16) * kRow<kD> + k * 16 + lane / 16 * 8);
}

template <int kM, int kN>
__device__ __forceinline__ void clear(float (&acc)[kM][kN][4]) {
#pragma unroll
  for (int m = 0; m < kM; ++m)
#pragma unroll
    for (int n = 0; n < kN; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) acc[m][n][i] = 0;
}

// acc (16 x 8 kN) += a (16 x 16) * (rows of `tile` from `row` on, columns [16 k, 16 k + 16))^T, for kM fragments of rows at once.
template <int kD, int kN, int kM>
__device__ __forceinline__ void multiply_transposed(float (&acc)[kM][kN][4], const uint32_t (&a)[kM][4], const Bf16* tile, int row, int k, int lane) {
#pragma unroll
  for (int n = 0; n < kN; n += 2) {
    uint32_t r[4];
    load_matrices(r, tile + (row + n * 8 + lane % 8 + lane / 16 * 8) * kRow<kD> + k * 16 + lane / 8 % 2 * 8);
    const uint32_t first[2] = {r[0], r[1]}, second[2] = {r[2], r[3]};
#pragma unroll
    for (int m = 0; m < kM; ++m) mma(acc[m][n], a[m], first), mma(acc[m][n + 1], a[m], second);
  }
}

// Scores of 16 kM queries of a tile, from `row` on, with the 64 keys of another one; not scaled.
template <int kD, int kM>
__device__ __forceinline__ void score_keys(float (&score)[kM][8][4], const Bf16* queries, int row, const Bf16* keys, int lane) {
  clear(score);
#pragma unroll
  for (int k = 0; k < kD / 16; ++k) {
    uint32_t a[kM][4];
#pragma unroll
    for (int m = 0; m < kM; ++m) left_fragment<kD>(a[m], queries, row + m * 16, k, lane);
    multiply_transposed<kD, 8, kM>(score, a, keys, 0, k, lane);
  }
}

// out (16 x kD) += p (16 x 8 kN, as a product leaves it) * rows of `tile` from `row` on, for kM fragments at once.
template <int kD, int kN, int kM>
__device__ __forceinline__ void multiply_rows(float (&out)[kM][kD / 8][4], const float (&p)[kM][kN][4], const Bf16* tile, int row, int lane) {
#pragma unroll
  for (int k = 0; k < kN / 2; ++k) {
    uint32_t a[kM][4];
#pragma unroll
    for (int m = 0; m < kM; ++m) {
      a[m][0] = pack_bf16(p[m][2 * k][0], p[m][2 * k][1]);
      a[m][1] = pack_bf16(p[m][2 * k][2], p[m][2 * k][3]);
      a[m][2] = pack_bf16(p[m][2 * k + 1][0], p[m][2 * k + 1][1]);
      a[m][3] = pack_bf16(p[m][2 * k + 1][2], p[m][2 * k + 1][3]);
    }
#pragma unroll
    for (int n = 0; n < kD / 8; n += 2) {
      uint32_t r[4];
      load_transposed(r, tile + (row + k * 16 + lane % 16) * kRow<kD> + n * 8 + lane / 16 * 8);
      const uint32_t first[2] = {r[0], r[1]}, second[2] = {r[2], r[3]};
#pragma unroll
      for (int m = 0; m < kM; ++m) mma(out[m][n], a[m], first), mma(out[m][n + 1], a[m], second);
    }
  }
}

// What a warp sums of 16 kM query rows, as fragments of 16 (rows lane / 4 and 8 beyond): an online softmax over tiles of 64 keys.
template <int kD, int kM>
struct TileSums {
  float values[kM][kD / 8][4], top[kM][2], mass[kM][2];   // mass: this lane's share of it

  __device__ __forceinline__ TileSums() { reset(); }

  __device__ __forceinline__ void reset() {
    clear(values);
#pragma unroll
    for (int m = 0; m < kM; ++m) top[m][0] = top[m][1] = -INFINITY, mass[m][0] = mass[m][1] = 0;
  }

  // Turns scores into weights e^(scale * (score - top)), after what was summed has shrunk to the new top.
  __device__ __forceinline__ void weigh(float (&score)[kM][8][4], float scale) {
#pragma unroll
    for (int m = 0; m < kM; ++m) {
      float best[2] = {top[m][0], top[m][1]};
#pragma unroll
      for (int n = 0; n < 8; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) best[i / 2] = fmaxf(best[i / 2], score[m][n][i]);
#pragma unroll
      for (int g = 0; g < 2; ++g) {
        best[g] = fmaxf(best[g], __shfl_xor_sync(kAllLanes, best[g], 1));
        best[g] = fmaxf(best[g], __shfl_xor_sync(kAllLanes, best[g], 2));
        const float shrink = exp2f((top[m][g] - best[g]) * scale);
        top[m][g] = best[g];
        mass[m][g] *= shrink;
#pragma unroll
        for (int n = 0; n < kD / 8; ++n) values[m][n][2 * g] *= shrink, values[m][n][2 * g + 1] *= shrink;
      }
#pragma unroll
      for (int n = 0; n < 8; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          score[m][n][i] = exp2f(score[m][n][i] * scale - top[m][i / 2] * scale);
          mass[m][i / 2] += score[m][n][i];
        }
    }
  }

  // Of a whole row: the four lanes that share it have its keys among them.
  __device__ __forceinline__ float whole_mass(int m, int g) const {
    float all = mass[m][g];
    all += __shfl_xor_sync(kAllLanes, all, 1);
    return all + __shfl_xor_sync(kAllLanes, all, 2);
  }
};

// The head sizes that have kernels of their own; others are rounded up to the next.
template <class F>
bool with_columns(int64_t size, F&& f) {
  if (size <= 64) f(std::integral_constant<int, 64>{});
  else if (size <= 80) f(std::integral_constant<int, 80>{});
  else if (size <= 96) f(std::integral_constant<int, 96>{});
  else if (size <= 128) f(std::integral_constant<int, 128>{});
  else return false;
  return true;
}

}  // namespace isr::cuda
