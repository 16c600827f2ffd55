#include "op_check.h"

#include <algorithm>
#include <cmath>

#include "check.h"
#include "core/bf16.h"
#include "core/rng.h"

namespace isr::test {
namespace {

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

}  // namespace

std::vector<OpError> errors_of(const OpRow& op, Backend& be, DType dtype) {
  std::vector<reference::Stored> operands = operands_of(op, dtype);
  const Results got = run(op, be, dtype, operands);
  Values values;
  for (const reference::Stored& o : operands) values.push_back(o.values());
  const Values want = op.oracle(values);
  std::vector<OpError> all;
  for (size_t i = 0; i < op.out.size(); ++i)
    all.push_back({op.out[i].name, nmse(got[i].values(), want[i]), dtype == DType::F32 ? 0 : rounding_nmse(want[i]), got[i].bytes});
  return all;
}

std::vector<std::vector<uint8_t>> bytes_of(const OpRow& op, Backend& be, DType dtype) {
  std::vector<reference::Stored> operands = operands_of(op, dtype);
  std::vector<std::vector<uint8_t>> all;
  for (reference::Stored& r : run(op, be, dtype, operands)) all.push_back(std::move(r.bytes));
  return all;
}

}  // namespace isr::test
