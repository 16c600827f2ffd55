// The whole contract between the engine and a backend. A backend is a folder (cpu/, cuda/) that implements this class.
//
// Letters: B pairs, T packed tokens, C width, H heads, K kv heads, D head size, F mlp width, V vocabulary, L layers,
// M rows of a product, R scored rows. Arguments: outputs, saved, inputs, sizes. The gradient of x is dx.
// "accumulate": false writes '=', true adds '+='. Activations are float32 or bfloat16 (one type a model); weights of one
// dimension, statistics, log-probs, gradients of parameters, moments and masters are float32. All sums are float32.
//
// Numerics every implementation keeps (docs/decisions/): in the CPU backend a value of a row's result is a function of
// that row's own inputs alone, with one fixed chain of operations, whatever M is, however rows are batched, and whichever
// thread computes it. Reductions over rows (weight gradients, norms) go in fixed chunks of 64 rows / 4,096 elements.
#pragma once
#include <cstdint>
#include <memory>
#include <span>

#include "core/cpu.h"
#include "core/memory.h"
#include "core/tensor.h"
#include "core/threads.h"
#include "kernels/attention_plan.h"

namespace isr {

enum class Act : uint8_t { None, GeluErf, GeluTanh, QuickGelu, SwiGlu };

// Row-major rows (rows, k) of a matrix: one parameter, or one part of a stacked matrix.
struct WeightRows {
  const void* data = nullptr;
  DType dtype = DType::F32;
  int64_t rows = 0, k = 0;
};

// A (n, k) matrix in the backend's own panel layout. `swiglu`: rows [0, n/2) are gate, [n/2, n) are up, and the two are
// interleaved inside a panel so that one epilogue holds both.
struct Packed {
  void* panels = nullptr;
  DType dtype = DType::F32;
  int64_t n = 0, k = 0;
  bool swiglu = false;
};

struct Epilogue {                 // Y = act(X W^T + bias) + residual, in this order
  const float* bias = nullptr;    // (N)
  Act act = Act::None;            // SwiGlu (W.swiglu only): Y (M, N/2) = silu(gate) * up
  Tensor pre;                     // (M, N) if set: what goes into act, saved for backward ([gate | up] for SwiGlu)
  Tensor residual;                // (M, cols of Y) if set
};

struct GradPart {                 // where the gradient of one part of a stacked matrix goes
  float* dw = nullptr;            // (rows, k); null: skipped
  float* db = nullptr;            // (rows); null: none
  int64_t rows = 0;
  bool accumulate = false;        // of dw
  bool accumulate_bias = false;   // of db
};

struct SampleOptions {            // one row's draw
  float temperature = 0;          // any finite one; 0: greedy, lowest id on ties
  float top_p = 1;                // smallest set by (probability desc, id asc) with mass >= top_p
  int32_t top_k = 0;              // 0: all
  double uniform = 0;             // [0, 1)
};

struct AdamW {                    // decoupled weight decay (Loshchilov & Hutter 2019); bias-corrected by step (from 1)
  float lr = 0, beta1 = 0.9f, beta2 = 0.999f, eps = 1e-8f, weight_decay = 0;
  int64_t step = 1;
  float grad_scale = 1;           // clip factor, multiplied into the gradient as it is read
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual const char* level() const = 0;              // "generic" | "avx2" | "avx512" | "avx512bf16" | "cuda"
  int threads = 1;                                    // workers of this model's regions
  Arena scratch;                                      // for kernels, inside one call

  // ---- packed weights. Disjoint rows may be packed from several threads at once.
  virtual size_t packed_bytes(int64_t n, int64_t k, DType dtype, bool swiglu) const = 0;   // memory must be zeroed once
  virtual void pack(const Packed& w, int64_t row0, const WeightRows& src) const = 0;       // rows [row0, row0 + src.rows) of w; same dtype
  virtual void unpack(void* dst, const Packed& w, int64_t row0, int64_t rows) const = 0;   // (rows, k) row-major, w.dtype

  // ---- products (fast for M 1..8: panels are streamed once, sequentially)
  virtual void gemm_nt(Tensor y, Tensor x, const Packed& w, const Epilogue& e) = 0;        // y (M,N): x (M,K) w (N,K)
  virtual void gemm_nn(Tensor dx, bool accumulate, Tensor dy, std::span<const WeightRows> w) = 0;  // dx (M,K): dy (M,N) w (N,K) row-major, stacked parts
  virtual void gemm_tn(std::span<const GradPart> dw, Tensor dy, Tensor x) = 0;             // dw (N,K) = dy (M,N)^T x (M,K); db = column sums of dy

