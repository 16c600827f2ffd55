// io/: JSON, SHA-256, files, and the reading half of safetensors. Saving and disk faults: io_save_test.cc.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <ctime>
#include <limits>

#include "core/bf16.h"
#include "io/sha256.h"
#include "io_files.h"

namespace isr::test {
namespace {

Json parse(const std::string& text) { return parse_json(text, "INVALID_CONFIG", "c.json"); }

std::string message_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    return concat(e.code, "|", e.path, "|", e.what());
  }
  return "";
}

// The processor's time, so that other programs on the machine do not count.
double cpu_seconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST("io json: values") {
  const Json v = parse(R"( {"b":[1,-2,3.5,1e2,true,false,null],"a":{"s":"\u00e9\ud83d\ude00\n\/"},"n":9007199254740993} )");
  CHECK((*v.object())[0].first == "b" && (*v.object())[2].first == "n", "order is kept");
  const Json::Array& b = *v.find("b")->array();
  CHECK(b[0].integer() == 1 && b[1].integer() == -2 && b[2].number() == 3.5 && !b[2].integer());
  CHECK(b[3].number() == 100.0 && !b[3].integer(), "an exponent makes a double");
  CHECK(b[4].boolean() == true && b[5].boolean() == false && b[6].is_null());
  CHECK(*v.find("a")->find("s")->string() == "\xc3\xa9\xf0\x9f\x98\x80\n/");
  CHECK(v.find("n")->integer() == 9007199254740993, "2^53 + 1 is exact");
  CHECK(v.find("missing") == nullptr && b[0].find("x") == nullptr);
  CHECK(parse("9223372036854775807").integer() == INT64_MAX && parse("-9223372036854775808").integer() == INT64_MIN);
  CHECK(!parse("9223372036854775808").integer() && parse("9223372036854775808").number() == 0x1p63);
  CHECK(std::signbit(*parse("-0").number()) && parse("0").integer() == 0);
  const std::string deep = std::string(64, '[') + std::string(64, ']');
  CHECK(to_json(parse(deep)) == deep);
}

TEST("io json: writer") {
  const Json v(Json::Object{{"k\"\\\n\x01", Json(Json::Array{Json(1), Json(0.1), Json(1e300), Json(2.0), Json(true), Json(), Json("\xc3\xa9")})},
                            {"e", Json(Json::Object{})}});
  const std::string text = to_json(v);
  CHECK(text == "{\"k\\\"\\\\\\n\\u0001\":[1,0.1,1e+300,2.0,true,null,\"\xc3\xa9\"],\"e\":{}}", text);
  CHECK(to_json(parse(text)) == text && to_json(parse(to_json(v, 2))) == text);
  CHECK(to_json(parse("[1,{\"a\":2}]"), 2) == "[\n  1,\n  {\n    \"a\": 2\n  }\n]");
  CHECK(thrown_code([] { to_json(Json(std::nan(""))); }) == "BUG");
  CHECK(thrown_code([] { json_quoted("\xff"); }) == "BUG");
}

