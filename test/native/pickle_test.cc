// PyTorch files: io/zip.h, io/pickle.h, and what Checkpoint and save_checkpoint make of them.
#include <cstring>
#include <map>

#include "core/bf16.h"
#include "io_files.h"
#include "torch_file.h"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("O0")  // tables of joined strings: optimizing their clean-up takes minutes and saves nothing
#endif

namespace isr::test {
namespace {

using namespace std::string_literals;

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

std::string message_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    return concat(e.code, "|", e.path, "|", e.what(), "|", e.hint);
  }
  return "nothing was thrown";
}

TorchHeader read_bytes(const std::string& bytes) {
  const auto read = [&](void* dst, size_t n, uint64_t offset) {
    CHECK(offset <= bytes.size() && n <= bytes.size() - offset, "a read at ", offset, " of ", n, " leaves the file");
    std::memcpy(dst, bytes.data() + offset, n);
  };
  return read_torch_header(read, bytes.size(), "f.bin");
}

struct Row { std::string what, bytes, code, reason; };
constexpr const char* kCorrupt = "CHECKPOINT_CORRUPT";
constexpr const char* kUnsupported = "CHECKPOINT_UNSUPPORTED";

void check_refused(const Row& row, const std::function<void()>& f) {
  const std::string m = message_of(f);
  CHECK(contains(m, row.code + "|f.bin|f.bin: ") && contains(m, row.reason), row.what, ": ", m);
}

std::string matrix_dict() { return p_whole(p_dict({{"w", p_matrix()}})); }
std::string tensor_dict(const std::string& tensor) { return p_whole(p_dict({{"w", tensor}})); }
std::string repeat(const std::string& s, size_t n) {
  std::string out;
  for (size_t i = 0; i < n; ++i) out += s;
  return out;
}

}  // namespace

TEST("pickle: golden files hold what their safetensors twins hold") {
  const std::string golden = ISR_TEST_FOLDER "/golden/";
  for (const std::string family : {"llava_hound", "video_llava_original"}) {
    const Checkpoint bin = Checkpoint::open(golden + family + "/policy-bin");
    const Checkpoint twin = Checkpoint::open(golden + family + "/policy");
    CHECK(bin.format() == FileFormat::Torch && bin.tensors().size() == 6 && bin.shards()[0].ignored.empty(), family);
    std::vector<uint8_t> staging;
    int halves = 0;
    for (const TensorInfo& t : bin.tensors()) {
      const TensorInfo& wanted = twin.get(t.name);
      const auto n = static_cast<size_t>(t.elements());
      CHECK(t.shape == wanted.shape && wanted.dtype == FileDType::F32, t.name);
      std::vector<float> got(n), expected(n);
      bin.read_rows(t, 0, t.rows(), DType::F32, got.data(), staging);
      twin.read_rows(wanted, 0, wanted.rows(), DType::F32, expected.data(), staging);
      if (t.dtype == FileDType::F16) {
        ++halves;
        for (float& x : expected) x = f16_to_f32(f32_to_f16(x));
      }
      CHECK(got == expected, family, " ", t.name);
    }
    CHECK(halves == 4, "the projector is fp16");
  }
}

TEST("pickle: the forms that torch.save writes") {
  const std::string storage = p_storage("FloatStorage", "0", 6), parameter = p_global("torch._utils", "_rebuild_parameter") + "(" + p_matrix() + "\x88" + p_ordered_dict() + "tR";
  const std::string kept = "\x80\x04\x95" + le(0, 8) + "}\x94(\x8c\x01w\x94\x8c\x0ctorch._utils\x8c\x12_rebuild_tensor_v2\x93\x94(" + storage + "K\0"s +
                           "K\2K\3\x86\x94K\3K\1\x86\x94\x89}N" + "tR\x94u.";
  const std::string metadata = p_dict({{"_metadata", p_dict({{"", p_dict({{"version", p_int(1)}})}})}});
  struct Form { const char* what; std::string pickle; std::vector<std::string> ignored; };
  const std::vector<Form> forms = {
      {"a dict", matrix_dict(), {}},
      {"set one by one", p_whole("}" + p_text("w") + p_matrix() + "s"), {}},
      {"an OrderedDict with attributes", p_whole(p_ordered_dict() + p_items({{"w", p_matrix()}}) + metadata + "b"), {}},
      {"a parameter", tensor_dict(parameter), {}},
      {"protocol 4", kept, {}},
      {"state_dict of a training checkpoint", p_whole(p_dict({{"epoch", p_int(3)}, {"state_dict", p_dict({{"w", p_matrix()}})}, {"lr", "G" + le(0, 8)}})), {"epoch", "lr"}},
      {"model of a training checkpoint", p_whole(p_dict({{"state_dict", p_dict({})}, {"model", p_dict({{"w", p_matrix()}})}})), {"state_dict"}},
      {"a tensor named model", p_whole(p_dict({{"w", p_matrix()}, {"model", p_dict({{"x", p_matrix()}})}, {"list", "](K\1K\2e"}, {"one", "]Na"}})), {"model", "list", "one"}},
      {"bytes and long integers", p_whole(p_dict({{"w", p_matrix()}, {"b", "C\3abc"}, {"B", "B" + le(2, 4) + "xy"}, {"n", "\x8a\x09" + le(1, 9)}})), {"b", "B", "n"}}};
  for (const Form& form : forms) {
    const PickledCheckpoint c = parse_pickle(form.pickle, "f.bin");
    CHECK(c.ignored == form.ignored && c.tensors.size() == 1, form.what);
    const PickledTensor& t = c.tensors.at(0);
    CHECK(t.name == "w" && t.dtype == FileDType::F32 && t.shape == std::vector<int64_t>({2, 3}) && t.storage == "0" && t.offset == 0 && t.bytes == 24, form.what);
  }
}

