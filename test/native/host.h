// Host memory as arguments of a backend on the host.
#pragma once
#include <memory>
#include <vector>

#include "kernels/backend.h"

namespace isr::test {

inline Ints ints(const std::vector<int32_t>& v) { return {v.data(), static_cast<int64_t>(v.size())}; }

// The matrix of w's rows, in memory of its own.
struct HostMatrix {
  Buffer memory;
  std::unique_ptr<Matrix> matrix;
  HostMatrix(Backend& be, const MatrixShape& s) : memory(be.matrix_bytes(s)), matrix(be.matrix(s, memory.data())) {}
  HostMatrix(Backend& be, Tensor w, bool swiglu = false) : HostMatrix(be, MatrixShape{w.rows, w.cols, w.dtype, swiglu}) { matrix->write_rows(0, w); }
  operator const Matrix&() const { return *matrix; }
};

}  // namespace isr::test