TEST("io json: refusals") {
  struct Row { const char* what; std::string text; };
  const std::vector<Row> rows = {
      {"empty", ""}, {"spaces", "  "}, {"word", "nul"}, {"word case", "True"}, {"NaN", "NaN"}, {"Infinity", "-Infinity"}, {"plus", "+1"},
      {"leading zero", "01"}, {"minus", "-"}, {"dot", "1."}, {"dot first", ".5"}, {"exponent", "1e"}, {"huge", "1e400"}, {"tiny", "1e-400"},
      {"hex", "0x10"}, {"open array", "[1"}, {"comma", "[1,]"}, {"two commas", "[1,,2]"}, {"no comma", "[1 2]"}, {"open object", "{\"a\":1"},
      {"object comma", "{\"a\":1,}"}, {"no colon", "{\"a\" 1}"}, {"bare key", "{a:1}"}, {"single quotes", "{'a':1}"},
      {"comment", "/**/1"}, {"trailing", "1 2"}, {"trailing brace", "{}}"}, {"byte order mark", "\xef\xbb\xbf{}"}, {"open string", "\"a"},
      {"control", std::string("\"\x1f\"")}, {"NUL", std::string("\"\0\"", 3)}, {"escape", "\"\\x41\""}, {"short escape", "\"\\u12\""},
      {"high surrogate alone", "\"\\ud800\""}, {"low surrogate alone", "\"\\udc00\""}, {"two high surrogates", "\"\\ud800\\ud800\""},
      {"stray continuation", "\"\x80\""}, {"overlong", "\"\xc0\xaf\""}, {"overlong 3", "\"\xe0\x80\xaf\""}, {"UTF-8 surrogate", "\"\xed\xa0\x80\""},
      {"above U+10FFFF", "\"\xf4\x90\x80\x80\""}, {"cut UTF-8", "\"\xe2\x82"}, {"duplicate key", R"({"a":1,"b":2,"a":3})"},
      {"duplicate by escape", R"({"a":1,"\u0061":2})"}, {"depth", std::string(65, '[') + std::string(65, ']')},
      {"depth 1e5", std::string(100000, '[')}};
  for (const Row& row : rows) {
    const std::string m = message_of([&] { parse(row.text); });
    CHECK(contains(m, "INVALID_CONFIG|c.json|") && contains(m, "byte ") && contains(m, "expected "), row.what, ": ", m);
  }
  CHECK(contains(message_of([] { parse("{\"a\": [1, x]}"); }), "byte 10: expected a value, got 'x'"));
  CHECK(contains(message_of([] { parse_json("[1,2,3]", "BAD", "p", {100, 3, 64}); }), "at most 3 values"));
  CHECK(contains(message_of([] { parse_json("[1,2,3]", "BAD", "p", {6, 100, 64}); }), "at most 6 bytes"));
}

TEST("io json: Python's numbers, where they are allowed") {
  const auto python = [](const std::string& text) { return parse_json(text, "INVALID_CONFIG", "c.json", kConfigJson); };
  struct Row { const char* text; double value; };
  const double inf = std::numeric_limits<double>::infinity();
  for (const Row& row : {Row{"Infinity", inf}, Row{"-Infinity", -inf}, Row{"1e999", inf}, Row{"-1.5E+999", -inf}, Row{"1e-999", 0}, Row{"-1e-999", -0.0}, Row{"-2", -2},
                         Row{"0.5", 0.5}, Row{"-0.25", -0.25}}) {
    const Json v = python(concat("[", row.text, "]"));
    const double got = *v.array()->front().number();
    CHECK(got == row.value && std::signbit(got) == std::signbit(row.value), row.text, " ", got);
  }
  CHECK(python("1" + std::string(400, '0')).number() == inf && python("0." + std::string(400, '0') + "1").number() == 0);
  CHECK(std::isnan(*python("{\"a\": NaN}").find("a")->number()));
  CHECK(shown(python("{\"a\":[NaN,Infinity,-Infinity,1.0]}")) == "{\"a\":[NaN,Infinity,-Infinity,1.0]}");
  for (const char* text : {"-NaN", "+Infinity", "Inf", "nan", "infinity", "NaNs", "-Inf", "--Infinity"}) CHECK(thrown_code([&] { python(text); }) == "INVALID_CONFIG", text);
  CHECK(shown(Json(std::string(100, 'a'))).size() == 83, "cut");
}

