// cuBLASLt's calls as their documentation describes them, executed in float32 and in order: what descriptors and layouts say is what
// is computed. Whatever the library would refuse, or need more from its caller than it was given, is an error. Descriptors are the
// double's own, or those of an installed library, which makes and reads them without a card.
#include <dlfcn.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "core/bf16.h"
#include "emulated.h"
#include "kernels/cuda/cuda_backend.h"

namespace isr::test {
namespace {

using namespace cuda::lt;

constexpr Status kBad = 7;   // CUBLAS_STATUS_INVALID_VALUE

struct DescData { int compute = 0, scale = 0, trans_a = kNoTranspose, trans_b = kNoTranspose; };
struct LayoutData { int type = 0; uint64_t rows = 0, cols = 0; int64_t ld = 0; };
struct PreferenceData { size_t workspace = 0; uint32_t reductions = ~0u, alignment[4] = {256, 256, 256, 256}; };   // of A, B, C, D

constexpr uint64_t kSlice = 64;    // of the sums
constexpr uint64_t kAlgo = 0x150;   // what the double knows its own choice by

float value_at(const void* p, int type, int64_t i) {
  return type == kReal32F ? static_cast<const float*>(p)[i] : bf16_to_f32(static_cast<const uint16_t*>(p)[i]);
}
void put(void* p, int type, int64_t i, float x) {
  if (type == kReal32F) static_cast<float*>(p)[i] = x;
  else static_cast<uint16_t*>(p)[i] = f32_to_bf16(x);
}

// Column-major (rows, cols) of op(x).
struct Factor {
  const void* data;
  LayoutData layout;
  bool transposed;
  uint64_t rows() const { return transposed ? layout.cols : layout.rows; }
  uint64_t cols() const { return transposed ? layout.rows : layout.cols; }
  float operator()(uint64_t r, uint64_t c) const {
    if (transposed) std::swap(r, c);
    return value_at(data, layout.type, static_cast<int64_t>(c) * layout.ld + static_cast<int64_t>(r));
  }
};

// What descriptors say, by whoever made them.
struct Readers {
  DescData (*desc)(Desc);
  LayoutData (*layout)(Layout);
  PreferenceData (*preference)(Preference);
};
constexpr Readers kOwn{[](Desc d) { return *static_cast<DescData*>(d); }, [](Layout l) { return *static_cast<LayoutData*>(l); },
                       [](Preference p) { return *static_cast<PreferenceData*>(p); }};
Readers g_readers = kOwn;

Status desc_set(Desc desc, int attribute, const void* value, size_t bytes) {
  if (bytes != sizeof(int)) return kBad;
  auto* d = static_cast<DescData*>(desc);
  if (attribute == kDescTransA) std::memcpy(&d->trans_a, value, bytes);
  else if (attribute == kDescTransB) std::memcpy(&d->trans_b, value, bytes);
  else return kBad;
  return 0;
}

Status layout_create(Layout* layout, int type, uint64_t rows, uint64_t cols, int64_t ld) {
  if (ld < static_cast<int64_t>(rows) || rows == 0 || cols == 0) return kBad;
  *layout = new LayoutData{type, rows, cols, ld};
  return 0;
}

Status preference_set(Preference preference, int attribute, const void* value, size_t bytes) {
  auto* p = static_cast<PreferenceData*>(preference);
  if (attribute == kMaxWorkspace && bytes == sizeof p->workspace) std::memcpy(&p->workspace, value, bytes);
  else if (attribute == kReductionMask && bytes == sizeof p->reductions) std::memcpy(&p->reductions, value, bytes);
  else if (attribute >= kMinAlignment[0] && attribute <= kMinAlignment[3] && bytes == sizeof(uint32_t)) std::memcpy(&p->alignment[attribute - kMinAlignment[0]], value, bytes);
  else return kBad;
  return 0;
}

Status heuristic(Handle, Desc, Layout a, Layout b, Layout, Layout d, Preference preference, int wanted, Heuristic* found, int* count) {
  const auto type = [](Layout l) { return g_readers.layout(l).type; };
  const PreferenceData wants = g_readers.preference(preference);
  if (wanted < 1 || type(a) != type(b) || (type(d) != type(a) && type(d) != kReal32F)) return kBad;
  *found = {};
  found->algo.data[0] = kAlgo;
  for (int i = 0; i < 4; ++i) found->algo.data[1 + i] = wants.alignment[i];
  found->workspace = wants.workspace;
  *count = 1;
  return 0;
}

Status matmul(Handle, Desc desc, const void* alpha, const void* a, Layout a_layout, const void* b, Layout b_layout, const void* beta, const void* c,
              Layout c_layout, void* d, Layout d_layout, const Algo* algo, void* workspace, size_t bytes, cudaStream_t stream) {
  const DescData how = g_readers.desc(desc);
  const Factor first{a, g_readers.layout(a_layout), how.trans_a == kTranspose}, second{b, g_readers.layout(b_layout), how.trans_b == kTranspose};
  const LayoutData to = g_readers.layout(d_layout);
  if (how.compute != kCompute32F || how.scale != kReal32F || algo->data[0] != kAlgo || !workspace || bytes == 0) return kBad;
  if (first.rows() != to.rows || second.cols() != to.cols || first.cols() != second.rows() || c != d || c_layout != d_layout) return kBad;
  const void* const operands[] = {a, b, c, d};
  for (int i = 0; i < 4; ++i)
    if (reinterpret_cast<uintptr_t>(operands[i]) % algo->data[1 + i] != 0) return kBad;
  const float scale = *static_cast<const float*>(alpha), keep = *static_cast<const float*>(beta);
  emulated::enqueue(stream, [=] {
    for (uint64_t column = 0; column < to.cols; ++column)
      for (uint64_t row = 0; row < to.rows; ++row) {
        float sum = 0;   // by slices, as a card's products have it: one chain of all K would lose what they do not
        for (uint64_t k0 = 0; k0 < first.cols(); k0 += kSlice) {
          float part = 0;
          for (uint64_t k = k0; k < std::min(k0 + kSlice, first.cols()); ++k) part += first(row, k) * second(k, column);
          sum += part;
        }
        const int64_t at = static_cast<int64_t>(column) * to.ld + static_cast<int64_t>(row);
        put(d, to.type, at, scale * sum + (keep != 0 ? keep * value_at(d, to.type, at) : 0));
      }
  });
  return 0;
}

template <class T>
Status destroy(void* p) {
  delete static_cast<T*>(p);
  return 0;
}

const Library kDouble{
    [] { return size_t{120405}; },
    [](Handle* h) { *h = new int; return 0; },
    destroy<int>,
    [](Desc* d, int compute, int scale) { *d = new DescData{compute, scale}; return 0; },
    desc_set,
    destroy<DescData>,
    layout_create,
    destroy<LayoutData>,
    [](Preference* p) { *p = new PreferenceData; return 0; },
    preference_set,
    destroy<PreferenceData>,
    heuristic,
    matmul,
};

// ---- an installed library's descriptors. Attributes by the values of cublasLt.h
using Get = Status (*)(void*, int attribute, void* value, size_t bytes, size_t* written);
struct Getters { Get desc, layout, preference; } g_get;

template <class T>
T got(Get get, void* from, int attribute) {
  T value{};
  size_t written = 0;
  const Status status = get(from, attribute, &value, sizeof value, &written);
  if (status != 0 || written != sizeof value) throw Error("BUG", concat("cuBLASLt: attribute ", attribute, " of ", sizeof value, " bytes: status ", status, ", ", written, " bytes"));
  return value;
}

constexpr Readers kInstalled{
    [](Desc d) {
      return DescData{got<int32_t>(g_get.desc, d, 0), got<int32_t>(g_get.desc, d, 1), got<int32_t>(g_get.desc, d, kDescTransA), got<int32_t>(g_get.desc, d, kDescTransB)};
    },
    [](Layout l) {
      if (got<int32_t>(g_get.layout, l, 1) != 0) throw Error("BUG", "cuBLASLt: a layout is not column-major");
      return LayoutData{static_cast<int>(got<uint32_t>(g_get.layout, l, 0)), got<uint64_t>(g_get.layout, l, 2), got<uint64_t>(g_get.layout, l, 3), got<int64_t>(g_get.layout, l, 4)};
    },
    [](Preference p) {
      PreferenceData all{got<uint64_t>(g_get.preference, p, kMaxWorkspace), got<uint32_t>(g_get.preference, p, kReductionMask)};
      for (int i = 0; i < 4; ++i) all.alignment[i] = got<uint32_t>(g_get.preference, p, kMinAlignment[i]);
      return all;
    },
};

}  // namespace

std::string describe_to_installed() {
  use_library(nullptr);
  static Library mixed = library();   // DEVICE_UNAVAILABLE
  Dl_info from{};
  dladdr(reinterpret_cast<void*>(mixed.version), &from);
  void* const file = dlopen(from.dli_fname, RTLD_NOW | RTLD_NOLOAD);
  const auto find = [&](const char* name) { return reinterpret_cast<Get>(dlsym(file, name)); };
  g_get = {find("cublasLtMatmulDescGetAttribute"), find("cublasLtMatrixLayoutGetAttribute"), find("cublasLtMatmulPreferenceGetAttribute")};
  const std::string name = installed();
  mixed.create = kDouble.create, mixed.destroy = kDouble.destroy, mixed.heuristic = kDouble.heuristic, mixed.matmul = kDouble.matmul;
  g_readers = kInstalled;
  use_library(&mixed);
  return name;
}

void describe_to_double() {
  g_readers = kOwn;
  use_library(&kDouble);
}

std::unique_ptr<Backend> make_emulated_cuda(unsigned schedule, int index) {
  emulated::set_schedule(schedule);
  return emulated_kind().make(1, index);
}

DeviceKind emulated_kind() {
  use_library(&kDouble);
  DeviceKind kind = cuda_kind();
  kind.present = nullptr;   // the machine has no driver's files
  return kind;
}

}  // namespace isr::test
