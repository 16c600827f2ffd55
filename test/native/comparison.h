// The two sides of a comparison, for the message of a CHECK that fails: `Decomposer() <=> a == b` is `(Decomposer() <=> a) == b`,
// so that both sides are seen, each evaluated once. What && and || join is a plain bool: it has no sides. <=> binds closer than
// all other comparisons, less than + and <<, and no compiler warns of what stands beside it.
#pragma once
#include <algorithm>
#include <concepts>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <limits>
#include <ostream>
#include <ranges>
#include <sstream>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

namespace isr::compared {   // not isr::test: its names are those of the tests

// How much of a text or a list a message shows, and where a longer one begins to be shown.
constexpr size_t kTextShown = 200, kListShown = 8;

inline std::string quoted(std::string_view text, size_t from = 0) {
  std::string out = from == 0 ? "\"" : "... at " + std::to_string(from) + ": \"";
  for (const char c : text.substr(from, kTextShown)) {
    char code[8];
    std::snprintf(code, sizeof code, "\\x%02x", static_cast<unsigned char>(c));
    out += c >= ' ' && c <= '~' ? std::string(1, c) : code;
  }
  return out + (text.size() - from > kTextShown ? "\" ... of " + std::to_string(text.size()) : "\"");
}

template <class T>
concept Text = std::convertible_to<const T&, std::string_view> && !std::is_null_pointer_v<T>;
template <class T>
concept List = std::ranges::forward_range<const T> && std::ranges::sized_range<const T> && !Text<T>;
template <class T>
concept Streamed = requires(std::ostream& out, const T& x) { out << x; };

template <class T>
std::string shown(const T& x, size_t from = 0);

template <class T>
std::string shown_list(const T& list, size_t from) {
  std::string out = from == 0 ? "[" : "[... at " + std::to_string(from) + ": ";
  size_t i = 0;
  for (auto&& value : list) {
    if (i++ < from) continue;
    if (i > from + kListShown) return out + ", ... of " + std::to_string(std::ranges::size(list)) + "]";
    const std::string text = shown<std::ranges::range_value_t<const T>>(value);
    if (text.empty()) return "";
    out += (i - 1 == from ? "" : ", ") + text;
  }
  return out + "]";
}

// A value as a message shows it; "" for one of a type that has no text. Texts and lists are shown from a place on.
template <class T>
std::string shown(const T& x, size_t from) {
  if constexpr (std::same_as<T, bool>) return x ? "true" : "false";
  else if constexpr (std::is_null_pointer_v<T>) return "null";
  else if constexpr (std::same_as<T, char>) return quoted({&x, 1});
  else if constexpr (std::is_enum_v<T> && requires { std::string(name_of(x)); }) return name_of(x);
  else if constexpr (std::is_enum_v<T>) return std::to_string(static_cast<std::underlying_type_t<T>>(x));
  else if constexpr (std::integral<T>) return std::to_string(x);
  else if constexpr (std::floating_point<T>) {
    std::ostringstream out;
    out.precision(std::numeric_limits<T>::max_digits10);
    out << x;
    return out.str();
  } else if constexpr (std::is_pointer_v<T>) {
    if (x == nullptr) return "null";
    if constexpr (Text<T>) return quoted(x, from);
    else if constexpr (std::convertible_to<T, const volatile void*>) {
      std::ostringstream out;
      out << const_cast<const void*>(static_cast<const volatile void*>(x));
      return out.str();
    } else return "";
  } else if constexpr (Text<T>) return quoted(x, from);
  else if constexpr (Streamed<T>) {
    std::ostringstream out;
    out << x;
    return out.str();
  } else if constexpr (List<T>) return shown_list(x, from);
  else return "";
}

// Where two texts or lists part, if one of them is too long to be shown whole; else 0.
template <class A, class B>
size_t parting(const A& a, const B& b) {
  if constexpr (Text<A> && Text<B>) {
    if constexpr (!std::is_pointer_v<A> && !std::is_pointer_v<B>) {
      const std::string_view s(a), t(b);
      const size_t at = static_cast<size_t>(std::ranges::mismatch(s, t).in1 - s.begin());
      return std::max(s.size(), t.size()) > kTextShown ? at : 0;
    }
  } else if constexpr (List<A> && List<B>) {
    if constexpr (requires { std::ranges::mismatch(a, b); }) {
      const auto at = std::ranges::distance(std::ranges::begin(a), std::ranges::mismatch(a, b).in1);
      return std::max<size_t>(std::ranges::size(a), std::ranges::size(b)) > kListShown ? static_cast<size_t>(at) : 0;
    }
  }
  return 0;
}

template <class A, class B>
struct Comparison {
  const A& a;
  const char* op;
  const B& b;
  bool holds;
  explicit operator bool() const { return holds; }

  std::string text() const {
    const size_t from = parting(a, b);
    const std::string left = shown<std::remove_cv_t<A>>(a, from), right = shown<std::remove_cv_t<B>>(b, from);
    if (left.empty() && right.empty()) return "";
    return (left.empty() ? "?" : left) + " " + op + " " + (right.empty() ? "?" : right);
  }
};

// Integers whose comparison has to be that of their values, whatever their signs and widths are.
template <class T>
concept Integer = std::integral<T> && !std::same_as<T, bool> && !std::same_as<T, char> && !std::same_as<T, wchar_t> &&
                  !std::same_as<T, char8_t> && !std::same_as<T, char16_t> && !std::same_as<T, char32_t>;

template <class A>
struct Operand {
  const A& a;
  explicit operator bool() const { return static_cast<bool>(a); }

#define ISR_TEST_COMPARES(op, of_values, of_integers)                              \
  template <class B>                                                               \
  Comparison<A, B> operator op(const B& b) const {                                 \
    if constexpr (Integer<A> && Integer<B>) return {a, #op, b, of_integers(a, b)}; \
    else return {a, #op, b, static_cast<bool>(of_values(a, b))};                   \
  }
  ISR_TEST_COMPARES(==, std::equal_to<>(), std::cmp_equal)
  ISR_TEST_COMPARES(!=, std::not_equal_to<>(), std::cmp_not_equal)
  ISR_TEST_COMPARES(<, std::less<>(), std::cmp_less)
  ISR_TEST_COMPARES(<=, std::less_equal<>(), std::cmp_less_equal)
  ISR_TEST_COMPARES(>, std::greater<>(), std::cmp_greater)
  ISR_TEST_COMPARES(>=, std::greater_equal<>(), std::cmp_greater_equal)
#undef ISR_TEST_COMPARES
};

struct Decomposer {
  template <class A>
  Operand<A> operator<=>(const A& a) const { return {a}; }
};

// What came of a condition: whether it holds, and if it does not, its two sides as text; "" where it has none.
struct Outcome {
  bool holds;
  std::string sides;
  Outcome(bool holds) : holds(holds) {}
  template <class A>
  Outcome(const Operand<A>& x) : holds(static_cast<bool>(x)) {}
  template <class A, class B>
  Outcome(const Comparison<A, B>& c) : holds(c.holds), sides(c.holds ? "" : c.text()) {}
};

}  // namespace isr::compared
