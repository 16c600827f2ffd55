// What the CPU backends of all levels share, compiled once: memory, packed matrices, plans.
#pragma once
#include "core/threads.h"
#include "kernels/backend.h"

namespace isr::cpu {

// A matrix in panels (cpu/gemm.h), or rows of one. swiglu: gate and up are interleaved inside a panel, so that one epilogue
// holds both.
struct Packed {
  void* panels = nullptr;
  DType dtype = DType::F32;
  int64_t n = 0, k = 0;
  bool swiglu = false;
};

class CpuBase : public Backend {
 public:
  CpuBase(int threads, Device& device) : threads{threads, device.only_counts()}, scratch(device), device_(device) {}
  Device& device() final { return device_; }
  Arena& workspace() final { return scratch; }
  std::unique_ptr<Matrix> matrix(const MatrixShape& s, void* memory) final;
  std::unique_ptr<Prepared> prepare(const AttentionPlan& plan) final;
  std::unique_ptr<Prepared> prepare(const CachedPlan& plan) final;
  void pair_loss(float* dlogp, double* figures, const float* logp, const float* reference, Ints sides, const PairLoss& o) final;

  // Rows [row0, row0 + rows.rows) of w; those of swiglu parts go where they belong.
  virtual void pack(const Packed& w, int64_t row0, Tensor rows) const = 0;
  virtual void unpack(Tensor rows, const Packed& w, int64_t row0) const = 0;

  const Crew threads;   // of a region
  Arena scratch;        // taken on the calling thread, before a region

 private:
  Device& device_;
};

const Packed& packed_of(const Matrix& m);
const AttentionPlan& plan_of(const Prepared& p);
const CachedPlan& cached_plan_of(const Prepared& p);

}  // namespace isr::cpu
