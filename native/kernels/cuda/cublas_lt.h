// cuBLASLt, opened at run time: a machine without it can load this package, and nothing of NVIDIA's is shipped. What is
// declared here has the same names, values and sizes in cublasLt.h of CUDA 12 and 13. Matrices of the library are column-major,
// so a row-major product is asked for as that of the transposed matrices.
#pragma once
#include <memory>

#include "kernels/cuda/device.h"

namespace isr::cuda {

namespace lt {

using Status = int;                       // 0: success
using Handle = void*;
using Desc = void*;
using Layout = void*;
using Preference = void*;
struct Algo { uint64_t data[8]; };
struct Heuristic {
  Algo algo;
  size_t workspace;
  Status state;
  float waves;
  int reserved[4];
};
static_assert(sizeof(Algo) == 64 && sizeof(Heuristic) == 96);

constexpr int kCompute32F = 68, kReal32F = 0, kReal16BF = 14;                // cublasComputeType_t; cudaDataType
constexpr int kDescTransA = 3, kDescTransB = 4;                              // cublasLtMatmulDescAttributes_t
constexpr int kNoTranspose = 0, kTranspose = 1;                              // cublasOperation_t
constexpr int kMaxWorkspace = 1, kReductionMask = 3;                         // cublasLtMatmulPreferenceAttributes_t
constexpr int kMinAlignment[] = {5, 6, 7, 8};                                // of that: bytes of A, B, C, D; 256 where nobody says less
constexpr uint32_t kReductionNone = 0, kReductionComputeType = 2;            // cublasLtReductionScheme_t

struct Library {
  size_t (*version)();
  Status (*create)(Handle*);
  Status (*destroy)(Handle);
  Status (*desc_create)(Desc*, int compute, int scale);
  Status (*desc_set)(Desc, int attribute, const void* value, size_t bytes);
  Status (*desc_destroy)(Desc);
  Status (*layout_create)(Layout*, int type, uint64_t rows, uint64_t cols, int64_t ld);
  Status (*layout_destroy)(Layout);
  Status (*preference_create)(Preference*);
  Status (*preference_set)(Preference, int attribute, const void* value, size_t bytes);
  Status (*preference_destroy)(Preference);
  Status (*heuristic)(Handle, Desc, Layout a, Layout b, Layout c, Layout d, Preference, int wanted, Heuristic* found, int* count);
  Status (*matmul)(Handle, Desc, const void* alpha, const void* a, Layout, const void* b, Layout, const void* beta, const void* c, Layout, void* d,
                   Layout, const Algo*, void* workspace, size_t workspace_bytes, cudaStream_t);
};

// DEVICE_UNAVAILABLE, naming every place that was searched and the command that brings the library.
const Library& library();
std::string installed();                  // "cuBLASLt 12.4.5, FILE"; throws as library() does
void use_library(const Library* mine);    // for tests: instead of what is installed; null: that again

}  // namespace lt

// d (m, n) (+)= op(a) op(b), sums in float32. a and b have one type; d has it too, or is float32. The same bits for the same
// shapes, on one card with one version of the library.
class Products {
 public:
  virtual ~Products() = default;
  virtual void multiply(Tensor d, bool accumulate, Tensor a, bool a_transposed, Tensor b, bool b_transposed) = 0;
};
std::unique_ptr<Products> make_products(CudaDevice& device);

}  // namespace isr::cuda
