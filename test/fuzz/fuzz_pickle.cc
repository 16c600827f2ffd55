// The input is read twice: as a whole PyTorch file, and as the text of its data.pkl alone, so that mutated pickles are
// parsed although their checksum is wrong. What is accepted must lie in the file and keep the limits.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "io/json.h"
#include "io/pickle.h"

namespace {

using namespace isr;

void require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "broken promise: %s\n", what);
  std::abort();
}

template <class Tensor>
void check(const std::vector<Tensor>& tensors, uint64_t end) {
  std::vector<std::string_view> names;
  for (const Tensor& t : tensors) {
    uint64_t bytes = size_of(t.dtype);
    for (const int64_t d : t.shape) bytes *= static_cast<uint64_t>(d);
    require(bytes == t.bytes, "shape and bytes agree");
    require(end == 0 || (t.bytes <= end && t.offset <= end - t.bytes), "a tensor lies in the file");
    require(t.shape.size() <= kMaxRank && !t.name.empty() && t.name.size() <= kMaxNameBytes && valid_utf8(t.name), "limits hold");
    names.push_back(t.name);
  }
  std::sort(names.begin(), names.end());
  require(std::adjacent_find(names.begin(), names.end()) == names.end(), "names are unique");
}

template <class F>
void refused_or_fine(F&& parse) {
  try {
    parse();
  } catch (const Error& e) {
    require((e.code == "CHECKPOINT_CORRUPT" || e.code == "CHECKPOINT_UNSUPPORTED") && e.path == "input" && valid_utf8(e.what()), e.what());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto read = [&](void* dst, size_t bytes, uint64_t offset) {
    require(offset <= size && bytes <= size - offset, "reads stay in the file");
    std::memcpy(dst, data + offset, bytes);
  };
  refused_or_fine([&] { check(read_torch_header(read, size, "input").tensors, size); });
  refused_or_fine([&] {
    const PickledCheckpoint c = parse_pickle(text, "input");
    check(c.tensors, 0);
    for (const PickledTensor& t : c.tensors) require(t.bytes <= t.storage_bytes && t.offset <= t.storage_bytes - t.bytes, "a tensor lies in its storage");
  });
  return 0;
}
