// The CPU backend's class, once per level. Methods are defined in the file named beside them.
// Include after the standard headers and before any other code: it switches the target (level.h).
#pragma once
#include "kernels/cpu_base.h"
// clang-format off
#include "kernels/cpu/level.h"
// clang-format on

namespace isr::cpu::ISR_NS {

class CpuBackend final : public CpuBase {
 public:
  using CpuBase::CpuBase;
  const char* level() const override;   // backend.cc

  // gemm_pack.cc
  size_t matrix_bytes(const MatrixShape& s) const override;
  void pack(const Packed& w, int64_t row0, Tensor rows) const override;
  void unpack(Tensor rows, const Packed& w, int64_t row0) const override;
  // gemm_nt.cc, gemm_nn.cc, gemm_tn.cc
  void gemm_nt(Tensor y, Tensor x, const Matrix& w, const Epilogue& e) override { gemm_nt(y, x, packed_of(w), e); }
  void gemm_nt(Tensor y, Tensor x, const Packed& w, const Epilogue& e);
  void gemm_nn(Tensor dx, bool accumulate, Tensor dy, std::span<const Tensor> w) override;
  void gemm_tn(std::span<const GradPart> dw, Tensor dy, Tensor x) override;
  // attention_forward.cc, attention_backward.cc, attention_cached.cc
  void attention_forward(Tensor out, float* lse, Tensor q, Tensor k, Tensor v, const Prepared& plan, const AttentionShape& s) override;
  void attention_backward(Tensor dq, Tensor dk, Tensor dv, Tensor dout, Tensor q, Tensor k, Tensor v, Tensor out, const float* lse,
                          const Prepared& plan, const AttentionShape& s) override;
  size_t kv_page_bytes(const AttentionShape& s, DType dtype) const override;
  void kv_append(const KvStore& kv, int64_t layer, Tensor k, Tensor v, const Prepared& plan, const AttentionShape& s) override;
  void attention_cached(Tensor out, Tensor q, const KvStore& kv, int64_t layer, const Prepared& plan, const AttentionShape& s) override;
  // norm.cc
  void rms_norm_forward(Tensor y, float* rstd, Tensor x, Flat w, float eps) override;
  void rms_norm_backward(Tensor dx, bool accumulate, float* dw, bool accumulate_w, Tensor dy, Tensor x, Flat w,
                         const float* rstd) override;
  void layer_norm_forward(Tensor y, float* mean, float* rstd, Tensor x, const float* w, const float* b, float eps) override;
  void layer_norm_backward(Tensor dx, bool accumulate, float* dw, float* db, bool accumulate_w, Tensor dy, Tensor x, const float* w,
                           const float* mean, const float* rstd) override;
  // rope.cc
  void rope_table(float* table, Ints positions, const RopeFrequencies& f) override;
  void rope(Tensor x, const float* table, int64_t heads, int64_t head_size, bool inverse) override;
  // activation.cc
  void swiglu_backward(Tensor dpre, Tensor dy, Tensor pre) override;
  void act_forward(Tensor y, Tensor pre, Act act) override;
  void act_backward(Tensor dpre, Tensor dy, Tensor pre, Act act) override;
  // rows.cc
  void add(Tensor y, bool accumulate, Tensor a) override;
  void gather_rows(Tensor y, bool accumulate, Tensor x, Ints index) override;
  void pool_rows(Tensor y, bool accumulate, Tensor x, Ints index, int64_t n, float scale) override;
  void embedding_forward(Tensor y, Tensor table, Ints ids) override;
  void embedding_backward(float* dw, bool accumulate, Tensor dy, Ints ids, int64_t vocab) override;
  void patchify(Tensor y, const float* pixels, int64_t frames, int64_t height, int64_t width, int64_t patch) override;
  // token_logp.cc
  void token_logp_forward(float* logp, float* lse, Tensor x, const Matrix& head, Ints targets) override;
  void token_logp_backward(Tensor dx, bool accumulate, float* dw, bool accumulate_w, const float* dlogp, Tensor x, const Matrix& head,
                           Tensor head_rows, Ints targets, const float* lse) override;
  // sample.cc
  void sample(int32_t* host_ids, float* host_logp, Tensor logits, std::span<const SampleOptions> options,
              std::span<const std::span<const int32_t>> suppress) override;
  // adamw.cc
  void adamw(std::span<const AdamWItem> items, const AdamW& o) override;
  void write_values(std::span<const AdamWItem> items) override;
  double sum_squares(std::span<const Flat> arrays) override;

 private:
  void update_rows(const AdamWItem& item, const AdamW* o, int64_t row, int64_t rows) const;
  void update_all(std::span<const AdamWItem> items, const AdamW* o);
};

}  // namespace isr::cpu::ISR_NS
