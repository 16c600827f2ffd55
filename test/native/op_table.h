// Every op of the backend contract as a row: its operands, the call, and what a float64 oracle says of its results. Operands
// are made on the host and uploaded, results are downloaded, so that a row runs on any backend (backend_test.cc).
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "reference.h"

namespace isr::test {

enum class As : uint8_t { Activation, Float32 };   // in the type that is tested, or always float32

struct Operand {
  std::string name;
  int64_t rows, cols;
  As type = As::Activation;
  float gain = 1;                                  // values are uniform in [-gain, gain)
};

// One run of a row. `in` and `out` are resident, in the order of the row's operands and results.
struct OpCall {
  Backend& be;
  DType dtype;
  Arena arena;
  std::vector<Tensor> in, out;
  std::vector<Buffer> memory;
  std::vector<std::unique_ptr<Matrix>> matrices;

  OpCall(Backend& be, DType dtype) : be(be), dtype(dtype), arena(be.device()) {}
  const float* f32(size_t i) const { return in[i].f32(); }
  Ints ints(const std::vector<int32_t>& v);
  const Matrix& matrix(Tensor rows, bool swiglu = false);
};

using Values = std::vector<reference::Vec<double>>;
struct OpRow {
  std::string name, vars;                          // what differs between rows of one op, for whoever reads a failure
  std::vector<Operand> in, out;
  std::function<void(OpCall&)> run;
  std::function<Values(const Values&)> oracle;     // of the operands as they are stored
};

const std::vector<OpRow>& op_table();

}  // namespace isr::test
