// A backend over another one: every call becomes a closure that the derived class runs when it likes, in order. What a
// closure needs of the host is copied into it, so that calls may run long after they returned.
#pragma once
#include <functional>

#include "kernels/backend.h"

namespace isr {

class Interposed : public Backend {
 public:
  explicit Interposed(std::unique_ptr<Backend> inner) : inner_(std::move(inner)) {}

  const char* level() const override { return inner_->level(); }
  Device& device() override { return inner_->device(); }
  Arena& workspace() override { return inner_->workspace(); }

  size_t matrix_bytes(const MatrixShape& s) const override { return inner_->matrix_bytes(s); }
  std::unique_ptr<Matrix> matrix(const MatrixShape& s, void* memory) override;
  void gemm_nt(Tensor y, Tensor x, const Matrix& w, const Epilogue& e) override;
  void gemm_nn(Tensor dx, bool accumulate, Tensor dy, std::span<const Tensor> w) override;
  void gemm_tn(std::span<const GradPart> dw, Tensor dy, Tensor x) override;
  std::unique_ptr<Prepared> prepare(const AttentionPlan& plan) override;
  void attention_forward(Tensor out, float* lse, Tensor q, Tensor k, Tensor v, const Prepared& plan, const AttentionShape& s) override;
  void attention_backward(Tensor dq, Tensor dk, Tensor dv, Tensor dout, Tensor q, Tensor k, Tensor v, Tensor out, const float* lse,
                          const Prepared& plan, const AttentionShape& s) override;
  size_t kv_page_bytes(const AttentionShape& s, DType dtype) const override { return inner_->kv_page_bytes(s, dtype); }
  std::unique_ptr<Prepared> prepare(const CachedPlan& plan) override;
  void kv_append(const KvStore& kv, int64_t layer, Tensor k, Tensor v, const Prepared& plan, const AttentionShape& s) override;
  void attention_cached(Tensor out, Tensor q, const KvStore& kv, int64_t layer, const Prepared& plan, const AttentionShape& s) override;
  void rms_norm_forward(Tensor y, float* rstd, Tensor x, Flat w, float eps) override;
  void rms_norm_backward(Tensor dx, bool accumulate, float* dw, bool accumulate_w, Tensor dy, Tensor x, Flat w, const float* rstd) override;
  void layer_norm_forward(Tensor y, float* mean, float* rstd, Tensor x, const float* w, const float* b, float eps) override;
  void layer_norm_backward(Tensor dx, bool accumulate, float* dw, float* db, bool accumulate_w, Tensor dy, Tensor x, const float* w,
                           const float* mean, const float* rstd) override;
  void swiglu_backward(Tensor dpre, Tensor dy, Tensor pre) override;
  void act_forward(Tensor y, Tensor pre, Act act) override;
  void act_backward(Tensor dpre, Tensor dy, Tensor pre, Act act) override;
  void add(Tensor y, bool accumulate, Tensor a) override;
  void rope_table(float* table, Ints positions, const RopeFrequencies& f) override;
  void rope(Tensor x, const float* table, int64_t heads, int64_t head_size, bool inverse) override;
  void gather_rows(Tensor y, bool accumulate, Tensor x, Ints index) override;
  void pool_rows(Tensor y, bool accumulate, Tensor x, Ints index, int64_t n, float scale) override;
  void embedding_forward(Tensor y, Tensor table, Ints ids) override;
  void embedding_backward(float* dw, bool accumulate, Tensor dy, Ints ids, int64_t vocab) override;
  void patchify(Tensor y, const float* pixels, int64_t frames, int64_t height, int64_t width, int64_t patch) override;
  void token_logp_forward(float* logp, float* lse, Tensor x, const Matrix& head, Ints targets) override;
  void token_logp_backward(Tensor dx, bool accumulate, float* dw, bool accumulate_w, const float* dlogp, Tensor x, const Matrix& head,
                           Tensor head_rows, Ints targets, const float* lse) override;
  void pair_loss(float* dlogp, double* figures, const float* logp, const float* reference, Ints sides, const PairLoss& o) override;
  void sample(int32_t* host_ids, float* host_logp, Tensor logits, std::span<const SampleOptions> options,
              std::span<const std::span<const int32_t>> suppress) override;
  void adamw(std::span<const AdamWItem> items, const AdamW& o) override;
  void write_values(std::span<const AdamWItem> items) override;
  double sum_squares(std::span<const Flat> arrays) override;

  using Call = std::function<void(Backend& inner)>;
  virtual void launch(Call call) = 0;
  virtual void wait() = 0;                          // until every call has run
  virtual void check_resident(const void*) const {} // asked for every address that a call was given; null is none

 protected:
  std::unique_ptr<Backend> inner_;

 private:
  template <class... Addresses>
  void check(const Addresses&... all);
};

}  // namespace isr
