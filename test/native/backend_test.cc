// One table of backends times one table of ops: every op on every backend against the float64 oracle, and in bits where a
// backend promises them.
#include <algorithm>
#include <cstring>

#include "check.h"
#include "core/bf16.h"
#include "far.h"
#include "op_table.h"
#if defined(ISR_CUDA_EMULATED)
#include "emulated.h"
#include "fibers.h"
#endif

namespace isr::test {
namespace {

struct BackendRow {
  std::string name;
  std::function<std::unique_ptr<Backend>()> make;
  double nmse;                                       // of float32: squared error over the squared values, at most
  double bf16_ratio;                                 // of bfloat16: that, over what one rounding of the oracle's values costs
  std::function<std::unique_ptr<Backend>()> bits;    // whose bits it has; null: it promises none
};

std::vector<BackendRow> backends() {
  std::vector<BackendRow> all;
  for (Isa isa : levels()) {
    const auto alone = [isa] { return make_cpu_backend(isa, 1); };
    for (int threads : {1, 3, 17})
      all.push_back({concat(name_of(isa), ", ", threads, " threads"), [=] { return make_cpu_backend(isa, threads); }, 1e-11, 8, alone});
    all.push_back({concat("far, ", name_of(isa)), [isa] { return make_far_backend(isa, 2); }, 1e-11, 8, alone});
  }
#if defined(ISR_CUDA_EMULATED)
  for (unsigned schedule = 0; schedule < emulated::kSchedules; ++schedule)
    all.push_back({concat("cuda, emulated, schedule ", schedule), [=] { return make_emulated_cuda(schedule); }, 1e-11, 8,
                   schedule == 0 ? nullptr : std::function<std::unique_ptr<Backend>()>([] { return make_emulated_cuda(0); })});
#endif
  return all;
}

size_t bytes_of(const Tensor& t) { return static_cast<size_t>(t.rows * t.cols) * size_of(t.dtype); }

DType type_of(const Operand& o, DType dtype) { return o.type == As::Float32 ? DType::F32 : dtype; }

// The operands' bytes, in the type that is tested.
std::vector<reference::Stored> operands_of(const OpRow& op, DType dtype) {
  std::vector<reference::Stored> all;
  uint64_t seed = hash64(op.name + op.vars);
  for (const Operand& o : op.in) all.emplace_back(type_of(o, dtype), o.rows, o.cols, random_values(o.rows * o.cols, seed++, o.gain));
  return all;
}

using Results = std::vector<reference::Stored>;
Results run(const OpRow& op, Backend& be, DType dtype, std::vector<reference::Stored>& operands) {
  OpCall c(be, dtype);
  Device& device = be.device();
  for (reference::Stored& o : operands) {
    const Tensor host = o.tensor();
    c.in.push_back(view(c.arena.allocate(bytes_of(host)), host.dtype, host.rows, host.cols));
    device.upload(c.in.back().data, host.data, bytes_of(host));
  }
  for (const Operand& o : op.out) c.out.push_back(view(c.arena.allocate(static_cast<size_t>(o.rows * o.cols) * size_of(type_of(o, dtype))), type_of(o, dtype), o.rows, o.cols));
  op.run(c);
  Results all;
  for (const Tensor& t : c.out) {
    reference::Stored& to = all.emplace_back(t.dtype, t.rows, t.cols);
    device.download(to.bytes.data(), t.data, to.bytes.size());
  }
  return all;
}

double nmse(const reference::Vec<double>& got, const reference::Vec<double>& want) {
  double error = 0, scale = 1e-30;
  for (size_t i = 0; i < want.size(); ++i) error += (got[i] - want[i]) * (got[i] - want[i]), scale += want[i] * want[i];
  return got.size() == want.size() ? error / scale : INFINITY;
}

double rounding_nmse(const reference::Vec<double>& want) {
  reference::Vec<double> rounded;
  for (double x : want) rounded.push_back(round_bf16(static_cast<float>(x)));
  return std::max(nmse(rounded, want), 1e-7);   // values that happen to need no rounding
}

void check(const OpRow& op, const BackendRow& row, DType dtype) {
  std::vector<reference::Stored> operands = operands_of(op, dtype);
  const Results got = run(op, *row.make(), dtype, operands), same = row.bits ? run(op, *row.bits(), dtype, operands) : Results();
  Values values;
  for (const reference::Stored& o : operands) values.push_back(o.values());
  const Values want = op.oracle(values);
  for (size_t i = 0; i < op.out.size(); ++i) {
    const double error = nmse(got[i].values(), want[i]), most = dtype == DType::F32 ? row.nmse : row.bf16_ratio * rounding_nmse(want[i]);
    CHECK(error <= most, row.name, ", ", op.name, " (", op.vars, ") ", name_of(dtype), ": ", op.out[i].name, ": NMSE ", error, ", at most ", most);
    if (row.bits) CHECK(got[i].bytes == same[i].bytes, row.name, ", ", op.name, " (", op.vars, ") ", name_of(dtype), ": bits of ", op.out[i].name);
  }
}

const bool registered = [] {
  for (const BackendRow& row : backends())
    cases().push_back({concat("backend: ", row.name), [row] {
                         for (const OpRow& op : op_table())
                           for (DType dtype : {DType::F32, DType::BF16}) check(op, row, dtype);
                       }});
  return true;
}();

TEST("backend: the table has a row for every call of the contract") {
  const std::vector<std::string> calls{"gemm_nt", "gemm_nn", "gemm_tn", "attention", "attention_cached", "rms_norm", "layer_norm", "act", "swiglu_backward", "add",
                                       "rope", "gather_rows", "pool_rows", "embedding_forward", "embedding_backward", "patchify", "token_logp", "pair_loss", "sample", "adamw",
                                       "sum_squares"};
  for (const std::string& call : calls)
    CHECK(std::any_of(op_table().begin(), op_table().end(), [&](const OpRow& op) { return op.name == call; }), call);
}

}  // namespace
}  // namespace isr::test
