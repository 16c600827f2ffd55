// Errors of the engine. The core never prints, exits or aborts: it throws one of two kinds.
// Recoverable: the caller's input or surroundings (a file, a config, the disk); carries a stable code of the public API.
// Bug: the engine broke its own contract; code "BUG".
#pragma once
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace isr {

struct Error : std::runtime_error {
  Error(std::string code, const std::string& message, std::string hint = {}, std::string path = {})
      : std::runtime_error(message), code(std::move(code)), hint(std::move(hint)), path(std::move(path)) {}
  std::string code;  // ErrorCode of the public API: "INVALID_ARGUMENT", "CHECKPOINT_CORRUPT", "DISK_FULL", ...
  std::string hint;  // what the user can do about it; may be empty
  std::string path;  // the file it is about; may be empty
  std::vector<int64_t> items;   // indices of the call's items that it is about; may be empty
};

// Thrown inside a job when its cancel flag is seen; the binding turns it into the AbortSignal's reason.
struct Cancelled : std::exception {
  const char* what() const noexcept override { return "cancelled"; }
};

template <class... Parts>
std::string concat(const Parts&... parts) {
  std::ostringstream s;
  s.exceptions(std::ios::badbit);   // else a stream that gets no memory ends the text where it is
  static_cast<void>((s << ... << parts));
  return s.str();
}

template <class... Parts>
[[noreturn]] void fail(const char* code, const Parts&... parts) {
  throw Error(code, concat(parts...));
}

// A contract of the engine itself: a failure is our bug, never the user's.
#define ISR_ASSERT(cond, ...)                                                                            \
  do {                                                                                                   \
    if (!(cond)) [[unlikely]]                                                                            \
      throw ::isr::Error("BUG", ::isr::concat(__FILE__, ":", __LINE__, ": ", #cond, ": ", __VA_ARGS__)); \
  } while (0)

}  // namespace isr
