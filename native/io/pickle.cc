#include "io/pickle.h"

#include <algorithm>

#include "io/json.h"
#include "io/pickle_machine.h"

namespace isr {
namespace {

constexpr const char* kReserved = "__metadata__";  // no tensor of a safetensors file can have this name

// Reads tensors out of the value that the machine has built.
class Collector {
 public:
  Collector(const PickleMachine& machine, const std::string& path) : machine_(machine), path_(path) {}

  PickledCheckpoint read(const PickleValue& root) {
    if (root.kind != PickleKind::Dict) corrupt("expected a dict of tensors at the top");
    const PickleDict* dict = &machine_.dict(root);
    if (!has_tensors(*dict)) dict = nested(*dict);
    for (const auto& [key, value] : *dict) {
      if (value.kind == PickleKind::Tensor)
        add(name_of_key(key), machine_.tensor(value));
      else
        ignore(name_of_key(key));
    }
    check_names();
    return std::move(out_);
  }

 private:
  template <class... Parts>
  [[noreturn]] void corrupt(const Parts&... parts) const {
    throw Error("CHECKPOINT_CORRUPT", concat(path_, ": ", parts...), {}, path_);
  }
  template <class... Parts>
  [[noreturn]] void unsupported(const Parts&... parts) const {
    throw Error("CHECKPOINT_UNSUPPORTED", concat(path_, ": ", parts...), kPickleHint, path_);
  }

  static bool has_tensors(const PickleDict& dict) {
    return std::any_of(dict.begin(), dict.end(), [](const auto& e) { return e.second.kind == PickleKind::Tensor; });
  }

  // The dict of tensors in a training checkpoint; what stands beside it is ignored.
  const PickleDict* nested(const PickleDict& top) {
    const PickleValue* found = nullptr;
    for (const char* wanted : {"state_dict", "model"}) {
      const auto entry = std::find_if(top.begin(), top.end(), [&](const auto& e) { return name_of_key(e.first) == wanted; });
      if (found || entry == top.end() || entry->second.kind != PickleKind::Dict) continue;
      if (has_tensors(machine_.dict(entry->second))) found = &entry->second;
    }
    if (!found) unsupported("the file holds no tensors, neither at the top nor in state_dict or model");
    for (const auto& [key, value] : top)
      if (&value != found) ignore(name_of_key(key));
    return &machine_.dict(*found);
  }

  void ignore(std::string name) {
    if (out_.ignored.size() == kMaxTensors) unsupported("expected at most ", kMaxTensors, " entries that are no tensors");
    out_.ignored.push_back(std::move(name));
  }

  std::string name_of_key(const PickleValue& key) const {
    if (key.kind != PickleKind::Text) corrupt("expected the keys of the dict to be strings");
    const std::string_view name = machine_.text(key);
    if (name.empty() || name.size() > kMaxNameBytes)
      corrupt("expected names of 1 to ", kMaxNameBytes, " bytes, got ", name.size());
    return std::string(name);
  }

  void add(std::string name, const PickleTensor& t) {
    if (name == kReserved) corrupt("no tensor may have the name ", kReserved);
    if (out_.tensors.size() == kMaxTensors) unsupported("expected at most ", kMaxTensors, " tensors");
    const PickleStorage& storage = machine_.storage(t.storage);
    const auto sizes = machine_.items(t.size), strides = machine_.items(t.stride);
    const std::string what = concat("tensor ", json_excerpt(name), ": ");
    if (sizes.size() != strides.size()) corrupt(what, sizes.size(), " dimensions, but ", strides.size(), " strides");
    if (sizes.size() > kMaxRank) corrupt(what, "expected at most ", kMaxRank, " dimensions, got ", sizes.size());
    int64_t elements = 1;
    bool empty = false, contiguous = true;
    for (size_t i = sizes.size(); i-- > 0;) {  // as far as `elements` counts, it is the stride wanted
      const PickleValue &size = sizes[i], &stride = strides[i];
      if (size.kind != PickleKind::Int || stride.kind != PickleKind::Int || size.number < 0 || stride.number < 0)
        corrupt(what, "expected sizes and strides to be integers from 0 to 2^63 - 1");
      contiguous = contiguous && (size.number == 1 || stride.number == elements);
      empty = empty || size.number == 0;
      // Zero counts as one, so that any partial product of a shape is safe later on.
      if (__builtin_mul_overflow(elements, std::max<int64_t>(size.number, 1), &elements)) corrupt(what, "the shape overflows");
    }
    if (!empty && !contiguous) unsupported(what, "it is not contiguous; save it after .contiguous()");
    PickledTensor& out = out_.tensors.emplace_back();
    out.name = std::move(name);
    for (const PickleValue& size : sizes) out.shape.push_back(size.number);
    place(out, storage, t.offset, elements, empty, what);
  }

