#include "io/json.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

#include "io/file.h"

namespace isr {
namespace {

// Length of the UTF-8 sequence at p (Unicode table 3-7: no surrogates, no overlong forms), 0 when it is none.
size_t utf8_length(const unsigned char* p, size_t left) {
  const unsigned char c = p[0];
  if (c < 0x80) return 1;
  const size_t n = c >= 0xc2 && c <= 0xdf ? 2 : (c & 0xf0) == 0xe0 ? 3 : c >= 0xf0 && c <= 0xf4 ? 4 : 0;
  if (n == 0 || n > left) return 0;
  const unsigned char low = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80, high = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
  if (p[1] < low || p[1] > high) return 0;
  for (size_t i = 2; i < n; ++i)
    if ((p[i] & 0xc0) != 0x80) return 0;
  return n;
}

void append_utf8(std::string& out, uint32_t c) {
  const auto tail = [&](int shift) { out += static_cast<char>(0x80 | ((c >> shift) & 0x3f)); };
  if (c < 0x80) {
    out += static_cast<char>(c);
  } else if (c < 0x800) {
    out += static_cast<char>(0xc0 | (c >> 6));
    tail(0);
  } else if (c < 0x10000) {
    out += static_cast<char>(0xe0 | (c >> 12));
    tail(6), tail(0);
  } else {
    out += static_cast<char>(0xf0 | (c >> 18));
    tail(12), tail(6), tail(0);
  }
}

class Parser {
 public:
  Parser(std::string_view text, const char* code, const std::string& path, const JsonLimits& limits)
      : text_(text), code_(code), path_(path), limits_(limits) {}

  Json document() {
    if (text_.size() > limits_.max_bytes)
      refuse(0, concat("at most ", limits_.max_bytes, " bytes"), concat(text_.size(), " bytes"));
    Json value = parse_value(0);
    skip_space();
    if (at_ < text_.size()) refuse(at_, "the end of the text", shown());
    return value;
  }

 private:
  [[noreturn]] void refuse(size_t at, const std::string& expected, const std::string& got) const {
    throw Error(code_, concat("JSON of ", path_, ", byte ", at, ": expected ", expected, ", got ", got), {}, path_);
  }

  // What stands at the cursor, fit for a message.
  std::string shown() const {
    if (at_ >= text_.size()) return "the end of the text";
    const unsigned char c = static_cast<unsigned char>(text_[at_]);
    if (c > 0x20 && c < 0x7f) return concat("'", text_[at_], "'");
    constexpr char hex[] = "0123456789abcdef";
    return concat("byte 0x", hex[c >> 4], hex[c & 15]);
  }

  int peek() const { return at_ < text_.size() ? static_cast<unsigned char>(text_[at_]) : -1; }
  bool digit() const { return peek() >= '0' && peek() <= '9'; }

  void skip_space() {
    for (int c = peek(); c == ' ' || c == '\n' || c == '\t' || c == '\r'; c = peek()) ++at_;
  }

  void expect(char c) {
    if (peek() != c) refuse(at_, concat("'", c, "'"), shown());
    ++at_;
  }

  Json parse_value(int depth) {
    skip_space();
    if (++values_ > limits_.max_values) refuse(at_, concat("at most ", limits_.max_values, " values"), "more");
    switch (peek()) {
      case '{': return parse_object(depth + 1);
      case '[': return parse_array(depth + 1);
      case '"': return parse_string();
      case 't': return parse_word("true", true);
      case 'f': return parse_word("false", false);
      case 'n': return parse_word("null", Json());
      case 'N':
        if (limits_.python) return parse_word("NaN", std::numeric_limits<double>::quiet_NaN());
        break;
      case 'I':
        if (limits_.python) return parse_word("Infinity", std::numeric_limits<double>::infinity());
        break;
      case '-':
        if (limits_.python && text_.substr(at_ + 1, 1) == "I") return parse_word("-Infinity", -std::numeric_limits<double>::infinity());
        return parse_number();
      default:
        if (digit()) return parse_number();
    }
    refuse(at_, "a value", shown());
  }

