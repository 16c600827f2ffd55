// The CPU backend of a level, and what all levels share. Compiled once, for any machine.
#include <algorithm>

#include "kernels/cpu_base.h"
#include "kernels/pair_formulas.h"

namespace isr {
namespace cpu {
namespace generic { std::unique_ptr<Backend> make(int threads, Device& device); }
namespace avx2 { std::unique_ptr<Backend> make(int threads, Device& device); }
namespace avx512 { std::unique_ptr<Backend> make(int threads, Device& device); }
namespace avx512bf16 { std::unique_ptr<Backend> make(int threads, Device& device); }

namespace {

class PanelMatrix final : public Matrix {
 public:
  PanelMatrix(const CpuBase& backend, const MatrixShape& s, void* panels) : Matrix(s), packed{panels, s.dtype, s.n, s.k, s.swiglu}, backend_(backend) {}
  void write_rows(int64_t row0, Tensor rows) override { backend_.pack(packed, row0, rows); }
  // Whole panels for each task.
  void read_rows(Tensor rows, int64_t row0) const override {
    constexpr int64_t kRows = 64;
    const auto read = [&](int64_t begin, int64_t end) { backend_.unpack(rows.row_range(begin, end - begin), packed, row0 + begin); };
    if (inside_region()) return read(0, rows.rows);
    parallel(backend_.threads, (rows.rows + kRows - 1) / kRows, 1, [&](int64_t begin, int64_t end, int) {
      read(begin * kRows, std::min(end * kRows, rows.rows));
    });
  }
  const Packed packed;

 private:
  const CpuBase& backend_;
};

template <class Plan>
struct HostPlan final : Prepared {   // the host's threads read a plan where it is
  explicit HostPlan(const Plan& plan) : plan(plan) {}
  const Plan& plan;
};

}  // namespace

const Packed& packed_of(const Matrix& m) { return static_cast<const PanelMatrix&>(m).packed; }
const AttentionPlan& plan_of(const Prepared& p) { return static_cast<const HostPlan<AttentionPlan>&>(p).plan; }
const CachedPlan& cached_plan_of(const Prepared& p) { return static_cast<const HostPlan<CachedPlan>&>(p).plan; }

std::unique_ptr<Matrix> CpuBase::matrix(const MatrixShape& s, void* memory) { return std::make_unique<PanelMatrix>(*this, s, memory); }
std::unique_ptr<Prepared> CpuBase::prepare(const AttentionPlan& plan) { return std::make_unique<HostPlan<AttentionPlan>>(plan); }
std::unique_ptr<Prepared> CpuBase::prepare(const CachedPlan& plan) { return std::make_unique<HostPlan<CachedPlan>>(plan); }

namespace {

struct SideSums { double policy = 0, reference = 0, plain = 0, plain_reference = 0; bool finite = true; };

SideSums sums_of(const float* logp, const float* reference, int64_t tokens, int64_t other, const PairLoss& o) {
  SideSums s;
  for (int64_t t = 0; t < tokens; ++t) {
    const double w = token_weight(o, t, tokens, other);
    s.policy += w * logp[t];
    s.reference += w * reference[t];
    s.plain += logp[t];
    s.plain_reference += reference[t];
    s.finite = s.finite && std::isfinite(logp[t]);
  }
  return s;
}

}  // namespace

// A pair is one chain of sums, in ascending tokens.
void CpuBase::pair_loss(float* dlogp, double* figures, const float* logp, const float* reference, Ints sides, const PairLoss& o) {
  parallel(threads, sides.n / 2, 4, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t at[] = {sides.data[2 * i], sides.data[2 * i + 1]}, n[] = {at[1] - at[0], sides.data[2 * i + 2] - at[1]};
      const SideSums c = sums_of(logp + at[0], reference + at[0], n[0], n[1], o), r = sums_of(logp + at[1], reference + at[1], n[1], n[0], o);
      const PairPoint p = pair_point(o, c.policy - c.reference, r.policy - r.reference);
      for (int64_t t = 0; t < n[0]; ++t)
        dlogp[at[0] + t] = static_cast<float>(p.dc * o.per_pair * token_weight(o, t, n[0], n[1])) - static_cast<float>(o.per_chosen);
      for (int64_t t = 0; t < n[1]; ++t) dlogp[at[1] + t] = static_cast<float>(p.dr * o.per_pair * token_weight(o, t, n[1], n[0]));
      double* const f = figures + i * kPairFigures;
      f[kLoss] = p.loss;
      f[kChosenReward] = o.beta * (c.plain - c.plain_reference);
      f[kRejectedReward] = o.beta * (r.plain - r.plain_reference);
      f[kChosenLogp] = c.plain;
      f[kRejectedLogp] = r.plain;
      f[kNotFinite] = c.finite && r.finite && std::isfinite(f[kChosenReward] - f[kRejectedReward]) ? 0 : 1;
    }
  });
}

}  // namespace cpu

std::unique_ptr<Backend> make_cpu_backend(Isa level, int threads, Device& device) {
  if (!isa_supported(level))
    throw Error("DEVICE_UNAVAILABLE", concat("instruction-set level ", name_of(level), " is not available on this machine"));
  switch (level) {
#if ISR_MAX_LEVEL >= 3
    case Isa::Avx512Bf16: return cpu::avx512bf16::make(threads, device);
#endif
#if ISR_MAX_LEVEL >= 2
    case Isa::Avx512: return cpu::avx512::make(threads, device);
#endif
#if ISR_MAX_LEVEL >= 1
    case Isa::Avx2: return cpu::avx2::make(threads, device);
#endif
    default: return cpu::generic::make(threads, device);
  }
}

}  // namespace isr