TEST("pickle: dtypes, shapes and shared storages") {
  struct Type { const char* name; FileDType dtype; };
  for (const Type& type : {Type{"FloatStorage", FileDType::F32}, Type{"HalfStorage", FileDType::F16}, Type{"BFloat16Storage", FileDType::BF16},
                           Type{"DoubleStorage", FileDType::F64}, Type{"LongStorage", FileDType::I64}, Type{"IntStorage", FileDType::I32},
                           Type{"ShortStorage", FileDType::I16}, Type{"CharStorage", FileDType::I8}, Type{"ByteStorage", FileDType::U8},
                           Type{"BoolStorage", FileDType::Bool}}) {
    const PickledTensor t = parse_pickle(tensor_dict(p_tensor(p_storage(type.name, "0", 6), 1, {5}, {1})), "f.bin").tensors.at(0);
    CHECK(t.dtype == type.dtype && t.offset == size_of(type.dtype) && t.bytes == 5 * size_of(type.dtype) && t.storage_bytes == 6 * size_of(type.dtype), type.name);
  }
  const std::string storage = p_storage("FloatStorage", "0", 6);
  struct Shape { std::vector<int64_t> shape, stride; int64_t offset; uint64_t bytes; };
  for (const Shape& s : {Shape{{}, {}, 5, 4}, Shape{{1, 3}, {77, 1}, 3, 12}, Shape{{3, 1}, {1, 9}, 0, 12}, Shape{{0, 4}, {4, 1}, 6, 0},
                         Shape{{4, 0}, {9, 9}, 0, 0}, Shape{{1, 1, 1, 1, 1, 1, 1, 6}, {0, 0, 0, 0, 0, 0, 0, 1}, 0, 24}}) {
    const PickledTensor t = parse_pickle(tensor_dict(p_tensor(storage, s.offset, s.shape, s.stride)), "f.bin").tensors.at(0);
    CHECK(t.shape == s.shape && t.bytes == s.bytes && t.offset == static_cast<uint64_t>(s.offset) * 4, s.bytes);
  }
  const std::string tied = p_whole(p_dict({{"a", p_matrix()}, {"b", p_tensor(storage, 3, {3}, {1})}}));
  const std::string bytes = torch_file(tied, {"0123456789abcdefghijklmn"});
  const TorchHeader header = read_bytes(bytes);
  const TensorInfo &a = header.tensors.at(0), &b = header.tensors.at(1);
  CHECK(bytes.substr(a.offset, a.bytes) == "0123456789abcdefghijklmn" && bytes.substr(b.offset, b.bytes) == "cdefghijklmn");
}