  Json parse_word(std::string_view word, Json value) {
    if (text_.substr(at_, word.size()) != word) refuse(at_, concat("'", word, "'"), "another word");
    at_ += word.size();
    return value;
  }

  void enter(int depth) const {
    if (depth > limits_.max_depth) refuse(at_, concat("at most ", limits_.max_depth, " nested arrays and objects"), "more");
  }

  Json parse_array(int depth) {
    enter(depth);
    expect('[');
    Json::Array items;
    skip_space();
    if (peek() == ']') return ++at_, Json(std::move(items));
    for (;;) {
      items.push_back(parse_value(depth));
      skip_space();
      if (peek() == ']') return ++at_, Json(std::move(items));
      if (peek() != ',') refuse(at_, "',' or ']'", shown());
      ++at_;
    }
  }

  Json parse_object(int depth) {
    enter(depth);
    const size_t start = at_;
    expect('{');
    Json::Object members;
    skip_space();
    if (peek() == '}') return ++at_, Json(std::move(members));
    for (;;) {
      skip_space();
      if (peek() != '"') refuse(at_, "a key in quotes", shown());
      std::string key = parse_string();
      skip_space();
      expect(':');
      Json value = parse_value(depth);
      members.emplace_back(std::move(key), std::move(value));
      skip_space();
      if (peek() == '}') break;
      if (peek() != ',') refuse(at_, "',' or '}'", shown());
      ++at_;
    }
    ++at_;
    refuse_duplicates(members, start);
    return Json(std::move(members));
  }

  // Sorting keeps this n log n whatever the keys are.
  void refuse_duplicates(const Json::Object& members, size_t start) const {
    std::vector<const std::string*> keys;
    keys.reserve(members.size());
    for (const auto& [key, value] : members) keys.push_back(&key);
    std::sort(keys.begin(), keys.end(), [](const std::string* a, const std::string* b) { return *a < *b; });
    for (size_t i = 1; i < keys.size(); ++i)
      if (*keys[i] == *keys[i - 1]) refuse(start, "an object with unique keys", concat("a second ", json_excerpt(*keys[i])));
  }

  uint32_t parse_hex4() {
    uint32_t unit = 0;
    for (int i = 0; i < 4; ++i, ++at_) {
      const int c = peek();
      const int letter = c | 0x20;
      const int v = c >= '0' && c <= '9' ? c - '0' : letter >= 'a' && letter <= 'f' ? letter - 'a' + 10 : -1;
      if (v < 0) refuse(at_, "four hex digits after \\u", shown());
      unit = unit * 16 + static_cast<uint32_t>(v);
    }
    return unit;
  }

  void parse_escape(std::string& out) {
    const size_t start = at_++;
    constexpr std::string_view names = "\"\\/bfnrt", values = "\"\\/\b\f\n\r\t";
    const int c = peek();
    if (const size_t i = c < 0 ? std::string_view::npos : names.find(static_cast<char>(c)); i != std::string_view::npos) {
      out += values[i];
      ++at_;
      return;
    }
    if (c != 'u') refuse(at_, "an escape (\" \\ / b f n r t u)", shown());
    ++at_;
    uint32_t unit = parse_hex4();
    if (unit >= 0xd800 && unit < 0xdc00) {  // the first half of a pair
      if (text_.substr(at_, 2) != "\\u") refuse(start, "two surrogate escapes", "one");
      at_ += 2;
      const uint32_t low = parse_hex4();
      if (low < 0xdc00 || low > 0xdfff) refuse(start, "a low surrogate after a high one", "another escape");
      unit = 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
    } else if (unit >= 0xdc00 && unit < 0xe000) {
      refuse(start, "a high surrogate first", "a low one alone");
    }
    append_utf8(out, unit);
  }

  static bool plain(char c) { return c >= 0x20 && c < 0x7f && c != '"' && c != '\\'; }

