// The whole contract between the engine and a backend. A backend is a folder (cpu/, cuda/) that implements this class.
//
// Letters: B pairs, T packed tokens, C width, H heads, K kv heads, D head size, F mlp width, V vocabulary, L layers,
// M rows of a product, R scored rows. Arguments: outputs, saved, inputs, sizes. The gradient of x is dx. "accumulate":
// false writes '=', true adds '+='. Activations are float32 or bfloat16 (one type per model); weights of one dimension,
// statistics, log-probs, gradients of parameters, moments and masters are float32. All sums are float32.
//
// Numerics every implementation keeps (docs/decisions/): in the CPU backend a value of a row's result is a function of
// that row's own inputs alone, with one fixed chain of operations, whatever M is, however rows are batched, and whichever
// thread computes it. Reductions over rows (weight gradients, norms) go in fixed chunks of 64 rows / 4,096 elements.
//
// Calls take effect in order, on the device's stream. Only sample() and sum_squares() wait for their results.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "core/cpu.h"
#include "core/memory.h"
#include "core/tensor.h"
#include "kernels/attention_plan.h"
#include "kernels/operands.h"
#include "kernels/pair_losses.h"

namespace isr {

class Backend {
 public:
  virtual ~Backend() = default;
  virtual const char* level() const = 0;   // "generic" | "avx2" | "avx512" | "avx512bf16" | "cuda"
  virtual Device& device() = 0;
  virtual Arena& workspace() = 0;          // for kernels inside one call, and for callers between two of them
  // Steps that come again: makes `calls`, or does what they did when `key` was the same. They are calls of this backend that
  // neither wait nor upload; in `key` is all that they depend on but what resident memory holds
  virtual void repeat(std::span<const uint64_t> key, const std::function<void()>& calls) { (void)key, calls(); }

  // ---- matrices, in resident memory that is zeroed and outlives them
  virtual size_t matrix_bytes(const MatrixShape& s) const = 0;
  virtual std::unique_ptr<Matrix> matrix(const MatrixShape& s, void* memory) = 0;

  // ---- products. y (M, N): x (M, K) w (N, K). Fast for M 1..8: panels are streamed once, sequentially
  virtual void gemm_nt(Tensor y, Tensor x, const Matrix& w, const Epilogue& e) = 0;
  // dx (M, K): dy (M, N) w (N, K), whose parts are row-major and stacked
  virtual void gemm_nn(Tensor dx, bool accumulate, Tensor dy, std::span<const Tensor> w) = 0;
  // dw (N, K) = dy (M, N)^T x (M, K); db = column sums of dy
  virtual void gemm_tn(std::span<const GradPart> dw, Tensor dy, Tensor x) = 0;

  // ---- attention over spans (kernels/attention_plan.h). q, out (T, H*D); k, v (T, K*D): any row stride; dq, dk, dv are
  // written. lse (T, H), natural log
  virtual std::unique_ptr<Prepared> prepare(const AttentionPlan& plan) = 0;
  virtual void attention_forward(Tensor out, float* lse, Tensor q, Tensor k, Tensor v, const Prepared& plan,
                                 const AttentionShape& s) = 0;
  virtual void attention_backward(Tensor dq, Tensor dk, Tensor dv, Tensor dout, Tensor q, Tensor k, Tensor v, Tensor out,
                                  const float* lse, const Prepared& plan, const AttentionShape& s) = 0;

  // ---- cached attention reads pages alone: append first. kv_page_bytes: keys and values of 64 tokens, K heads, one layer
  virtual size_t kv_page_bytes(const AttentionShape& s, DType dtype) const = 0;
  virtual std::unique_ptr<Prepared> prepare(const CachedPlan& plan) = 0;
  virtual void kv_append(const KvStore& kv, int64_t layer, Tensor k, Tensor v, const Prepared& plan,
                         const AttentionShape& s) = 0;
  virtual void attention_cached(Tensor out, Tensor q, const KvStore& kv, int64_t layer, const Prepared& plan,
                                const AttentionShape& s) = 0;

