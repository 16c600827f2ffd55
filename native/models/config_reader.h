// Fields of a config.json with their ranges. Every complaint names the field, what was expected and what came.
#pragma once
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "io/json.h"
#include "models/config.h"

namespace isr {

class ConfigReader {
 public:
  ConfigReader(const Json& object, std::string path, std::string where = {})
      : json_(object), path_(std::move(path)), where_(std::move(where)), asked_(std::make_shared<std::set<std::string>>()) {}

  bool has(const char* key) const;                                       // present and not null
  int64_t integer(const char* key, int64_t low, int64_t high, std::optional<int64_t> fallback = {}) const;
  double number(const char* key, double low, double high, std::optional<double> fallback = {}) const;
  bool boolean(const char* key, bool fallback) const;
  std::string text(const char* key, const std::string& fallback) const;
  std::vector<int32_t> ids(const char* key, int64_t vocab, std::vector<std::string>& notes) const;        // one id or a list; absent or null: empty
  ConfigReader object(const char* key) const;
  const Json* find(const char* key) const;                               // null when absent or null
  bool listed(const char* key) const { return json_.find(key) != nullptr; }   // present, null or not
  const Json::Object& members() const { return *json_.object(); }
  bool asked(const std::string& key) const { return asked_->count(key) > 0; }   // whether somebody has looked at it, through any copy
  const std::string& path() const { return path_; }
  std::string name(const std::string& key) const { return where_ + key; }
  [[noreturn]] void invalid(const char* key, const std::string& expected) const;
  [[noreturn]] void unsupported(const std::string& what, const std::string& hint) const;

 private:
  const Json& json_;
  std::string path_, where_;
  std::shared_ptr<std::set<std::string>> asked_;
};

// Whether positions have axes of time, rows and columns (mrope_section), and how a head's pairs are shared out among them.
enum class RopeAxes : uint8_t { One, Sections, Interleaved };
// `context`: max_position_embeddings. Notes what is used in part (dynamic scaling).
RopeConfig read_rope(const ConfigReader& config, int64_t context, std::vector<std::string>& notes, RopeAxes axes = RopeAxes::One);
// Widths, heads, vocabulary, context; consistent or INVALID_CONFIG. `defaults`: what is left out is LlamaConfig's default, as in
// the text_config of published video models; else it is an error. `head_size`: where head_dim is left out; 0: width / heads.
void read_shape(DecoderConfig& out, const ConfigReader& config, bool defaults, int64_t head_size = 0);

}  // namespace isr
