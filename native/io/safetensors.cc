#include "io/safetensors.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "io/json.h"
#include "io/pickle.h"

namespace isr {
namespace {

constexpr const char* kCorrupt = "CHECKPOINT_CORRUPT";

struct FormatRow { const char *single, *index, *suffix; };  // file names; by FileFormat
constexpr FormatRow kFormats[] = {{"model.safetensors", "model.safetensors.index.json", ".safetensors"},
                                  {"pytorch_model.bin", "pytorch_model.bin.index.json", ".bin"}};
const FormatRow& row_of(FileFormat f) { return kFormats[static_cast<size_t>(f)]; }

struct DTypeRow { FileDType dtype; const char* name; size_t bytes; };
constexpr DTypeRow kDTypes[] = {
    {FileDType::Bool, "BOOL", 1}, {FileDType::U8, "U8", 1},     {FileDType::I8, "I8", 1},
    {FileDType::F8E5M2, "F8_E5M2", 1}, {FileDType::F8E4M3, "F8_E4M3", 1}, {FileDType::U16, "U16", 2},
    {FileDType::I16, "I16", 2},   {FileDType::F16, "F16", 2},   {FileDType::BF16, "BF16", 2},
    {FileDType::U32, "U32", 4},   {FileDType::I32, "I32", 4},   {FileDType::F32, "F32", 4},
    {FileDType::U64, "U64", 8},   {FileDType::I64, "I64", 8},   {FileDType::F64, "F64", 8}};

template <class... Parts>
[[noreturn]] void corrupt(const std::string& path, const Parts&... parts) {
  throw Error(kCorrupt, concat(path, ": ", parts...), {}, path);
}

// One entry of a header, with the words for what is wrong with it.
class Entry {
 public:
  Entry(const std::string& name, const Json& value, const std::string& path) : name_(name), value_(value), path_(path) {}

  TensorInfo read(uint64_t data_bytes) const {
    if (name_.empty() || name_.size() > kMaxNameBytes)
      refuse("expected a name of 1 to ", kMaxNameBytes, " bytes, got ", name_.size());
    TensorInfo t;
    t.name = name_;
    t.dtype = dtype();
    t.shape = shape();
    t.bytes = checked_bytes(t);
    const auto [begin, end] = offsets();
    if (begin > end) refuse("data_offsets [", begin, ", ", end, "] are reversed");
    if (static_cast<uint64_t>(end) > data_bytes)
      refuse("data_offsets [", begin, ", ", end, "] reach past the end of the data (", data_bytes, " bytes)");
    if (static_cast<uint64_t>(end - begin) != t.bytes)
      refuse(t.shape_text(), " of ", name_of(t.dtype), " takes ", t.bytes, " bytes, but data_offsets give ", end - begin);
    t.offset = static_cast<uint64_t>(begin);
    return t;
  }

 private:
  template <class... Parts>
  [[noreturn]] void refuse(const Parts&... parts) const {
    corrupt(path_, "tensor ", json_excerpt(name_), ": ", parts...);
  }

  const Json& field(const char* key) const {
    if (!value_.object()) refuse("expected an object, got ", value_.kind());
    const Json* v = value_.find(key);
    if (!v) refuse("expected a field ", key);
    return *v;
  }

  FileDType dtype() const {
    const std::string* name = field("dtype").string();
    if (!name) refuse("expected dtype to be a string, got ", field("dtype").kind());
    for (const DTypeRow& row : kDTypes)
      if (*name == row.name) return row.dtype;
    refuse("unknown dtype ", json_excerpt(*name));
  }

  std::vector<int64_t> integers(const char* key) const {
    const Json::Array* items = field(key).array();
    if (!items) refuse("expected ", key, " to be an array, got ", field(key).kind());
    std::vector<int64_t> values;
    for (const Json& item : *items) {
      const auto v = item.integer();
      if (!v || *v < 0) refuse("expected ", key, " to hold integers from 0 to 2^63 - 1");
      values.push_back(*v);
    }
    return values;
  }

