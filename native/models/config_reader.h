// Fields of a config.json with their ranges. Every complaint names the field, what was expected and what came.
#pragma once
#include <optional>
#include <string>

#include "io/json.h"
#include "models/config.h"

namespace isr {

class ConfigReader {
 public:
  ConfigReader(const Json& object, std::string path, std::string where = {}) : json_(object), path_(std::move(path)), where_(std::move(where)) {}

  bool has(const char* key) const;                                       // present and not null
  int64_t integer(const char* key, int64_t low, int64_t high, std::optional<int64_t> fallback = {}) const;
  double number(const char* key, double low, double high, std::optional<double> fallback = {}) const;
  bool boolean(const char* key, bool fallback) const;
  std::string text(const char* key, const std::string& fallback) const;
  std::vector<int32_t> ids(const char* key, int64_t vocab) const;        // one id or a list; absent or null: empty
  ConfigReader object(const char* key) const;
  const std::string& path() const { return path_; }
  [[noreturn]] void invalid(const char* key, const std::string& expected) const;
  [[noreturn]] void unsupported(const std::string& what, const std::string& hint) const;

 private:
  const Json* find(const char* key) const;
  const Json& json_;
  std::string path_, where_;
};

RopeConfig read_rope(const ConfigReader& config);
// Widths, heads, vocabulary, context; consistent or INVALID_CONFIG. `defaults`: what is left out is LlamaConfig's default, as in
// the text_config of published video models; else it is an error.
void read_shape(DecoderConfig& out, const ConfigReader& config, bool defaults);

}  // namespace isr
