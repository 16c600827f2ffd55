// What a failed CHECK says: both sides of a comparison, evaluated once.
#include "check.h"

#include <filesystem>
#include <memory>
#include <span>

#include "core/tensor.h"

using namespace isr;
using namespace isr::test;

namespace {

enum class Colour { Red, Green };
struct Point {
  int x;
  bool operator==(const Point&) const = default;
};

// What is said by the checks of f that fail, without the file and the line.
template <class F>
std::vector<std::string> said(const F& f) {
  std::vector<std::string> all;
  listener() = &all;
  f();
  listener() = nullptr;
  for (std::string& text : all) text.erase(0, text.find(": ") + 2);
  return all;
}

template <class F>
std::string one(const F& f) {
  const std::vector<std::string> all = said(f);
  return all.size() == 1 ? all[0] : concat(all.size(), " failures");
}

}  // namespace

TEST("check: a failed comparison shows both sides") {
  const int a = 3;
  const size_t n = 4;
  const std::string word = "cat";
  CHECK(one([&] { CHECK(a == 4); }) == "a == 4: 3 == 4  []");
  CHECK(one([&] { CHECK(a + 1 > 2 * a, "row ", 7); }) == "a + 1 > 2 * a: 4 > 6  [row 7]");
  CHECK(one([&] { CHECK(n != 4); }) == "n != 4: 4 != 4  []");
  CHECK(one([&] { CHECK(word == "dog"); }) == "word == \"dog\": \"cat\" == \"dog\"  []");
  CHECK(one([&] { CHECK(0.1f >= 0.5); }) == "0.1f >= 0.5: 0.100000001 >= 0.5  []");
  CHECK(one([&] { CHECK((a == 3) == false); }) == "(a == 3) == false: true == false  []");
  CHECK(one([&] { CHECK(word[0] == 'b'); }) == "word[0] == 'b': \"c\" == \"b\"  []");
  CHECK(one([&] { CHECK(uint8_t{200} < int8_t{-1}); }) == "uint8_t{200} < int8_t{-1}: 200 < -1  []");
}

TEST("check: enums and pointers") {
  const int* const nothing = nullptr;
  const std::unique_ptr<int> owned;
  const char* const missing = nullptr;
  CHECK(one([&] { CHECK(Colour::Red == Colour::Green); }) == "Colour::Red == Colour::Green: 0 == 1  []");
  CHECK(one([&] { CHECK(DType::BF16 == DType::F32); }) == "DType::BF16 == DType::F32: bf16 == f32  []");
  CHECK(one([&] { CHECK(nothing != nullptr); }) == "nothing != nullptr: null != null  []");
  CHECK(one([&] { CHECK(owned != nullptr); }).find(" != null  []") != std::string::npos);
  CHECK(one([&] { CHECK(missing != nullptr); }) == "missing != nullptr: null != null  []");
  CHECK(one([&] { CHECK(&nothing == nullptr); }).find(": 0x") != std::string::npos);
}

TEST("check: integers of different signs are compared by their values") {
  const int64_t minus = -1;
  const uint32_t most = 0xffffffff;
  CHECK(minus < most);
  CHECK(most > minus);
  CHECK(static_cast<int32_t>(minus) != most);
  CHECK(one([&] { CHECK(minus == most); }) == "minus == most: -1 == 4294967295  []");
}

TEST("check: lists and texts, long ones from where they part") {
  std::vector<float> x(100, 1), y(100, 1);
  y[40] = 2;
  CHECK(one([&] { CHECK((std::vector<int>{1, 2}) == (std::vector<int>{1})); }).find(": [1, 2] == [1]  []") != std::string::npos);
  CHECK(one([&] { CHECK(x == y); }) ==
        "x == y: [... at 40: 1, 1, 1, 1, 1, 1, 1, 1, ... of 100] == [... at 40: 2, 1, 1, 1, 1, 1, 1, 1, ... of 100]  []");
  CHECK(one([&] { CHECK((std::vector<bool>{true}) == (std::vector<bool>{false})); }).find(": [true] == [false]  []") != std::string::npos);
  CHECK(one([&] { CHECK((std::vector<std::string>{"a"}) != (std::vector<std::string>{"a"})); }).find("[\"a\"] != [\"a\"]") != std::string::npos);
  const std::string text = std::string(300, 'a') + "\n", other(300, 'a');
  CHECK(one([&] { CHECK(text == other); }) == "text == other: ... at 300: \"\\x0a\" == ... at 300: \"\"  []");
  CHECK(one([&] { CHECK(std::filesystem::path("a") == std::filesystem::path("b")); }).find("\"a\" == \"b\"") != std::string::npos);
}

TEST("check: what has no text, and what has no sides, shows the condition alone") {
  const Point p{1}, q{2};
  std::vector<int> list{1};
  const std::vector<Point> points{p};
  const auto even = [](int n) { return n % 2 == 0; };
  CHECK(one([&] { CHECK(p == q, "of points"); }) == "p == q  [of points]");
  CHECK(one([&] { CHECK(points == (std::vector<Point>{q})); }).find("points == (std::vector<Point>{q})  []") == 0);
  CHECK(one([&] { CHECK(list.begin() == list.end()); }) == "list.begin() == list.end()  []");
  CHECK(one([&] { CHECK(p.x == 1 && q.x == 1); }) == "p.x == 1 && q.x == 1  []");
  CHECK(one([&] { CHECK(p.x == 2 || q.x == 1); }) == "p.x == 2 || q.x == 1  []");
  CHECK(one([&] { CHECK(p.x == 1 ? q.x == 1 : true); }) == "p.x == 1 ? q.x == 1 : true  []");
  CHECK(one([&] { CHECK(even(p.x)); }) == "even(p.x)  []");
  CHECK(one([&] { CHECK(!p.x); }) == "!p.x  []");
}

TEST("check: a condition is evaluated once, its message only for a failure") {
  int calls = 0, messages = 0;
  const auto next = [&] { return ++calls; };
  const auto message = [&] { return ++messages; };
  CHECK(next() == 1, message());
  CHECK(next() == 2 && next() == 3, message());
  CHECK(said([&] { CHECK(next() == 0, message()); }).size() == 1);
  CHECK(said([&] { CHECK(next() == 0 && next() == 0, message()); }).size() == 1, "the second side is not asked");
  CHECK(calls == 5, "calls");
  CHECK(messages == 2, "messages");
  if (calls == 5) CHECK(true);
  else CHECK(false, "an else belongs to its if");
}