  void place(PickledTensor& out, const PickleStorage& storage, int64_t offset, int64_t elements, bool empty,
             const std::string& what) const {
    const auto width = static_cast<int64_t>(size_of(storage.dtype));
    int64_t all = 0;
    if (storage.elements < 0 || __builtin_mul_overflow(storage.elements, width, &all) ||
        __builtin_mul_overflow(elements, width, &elements))
      corrupt(what, "the size of its storage or shape overflows");
    if (empty) elements = 0;
    if (offset < 0 || offset > storage.elements || elements > all - offset * width)
      corrupt(what, elements, " bytes from element ", offset, " on leave its storage of ", storage.elements, " elements");
    out.dtype = storage.dtype;
    out.storage = machine_.text(storage.key);
    out.storage_bytes = static_cast<uint64_t>(all);
    out.offset = static_cast<uint64_t>(offset * width);
    out.bytes = static_cast<uint64_t>(elements);
  }

  void check_names() const {
    std::vector<std::string_view> names;
    for (const PickledTensor& t : out_.tensors) names.push_back(t.name);
    std::sort(names.begin(), names.end());
    const auto twice = std::adjacent_find(names.begin(), names.end());
    if (twice != names.end()) corrupt("tensor ", json_excerpt(*twice), " is there twice");
  }

  const PickleMachine& machine_;
  const std::string& path_;
  PickledCheckpoint out_;
};

[[noreturn]] void unsupported(const std::string& path, const char* what) {
  throw Error("CHECKPOINT_UNSUPPORTED", concat(path, ": ", what), kPickleHint, path);
}

// Files of torch.save before 1.6 start with this number as a pickle of protocol 2.
constexpr std::string_view kLegacy("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", 14);

void refuse_legacy(const ReadAt& read, uint64_t file_size, const std::string& path) {
  std::string start(std::min<uint64_t>(file_size, kLegacy.size()), '\0');
  read(start.data(), start.size(), 0);
  if (start == kLegacy)
    unsupported(path, "the file is of torch.save before PyTorch 1.6 (no zip archive), which is not read");
}

// Everything stands in one folder of the archive, whose name is free: "archive", or the file's own.
std::string root_folder(const ZipArchive& zip, const std::string& path) {
  constexpr std::string_view kPickle = "/data.pkl";
  std::string root;
  for (const ZipEntry& e : zip.entries()) {
    if (!e.name.ends_with(kPickle) || e.name.find('/') + kPickle.size() != e.name.size()) continue;
    if (!root.empty()) throw Error("CHECKPOINT_CORRUPT", concat(path, ": expected one data.pkl, got several"), {}, path);
    root = e.name.substr(0, e.name.size() - kPickle.size() + 1);
  }
  if (root.size() < 2)
    throw Error("CHECKPOINT_UNSUPPORTED", concat(path, ": a zip archive without <folder>/data.pkl is no PyTorch checkpoint"),
                kPickleHint, path);
  return root;
}

}  // namespace

PickledCheckpoint parse_pickle(std::string_view pickle, const std::string& path) {
  PickleMachine machine(pickle, path);
  return Collector(machine, path).read(machine.run());
}

TorchHeader read_torch_header(const ReadAt& read, uint64_t file_size, const std::string& path) {
  refuse_legacy(read, file_size, path);
  const ZipArchive zip(read, file_size, path);
  const std::string root = root_folder(zip, path);
  if (zip.find(root + "constants.pkl")) unsupported(path, "a TorchScript archive holds a program, not a checkpoint");
  const ZipEntry* order = zip.find(root + "byteorder");
  if (order && zip.contents(*order, 16) != "little") unsupported(path, "expected byteorder to be little");
  PickledCheckpoint pickled = parse_pickle(zip.contents(*zip.find(root + "data.pkl"), kMaxPickleBytes), path);
  TorchHeader header;
  header.ignored = std::move(pickled.ignored);
  header.tensors.reserve(pickled.tensors.size());
  for (PickledTensor& t : pickled.tensors) {
    const ZipEntry* entry = zip.find(root + "data/" + t.storage);
    const auto corrupt = [&](const std::string& what) {
      throw Error("CHECKPOINT_CORRUPT", concat(path, ": tensor ", json_excerpt(t.name), ": ", what), "complete the download", path);
    };
    if (!entry) corrupt(concat("its storage data/", json_excerpt(t.storage), " is missing"));
    if (t.storage_bytes > entry->size)
      corrupt(concat("its storage takes ", t.storage_bytes, " bytes, but its entry has ", entry->size));
    TensorInfo& out = header.tensors.emplace_back();
    out.name = std::move(t.name);
    out.dtype = t.dtype;
    out.shape = std::move(t.shape);
    out.offset = zip.data_offset(*entry) + t.offset;
    out.bytes = t.bytes;
  }
  return header;
}

}  // namespace isr