TEST("pickle: hostile pickles") {
  const std::string storage = p_storage("FloatStorage", "0", 6), big = "\x8a\x08" + le(uint64_t{1} << 62, 8);
  const auto tensor = [&](int64_t offset, const std::vector<int64_t>& shape, const std::vector<int64_t>& stride) { return tensor_dict(p_tensor(storage, offset, shape, stride)); };
  const auto of = [&](const std::string& s) { return tensor_dict(p_tensor(s, 0, {2, 3}, {3, 1})); };
  const std::string good = matrix_dict(), rebuild = p_global("torch._utils", "_rebuild_tensor_v2");
  const std::vector<Row> rows = {
      {"os.system", p_whole(p_global("os", "system") + p_text("true") + "\x85R"), kUnsupported, "asks for \"os.system\""},
      {"posix.system of protocol 4", p_whole("\x8c\5posix\x8c\6system\x93"), kUnsupported, "posix.system"},
      {"eval beside tensors", p_whole(p_dict({{"w", p_matrix()}, {"x", p_global("builtins", "eval")}})), kUnsupported, "builtins.eval"},
      {"a storage without a type", of(p_storage("UntypedStorage", "0", 24)), kUnsupported, "torch.UntypedStorage"},
      {"a class of the user's", p_whole(p_global("argparse", "Namespace")), kUnsupported, "argparse.Namespace"},
      {"a name in no UTF-8", p_whole(p_global("\xff", "x")), kCorrupt, "UTF-8"},
      {"a name without an end", p_whole("ctorch"), kCorrupt, "a line's end"},
      {"a name too long", p_whole(p_global(std::string(2000, 'a'), "x")), kCorrupt, "a line's end"},
      {"INST", p_whole("(ios\nsystem\n"), kUnsupported, "opcode 105"}, {"NEWOBJ", p_whole("N)\x81"), kUnsupported, "opcode 129"},
      {"EXT1", p_whole("\x82\1"), kUnsupported, "opcode 130"}, {"PERSID", p_whole("P0\n"), kUnsupported, "opcode 80"},
      {"empty", "", kCorrupt, "protocol 2 or later"}, {"protocol 0", "(dp0\n.", kCorrupt, "protocol 2 or later"},
      {"protocol 1", "\x80\1N.", kUnsupported, "got 1"}, {"protocol 9", "\x80\x09N.", kUnsupported, "got 9"},
      {"no STOP", good.substr(0, good.size() - 1), kCorrupt, "got the end"}, {"bytes after STOP", good + "x", kCorrupt, "nothing after the end"},
      {"two values at the end", p_whole("N" + p_dict({})), kCorrupt, "one value at the end"}, {"an open mark at the end", p_whole("(N"), kCorrupt, "one value at the end"},
      {"no value", p_whole(""), kCorrupt, "a value on the stack"}, {"no tensors", p_whole("}"), kUnsupported, "no tensors"},
      {"a list at the top", p_whole("]"), kCorrupt, "a dict of tensors at the top"}, {"a tensor at the top", p_whole(p_matrix()), kCorrupt, "a dict of tensors at the top"},
      {"memo past the end", p_whole("h\0"s), kCorrupt, "a memo index below 0"}, {"long memo past the end", p_whole("Nq\0j"s + le(0xffffffff, 4)), kCorrupt, "got 4294967295"},
      {"a memo with a gap", p_whole("Nr" + le(0xfffffff0, 4)), kCorrupt, "a memo index of at most 0"}, {"MEMOIZE of nothing", p_whole("\x94"), kCorrupt, "a value on the stack"},
      {"a huge string", p_whole("X" + le(0xffffffff, 4)), kUnsupported, "strings of at most"}, {"a huge string of 64 bits", p_whole("\x8d" + le(~uint64_t{0}, 8)), kUnsupported, "strings of at most"},
      {"a string past the end", p_whole("X" + le(9, 4) + "abc"), kCorrupt, "9 bytes, got the end"}, {"huge bytes", p_whole("B" + le(0xffffffff, 4)), kCorrupt, "got the end"},
      {"a huge frame", p_whole("\x95" + le(~uint64_t{0}, 8)), kCorrupt, "frame"}, {"a string in no UTF-8", p_whole(p_dict({{"\xc3\x28", p_matrix()}})), kCorrupt, "UTF-8"},
      {"TUPLE3 of two", p_whole("NN\x87"), kCorrupt, "a value on the stack"}, {"a pop below the mark", p_whole("N(\x85"), kCorrupt, "a value on the stack"},
      {"TUPLE without a mark", p_whole("Nt"), kCorrupt, "a mark"}, {"SETITEMS without a mark", p_whole("}u"), kCorrupt, "a mark"},
      {"APPENDS without a mark", p_whole("]e"), kCorrupt, "a mark"}, {"APPEND to a dict", p_whole("}Na"), kCorrupt, "a list before its item"},
      {"APPENDS to nothing", p_whole("(Ne"), kCorrupt, "a value on the stack"}, {"a key without a value", p_whole("}(" + p_text("w") + "u"), kCorrupt, "a value for every key"},
      {"SETITEM of a list", p_whole("]NNs"), kCorrupt, "a dict before its items"}, {"SETITEMS of a tensor", p_whole(p_matrix() + "(NNu"), kCorrupt, "a dict before its items"},
      {"BUILD of a tensor", p_whole(p_matrix() + "}b"), kCorrupt, "a dict before its attributes"},
      {"marks too deep", p_whole(std::string(65, '(')), kUnsupported, "64 open tuples"}, {"a stack too high", p_whole(std::string((1 << 16) + 1, 'N')), kUnsupported, "on the stack"},
      {"too many opcodes", p_whole("N" + repeat("\x85", kMaxPickleOps)), kUnsupported, "opcodes"},
      {"REDUCE of a number", p_whole("K\1)R"), kCorrupt, "a name before its arguments"}, {"REDUCE without a tuple", p_whole(p_global("collections", "OrderedDict") + "NR"), kCorrupt, "a tuple of arguments"},
      {"an OrderedDict from pairs", p_whole(p_global("collections", "OrderedDict") + "]\x85R"), kUnsupported, "made empty"},
      {"a storage type called", p_whole(p_global("torch", "FloatStorage") + ")R"), kCorrupt, "takes no arguments"},
      {"a parameter of nothing", p_whole(p_global("torch._utils", "_rebuild_parameter") + ")R"), kCorrupt, "made of a tensor"},
      {"a tensor of nothing", p_whole(rebuild + ")R"), kCorrupt, "to make a tensor of"}, {"a tensor of five", p_whole(rebuild + "(" + storage + "K\0))Nt"s + "R"), kCorrupt, "to make a tensor of"},
      {"a tensor without a storage", p_whole(rebuild + "(NK\0))NNt"s + "R"), kCorrupt, "to make a tensor of"},
      {"a storage of a number", p_whole("K\1Q"), kCorrupt, "names a storage"}, {"a storage of four", p_whole("(" + p_text("storage") + p_global("torch", "FloatStorage") + p_text("0") + "K\1tQ"), kCorrupt, "(\"storage\""},
      {"a module", p_whole("(" + p_text("module") + p_global("torch", "FloatStorage") + p_text("0") + p_text("cpu") + "K\1tQ"), kCorrupt, "(\"storage\""},
      {"a storage of a wrong type", p_whole("(" + p_text("storage") + p_global("collections", "OrderedDict") + p_text("0") + p_text("cpu") + "K\1tQ"), kCorrupt, "(\"storage\""},
      {"a storage's name too long", of(p_storage("FloatStorage", std::string(65, '0'), 6)), kCorrupt, "(\"storage\""},
      {"a negative storage", of(p_storage("FloatStorage", "0", -6)), kCorrupt, "overflows"}, {"a huge storage", of(p_storage("FloatStorage", "0", INT64_MAX)), kCorrupt, "overflows"},
      {"a storage too small", of(p_storage("FloatStorage", "0", 5)), kCorrupt, "leave its storage of 5"}, {"an offset too far", tensor(1, {2, 3}, {3, 1}), kCorrupt, "leave its storage"},
      {"a negative offset", tensor(-1, {2, 3}, {3, 1}), kCorrupt, "leave its storage"}, {"a huge offset", tensor(INT64_MAX, {1}, {1}), kCorrupt, "leave its storage"},
      {"an empty tensor outside", tensor(7, {0}, {1}), kCorrupt, "leave its storage"}, {"a negative size", tensor(0, {-2, -3}, {3, 1}), kCorrupt, "integers from 0"},
      {"a negative stride", tensor(0, {2, 3}, {-3, 1}), kCorrupt, "integers from 0"}, {"a size that is no number", tensor_dict(p_global("torch._utils", "_rebuild_tensor_v2") + "(" + storage + "K\0N\x85K\1\x85NNtR"s), kCorrupt, "integers from 0"},
      {"a shape that overflows", tensor(0, {INT64_MAX, 2}, {2, 1}), kCorrupt, "overflows"}, {"bytes that overflow", tensor(0, {int64_t{1} << 61, 2}, {2, 1}), kCorrupt, "overflows"},
      {"zeros that hide an overflow", tensor(0, {0, INT64_MAX, INT64_MAX}, {1, 1, 1}), kCorrupt, "overflows"},
      {"nine dimensions", tensor(0, std::vector<int64_t>(9, 1), std::vector<int64_t>(9, 1)), kCorrupt, "at most 8 dimensions"}, {"more sizes than strides", tensor(0, {2, 3}, {3}), kCorrupt, "strides"},
      {"transposed", tensor(0, {3, 2}, {1, 3}), kUnsupported, "tensor \"w\": it is not contiguous"}, {"broadcast", tensor(0, {1000, 1000}, {0, 0}), kUnsupported, "not contiguous"}, {"with holes", tensor(0, {3}, {2}), kUnsupported, "not contiguous"},
      {"a name twice", p_whole(p_dict({{"w", p_matrix()}, {"w", p_matrix()}})), kCorrupt, "tensor \"w\" is there twice"}, {"a number as a name", p_whole("}(K\1" + p_matrix() + "u"), kCorrupt, "keys of the dict to be strings"},
      {"an empty name", p_whole(p_dict({{"", p_matrix()}})), kCorrupt, "names of 1 to"}, {"a tensor's name too long", p_whole(p_dict({{std::string(1025, 'w'), p_matrix()}})), kCorrupt, "names of 1 to"},
      {"a reserved name", p_whole(p_dict({{"__metadata__", p_matrix()}})), kCorrupt, "__metadata__"}};
  for (const Row& row : rows) check_refused(row, [&] { parse_pickle(row.bytes, "f.bin"); });
  const std::string m = message_of([&] { parse_pickle(rows[0].bytes, "f.bin"); });
  CHECK(contains(m, "nothing in the file is executed") && contains(m, "safetensors"), m);
}