  std::string parse_string() {
    expect('"');
    std::string out;
    for (;;) {
      const size_t run = at_;
      while (at_ < text_.size() && plain(text_[at_])) ++at_;
      out.append(text_, run, at_ - run);
      const int c = peek();
      if (c == '"') return ++at_, out;
      if (c < 0) refuse(at_, "'\"'", shown());
      if (c < 0x20) refuse(at_, "an escaped control character", shown());
      if (c == '\\') {
        parse_escape(out);
        continue;
      }
      const size_t n = utf8_length(reinterpret_cast<const unsigned char*>(text_.data()) + at_, text_.size() - at_);
      if (n == 0) refuse(at_, "UTF-8", shown());
      out.append(text_, at_, n);
      at_ += n;
    }
  }

  void skip_digits() {
    if (!digit()) refuse(at_, "a digit", shown());
    while (digit()) ++at_;
  }

  // What Python makes of a number that no double holds: a zero or an infinity of its sign.
  static double beyond_range(std::string_view text) {
    const bool negative = text[0] == '-';
    const size_t e = text.find_first_of("eE");
    const bool tiny = e != std::string_view::npos ? text[e + 1] == '-' : text[negative] == '0';
    const double value = tiny ? 0 : std::numeric_limits<double>::infinity();
    return negative ? -value : value;
  }

  Json parse_number() {
    const size_t start = at_;
    bool integral = true;
    if (peek() == '-') ++at_;
    if (peek() == '0') ++at_; else skip_digits();
    if (digit()) refuse(at_, "no digit after a leading 0", shown());
    if (peek() == '.') {
      integral = false;
      ++at_;
      skip_digits();
    }
    if (peek() == 'e' || peek() == 'E') {
      integral = false;
      ++at_;
      if (peek() == '+' || peek() == '-') ++at_;
      skip_digits();
    }
    const char *begin = text_.data() + start, *end = text_.data() + at_;
    int64_t exact = 0;
    const bool negative_zero = at_ - start == 2 && begin[0] == '-' && begin[1] == '0';
    if (integral && !negative_zero && std::from_chars(begin, end, exact).ec == std::errc()) return exact;
    double value = 0;
    const auto read = std::from_chars(begin, end, value);
    if (read.ec == std::errc::result_out_of_range && limits_.python) return beyond_range(text_.substr(start, at_ - start));
    if (read.ec != std::errc() || read.ptr != end || !std::isfinite(value))
      refuse(start, "a number that a double holds", "one out of range");
    return value;
  }

