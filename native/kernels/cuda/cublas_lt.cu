#include "kernels/cuda/cublas_lt.h"

#include <compare>
#include <map>

#include "core/library.h"

namespace isr::cuda {
namespace lt {
namespace {

const Library* g_mine = nullptr;

const LibrarySearch kSearch = {
    "cuBLASLt of CUDA 12 or 13", "ISR_DPO_CUBLASLT", {"libcublasLt.so.12", "libcublasLt.so.13"}, "libcublasLt.so.1[23]", {"cublas", "cu13"},
    "pip install nvidia-cublas-cu12 in the active environment"};

Library load() {
  void* const from = open_library(kSearch);
  Library all{};
  bind(from, "cublasLtGetVersion", all.version, kSearch);
  bind(from, "cublasLtCreate", all.create, kSearch);
  bind(from, "cublasLtDestroy", all.destroy, kSearch);
  bind(from, "cublasLtMatmulDescCreate", all.desc_create, kSearch);
  bind(from, "cublasLtMatmulDescSetAttribute", all.desc_set, kSearch);
  bind(from, "cublasLtMatmulDescDestroy", all.desc_destroy, kSearch);
  bind(from, "cublasLtMatrixLayoutCreate", all.layout_create, kSearch);
  bind(from, "cublasLtMatrixLayoutDestroy", all.layout_destroy, kSearch);
  bind(from, "cublasLtMatmulPreferenceCreate", all.preference_create, kSearch);
  bind(from, "cublasLtMatmulPreferenceSetAttribute", all.preference_set, kSearch);
  bind(from, "cublasLtMatmulPreferenceDestroy", all.preference_destroy, kSearch);
  bind(from, "cublasLtMatmulAlgoGetHeuristic", all.heuristic, kSearch);
  bind(from, "cublasLtMatmul", all.matmul, kSearch);
  return all;
}

}  // namespace

const Library& library() {
  if (g_mine) return *g_mine;
  static const Library installed = load();
  return installed;
}
void use_library(const Library* mine) { g_mine = mine; }

std::string installed() {
  const Library& lib = library();
  const size_t version = lib.version();   // major * 10,000 + minor * 100 + patch
  return concat("cuBLASLt ", version / 10000, ".", version / 100 % 100, ".", version % 100, ", ", file_of(reinterpret_cast<const void*>(lib.version)));
}

}  // namespace lt

namespace {

constexpr uint32_t kAlignment = 16;               // bytes that every row of an operand begins at (gemm.cu, aligned)
constexpr size_t kWorkspace = size_t{32} << 20;   // NVIDIA's advice for sm_90; it belongs to one stream

void checked(lt::Status s, const char* call) {
  if (s != 0) throw Error("BUG", concat("cuBLASLt: ", call, " gave status ", s));
}

int type_of(DType t) { return t == DType::F32 ? lt::kReal32F : lt::kReal16BF; }

// A row-major (rows, cols) tensor as the library sees it: column-major (cols, rows).
struct Layout {
  Layout(const lt::Library& lib, const Tensor& t) : lib(lib) {
    checked(lib.layout_create(&layout, type_of(t.dtype), static_cast<uint64_t>(t.cols), static_cast<uint64_t>(t.rows), t.stride), "MatrixLayoutCreate");
  }
  ~Layout() { lib.layout_destroy(layout); }
  Layout(const Layout&) = delete;
  const lt::Library& lib;
  lt::Layout layout = nullptr;
};

class LtProducts final : public Products {
 public:
  explicit LtProducts(CudaDevice& device) : lib_(lt::library()), device_(device), workspace_(device, kWorkspace) {
    checked(lib_.create(&handle_), "Create");
    checked(lib_.preference_create(&preference_), "MatmulPreferenceCreate");
    const size_t bytes = kWorkspace;
    const uint32_t reductions = lt::kReductionNone | lt::kReductionComputeType;   // never in the type of the output
    checked(lib_.preference_set(preference_, lt::kMaxWorkspace, &bytes, sizeof bytes), "MatmulPreferenceSetAttribute");
    checked(lib_.preference_set(preference_, lt::kReductionMask, &reductions, sizeof reductions), "MatmulPreferenceSetAttribute");
    for (int of : lt::kMinAlignment) checked(lib_.preference_set(preference_, of, &kAlignment, sizeof kAlignment), "MatmulPreferenceSetAttribute");
  }
  ~LtProducts() override {
    for (auto& [shape, p] : prepared_) lib_.desc_destroy(p.desc);
    lib_.preference_destroy(preference_);
    lib_.destroy(handle_);
  }