// A dict that holds itself, and nesting far beyond any stack: values are flat, so neither costs anything.
TEST("pickle: nesting and cycles do not recurse") {
  const std::string deep = "N" + repeat("\x85", 200'000), cycle = "}q\0("s + p_text("self") + "h\0"s + p_text("w") + p_matrix() + "u";
  CHECK(parse_pickle(p_whole(p_dict({{"w", p_matrix()}, {"deep", deep}})), "f.bin").ignored == std::vector<std::string>{"deep"});
  CHECK(parse_pickle(p_whole(cycle), "f.bin").ignored == std::vector<std::string>{"self"});
  std::string names = "}(" + p_text("w") + p_matrix() + p_text(std::string(1024, 'n')) + "q\0Nu"s;  // one long name, a million times
  for (int batch = 0; batch < 100; ++batch) names += "(" + repeat("h\0N"s, 10'000) + "u";
  check_refused({"ignored entries", "", kUnsupported, "that are no tensors"}, [&] { parse_pickle(p_whole(names), "f.bin"); });
}

TEST("pickle: archives") {
  const std::vector<ZipItem> items = torch_items(matrix_dict(), {std::string(24, 'x')});
  for (const bool zip64 : {false, true}) {
    const ZipBytes zip = zip_bytes(items, zip64);
    const TorchHeader header = read_bytes(zip.bytes);
    CHECK(zip.bytes.substr(header.tensors.at(0).offset, 24) == std::string(24, 'x'), zip64);
  }
  std::string commented = zip_bytes(items).bytes;
  commented.replace(commented.size() - 2, 2, le(7, 2) + "PK\5\6abc");
  CHECK(read_bytes(commented).tensors.size() == 1, "a comment, even one that looks like an end record");
  CHECK(crc32("123456789") == 0xcbf43926 && crc32("") == 0);
}

TEST("pickle: hostile archives") {
  const std::vector<ZipItem> items = torch_items(matrix_dict(), {std::string(24, 'x')});  // data.pkl, byteorder, data/0, version
  const ZipBytes zip = zip_bytes(items), wide = zip_bytes(items, true);
  const auto patched = [](const ZipBytes& z, size_t at, const std::string& bytes) { return std::string(z.bytes).replace(at, bytes.size(), bytes); };
  const auto record = [&](size_t item, size_t field, const std::string& bytes) { return patched(zip, zip.records[item] + field, bytes); };
  const auto local = [&](size_t item, size_t field, const std::string& bytes) { return patched(zip, zip.headers[item] + field, bytes); };
  const auto end = [&](size_t field, const std::string& bytes) { return patched(zip, zip.end + field, bytes); };
  const auto with = [&](size_t item, const ZipItem& other) {
    std::vector<ZipItem> changed = items;
    changed[item] = other;
    return zip_bytes(changed).bytes;
  };
  const auto added = [&](const ZipItem& other) {
    std::vector<ZipItem> more = items;
    more.push_back(other);
    return zip_bytes(more).bytes;
  };
  const size_t end64 = wide.end - 20 - 56, extra64 = wide.records[2] + 46 + items[2].name.size() + 4;
  const std::string x24(24, 'x');
  const std::vector<Row> rows = {
      {"empty", "", kCorrupt, "0 bytes"}, {"text", std::string(100, 'a'), kCorrupt, "no end record"},
      {"legacy", "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.rest of it, as long as a zip archive"s, kUnsupported, "before PyTorch 1.6"},
      {"TorchScript", added({"archive/constants.pkl", ""}), kUnsupported, "TorchScript"}, {"no data.pkl", with(0, {"archive/x.pkl", "x"}), kUnsupported, "no PyTorch checkpoint"},
      {"data.pkl deep down", with(0, {"a/b/data.pkl", "x"}), kUnsupported, "no PyTorch checkpoint"}, {"data.pkl without a folder", with(0, {"/data.pkl", "x"}), kUnsupported, "no PyTorch checkpoint"},
      {"two of data.pkl", added({"other/data.pkl", "x"}), kCorrupt, "several"}, {"big-endian", with(1, {"archive/byteorder", "big"}), kUnsupported, "byteorder"},
      {"a long byteorder", with(1, {"archive/byteorder", std::string(17, 'l')}), kUnsupported, "at most 16 bytes"},
      {"deflated", with(2, {"archive/data/0", x24, 8}), kUnsupported, "is compressed (method 8)"}, {"encrypted", with(2, {"archive/data/0", x24, 0, 1}), kUnsupported, "is encrypted"},
      {"an entry twice", added({"archive/data/0", x24}), kCorrupt, "is there twice"}, {"a missing storage", with(2, {"archive/data/1", x24}), kCorrupt, "is missing"},
      {"a storage past its entry", with(2, {"archive/data/0", std::string(23, 'x')}), kCorrupt, "but its entry has 23"},
      {"a name in no UTF-8", with(2, {"archive/data/\xff", x24}), kCorrupt, "UTF-8 name"}, {"a name too long", with(2, {std::string(1025, 'a'), x24}), kCorrupt, "UTF-8 name"}, {"no name", with(2, {"", x24}), kCorrupt, "UTF-8 name"},
      {"a pickle that changed", local(0, 30 + 16 + 5 + 2, "]"), kCorrupt, "checksum"},
      {"cut", zip.bytes.substr(0, zip.bytes.size() - 1), kCorrupt, "no end record"}, {"bytes in front", "x" + zip.bytes, kCorrupt, "expected entry 0"}, {"bytes behind", zip.bytes + "x", kCorrupt, "no end record"},
      {"split", end(4, le(1, 2)), kUnsupported, "split"}, {"entries that do not fit", end(10, le(5000, 2)), kCorrupt, "do not fit"}, {"one entry too many", end(10, le(5, 2)), kCorrupt, "entry 4"},
      {"one entry too few", end(10, le(3, 2)), kCorrupt, "longer than its 3"}, {"a directory too long", end(12, le(1 << 20, 4)), kCorrupt, "outside the file"},
      {"a directory past the end", end(16, le(0xfffffff0, 4)), kCorrupt, "outside the file"}, {"zip64 without its record", end(16, le(0xffffffff, 4)), kCorrupt, "zip64 end record is missing"},
      {"a record with a wrong mark", record(1, 0, "XX"), kCorrupt, "expected entry 1"}, {"a name past the directory", record(3, 28, le(60000, 2)), kCorrupt, "ends within entry 3"},
      {"two sizes", record(2, 20, le(23, 4)), kCorrupt, "two sizes differ"}, {"a size past the end", record(2, 20, le(1 << 30, 4) + le(1 << 30, 4)), kCorrupt, "reaches past"},
      {"a size into the next entry", record(2, 20, le(100, 4) + le(100, 4)), kCorrupt, "reaches past"}, {"a size over the next header", record(2, 20, le(27, 4) + le(27, 4)), kCorrupt, "reaches past"},
      {"two entries at one place", record(2, 42, le(0, 4)), kCorrupt, "reaches past"}, {"a header in the directory", record(2, 42, le(zip.directory, 4)), kCorrupt, "reaches past"}, {"a header past the file", record(2, 42, le(0xfffffff0, 4)), kCorrupt, "reaches past"},
      {"a size of 64 bits without the field", record(2, 24, le(0xffffffff, 4)), kCorrupt, "zip64 field is missing"},
      {"a local header of another name", local(2, 30, "X"), kCorrupt, "not what the directory says"}, {"a local header with a method", local(2, 8, le(8, 2)), kCorrupt, "not what the directory says"},
      {"a local mark", local(2, 0, "XX"), kCorrupt, "not what the directory says"}, {"a local extra field too long", local(2, 28, le(60000, 2)), kCorrupt, "reaches past"},
      {"zip64: record outside", patched(wide, wide.end - 12, le(~uint64_t{0}, 8)), kCorrupt, "outside the file"}, {"zip64: record elsewhere", patched(wide, wide.end - 12, le(0, 8)), kCorrupt, "expected the zip64 end record"},
      {"zip64: split", patched(wide, wide.end - 4, le(2, 4)), kUnsupported, "split"}, {"zip64: another disk", patched(wide, end64 + 16, le(1, 4)), kUnsupported, "split"},
      {"zip64: entries", patched(wide, end64 + 32, le(~uint64_t{0}, 8)), kUnsupported, "at most"}, {"zip64: entries that wrap", patched(wide, end64 + 32, le(uint64_t{1} << 63, 8)), kUnsupported, "at most"},
      {"zip64: directory bytes", patched(wide, end64 + 40, le(~uint64_t{0}, 8)), kCorrupt, "outside the file"}, {"zip64: directory offset", patched(wide, end64 + 48, le(~uint64_t{0}, 8)), kCorrupt, "outside the file"},
      {"zip64: records disagree", patched(wide, wide.end + 10, le(3, 2)), kCorrupt, "disagree"}, {"zip64: size", patched(wide, extra64, le(~uint64_t{0}, 8) + le(~uint64_t{0}, 8)), kCorrupt, "reaches past"},
      {"zip64: header", patched(wide, extra64 + 16, le(~uint64_t{0}, 8)), kCorrupt, "reaches past"}, {"zip64: a field too short", patched(wide, extra64 - 2, le(8, 2)), kCorrupt, "too short"}};
  for (const Row& row : rows) check_refused(row, [&] { read_bytes(row.bytes); });
}

TEST("pickle: every cut and every flipped bit of a file is refused or harmless") {
  const std::string good = torch_file(matrix_dict(), {std::string(24, 'x')});
  const auto try_one = [](const std::string& bytes) {
    try {
      for (const TensorInfo& t : read_bytes(bytes).tensors) CHECK(t.bytes <= bytes.size() && t.offset <= bytes.size() - t.bytes);
      return true;
    } catch (const Error& e) {
      CHECK(e.code == kCorrupt || e.code == kUnsupported, e.code, " ", e.what());
      return false;
    }
  };
  for (size_t n = 0; n < good.size(); ++n) CHECK(!try_one(good.substr(0, n)), "cut at ", n);
  for (size_t bit = 0; bit < good.size() * 8; ++bit) {
    std::string bytes = good;
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << bit % 8));
    try_one(bytes);
  }
  const std::string pickle = matrix_dict();
  for (size_t n = 0; n < pickle.size(); ++n) CHECK(message_of([&] { parse_pickle(pickle.substr(0, n), "f.bin"); }) != "nothing was thrown", "cut at ", n);
}

