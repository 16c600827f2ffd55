// Strict JSON (RFC 8259): a parser into a small value tree, and a writer. Everything read here is untrusted: sizes, depth
// and counts are bounded by the caller's limits, bytes must be UTF-8, keys unique, numbers finite (unless the limits allow
// Python's), nothing may follow the value. Errors carry the caller's code and path and say at which byte what was expected.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "core/error.h"

namespace isr {

class Json {
 public:
  using Array = std::vector<Json>;
  using Member = std::pair<std::string, Json>;
  using Object = std::vector<Member>;  // in the file's order

  Json() = default;  // null
  Json(bool v) : value_(v) {}
  Json(int v) : value_(static_cast<int64_t>(v)) {}
  Json(int64_t v) : value_(v) {}
  Json(double v) : value_(v) {}
  Json(const char* v) : value_(std::string(v)) {}
  Json(std::string v) : value_(std::move(v)) {}
  Json(Array v) : value_(std::move(v)) {}
  Json(Object v) : value_(std::move(v)) {}

  // Each gives nothing when the value is of another kind.
  bool is_null() const { return std::holds_alternative<std::monostate>(value_); }
  std::optional<bool> boolean() const;
  std::optional<int64_t> integer() const;  // written without fraction or exponent and within int64: exact
  std::optional<double> number() const;    // any number; integers beyond 2^53 are rounded
  const std::string* string() const { return std::get_if<std::string>(&value_); }
  const Array* array() const { return std::get_if<Array>(&value_); }
  const Object* object() const { return std::get_if<Object>(&value_); }
  const Json* find(std::string_view key) const;  // null when this is no object or lacks the key; linear in its size
  const char* kind() const;                      // "null", "a boolean", "a number", "a string", "an array", "an object"

 private:
  std::variant<std::monostate, bool, int64_t, double, std::string, Array, Object> value_;
};

struct JsonLimits {
  size_t max_bytes = size_t{16} << 20;  // config and index files are far below
  size_t max_values = size_t{1} << 21;  // values of all kinds; bounds the tree's memory (about 100 bytes each)
  int max_depth = 64;                   // nested arrays and objects; bounds the parser's stack
  bool python = false;                  // NaN, Infinity, -Infinity and numbers beyond a double, as Python's json reads them
};
constexpr JsonLimits kConfigJson{.python = true};  // files that Python's json wrote: config.json and its like

// `code` is the error code that a fault gets ("INVALID_CONFIG", "CHECKPOINT_CORRUPT"); `path` goes into message and Error.
Json parse_json(std::string_view text, const char* code, const std::string& path, const JsonLimits& limits = {});

// The file at `path`, read and parsed: NOT_FOUND or IO when it cannot be read, else as parse_json.
Json read_json(const std::string& path, const char* code, const JsonLimits& limits = {});

bool valid_utf8(std::string_view text);

// Compact when indent is 0. Refuses (BUG) what JSON cannot hold: NaN, infinities, text that is not UTF-8.
std::string to_json(const Json& value, int indent = 0);
std::string shown(const Json& value);  // for messages: compact, cut after 80 bytes, non-finite numbers by Python's words
std::string json_quoted(std::string_view text);  // with its quotes
std::string json_excerpt(std::string_view text);  // the same, cut after 80 bytes: names of untrusted files in messages

}  // namespace isr