  std::vector<int64_t> shape() const {
    std::vector<int64_t> dims = integers("shape");
    if (dims.size() > kMaxRank) refuse("expected at most ", kMaxRank, " dimensions, got ", dims.size());
    return dims;
  }

  std::pair<int64_t, int64_t> offsets() const {
    const std::vector<int64_t> v = integers("data_offsets");
    if (v.size() != 2) refuse("expected data_offsets to hold 2 integers, got ", v.size());
    return {v[0], v[1]};
  }

  // Zero dimensions count as one in the overflow check, so that any partial product of a shape is safe later on.
  uint64_t checked_bytes(const TensorInfo& t) const {
    int64_t product = static_cast<int64_t>(size_of(t.dtype));
    bool empty = false;
    for (const int64_t d : t.shape) {
      empty = empty || d == 0;
      if (__builtin_mul_overflow(product, std::max<int64_t>(d, 1), &product))
        refuse("the shape ", t.shape_text(), " overflows");
    }
    return empty ? 0 : static_cast<uint64_t>(product);
  }

  const std::string& name_;
  const Json& value_;
  const std::string& path_;
};

Metadata parse_metadata(const Json& value, const std::string& path) {
  if (!value.object()) corrupt(path, "expected __metadata__ to be an object, got ", value.kind());
  Metadata metadata;
  for (const auto& [key, item] : *value.object()) {
    if (!item.string()) corrupt(path, "expected __metadata__.", json_excerpt(key), " to be a string, got ", item.kind());
    metadata.emplace_back(key, *item.string());
  }
  return metadata;
}

// Every byte of the data belongs to one tensor: no overlap (aliased weights), no holes (hidden payloads).
void check_cover(const std::vector<TensorInfo>& by_offset, uint64_t data_bytes, const std::string& path) {
  uint64_t at = 0;
  for (const TensorInfo& t : by_offset) {
    if (t.offset < at)
      corrupt(path, "tensor ", json_excerpt(t.name), " overlaps the one before it at byte ", t.offset, " of the data");
    if (t.offset > at) corrupt(path, "bytes ", at, " to ", t.offset, " of the data belong to no tensor");
    at += t.bytes;
  }
  if (at != data_bytes) corrupt(path, "bytes ", at, " to ", data_bytes, " of the data belong to no tensor");
}

// An index may name files beside it only.
void check_shard_name(const std::string& name, const char* suffix, const std::string& path) {
  const bool plain = name.find_first_of(std::string_view("/\0", 2)) == std::string::npos && name.size() <= 255;
  if (!plain || !name.ends_with(suffix))
    corrupt(path, "expected the name of a ", suffix, " file in the same folder, got ", json_excerpt(name));
}

using WeightMap = std::vector<std::pair<std::string, std::string>>;

WeightMap parse_index(std::string_view text, const char* suffix, const std::string& path) {
  const Json root = parse_json(text, kCorrupt, path, {kMaxIndexBytes, kMaxHeaderValues, 64});
  const Json* map = root.find("weight_map");
  if (!map || !map->object()) corrupt(path, "expected an object with an object weight_map");
  if (map->object()->empty()) corrupt(path, "weight_map is empty");
  if (map->object()->size() > kMaxTensors)
    corrupt(path, "expected at most ", kMaxTensors, " tensors, got ", map->object()->size());
  WeightMap entries;
  for (const auto& [name, file] : *map->object()) {
    if (!file.string()) corrupt(path, "expected weight_map.", json_excerpt(name), " to be a string, got ", file.kind());
    check_shard_name(*file.string(), suffix, path);
    entries.emplace_back(name, *file.string());
  }
  return entries;
}

// Says what is wrong with a folder that holds no weights under the expected names.
[[noreturn]] void refuse_folder(const std::string& dir, const std::vector<FolderEntry>& entries) {
  const auto found = [&](std::string_view end) {
    for (const FolderEntry& e : entries)
      if (e.name.ends_with(end)) return e.name;
    return std::string();
  };
  const auto unsupported = [&](const std::string& name, const char* what, const char* hint) {
    const std::string message = concat(dir, " holds ", what, " (", name, "), but neither ", kFormats[0].single, " nor ", kFormats[1].single);
    if (!name.empty()) throw Error("CHECKPOINT_UNSUPPORTED", message, hint, dir);
  };
  const auto is_adapter = [](const FolderEntry& e) { return e.name.starts_with("adapter_"); };
  if (const auto adapter = std::find_if(entries.begin(), entries.end(), is_adapter); adapter != entries.end())
    unsupported(adapter->name, "an adapter",
                "merge it into its base model first (peft: merge_and_unload, then save_pretrained)");
  unsupported(found(".gguf"), "a GGUF file", "use the original checkpoint in safetensors format");
  for (const char* end : {".bin", ".bin.index.json", ".pt", ".pth", ".ckpt"})
    unsupported(found(end), "PyTorch weights under another name",
                "name them pytorch_model.bin if that is what they are, or convert them: load with transformers and "
                "save_pretrained(dir, safe_serialization=True)");
  if (found("run.json") == "run.json")
    throw Error("NOT_FOUND", concat(dir, ": expected the folder of a checkpoint, got the folder of a run"),
                "name one of its models: model/ of a training run, iterations/N/model/ of iterations", dir);
  throw Error("NOT_FOUND", concat(dir, ": expected ", kFormats[0].single, " or ", kFormats[1].single, ", or the index of either"),
              "give the folder of a Hugging Face checkpoint", dir);
}

}  // namespace

const char* name_of(FileDType t) { return kDTypes[static_cast<size_t>(t)].name; }
size_t size_of(FileDType t) { return kDTypes[static_cast<size_t>(t)].bytes; }
bool is_float(FileDType t) { return t == FileDType::F32 || t == FileDType::BF16 || t == FileDType::F16; }

int64_t TensorInfo::cols() const {
  int64_t n = 1;
  for (size_t i = 1; i < shape.size(); ++i) n *= shape[i];
  return n;
}

std::string TensorInfo::shape_text() const {
  std::string s = "[";
  for (size_t i = 0; i < shape.size(); ++i) s += (i ? ", " : "") + std::to_string(shape[i]);
  return s + "]";
}

uint64_t parse_header_length(const uint8_t prefix[8], uint64_t file_size, const std::string& path) {
  uint64_t n = 0;
  for (int i = 7; i >= 0; --i) n = n << 8 | prefix[i];
  if (n > kMaxHeaderBytes) corrupt(path, "expected a header of at most ", kMaxHeaderBytes, " bytes, got ", n);
  if (n > file_size - 8) corrupt(path, "the header takes ", n, " bytes, but the file has ", file_size);
  return n;
}

Header parse_header(std::string_view json, uint64_t file_size, const std::string& path) {
  ISR_ASSERT(json.size() <= kMaxHeaderBytes && file_size >= 8 + json.size(), "a header within its file");
  if (json.empty() || json[0] != '{') corrupt(path, "expected the header to start with '{'");
  const uint64_t data_bytes = file_size - 8 - json.size();
  const Json root = parse_json(json, kCorrupt, path, {kMaxHeaderBytes, kMaxHeaderValues, 64});
  Header header;
  if (root.object()->size() > kMaxTensors)
    corrupt(path, "expected at most ", kMaxTensors, " tensors, got ", root.object()->size());
  header.tensors.reserve(root.object()->size());
  for (const auto& [name, value] : *root.object()) {
    if (name == "__metadata__")
      header.metadata = parse_metadata(value, path);
    else
      header.tensors.push_back(Entry(name, value, path).read(data_bytes));
  }
  std::stable_sort(header.tensors.begin(), header.tensors.end(), [](const TensorInfo& a, const TensorInfo& b) {
    return a.offset != b.offset ? a.offset < b.offset : a.bytes < b.bytes;  // empty tensors first where they share a place
  });
  check_cover(header.tensors, data_bytes, path);
  for (TensorInfo& t : header.tensors) t.offset += 8 + json.size();
  return header;
}

Checkpoint::Checkpoint(FileFormat format, std::string dir, std::string index, const std::vector<std::string>& shard_names)
    : format_(format), dir_(std::move(dir)), index_(std::move(index)) {
  for (const std::string& name : shard_names) add_shard(name);
  index_names();
}

void Checkpoint::add_shard(const std::string& name) {
  Shard shard;
  shard.name = name;
  shard.file = InputFile(dir_ + "/" + name, kCorrupt);
  const InputFile& file = shard.file;
  std::vector<TensorInfo> tensors;
  if (format_ == FileFormat::Torch) {
    const auto read = [&](void* dst, size_t bytes, uint64_t offset) { file.read_exact(dst, bytes, offset); };
    TorchHeader header = read_torch_header(read, file.size(), file.path());
    tensors = std::move(header.tensors);
    shard.ignored = std::move(header.ignored);
  } else {
    if (file.size() < 8) corrupt(file.path(), "expected at least 8 bytes, got ", file.size());
    uint8_t prefix[8];
    file.read_exact(prefix, 8, 0);
    std::string json(parse_header_length(prefix, file.size(), file.path()), '\0');
    file.read_exact(json.data(), json.size(), 8);
    Header header = parse_header(json, file.size(), file.path());
    tensors = std::move(header.tensors);
    shard.metadata = std::move(header.metadata);
    shard.data_begin = 8 + json.size();
  }
  if (tensors_.size() + tensors.size() > kMaxTensors)
    corrupt(file.path(), "expected at most ", kMaxTensors, " tensors in all shards");
  for (TensorInfo& t : tensors) {
    t.shard = static_cast<uint32_t>(shards_.size());
    tensors_.push_back(std::move(t));
  }
  shards_.push_back(std::move(shard));
}

void Checkpoint::index_names() {
  for (size_t i = 0; i < tensors_.size(); ++i) by_name_.push_back(static_cast<uint32_t>(i));
  std::sort(by_name_.begin(), by_name_.end(), [&](uint32_t a, uint32_t b) { return tensors_[a].name < tensors_[b].name; });
  for (size_t i = 1; i < by_name_.size(); ++i) {
    const TensorInfo &a = tensors_[by_name_[i - 1]], &b = tensors_[by_name_[i]];
    if (a.name == b.name)
      corrupt(dir_, "tensor ", json_excerpt(a.name), " is in ", shards_[a.shard].name, " and in ", shards_[b.shard].name);
  }
}

// A tensor of a shard that the index does not list is there all the same, as in transformers, which reads whole files.
void Checkpoint::check_index(const WeightMap& weight_map, const std::string& path) const {
  for (const auto& [name, file] : weight_map) {
    const TensorInfo* t = find(name);
    if (!t || shards_[t->shard].name != file) corrupt(path, "tensor ", json_excerpt(name), " is not in ", file);
  }
}

Checkpoint Checkpoint::open(const std::string& dir) {
  recover_folder(dir);
  const std::vector<FolderEntry> entries = list_folder(dir);
  const auto has = [&](std::string_view name) {
    return std::any_of(entries.begin(), entries.end(), [&](const FolderEntry& e) { return e.name == name; });
  };
  for (const FileFormat format : {FileFormat::Safetensors, FileFormat::Torch}) {
    const FormatRow& names = row_of(format);
    if (has(names.single)) return Checkpoint(format, dir, {}, {names.single});
    if (has(names.index)) return open_shards(format, dir);
  }
  refuse_folder(dir, entries);
}

Checkpoint Checkpoint::open_shards(FileFormat format, const std::string& dir) {
  const std::string path = dir + "/" + row_of(format).index;
  std::string index = read_file(path, kMaxIndexBytes, kCorrupt);
  const WeightMap weight_map = parse_index(index, row_of(format).suffix, path);
  std::vector<std::string> names;
  for (const auto& entry : weight_map) names.push_back(entry.second);
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  if (names.size() > kMaxShards) corrupt(path, "expected at most ", kMaxShards, " shards, got ", names.size());
  for (const std::string& name : names)
    if (!file_exists(dir + "/" + name))
      throw Error(kCorrupt, concat(path, " names the shard ", json_excerpt(name), ", which is missing"),
                  "complete the download", dir + "/" + name);
  Checkpoint checkpoint(format, dir, std::move(index), names);
  checkpoint.check_index(weight_map, path);
  return checkpoint;
}

Checkpoint Checkpoint::open_file(const std::string& path) {
  const auto ends = [&](const char* end) { return path.ends_with(end); };
  bool torch = ends(".bin") || ends(".pt") || ends(".pth");
  if (!torch && !ends(".safetensors")) {
    const InputFile file(path, kCorrupt);
    char start[4] = {};
    file.read_exact(start, std::min<uint64_t>(file.size(), 4), 0);
    torch = std::string_view(start, 4) == "PK\3\4";
  }
  const FileFormat format = torch ? FileFormat::Torch : FileFormat::Safetensors;
  const size_t slash = path.find_last_of('/');
  if (slash == std::string::npos) return Checkpoint(format, ".", {}, {path});
  return Checkpoint(format, path.substr(0, slash), {}, {path.substr(slash + 1)});
}

uint64_t Checkpoint::bytes() const {
  uint64_t sum = 0;
  for (const TensorInfo& t : tensors_) sum += t.bytes;
  return sum;
}

const TensorInfo* Checkpoint::find(std::string_view name) const {
  const auto it = std::lower_bound(by_name_.begin(), by_name_.end(), name,
                                   [&](uint32_t i, std::string_view wanted) { return tensors_[i].name < wanted; });
  return it != by_name_.end() && tensors_[*it].name == name ? &tensors_[*it] : nullptr;
}

const TensorInfo& Checkpoint::get(std::string_view name) const {
  const TensorInfo* t = find(name);
  if (!t) corrupt(dir_, "expected a tensor ", json_excerpt(name));
  return *t;
}

void Checkpoint::read(const TensorInfo& t, uint64_t begin, uint64_t count, void* dst) const {
  ISR_ASSERT(begin <= t.bytes && count <= t.bytes - begin, t.name);
  shards_[t.shard].file.read_exact(dst, count, t.offset + begin);
}

void Checkpoint::read_rows(const TensorInfo& t, int64_t row, int64_t rows, DType to, void* dst,
                           std::vector<uint8_t>& staging) const {
  ISR_ASSERT(row >= 0 && rows >= 0 && row <= t.rows() && rows <= t.rows() - row, t.name);
  read_as(t, row * t.cols(), rows * t.cols(), to, dst, staging);
}

void Checkpoint::read_values(const TensorInfo& t, int64_t begin, int64_t count, float* dst) const {
  std::vector<uint8_t> staging;
  read_as(t, begin, count, DType::F32, dst, staging);
}

void Checkpoint::read_as(const TensorInfo& t, int64_t first, int64_t count, DType to, void* dst, std::vector<uint8_t>& staging) const {
  ISR_ASSERT(to == DType::F32 || to == DType::BF16, name_of(to));
  if (!is_float(t.dtype))
    throw Error("CHECKPOINT_UNSUPPORTED", concat("tensor ", t.name, ": expected F32, BF16 or F16, got ", name_of(t.dtype)),
                "convert the checkpoint to one of these types", shards_[t.shard].file.path());
  const uint64_t width = size_of(t.dtype), begin = static_cast<uint64_t>(first) * width, bytes = static_cast<uint64_t>(count) * width;
  if ((t.dtype == FileDType::F32 && to == DType::F32) || (t.dtype == FileDType::BF16 && to == DType::BF16))
    return read(t, begin, bytes, dst);
  constexpr uint64_t kPiece = uint64_t{1} << 20;  // converted while it is in cache
  if (staging.size() < std::min(bytes, kPiece)) staging.resize(std::min(bytes, kPiece));
  for (uint64_t at = 0; at < bytes; at += kPiece) {
    const uint64_t n = std::min(kPiece, bytes - at);
    read(t, begin + at, n, staging.data());
    decode(t.dtype, staging.data(), static_cast<int64_t>(n / width), to, static_cast<char*>(dst) + at / width * size_of(to));
  }
}

bool is_weight_file(std::string_view name) {
  for (const char* end : {".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".pt", ".pth", ".ckpt",
                          ".h5", ".msgpack", ".gguf", ".onnx"})
    if (name.ends_with(end)) return true;
  return false;
}

}  // namespace isr