  void multiply(Tensor d, bool accumulate, Tensor a, bool a_transposed, Tensor b, bool b_transposed) override {
    // Column-major d^T = op(b)^T op(a)^T: the library's first factor is b, its second a.
    const Layout first(lib_, b), second(lib_, a), to(lib_, d);
    const int64_t bucket = a_transposed || d.rows > 128 ? d.rows : (d.rows + 15) / 16 * 16;
    const Prepared& p = prepare({bucket, d.cols, a_transposed ? a.rows : a.cols, a.stride, b.stride, d.stride, a_transposed, b_transposed, a.dtype, d.dtype},
                                a, b, d);
    const float one = 1, beta = accumulate ? 1 : 0;
    checked(lib_.matmul(handle_, p.desc, &one, b.data, first.layout, a.data, second.layout, &beta, d.data, to.layout, d.data, to.layout, &p.algo,
                        workspace_.data(), kWorkspace, device_.stream()), "Matmul");
  }

 private:
  struct Prepared { lt::Desc desc = nullptr; lt::Algo algo{}; };
  struct Shape {   // of a product; rows in buckets of 16 up to 128, where they are batches
    int64_t rows, cols, inner, a_stride, b_stride, d_stride;
    bool a_transposed, b_transposed;
    DType in, out;
    auto operator<=>(const Shape&) const = default;
  };

  // The algorithm is chosen once per shape, by the library's rules and never by timing: near-ties would differ between runs.
  // It is asked for a product of the bucket's rows, so that it does not depend on which product of the bucket comes first.
  const Prepared& prepare(const Shape& shape, Tensor a, const Tensor& b, Tensor d) {
    if (const auto known = prepared_.find(shape); known != prepared_.end()) return known->second;
    if (!shape.a_transposed) d.rows = a.rows = shape.rows;
    const Layout first(lib_, b), second(lib_, a), to(lib_, d);
    Prepared p;
    checked(lib_.desc_create(&p.desc, lt::kCompute32F, lt::kReal32F), "MatmulDescCreate");
    const int op_first = shape.b_transposed ? lt::kTranspose : lt::kNoTranspose, op_second = shape.a_transposed ? lt::kTranspose : lt::kNoTranspose;
    checked(lib_.desc_set(p.desc, lt::kDescTransA, &op_first, sizeof op_first), "MatmulDescSetAttribute");
    checked(lib_.desc_set(p.desc, lt::kDescTransB, &op_second, sizeof op_second), "MatmulDescSetAttribute");
    lt::Heuristic found{};
    int count = 0;
    checked(lib_.heuristic(handle_, p.desc, first.layout, second.layout, to.layout, to.layout, preference_, 1, &found, &count), "MatmulAlgoGetHeuristic");
    if (count == 0 || found.state != 0)
      throw Error("BUG", concat("cuBLASLt ", lib_.version(), " knows no algorithm for a product of (", shape.rows, ", ", shape.inner, ") by ", shape.cols));
    p.algo = found.algo;
    return prepared_.emplace(shape, p).first->second;
  }

  const lt::Library& lib_;
  CudaDevice& device_;
  Buffer workspace_;
  lt::Handle handle_ = nullptr;
  lt::Preference preference_ = nullptr;
  std::map<Shape, Prepared> prepared_;
};

// Takes the library's workspace, and nothing else.
class CountedProducts final : public Products {
 public:
  explicit CountedProducts(CudaDevice& device) : workspace_(device, kWorkspace) {}
  void multiply(Tensor, bool, Tensor, bool, Tensor, bool) override {}

 private:
  Buffer workspace_;
};

}  // namespace

std::unique_ptr<Products> make_products(CudaDevice& device) {
  if (device.only_counts()) return std::make_unique<CountedProducts>(device);
  return std::make_unique<LtProducts>(device);
}

}  // namespace isr::cuda
