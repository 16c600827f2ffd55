// The input is read twice: as a whole file, and as a header alone (after 8 bytes that choose the size of the data), so
// that mutated headers are parsed even where the mutation broke the length in front. A header that is accepted must
// describe tensors that cover the data exactly.
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "io/json.h"
#include "io/safetensors.h"

namespace {

using namespace isr;

void require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "broken promise: %s\n", what);
  std::abort();
}

void check(std::string_view json, uint64_t file_size) {
  const Header header = parse_header(json, file_size, "input");
  uint64_t at = 8 + json.size();
  for (const TensorInfo& t : header.tensors) {
    require(t.offset == at, "tensors follow each other");
    uint64_t bytes = size_of(t.dtype);
    for (const int64_t d : t.shape) bytes *= static_cast<uint64_t>(d);
    require(bytes == t.bytes && t.elements() == t.rows() * t.cols(), "shape and bytes agree");
    require(t.shape.size() <= kMaxRank && t.name.size() <= kMaxNameBytes && valid_utf8(t.name), "limits hold");
    at += t.bytes;
  }
  require(at == file_size, "the last tensor ends the file");
}

template <class F>
void refused_or_fine(F&& parse) {
  try {
    parse();
  } catch (const Error& e) {
    require(e.code == "CHECKPOINT_CORRUPT" && e.path == "input" && valid_utf8(e.what()), e.what());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 8) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  refused_or_fine([&] { check(text.substr(8, parse_header_length(data, size, "input")), size); });
  uint64_t data_bytes = 0;
  for (int i = 7; i >= 0; --i) data_bytes = data_bytes << 8 | data[i];
  refused_or_fine([&] { check(text.substr(8), size + (data_bytes & ((uint64_t{1} << 50) - 1))); });
  return 0;
}