namespace {

std::string two_floats(float a, float b) {
  const float values[] = {a, b};
  return std::string(reinterpret_cast<const char*>(values), sizeof values);
}

// Two shards with an index: x (2) and its tied twin y, ids (3); then h (2) fp16 and a counter that is no tensor.
void write_torch_checkpoint(const std::string& dir) {
  make_folders(dir);
  const std::string x = p_tensor(p_storage("FloatStorage", "0", 2), 0, {2}, {1}), ids = p_tensor(p_storage("LongStorage", "1", 3), 0, {3, 1}, {1, 1});
  write_file_atomic(dir + "/pytorch_model-00001-of-00002.bin", torch_file(p_whole(p_dict({{"x", x}, {"ids", ids}, {"y", x}})), {two_floats(1, 2), le(7, 8) + le(8, 8) + le(9, 8)}));
  const std::string h = p_tensor(p_storage("HalfStorage", "0", 3), 1, {2}, {1});
  write_file_atomic(dir + "/pytorch_model-00002-of-00002.bin", torch_file(p_whole(p_dict({{"step", p_int(5)}, {"h", h}})), {"aabbcc"}));
  const std::string a = "\"pytorch_model-00001-of-00002.bin\"", b = "\"pytorch_model-00002-of-00002.bin\"";
  write_file_atomic(dir + "/pytorch_model.bin.index.json", "{\"metadata\":{},\"weight_map\":{\"x\":" + a + ",\"ids\":" + a + ",\"y\":" + a + ",\"h\":" + b + "}}");
  write_file_atomic(dir + "/config.json", "{}\n");
}

std::string bytes_of(const Checkpoint& c, const std::string& name) {
  const TensorInfo& t = c.get(name);
  std::string bytes(t.bytes, '\0');
  c.read(t, 0, t.bytes, bytes.data());
  return bytes;
}

uint64_t save(const Checkpoint& c, const std::string& dir) {
  return save_checkpoint(c, dir, [](const TensorInfo& t) { return t.name == "y"; },
                         [](const TensorInfo&, uint64_t, uint64_t count, void* dst) { std::memset(dst, 7, count); }, [] {});
}

}  // namespace