  // ---- row-wise. x, y (T, C); w, b (C). Saved: mean, rstd (T), null: not kept. A null dx or dw is skipped. rms_norm: every w.n
  // columns are a row of their own (heads), rstd (T, C / w.n); y may be x, and dx dy
  virtual void rms_norm_forward(Tensor y, float* rstd, Tensor x, Flat w, float eps) = 0;
  virtual void rms_norm_backward(Tensor dx, bool accumulate, float* dw, bool accumulate_w, Tensor dy, Tensor x,
                                 Flat w, const float* rstd) = 0;
  virtual void layer_norm_forward(Tensor y, float* mean, float* rstd, Tensor x, const float* w, const float* b,
                                  float eps) = 0;
  virtual void layer_norm_backward(Tensor dx, bool accumulate, float* dw, float* db, bool accumulate_w, Tensor dy, Tensor x,
                                   const float* w, const float* mean, const float* rstd) = 0;
  virtual void swiglu_backward(Tensor dpre, Tensor dy, Tensor pre) = 0;         // dpre, pre (T, 2F) [gate | up]; dy (T, F)
  virtual void act_forward(Tensor y, Tensor pre, Act act) = 0;                  // not SwiGlu; y may be pre
  virtual void act_backward(Tensor dpre, Tensor dy, Tensor pre, Act act) = 0;   // not SwiGlu; dpre may be dy
  virtual void add(Tensor y, bool accumulate, Tensor a) = 0;                    // y (+)= a; types may differ (a cast)

  // ---- rotary positions (P, T), axis by axis: the table (T, D/2, 2) of cos and sin, computed in float64; then in place on
  // x (T, heads*D), halves paired (i, i + D/2)
  virtual void rope_table(float* table, Ints positions, const RopeFrequencies& f) = 0;
  virtual void rope(Tensor x, const float* table, int64_t heads, int64_t head_size, bool inverse) = 0;

  // ---- rows by index; -1 is a row of zeros ('=') or none ('+=')
  virtual void gather_rows(Tensor y, bool accumulate, Tensor x, Ints index) = 0;   // y[i] (+)= x[index[i]]
  // y[i] (+)= scale * sum over j < n of x[index[i n + j]], j ascending. No index, with n 1: row i itself, and y may be x
  virtual void pool_rows(Tensor y, bool accumulate, Tensor x, Ints index, int64_t n, float scale) = 0;
  virtual void embedding_forward(Tensor y, Tensor table, Ints ids) = 0;            // y (T, C), table (V, C)
  // dw (V, C); '=' zeroes absent rows; rows of one id are added in ascending t
  virtual void embedding_backward(float* dw, bool accumulate, Tensor dy, Ints ids, int64_t vocab) = 0;
  // y (frames * h/p * w/p, 3 p p): squares of pixels (frames, 3, h, w), row by row; (channel, y, x) runs along a row.
  // Pixels to the right of and below the last whole square are not read
  virtual void patchify(Tensor y, const float* pixels, int64_t frames, int64_t height, int64_t width, int64_t patch) = 0;

  // ---- head. x (R, C): hidden rows of scored tokens; targets (R) in [0, V); logp, lse, dlogp (R). Logits are never whole
  virtual void token_logp_forward(float* logp, float* lse, Tensor x, const Matrix& head, Ints targets) = 0;
  // dw (V, C) or null; head_rows (V, C): the head's row-major values
  virtual void token_logp_backward(Tensor dx, bool accumulate, float* dw, bool accumulate_w, const float* dlogp, Tensor x,
                                   const Matrix& head, Tensor head_rows, Ints targets, const float* lse) = 0;
  // Preference losses of P pairs (kernels/pair_losses.h). logp, reference, dlogp (R): side s, 2 i for the chosen answer of pair i and
  // 2 i + 1 for the rejected one, owns [sides[s], sides[s + 1]) of them. figures (P, kPairFigures) f64, rewards without per_pair
  virtual void pair_loss(float* dlogp, double* figures, const float* logp, const float* reference, Ints sides, const PairLoss& o) = 0;
  // Waits. One draw per row of logits (M, V), which may be overwritten; `suppress` ids never come out (one list per row, or
  // none at all). host_logp: at temperature 1, untruncated, before suppression
  virtual void sample(int32_t* host_ids, float* host_logp, Tensor logits, std::span<const SampleOptions> options,
                      std::span<const std::span<const int32_t>> suppress) = 0;

  // ---- optimizer
  virtual void adamw(std::span<const AdamWItem> items, const AdamW& o) = 0;     // masters and moments, then as write_values()
  virtual void write_values(std::span<const AdamWItem> items) = 0;              // masters to values and matrices
  virtual double sum_squares(std::span<const Flat> arrays) = 0;                 // waits; float64, array by array, ascending
};

// On `device`, which is the host, has memory that the host's threads can read, or only counts: then calls take their memory
// and compute nothing.
std::unique_ptr<Backend> make_cpu_backend(Isa level, int threads, Device& device = host_device());

}  // namespace isr