TEST("io sha256") {
  const auto both = [](const std::string& text, const std::string& expected) {
    for (const bool portable : {false, true}) {
      Sha256 sha(portable);
      sha.update(text);
      const std::string got = sha.hex();
      CHECK(got == expected, portable, " ", text.size(), " ", got);
    }
  };
  both("", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");  // FIPS 180-4 examples
  both("abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  both("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  both(std::string(1000000, 'a'), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  std::string text;
  for (int n = 0; n < 300; ++n, text += static_cast<char>(n * 7)) {  // every padding, in one piece and in two
    Sha256 whole(true), parts;
    whole.update(text);
    parts.update(text.substr(0, text.size() / 3));
    parts.update(text.substr(text.size() / 3));
    CHECK(whole.hex() == parts.hex(), n);
  }
}

TEST("io files: wrong kinds never hang") {
  TempFolder dir;
  CHECK(thrown_code([&] { InputFile f(dir / "none"); }) == "NOT_FOUND");
  CHECK(thrown_code([&] { InputFile f(dir.path()); }) == "IO");
  CHECK(thrown_code([&] { InputFile f(dir.path(), "CHECKPOINT_CORRUPT"); }) == "CHECKPOINT_CORRUPT");
  CHECK(mkfifo((dir / "fifo").c_str(), 0600) == 0);
  CHECK(contains(message_of([&] { InputFile f(dir / "fifo"); }), "a FIFO"));
  CHECK(contains(message_of([&] { InputFile f("/dev/zero"); }), "a device"));
  CHECK(thrown_code([&] { InputFile f((dir / "x") + std::string("\0y", 2)); }) == "INVALID_ARGUMENT");
  CHECK(symlink("loop", (dir / "loop").c_str()) == 0);
  CHECK(thrown_code([&] { InputFile f(dir / "loop"); }) == "IO");
}

TEST("io files: reads are whole") {
  TempFolder dir;
  write_file_atomic(dir / "f", "0123456789");
  CHECK(names_in(dir.path()) == std::vector<std::string>{"f"});
  const InputFile f(dir / "f", "CHECKPOINT_CORRUPT");
  char got[4] = {};
  f.read_exact(got, 4, 5);
  CHECK(std::memcmp(got, "5678", 4) == 0);
  CHECK(thrown_code([&] { f.read_exact(got, 4, 7); }) == "CHECKPOINT_CORRUPT");
  CHECK(truncate((dir / "f").c_str(), 3) == 0);
  CHECK(contains(message_of([&] { f.read_exact(got, 4, 0); }), "ends at byte 3, 1 bytes too early"), "it shrank after open");
  CHECK(read_file(dir / "f", 3) == "012");
  CHECK(thrown_code([&] { read_file(dir / "f", 2, "CODE"); }) == "CODE");
  write_file_atomic(dir / "f", "new");
  CHECK(slurp(dir / "f") == "new");
  {
    AtomicFile abandoned(dir / "f");
    abandoned.write("half");
  }
  CHECK(slurp(dir / "f") == "new" && names_in(dir.path()).size() == 1, "without commit nothing happens");
}

// Every row is one broken rule of the format; all are refused with a reason, in time and memory that do not depend on
// what the file claims.
TEST("io safetensors: hostile files") {
  struct Row { const char* what; std::string bytes, reason; };
  const std::string f32 = entry("a", "F32", "[2]", "[0,8]");
  const auto one = [&](const std::string& shape, const std::string& offsets, size_t data) {
    return file_bytes("{" + entry("a", "F32", shape, offsets) + "}", data);
  };
  const std::string good = file_bytes("{" + f32 + "}", 8);
  const std::vector<Row> rows = {
      {"empty file", "", "at least 8 bytes"}, {"7 bytes", "1234567", "at least 8 bytes"}, {"no header", std::string(16, '\0'), "start with '{'"},
      {"header past file", little_endian(good.size() - 7) + good.substr(8), "but the file has"},
      {"header past limit", little_endian(kMaxHeaderBytes + 1) + good.substr(8), "at most 100000000"},
      {"2^63", little_endian(uint64_t{1} << 63) + good.substr(8), "at most 100000000"},
      {"2^64 - 1", little_endian(~uint64_t{0}) + good.substr(8), "at most 100000000"},
      {"leading space", file_bytes(" {" + f32 + "}", 8), "start with '{'"}, {"array", file_bytes("[]", 0), "start with '{'"},
      {"not JSON", file_bytes("{\"a\":}", 8), "expected a value"}, {"text after", file_bytes("{" + f32 + "}x", 8), "end of the text"},
      {"not UTF-8", file_bytes("{\"\xff\":1}", 8), "UTF-8"}, {"depth", file_bytes("{\"a\":" + std::string(100000, '['), 0), "nested"},
      {"duplicate", file_bytes("{" + f32 + "," + f32 + "}", 8), "unique keys"}, {"entry is no object", file_bytes("{\"a\":3}", 0), "an object"},
      {"unknown dtype", file_bytes("{" + entry("a", "F33", "[2]", "[0,8]") + "}", 8), "unknown dtype \"F33\""},
      {"no offsets", file_bytes(R"({"a":{"dtype":"F32","shape":[2]}})", 8), "field data_offsets"},
      {"negative dim", one("[-2]", "[0,8]", 8), "integers from 0"}, {"float dim", one("[2.0]", "[0,8]", 8), "integers from 0"},
      {"string dim", one("[\"2\"]", "[0,8]", 8), "integers from 0"}, {"2^63 dim", one("[9223372036854775808]", "[0,8]", 8), "integers from 0"},
      {"2^53 + 1 offset", one("[2]", "[0,9007199254740993]", 8), "[0, 9007199254740993] reach past"},
      {"negative offset", one("[2]", "[-8,0]", 8), "integers from 0"}, {"reversed", one("[2]", "[8,0]", 8), "reversed"},
      {"past the end", one("[2]", "[8,16]", 8), "past the end"}, {"three offsets", one("[2]", "[0,8,8]", 8), "2 integers"},
      {"shape unlike bytes", one("[1000000]", "[0,4]", 4), "takes 4000000 bytes"}, {"rank 9", one("[1,1,1,1,1,1,1,1,2]", "[0,8]", 8), "at most 8"},
      {"wrapping product", one("[4194305,4194305,211106198978564]", "[0,8]", 8), "overflows"},
      {"wrapping beside zero", one("[0,4611686018427387904,4]", "[0,0]", 0), "overflows"},
      {"overlap", file_bytes("{" + f32 + "," + entry("b", "F32", "[2]", "[4,12]") + "}", 12), "overlaps"},
      {"alias", file_bytes("{" + f32 + "," + entry("b", "F32", "[2]", "[0,8]") + "}", 8), "overlaps"},
      {"empty tensor inside", file_bytes("{" + f32 + "," + entry("b", "F32", "[0]", "[4,4]") + "}", 8), "overlaps"},
      {"hole", file_bytes("{" + f32 + "," + entry("b", "F32", "[2]", "[12,20]") + "}", 20), "bytes 8 to 12 of the data belong to no tensor"},
      {"hole first", one("[2]", "[4,12]", 12), "bytes 0 to 4"}, {"trailing bytes", one("[2]", "[0,8]", 9), "bytes 8 to 9"},
      {"name too long", file_bytes("{" + entry(std::string(1025, 'n'), "F32", "[2]", "[0,8]") + "}", 8), "a name of 1 to 1024"},
      {"metadata", file_bytes(R"({"__metadata__":{"a":1}})", 0), "to be a string"}, {"truncated", good.substr(0, good.size() - 1), "past the end"}};
  for (const Row& row : rows) {
    TempFolder dir;
    write_file_atomic(dir / "model.safetensors", row.bytes);
    const double start = cpu_seconds();
    const std::string m = message_of([&] { Checkpoint::open(dir.path()); });
    CHECK(contains(m, concat("CHECKPOINT_CORRUPT|", dir / "model.safetensors", "|")) && contains(m, row.reason), row.what, ": ", m);
    CHECK(cpu_seconds() - start < 0.5, row.what);
  }
}

TEST("io safetensors: 100,000 tensors open; 200,000 are refused") {
  for (const int n : {100'000, 200'000}) {
    TempFolder dir;
    std::string header = "{";
    for (int i = 0; i < n; ++i) header.append(i ? "," : "") += entry(concat("t", i), "U8", "[1]", concat("[", i, ",", i + 1, "]"));
    write_file_atomic(dir / "model.safetensors", file_bytes(header + "}", static_cast<size_t>(n)));
    const double start = cpu_seconds();
    const std::string m = message_of([&] { CHECK(Checkpoint::open(dir.path()).find("t99999")->shape == std::vector<int64_t>{1}); });
    const double s = cpu_seconds() - start;
    CHECK(n == 100'000 ? m.empty() : contains(m, "CHECKPOINT_CORRUPT"), m);
    CHECK(s < 5, s, " s");
  }
}

TEST("io safetensors: reads") {
  TempFolder dir;
  const auto files = write_small_checkpoint(dir.path());
  const Checkpoint c = Checkpoint::open(dir.path());
  CHECK(c.tensors().size() == 4 && c.shards().size() == 2 && c.bytes() == 9026);
  CHECK(c.tensors()[0].name == "w0" && c.tensors()[1].name == "w1", "by offset, not by header");
  const TensorInfo& w1 = c.get("w1");
  CHECK(w1.rows() == 300 && w1.cols() == 7 && w1.elements() == 2100 && w1.shape_text() == "[300, 7]" && w1.dtype == FileDType::F32);
  CHECK(c.shards()[0].metadata == Metadata({{"format", "pt"}}) && c.shards()[1].metadata.empty());
  CHECK(c.find("w9") == nullptr && thrown_code([&] { c.get("w9"); }) == "CHECKPOINT_CORRUPT");
  const std::string& a = files.at("model-00001-of-00002.safetensors");
  const size_t data = a.size() - 9000;
  std::string got(50, '\0');
  c.read(w1, 100, 50, got.data());
  CHECK(got == a.substr(data + 700, 50));
  CHECK(thrown_code([&] { c.read(w1, 8399, 2, got.data()); }) == "BUG");
  std::vector<uint8_t> staging;
  std::vector<float> rows(14);
  c.read_rows(w1, 298, 2, DType::F32, rows.data(), staging);
  CHECK(std::memcmp(rows.data(), a.data() + a.size() - 56, 56) == 0 && staging.empty());
  CHECK(thrown_code([&] { c.read_rows(w1, 299, 2, DType::F32, rows.data(), staging); }) == "BUG");
  CHECK(thrown_code([&] { c.read_rows(c.get("ids"), 0, 1, DType::F32, rows.data(), staging); }) == "CHECKPOINT_UNSUPPORTED");
  std::vector<float> narrow(100);
  c.read_rows(c.get("w0"), 1, 1, DType::F32, narrow.data(), staging);
  for (size_t i = 0; i < 100; ++i) {
    uint16_t bits;
    std::memcpy(&bits, a.data() + data + 200 + 2 * i, 2);
    const float want = bf16_to_f32(bits);
    CHECK(std::memcmp(&want, &narrow[i], 4) == 0, i);
  }
  const TensorInfo empty{"e", FileDType::F32, {0, 4}, 0, 8, 0};
  CHECK(empty.elements() == 0 && empty.rows() == 0 && empty.cols() == 4);
}

// Long tensors are converted in pieces; every value of the two 16-bit types must come out as core/bf16.h says.
TEST("io safetensors: conversions are exact") {
  TempFolder dir;
  std::vector<uint16_t> bits(65536 * 12);
  std::vector<float> wide = random_values(65536 * 6, 3, 1e5f);
  for (size_t i = 0; i < bits.size(); ++i) bits[i] = static_cast<uint16_t>(i);
  for (size_t i = 0; i < wide.size(); i += 5) wide[i] = std::bit_cast<float>(static_cast<uint32_t>(i) * 2654435761u);  // all exponents, NaNs
  const auto n = static_cast<int64_t>(bits.size()), m = static_cast<int64_t>(wide.size());
  write_safetensors(dir / "model.safetensors", {{"h", FileDType::F16, {12, n / 12}, bits.data()}, {"b", FileDType::BF16, {n}, bits.data()},
                                                {"f", FileDType::F32, {m}, wide.data()}});
  const Checkpoint c = Checkpoint::open(dir.path());
  std::vector<uint8_t> staging;
  std::vector<float> f(bits.size());
  std::vector<uint16_t> b(bits.size());
  const auto same = [](float x, float y) { return std::bit_cast<uint32_t>(x) == std::bit_cast<uint32_t>(y); };
  int wrong = 0;
  c.read_rows(c.get("h"), 0, 12, DType::F32, f.data(), staging);
  c.read_rows(c.get("h"), 0, 12, DType::BF16, b.data(), staging);
  for (size_t i = 0; i < bits.size(); ++i) wrong += !same(f[i], f16_to_f32(bits[i])) + (b[i] != f32_to_bf16(f16_to_f32(bits[i])));
  c.read_rows(c.get("b"), 0, n, DType::F32, f.data(), staging);
  c.read_rows(c.get("b"), 0, n, DType::BF16, b.data(), staging);
  for (size_t i = 0; i < bits.size(); ++i) wrong += !same(f[i], bf16_to_f32(bits[i])) + (b[i] != bits[i]);
  c.read_rows(c.get("f"), 0, m, DType::F32, f.data(), staging);
  c.read_rows(c.get("f"), 0, m, DType::BF16, b.data(), staging);
  for (size_t i = 0; i < wide.size(); ++i) wrong += !same(f[i], wide[i]) + (b[i] != f32_to_bf16(wide[i]));
  encode(FileDType::F16, wide.data(), m, b.data());
  for (size_t i = 0; i < wide.size(); ++i) wrong += b[i] != f32_to_f16(wide[i]);
  CHECK(wrong == 0, wrong);
  CHECK(staging.size() <= (size_t{1} << 20), "staging stays small");
}

TEST("io safetensors: folders that hold something else") {
  struct Row { const char* file; const char* code; const char* hint; };
  for (const Row& row : {Row{"notes.txt", "NOT_FOUND", "Hugging Face"}, Row{"run.json", "NOT_FOUND", "iterations/N/model/"},
                         Row{"training_args.bin", "CHECKPOINT_UNSUPPORTED", "safe_serialization"},
                         Row{"model.pth", "CHECKPOINT_UNSUPPORTED", "safe_serialization"},
                         Row{"model-q4.gguf", "CHECKPOINT_UNSUPPORTED", "safetensors"},
                         Row{"adapter_model.safetensors", "CHECKPOINT_UNSUPPORTED", "merge"}}) {
    TempFolder dir;
    write_file_atomic(dir / row.file, "x");
    try {
      Checkpoint::open(dir.path());
      CHECK(false, row.file);
    } catch (const Error& e) {
      CHECK(e.code == row.code && contains(e.hint, row.hint) && e.path == dir.path(), row.file, " ", e.code, " ", e.what());
    }
  }
  TempFolder dir;
  CHECK(thrown_code([&] { Checkpoint::open(dir / "none"); }) == "NOT_FOUND");
  CHECK(mkfifo((dir / "model.safetensors").c_str(), 0600) == 0);
  CHECK(thrown_code([&] { Checkpoint::open(dir.path()); }) == "CHECKPOINT_CORRUPT");
}

TEST("io safetensors: hostile indexes") {
  struct Row { const char* what; std::string from, to, reason; };
  const std::string second = "\"w2\":\"model-00002-of-00002.safetensors\"";
  const std::vector<Row> rows = {
      {"missing shard", second, "\"w2\":\"model-00003-of-00002.safetensors\"", "which is missing"},
      {"missing tensor", second, second + ",\"w3\":\"model-00002-of-00002.safetensors\"", "tensor \"w3\" is not in"},
      {"wrong shard", second, "\"w2\":\"model-00001-of-00002.safetensors\"", "tensor \"w2\" is not in"},
      {"parent", second, "\"w2\":\"../model.safetensors\"", "in the same folder"}, {"absolute", second, "\"w2\":\"/etc/passwd\"", "in the same folder"},
      {"dots", second, "\"w2\":\"..\"", "in the same folder"}, {"NUL", second, "\"w2\":\"x\\u0000.safetensors\"", "in the same folder"},
      {"other file", second, "\"w2\":\"config.json\"", "in the same folder"}, {"number", second, "\"w2\":2", "to be a string"},
      {"twice", second, second + "," + second, "unique keys"}, {"not JSON", "{\"metadata\"", "{metadata", "a key in quotes"},
      {"no map", "weight_map", "weights", "weight_map"}};
  for (const Row& row : rows) {
    TempFolder dir;
    std::string index = write_small_checkpoint(dir.path()).at("model.safetensors.index.json");
    index.replace(index.find(row.from), row.from.size(), row.to);
    write_file_atomic(dir / "model.safetensors.index.json", index);
    const std::string m = message_of([&] { Checkpoint::open(dir.path()); });
    CHECK(contains(m, "CHECKPOINT_CORRUPT|") && contains(m, row.reason), row.what, ": ", m);
  }
  TempFolder unlisted;   // a tensor that only its shard knows is there all the same
  std::string index = write_small_checkpoint(unlisted.path()).at("model.safetensors.index.json");
  index.replace(index.find(second + ","), second.size() + 1, "");
  write_file_atomic(unlisted / "model.safetensors.index.json", index);
  CHECK(Checkpoint::open(unlisted.path()).find("w2") != nullptr && Checkpoint::open(unlisted.path()).tensors().size() == 4);
  TempFolder dir;  // the same tensors in both shards
  auto files = write_small_checkpoint(dir.path());
  write_file_atomic(dir / "model-00001-of-00002.safetensors", files["model-00002-of-00002.safetensors"]);
  CHECK(contains(message_of([&] { Checkpoint::open(dir.path()); }), "is in model-00001-of-00002.safetensors and in"));
}

TEST("io safetensors: links of a download cache are followed") {
  TempFolder dir;
  write_small_checkpoint(dir / "blobs");
  make_folders(dir / "snapshot");
  for (const FolderEntry& e : list_folder(dir / "blobs")) CHECK(symlink(("../blobs/" + e.name).c_str(), (dir / ("snapshot/" + e.name)).c_str()) == 0);
  CHECK(Checkpoint::open(dir / "snapshot").tensors().size() == 4);
}

}  // namespace isr::test
