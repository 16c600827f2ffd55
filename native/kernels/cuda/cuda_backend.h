// The CUDA backend's class. Methods are defined in the file named beside them; each launches kernels on the device's stream and
// returns.
#pragma once
#include "kernels/backend.h"
#include "kernels/cuda/cublas_lt.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/graphs.h"

namespace isr::cuda {

// Row-major, as products read it.
class RowMatrix final : public Matrix {
 public:
  RowMatrix(CudaDevice& device, const MatrixShape& s, void* memory) : Matrix(s), rows(view(memory, s.dtype, s.n, s.k)), device_(device) {}
  void write_rows(int64_t row0, Tensor from) override;
  void read_rows(Tensor to, int64_t row0) const override;
  Tensor in_place() const override { return rows; }
  const Tensor rows;

 private:
  CudaDevice& device_;
};

class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(int index);
  explicit CudaBackend(Device& counting);   // see CudaDevice
  ~CudaBackend() override;
  const char* level() const override { return "cuda"; }   // backend.cu
  Device& device() override { return device_; }
  Arena& workspace() override { return scratch_; }
  void repeat(std::span<const uint64_t> key, const std::function<void()>& calls) override;   // graphs.cu
  size_t matrix_bytes(const MatrixShape& s) const override;
  std::unique_ptr<Matrix> matrix(const MatrixShape& s, void* memory) override;

  // gemm.cu
  void gemm_nt(Tensor y, Tensor x, const Matrix& w, const Epilogue& e) override;
  void gemm_nn(Tensor dx, bool accumulate, Tensor dy, std::span<const Tensor> w) override;
  void gemm_tn(std::span<const GradPart> dw, Tensor dy, Tensor x) override;
  // attention.cu, attention_cached.cu
  std::unique_ptr<Prepared> prepare(const AttentionPlan& plan) override;
  void attention_forward(Tensor out, float* lse, Tensor q, Tensor k, Tensor v, const Prepared& plan, const AttentionShape& s) override;
  void attention_backward(Tensor dq, Tensor dk, Tensor dv, Tensor dout, Tensor q, Tensor k, Tensor v, Tensor out, const float* lse,
                          const Prepared& plan, const AttentionShape& s) override;
  size_t kv_page_bytes(const AttentionShape& s, DType dtype) const override;
  std::unique_ptr<Prepared> prepare(const CachedPlan& plan) override;
  void kv_append(const KvStore& kv, int64_t layer, Tensor k, Tensor v, const Prepared& plan, const AttentionShape& s) override;
  void attention_cached(Tensor out, Tensor q, const KvStore& kv, int64_t layer, const Prepared& plan, const AttentionShape& s) override;
  // norm.cu
  void rms_norm_forward(Tensor y, float* rstd, Tensor x, Flat w, float eps) override;
  void rms_norm_backward(Tensor dx, bool accumulate, float* dw, bool accumulate_w, Tensor dy, Tensor x, Flat w,
                         const float* rstd) override;
  void layer_norm_forward(Tensor y, float* mean, float* rstd, Tensor x, const float* w, const float* b, float eps) override;
  void layer_norm_backward(Tensor dx, bool accumulate, float* dw, float* db, bool accumulate_w, Tensor dy, Tensor x, const float* w,
                           const float* mean, const float* rstd) override;
  // activation.cu
  void swiglu_backward(Tensor dpre, Tensor dy, Tensor pre) override;
  void act_forward(Tensor y, Tensor pre, Act act) override;
  void act_backward(Tensor dpre, Tensor dy, Tensor pre, Act act) override;
  // rope.cu
  void rope_table(float* table, Ints positions, const RopeFrequencies& f) override;
  void rope(Tensor x, const float* table, int64_t heads, int64_t head_size, bool inverse) override;
  // rows.cu
  void add(Tensor y, bool accumulate, Tensor a) override;
  void gather_rows(Tensor y, bool accumulate, Tensor x, Ints index) override;
  void pool_rows(Tensor y, bool accumulate, Tensor x, Ints index, int64_t n, float scale) override;
  void embedding_forward(Tensor y, Tensor table, Ints ids) override;
  void embedding_backward(float* dw, bool accumulate, Tensor dy, Ints ids, int64_t vocab) override;
  void patchify(Tensor y, const float* pixels, int64_t frames, int64_t height, int64_t width, int64_t patch) override;
  // token_logp.cu
  void token_logp_forward(float* logp, float* lse, Tensor x, const Matrix& head, Ints targets) override;
  void token_logp_backward(Tensor dx, bool accumulate, float* dw, bool accumulate_w, const float* dlogp, Tensor x, const Matrix& head,
                           Tensor head_rows, Ints targets, const float* lse) override;
  // pair_loss.cu
  void pair_loss(float* dlogp, double* figures, const float* logp, const float* reference, Ints sides, const PairLoss& o) override;
  // sample.cu
  void sample(int32_t* host_ids, float* host_logp, Tensor logits, std::span<const SampleOptions> options,
              std::span<const std::span<const int32_t>> suppress) override;
  // adamw.cu
  void adamw(std::span<const AdamWItem> items, const AdamW& o) override;
  void write_values(std::span<const AdamWItem> items) override;
  double sum_squares(std::span<const Flat> arrays) override;

 private:
  cudaStream_t stream() const { return device_.stream(); }
  void update(std::span<const AdamWItem> items, const AdamW* o);

  CudaDevice device_;
  Arena scratch_;
  std::unique_ptr<Products> products_;
  Graphs graphs_;
};

}  // namespace isr::cuda
