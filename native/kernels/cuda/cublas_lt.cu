#include "kernels/cuda/cublas_lt.h"

#include <dlfcn.h>
#include <glob.h>

#include <compare>
#include <cstdlib>
#include <map>
#include <vector>

namespace isr::cuda {
namespace lt {
namespace {

const Library* g_mine = nullptr;

void* open(const std::string& path, std::string& searched) {
  searched += (searched.empty() ? "" : ", ") + path;
  return dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
}

// Files of a pattern of folders, newest name last.
std::vector<std::string> matching(const std::string& pattern) {
  std::vector<std::string> all;
  glob_t found{};
  if (glob(pattern.c_str(), 0, nullptr, &found) == 0)
    for (size_t i = 0; i < found.gl_pathc; ++i) all.emplace_back(found.gl_pathv[i]);
  globfree(&found);
  return all;
}

void* find(std::string& searched) {
  if (const char* given = std::getenv("ISR_DPO_CUBLASLT"); given && *given) return open(given, searched);
  for (const char* name : {"libcublasLt.so.12", "libcublasLt.so.13"})
    if (void* p = open(name, searched)) return p;
  std::vector<std::string> folders{"/usr/local/cuda/lib64", "/usr/local/cuda-1[23]*/lib64", "/usr/lib/x86_64-linux-gnu"};
  for (const char* name : {"VIRTUAL_ENV", "CONDA_PREFIX"})
    if (const char* root = std::getenv(name); root && *root)
      for (const char* wheel : {"cublas", "cu13"}) folders.push_back(concat(root, "/lib/python3*/site-packages/nvidia/", wheel, "/lib"));
  for (const std::string& folder : folders)
    for (const std::string& path : matching(folder + "/libcublasLt.so.1[23]"))
      if (void* p = open(path, searched)) return p;
  for (const std::string& folder : folders) searched += ", " + folder;
  return nullptr;
}

template <class F>
void bind(void* from, const char* name, F*& to) {
  to = reinterpret_cast<F*>(dlsym(from, name));
  if (!to) throw Error("DEVICE_UNAVAILABLE", concat("cuBLASLt: the library that was found has no ", name), "install that of CUDA 12: pip install nvidia-cublas-cu12");
}

Library load() {
  std::string searched;
  void* const from = find(searched);
  if (!from)
    throw Error("DEVICE_UNAVAILABLE", concat("device: cuBLASLt of CUDA 12 or 13 was not found in ", searched),
                "pip install nvidia-cublas-cu12 in the active environment, or name the file in ISR_DPO_CUBLASLT");
  Library all{};
  bind(from, "cublasLtGetVersion", all.version);
  bind(from, "cublasLtCreate", all.create);
  bind(from, "cublasLtDestroy", all.destroy);
  bind(from, "cublasLtMatmulDescCreate", all.desc_create);
  bind(from, "cublasLtMatmulDescSetAttribute", all.desc_set);
  bind(from, "cublasLtMatmulDescDestroy", all.desc_destroy);
  bind(from, "cublasLtMatrixLayoutCreate", all.layout_create);
  bind(from, "cublasLtMatrixLayoutDestroy", all.layout_destroy);
  bind(from, "cublasLtMatmulPreferenceCreate", all.preference_create);
  bind(from, "cublasLtMatmulPreferenceSetAttribute", all.preference_set);
  bind(from, "cublasLtMatmulPreferenceDestroy", all.preference_destroy);
  bind(from, "cublasLtMatmulAlgoGetHeuristic", all.heuristic);
  bind(from, "cublasLtMatmul", all.matmul);
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
  Dl_info from{};
  dladdr(reinterpret_cast<void*>(lib.version), &from);
  return concat("cuBLASLt ", version / 10000, ".", version / 100 % 100, ".", version % 100, ", ", from.dli_fname ? from.dli_fname : "an unnamed file");
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