TEST("pickle: folders") {
  TempFolder dir;
  write_torch_checkpoint(dir / "m");
  const Checkpoint c = Checkpoint::open(dir / "m");
  CHECK(c.format() == FileFormat::Torch && c.shards().size() == 2 && c.tensors().size() == 4 && c.bytes() == 8 + 24 + 8 + 4);
  CHECK(c.shards()[0].ignored.empty() && c.shards()[1].ignored == std::vector<std::string>{"step"});
  CHECK(bytes_of(c, "x") == two_floats(1, 2) && bytes_of(c, "y") == two_floats(1, 2) && bytes_of(c, "h") == "bbcc");
  std::vector<uint8_t> staging;
  float second = 0;
  c.read_rows(c.get("x"), 1, 1, DType::F32, &second, staging);
  CHECK(second == 2);

  const std::string index = slurp(dir / "m/pytorch_model.bin.index.json");
  struct Index { const char *from, *to, *reason; };
  for (const Index& row : {Index{"\"h\"", "\"g\"", "tensor \"g\" is not in"}, Index{",\"ids\"", ",\"id\"", "is not in"}, Index{"00002.bin", "00002.safetensors", "name of a .bin file"},
                           Index{"\"pytorch_model-00001", "\"../pytorch_model-00001", "in the same folder"}, Index{"pytorch_model-00002", "pytorch_model-00003", "which is missing"}}) {
    std::string text = index;
    text.replace(text.find(row.from), std::strlen(row.from), row.to);
    write_file_atomic(dir / "m/pytorch_model.bin.index.json", text);
    const std::string m = message_of([&] { Checkpoint::open(dir / "m"); });
    CHECK(contains(m, "CHECKPOINT_CORRUPT|") && contains(m, row.reason), m);
  }
  write_file_atomic(dir / "m/pytorch_model.bin", slurp(dir / "m/pytorch_model-00002-of-00002.bin"));
  CHECK(Checkpoint::open(dir / "m").tensors().size() == 1, "one file wins over an index");
  const float one = 1;
  write_safetensors(dir / "m/model.safetensors", {{"s", FileDType::F32, {1}, &one}});
  CHECK(Checkpoint::open(dir / "m").format() == FileFormat::Safetensors, "safetensors win");
  write_file_atomic(dir / "m/odd name", slurp(dir / "m/pytorch_model.bin"));
  CHECK(Checkpoint::open_file(dir / "m/odd name").find("h") && Checkpoint::open_file(dir / "m/pytorch_model.bin").find("h"));
  CHECK(Checkpoint::open_file(dir / "m/model.safetensors").find("s") && thrown_code([&] { Checkpoint::open_file(dir / "m/config.json"); }) == kCorrupt);
  write_file_atomic(dir / "m/x.pt", "x");
  CHECK(contains(message_of([&] { Checkpoint::open_file(dir / "m/x.pt"); }), "expected a zip archive"));
}

