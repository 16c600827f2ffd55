// What goes into the calls of a backend (kernels/backend.h) besides tensors.
//
// Resident: in memory of the backend's device. Every tensor and every pointer of a call is resident unless it is called
// `host`; spans and structs by value are host memory that is read before the call returns.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "core/tensor.h"

namespace isr {

enum class Act : uint8_t { None, GeluErf, GeluTanh, QuickGelu, SwiGlu };

struct Ints {                     // resident: ids, targets, indices of rows
  const int32_t* data = nullptr;
  int64_t n = 0;
};

struct MatrixShape {              // (n, k): n outputs, k inputs. swiglu: rows [0, n/2) are gate, [n/2, n) are up
  int64_t n = 0, k = 0;
  DType dtype = DType::F32;
  bool swiglu = false;
};

// A resident matrix in whatever layout the backend's products read. Rows go in and out row-major, (rows, k) in its type.
// Disjoint rows may be written from several threads at once.
class Matrix {
 public:
  explicit Matrix(const MatrixShape& shape) : shape(shape) {}
  virtual ~Matrix() = default;
  virtual void write_rows(int64_t row0, Tensor rows) = 0;
  virtual void read_rows(Tensor rows, int64_t row0) const = 0;
  virtual Tensor in_place() const { return {}; }   // all rows, where the layout is row-major; a parameter then needs no other copy
  const MatrixShape shape;
};

// A plan in the form that kernels read (Backend::prepare). The plan must outlive it; its end waits for who still reads it.
class Prepared {
 public:
  virtual ~Prepared() = default;
  virtual void add_to(std::vector<uint64_t>& key) const { (void)key; }   // for Backend::repeat: where kernels read it, and how many they are
};

struct Epilogue {                 // Y = act(X W^T + bias) + residual, in this order
  const float* bias = nullptr;    // (N)
  Act act = Act::None;            // SwiGlu (W.swiglu only): Y (M, N/2) = silu(gate) * up
  Tensor pre;                     // (M, N) if set: what goes into act, saved for backward ([gate | up] for SwiGlu)
  Tensor residual;                // (M, cols of Y) if set
  bool accumulate = false;        // X W^T is added to what `pre` holds; without `pre`, and then without `act`, to what Y holds
};

struct GradPart {                 // where the gradient of one part of a stacked matrix goes
  float* dw = nullptr;            // (rows, k); null: skipped
  float* db = nullptr;            // (rows); null: none
  int64_t rows = 0;
  bool accumulate = false;        // of dw
  bool accumulate_bias = false;   // of db
};

// Angle of pair i of token t: positions[axis[i]][t] * inverse[i], of positions (P, T); cos and sin are multiplied by `factor`.
struct RopeFrequencies {
  std::span<const double> inverse;        // (D/2)
  double factor = 1;
  int64_t axes = 1;                       // P
  std::span<const int32_t> axis = {};     // (D/2), each in [0, P); not read where P is 1
};

struct SampleOptions {            // one row's draw
  float temperature = 0;          // any finite one; 0: greedy, lowest id on ties
  float top_p = 1;                // smallest set by (probability desc, id asc) with mass >= top_p
  int32_t top_k = 0;              // 0: all
  double uniform = 0;             // [0, 1)
};

struct AdamW {                    // decoupled weight decay (Loshchilov & Hutter 2019), as every item of a call takes it
  float lr = 0, beta1 = 0.9f, beta2 = 0.999f, eps = 1e-8f;
  float grad_scale = 1;           // clip factor, multiplied into the gradient as it is read
};

struct AdamWItem {                // one parameter, (rows, cols)
  float *master = nullptr, *m = nullptr, *v = nullptr;
  const float* grad = nullptr;
  int64_t rows = 0, cols = 0;
  int64_t step = 1;               // bias correction, from 1
  float weight_decay = 0;
  Tensor value;                   // (rows, cols): the master, cast; null: the master itself is the value, or nobody reads it
  bool rounded = false;           // a float32 value holds what bfloat16 can represent
  Matrix* matrix = nullptr;       // rows [matrix_row, matrix_row + rows) of it are this parameter; null: none
  int64_t matrix_row = 0;
};

struct Flat {                     // a resident array of float32
  const float* data = nullptr;
  int64_t n = 0;
};

}  // namespace isr