  std::string_view text_;
  const char* code_;
  const std::string& path_;
  const JsonLimits& limits_;
  size_t at_ = 0, values_ = 0;
};

void newline(std::string& out, int indent, int depth) {
  if (indent == 0) return;
  out += '\n';
  out.append(static_cast<size_t>(indent * depth), ' ');
}

void write_number(std::string& out, const Json& value, bool python) {
  char digits[32];
  const auto exact = value.integer();
  const double number = *value.number();
  if (python && !std::isfinite(number)) {
    out += std::isnan(number) ? "NaN" : number > 0 ? "Infinity" : "-Infinity";
    return;
  }
  ISR_ASSERT(std::isfinite(number), "JSON has no NaN and no infinity");
  char* limit = digits + sizeof digits;
  const auto end = exact ? std::to_chars(digits, limit, *exact) : std::to_chars(digits, limit, number);
  std::string_view text(digits, static_cast<size_t>(end.ptr - digits));
  out += text;
  if (!exact && text.find_first_of(".e") == std::string_view::npos) out += ".0";  // stays a double when read again
}

void write_value(std::string& out, const Json& value, int indent, int depth, bool python = false) {
  if (const auto* object = value.object()) {
    out += '{';
    for (size_t i = 0; i < object->size(); ++i) {
      if (i) out += ',';
      newline(out, indent, depth + 1);
      out += json_quoted((*object)[i].first);
      out += indent ? ": " : ":";
      write_value(out, (*object)[i].second, indent, depth + 1, python);
    }
    if (!object->empty()) newline(out, indent, depth);
    out += '}';
  } else if (const auto* array = value.array()) {
    out += '[';
    for (size_t i = 0; i < array->size(); ++i) {
      if (i) out += ',';
      newline(out, indent, depth + 1);
      write_value(out, (*array)[i], indent, depth + 1, python);
    }
    if (!array->empty()) newline(out, indent, depth);
    out += ']';
  } else if (const auto* string = value.string()) {
    out += json_quoted(*string);
  } else if (const auto boolean = value.boolean()) {
    out += *boolean ? "true" : "false";
  } else if (value.is_null()) {
    out += "null";
  } else {
    write_number(out, value, python);
  }
}

}  // namespace

std::optional<bool> Json::boolean() const {
  const bool* v = std::get_if<bool>(&value_);
  return v ? std::optional<bool>(*v) : std::nullopt;
}

std::optional<int64_t> Json::integer() const {
  const int64_t* v = std::get_if<int64_t>(&value_);
  return v ? std::optional<int64_t>(*v) : std::nullopt;
}

std::optional<double> Json::number() const {
  if (const int64_t* v = std::get_if<int64_t>(&value_)) return static_cast<double>(*v);
  const double* v = std::get_if<double>(&value_);
  return v ? std::optional<double>(*v) : std::nullopt;
}

const Json* Json::find(std::string_view key) const {
  if (const Object* members = object())
    for (const auto& [name, value] : *members)
      if (name == key) return &value;
  return nullptr;
}

const char* Json::kind() const {
  constexpr const char* names[] = {"null", "a boolean", "a number", "a number", "a string", "an array", "an object"};
  return names[value_.index()];
}

Json parse_json(std::string_view text, const char* code, const std::string& path, const JsonLimits& limits) {
  return Parser(text, code, path, limits).document();
}

Json read_json(const std::string& path, const char* code, const JsonLimits& limits) {
  return parse_json(read_file(path, limits.max_bytes, code), code, path, limits);
}

bool valid_utf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const size_t n = utf8_length(reinterpret_cast<const unsigned char*>(text.data()) + i, text.size() - i);
    if (n == 0) return false;
    i += n;
  }
  return true;
}

std::string json_quoted(std::string_view text) {
  ISR_ASSERT(valid_utf8(text), "JSON text must be UTF-8");
  constexpr char hex[] = "0123456789abcdef";
  std::string out = "\"";
  for (const char ch : text) {
    const auto c = static_cast<unsigned char>(ch);
    if (c == '"' || c == '\\') {
      out += '\\', out += ch;
    } else if (c == '\n' || c == '\t' || c == '\r') {
      out += c == '\n' ? "\\n" : c == '\t' ? "\\t" : "\\r";
    } else if (c < 0x20) {
      out += "\\u00", out += hex[c >> 4], out += hex[c & 15];
    } else {
      out += ch;
    }
  }
  return out += '"';
}

std::string json_excerpt(std::string_view text) {
  constexpr size_t kShown = 80;
  if (text.size() <= kShown) return json_quoted(text);
  size_t n = kShown;
  while (n > 0 && (static_cast<unsigned char>(text[n]) & 0xc0) == 0x80) --n;  // not inside a character
  return json_quoted(text.substr(0, n)) + "...";
}

std::string shown(const Json& value) {
  std::string text;
  write_value(text, value, 0, 0, true);
  constexpr size_t kShown = 80;
  if (text.size() <= kShown) return text;
  size_t n = kShown;
  while (n > 0 && (static_cast<unsigned char>(text[n]) & 0xc0) == 0x80) --n;  // not inside a character
  return text.substr(0, n) + "...";
}

std::string to_json(const Json& value, int indent) {
  std::string out;
  write_value(out, value, indent, 0);
  return out;
}

}  // namespace isr