TEST("pickle: saving writes safetensors") {
  TempFolder dir;
  write_torch_checkpoint(dir / "m");
  const Checkpoint source = Checkpoint::open(dir / "m");
  const uint64_t written = save(source, dir / "saved");
  const std::vector<std::string> names = {"config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"};
  CHECK(names_in(dir / "saved") == names);
  uint64_t bytes = 0;
  for (const auto& [name, content] : read_folder(dir / "saved")) bytes += content.size();
  CHECK(written == bytes, written, " ", bytes);
  const Checkpoint c = Checkpoint::open(dir / "saved");
  CHECK(c.format() == FileFormat::Safetensors && c.shards()[1].metadata == Metadata({{"format", "pt"}}) && c.tensors().size() == source.tensors().size());
  for (size_t i = 0; i < c.tensors().size(); ++i) {
    const TensorInfo &a = c.tensors()[i], &b = source.tensors()[i];
    CHECK(a.name == b.name && a.dtype == b.dtype && a.shape == b.shape && a.shard == b.shard, a.name);
    CHECK(bytes_of(c, a.name) == (a.name == "y" ? std::string(8, 7) : bytes_of(source, a.name)), a.name, ": twins part, the rest is the same");
  }
  CHECK(contains(c.index_text(), "\"total_size\": 44"), c.index_text());
  save(source, dir / "m");
  CHECK(read_folder(dir / "m") == read_folder(dir / "saved"), "in place, the PyTorch files go");

  make_folders(dir / "one");
  write_file_atomic(dir / "one/pytorch_model.bin", torch_file(matrix_dict(), {"0123456789abcdefghijklmn"}));
  save(Checkpoint::open(dir / "one"), dir / "one");
  CHECK(names_in(dir / "one") == std::vector<std::string>{"model.safetensors"});
  CHECK(bytes_of(Checkpoint::open(dir / "one"), "w") == "0123456789abcdefghijklmn");
}

}  // namespace isr::test
