// A row of the op table on a backend: its results, and how far they are from the float64 oracle's.
#pragma once
#include <string>
#include <vector>

#include "op_table.h"

namespace isr::test {

// Of one result of a row. NMSE: the squared error over the squared values.
struct OpError {
  std::string result;
  double nmse = 0;
  double rounding = 0;      // what one rounding of the oracle's values to the row's type costs; 0 in float32
  std::vector<uint8_t> bytes;   // as the backend gave them
};

// Operands are the same for every backend: seeded by the row, in `dtype` where the row leaves the type open.
std::vector<OpError> errors_of(const OpRow& op, Backend& be, DType dtype);
std::vector<std::vector<uint8_t>> bytes_of(const OpRow& op, Backend& be, DType dtype);   // of the results alone: no oracle

}  // namespace isr::test
