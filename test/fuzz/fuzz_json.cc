// Any bytes: either an error of the caller's code, or a value that survives being written and read again.
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "io/json.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace isr;
  const JsonLimits limits{size_t{1} << 20, size_t{1} << 16, 64};
  try {
    const Json value = parse_json({reinterpret_cast<const char*>(data), size}, "INVALID_CONFIG", "input", limits);
    const std::string text = to_json(value), pretty = to_json(value, 2);
    const JsonLimits written{size_t{64} << 20, size_t{1} << 16, 64};  // escapes and indents can make text longer
    if (to_json(parse_json(text, "BUG", "text", written)) != text || to_json(parse_json(pretty, "BUG", "pretty", written)) != text) {
      std::fprintf(stderr, "not the same after a round trip: %s\n", text.c_str());
      std::abort();
    }
  } catch (const Error& e) {
    if (e.code == "INVALID_CONFIG" && e.path == "input" && valid_utf8(e.what())) return 0;
    std::fprintf(stderr, "unexpected error %s: %s\n", e.code.c_str(), e.what());
    std::abort();
  }
  return 0;
}
