// A non-owning, row-major view of two dimensions. Rows are tokens (T), columns a width (C, H*D, F, V);
// a column slice of a wider tensor is the same view with a larger stride.
#pragma once
#include <cstddef>
#include <cstdint>

#include "core/error.h"

namespace isr {

enum class DType : uint8_t { F32, BF16, I32, U8 };

constexpr size_t size_of(DType t) { return t == DType::U8 ? 1 : t == DType::BF16 ? 2 : 4; }
constexpr const char* name_of(DType t) {
  return t == DType::F32 ? "f32" : t == DType::BF16 ? "bf16" : t == DType::I32 ? "i32" : "u8";
}

struct Tensor {
  void* data = nullptr;
  int64_t rows = 0, cols = 0, stride = 0;  // stride: elements from one row to the next
  DType dtype = DType::F32;
  int32_t slot = -1;  // gradient slot of the tape; -1: a constant

  explicit operator bool() const { return data != nullptr; }
  bool contiguous() const { return stride == cols; }
  template <class T>
  T* as() const { return static_cast<T*>(data); }
  float* f32() const { return as<float>(); }
  uint16_t* bf16() const { return as<uint16_t>(); }
  void* at(int64_t row, int64_t col = 0) const {
    return static_cast<char*>(data) + (row * stride + col) * static_cast<int64_t>(size_of(dtype));
  }
  // Views without a gradient slot: kernels get them, the tape never does (tape tensors do not alias).
  Tensor columns(int64_t begin, int64_t count) const { return {at(0, begin), rows, count, stride, dtype, -1}; }
  Tensor row_range(int64_t begin, int64_t count) const { return {at(begin), count, cols, stride, dtype, -1}; }
};

inline Tensor view(float* p, int64_t rows, int64_t cols) { return {p, rows, cols, cols, DType::F32, -1}; }
inline Tensor view(uint16_t* p, int64_t rows, int64_t cols) { return {p, rows, cols, cols, DType::BF16, -1}; }
inline Tensor view(void* p, DType t, int64_t rows, int64_t cols) { return {p, rows, cols, cols, t, -1}; }

}  // namespace isr