  // ---- attention over spans (kernels/attention_plan.h). q, out (T, H*D); k, v (T, K*D): any row stride. lse (T, H), natural log
  virtual void attention_forward(Tensor out, float* lse, Tensor q, Tensor k, Tensor v, const AttentionPlan& plan, const AttentionShape& s) = 0;
  virtual void attention_backward(Tensor dq, Tensor dk, Tensor dv, Tensor dout, Tensor q, Tensor k, Tensor v, Tensor out, const float* lse, const AttentionPlan& plan, const AttentionShape& s) = 0;  // writes '='
  virtual size_t kv_page_bytes(const AttentionShape& s, DType dtype) const = 0;            // keys and values of 64 tokens, K heads, one layer
  virtual void kv_append(const KvStore& kv, int64_t layer, Tensor k, Tensor v, std::span<const KvRow> rows, const AttentionShape& s) = 0;   // k, v (T, K*D)
  virtual void attention_cached(Tensor out, Tensor q, const KvStore& kv, int64_t layer, const CachedPlan& plan, const AttentionShape& s) = 0; // pages only: append first

  // ---- row-wise. x, y (T, C); w, b (C) f32; dw, db f32
  virtual void rms_norm_forward(Tensor y, float* rstd, Tensor x, const float* w, float eps) = 0;                                  // rstd (T) or null
  virtual void rms_norm_backward(Tensor dx, bool accumulate, float* dw, bool accumulate_w, Tensor dy, Tensor x, const float* w, const float* rstd) = 0;  // dw null: skipped; dx.data null: skipped
  virtual void layer_norm_forward(Tensor y, float* mean, float* rstd, Tensor x, const float* w, const float* b, float eps) = 0;
  virtual void layer_norm_backward(Tensor dx, bool accumulate, float* dw, float* db, bool accumulate_w, Tensor dy, Tensor x, const float* w, const float* mean, const float* rstd) = 0;
  virtual void rope(Tensor x, const float* table, int64_t heads, int64_t head_size, bool inverse) = 0;   // in place; x (T, heads*D), halves paired (i, i + D/2); table (T, D/2, 2) cos, sin
  virtual void swiglu_backward(Tensor dpre, Tensor dy, Tensor pre) = 0;                                  // dpre, pre (T, 2F) [gate | up]; dy (T, F)
  virtual void act_forward(Tensor y, Tensor pre, Act act) = 0;                                           // not SwiGlu; y may be pre
  virtual void act_backward(Tensor dpre, Tensor dy, Tensor pre, Act act) = 0;                            // not SwiGlu; dpre may be dy
  virtual void add(Tensor y, bool accumulate, Tensor a) = 0;                                             // y (+)= a; types may differ (cast)
  virtual void gather_rows(Tensor y, bool accumulate, Tensor x, std::span<const int32_t> index) = 0;     // y[i] (+)= x[index[i]]; index -1: zero row ('=') or nothing ('+=')
  virtual void pool_rows(Tensor y, bool accumulate, Tensor x, std::span<const int32_t> index, int64_t n, float scale) = 0;  // y[i] (+)= scale * sum over j < n of x[index[i n + j]], j ascending; index -1: nothing
  virtual void embedding_forward(Tensor y, const WeightRows& table, std::span<const int32_t> ids) = 0;   // y (T, C); id -1: zero row (a media row)
  virtual void embedding_backward(float* dw, bool accumulate, Tensor dy, std::span<const int32_t> ids, int64_t vocab) = 0;  // dw (V, C); '=' zeroes absent rows; rows of one id are added in ascending t

  // ---- head. x (R, C): hidden rows of scored tokens; targets (R) in [0, V). Logits are never stored whole.
  virtual void token_logp_forward(float* logp, float* lse, Tensor x, const Packed& head, std::span<const int32_t> targets) = 0;   // logp, lse (R)
  virtual void token_logp_backward(Tensor dx, bool accumulate, float* dw, bool accumulate_w, const float* dlogp, Tensor x, const Packed& head, const WeightRows& head_rows, std::span<const int32_t> targets, const float* lse) = 0;  // dw (V, C) or null; dlogp (R)
  // One draw a row of logits (M, V) f32; `suppress` ids never come out. logp: at temperature 1, untruncated, before suppression. logits may be overwritten.
  virtual void sample(int32_t* ids, float* logp, Tensor logits, std::span<const SampleOptions> options, std::span<const std::span<const int32_t>> suppress) = 0;

  // ---- optimizer, elements [0, n) of a flat group
  virtual void adamw(float* master, float* m, float* v, const float* grad, int64_t n, const AdamW& o) = 0;   // single-threaded: the caller splits
  virtual double sum_squares(const float* x, int64_t n) = 0;                                                 // chunks of 4,096, f64, ascending
  virtual void cast(void* dst, DType to, const void* src, DType from, int64_t n) = 0;                        // single-threaded; f32 <-> bf16
};

std::unique_ptr<Backend> make_cpu_backend(Isa level, int threads);

}  // namespace isr
