// The writing half of safetensors.h. A saved checkpoint keeps its source's layout: names, shapes, dtypes and offsets do
// not change in training, so each shard's header is copied as it is, and only tensor bytes may differ. Where the source
// holds PyTorch files, each gets a header of its own.
#include <algorithm>
#include <cstdio>
#include <span>
#include <string>

#include "core/threads.h"
#include "io/json.h"
#include "io/safetensors.h"

namespace isr {
namespace {

void copy_range(const InputFile& from, uint64_t begin, uint64_t bytes, OutputFile& out, std::vector<char>& chunk,
                FunctionRef<void()> poll) {
  for (uint64_t at = 0; at < bytes; at += kSaveChunk) {
    poll();
    const uint64_t n = std::min(kSaveChunk, bytes - at);
    from.read_exact(chunk.data(), n, begin + at);
    out.write(chunk.data(), n);
  }
}

// The JSON text, padded with spaces so that the data starts on a multiple of 8.
std::string header_text(const std::vector<NewTensor>& tensors, const Metadata& metadata, uint64_t& data_bytes) {
  Json::Object root;
  if (!metadata.empty()) {
    Json::Object texts;
    for (const auto& [key, value] : metadata) texts.emplace_back(key, value);
    root.emplace_back("__metadata__", std::move(texts));
  }
  data_bytes = 0;
  for (const NewTensor& t : tensors) {
    uint64_t bytes = size_of(t.dtype);
    Json::Array shape;
    for (const int64_t d : t.shape) {
      bytes *= static_cast<uint64_t>(d);
      shape.emplace_back(d);
    }
    Json::Array offsets{static_cast<int64_t>(data_bytes), static_cast<int64_t>(data_bytes + bytes)};
    Json::Object fields{{"dtype", name_of(t.dtype)}, {"shape", std::move(shape)}, {"data_offsets", std::move(offsets)}};
    root.emplace_back(t.name, std::move(fields));
    data_bytes += bytes;
  }
  std::string text = to_json(Json(std::move(root)));
  text.append((8 - text.size() % 8) % 8, ' ');
  return text;
}

void write_tensor(const NewTensor& t, uint64_t bytes, AtomicFile& out, std::vector<char>& chunk) {
  for (uint64_t at = 0; at < bytes; at += kSaveChunk) {
    check_cancelled();
    const uint64_t n = std::min(kSaveChunk, bytes - at);
    if (!t.data) t.fill(at, n, chunk.data());
    out.write(t.data ? static_cast<const char*>(t.data) + at : chunk.data(), n);
  }
}

std::string little_endian(uint64_t n) {
  std::string s;
  for (int i = 0; i < 8; ++i) s += static_cast<char>(n >> (8 * i));
  return s;
}

std::string saved_name(const Checkpoint& source, size_t shard) {
  if (source.format() == FileFormat::Safetensors) return source.shards()[shard].name;
  if (source.index_text().empty()) return "model.safetensors";
  char name[64];
  std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", shard + 1, source.shards().size());
  return name;
}

// What stands before the tensors of a shard whose source is a PyTorch file.
std::string new_header(std::span<const TensorInfo> tensors, const std::string& path) {
  std::vector<NewTensor> all;
  for (const TensorInfo& t : tensors) all.push_back({t.name, t.dtype, t.shape});
  uint64_t data_bytes = 0;
  const std::string text = header_text(all, {{"format", "pt"}}, data_bytes);
  parse_header(text, 8 + text.size() + data_bytes, path);  // what we write, we can read
  return little_endian(text.size()) + text;
}

std::string index_text(const Checkpoint& source) {
  if (source.format() == FileFormat::Safetensors || source.index_text().empty()) return source.index_text();
  Json::Object map;
  for (const TensorInfo& t : source.tensors()) map.emplace_back(t.name, saved_name(source, t.shard));
  const Json::Object total{{"total_size", static_cast<int64_t>(source.bytes())}};
  return to_json(Json(Json::Object{{"metadata", total}, {"weight_map", std::move(map)}}), 2) + "\n";
}

struct Saver {
  const Checkpoint& source;
  FunctionRef<bool(const TensorInfo&)> replaced;
  FunctionRef<void(const TensorInfo&, uint64_t, uint64_t, void*)> fill;
  FunctionRef<void()> poll;
  std::vector<char> chunk = std::vector<char>(kSaveChunk);

  void write_tensor(const TensorInfo& t, OutputFile& out) {
    if (!replaced(t)) return copy_range(source.shards()[t.shard].file, t.offset, t.bytes, out, chunk, poll);
    for (uint64_t at = 0; at < t.bytes; at += kSaveChunk) {
      poll();
      const uint64_t n = std::min(kSaveChunk, t.bytes - at);
      fill(t, at, n, chunk.data());
      out.write(chunk.data(), n);
    }
  }

  // Returns the bytes written. `tensors` are those of the shard.
  uint64_t write_shard(uint32_t s, std::span<const TensorInfo> tensors, const std::string& path) {
    const Shard& shard = source.shards()[s];
    OutputFile out(path);
    if (source.format() == FileFormat::Safetensors) {
      copy_range(shard.file, 0, shard.data_begin, out, chunk, poll);
    } else {
      const std::string header = new_header(tensors, shard.file.path());
      out.write(header.data(), header.size());
    }
    for (const TensorInfo& t : tensors) write_tensor(t, out);
    out.finish();
    return out.written();
  }

  uint64_t copy_other_files(const AtomicFolder& folder) const {
    const auto is_shard = [&](const std::string& name) {
      return std::any_of(source.shards().begin(), source.shards().end(), [&](const Shard& s) { return s.name == name; });
    };
    uint64_t written = 0;
    for (const FolderEntry& e : list_folder(source.dir())) {
      if (!e.regular || is_weight_file(e.name) || is_shard(e.name) || is_temporary(e.name)) continue;
      written += copy_file(source.dir() + "/" + e.name, folder.file(e.name), [&] { poll(); });
    }
    return written;
  }
};

}  // namespace

uint64_t save_checkpoint(const Checkpoint& source, const std::string& dir, FunctionRef<bool(const TensorInfo&)> replaced,
                         FunctionRef<void(const TensorInfo&, uint64_t, uint64_t, void*)> fill, FunctionRef<void()> poll) {
  // The weights of an older checkpoint in `dir` are deleted; files that a user put beside them (a note, a licence) stay.
  AtomicFolder folder(dir, [](const std::string& name) { return !is_weight_file(name); });
  Saver saver{source, replaced, fill, poll};
  uint64_t written = 0;
  const std::vector<TensorInfo>& all = source.tensors();
  for (auto begin = all.begin(); const Shard& shard : source.shards()) {
    const auto s = static_cast<uint32_t>(&shard - source.shards().data());
    const auto end = std::find_if(begin, all.end(), [&](const TensorInfo& t) { return t.shard != s; });
    written += saver.write_shard(s, {begin, end}, folder.file(saved_name(source, s)));
    begin = end;
  }
  if (const std::string index = index_text(source); !index.empty()) {
    OutputFile out(folder.file("model.safetensors.index.json"));
    out.write(index.data(), index.size());
    out.finish();
    written += index.size();
  }
  written += saver.copy_other_files(folder);
  poll();
  folder.commit();
  return written;
}

uint64_t write_safetensors(const std::string& path, const std::vector<NewTensor>& tensors, const Metadata& metadata) {
  uint64_t data_bytes = 0;
  const std::string text = header_text(tensors, metadata, data_bytes);
  const Header header = parse_header(text, 8 + text.size() + data_bytes, path);  // what we write, we can read
  AtomicFile out(path);
  out.write(little_endian(text.size()));
  out.write(text);
  std::vector<char> chunk(std::min<uint64_t>(kSaveChunk, std::max<uint64_t>(data_bytes, 1)));
  uint64_t begin = 8 + text.size();
  for (const NewTensor& t : tensors) {
    uint64_t bytes = size_of(t.dtype);
    for (const int64_t d : t.shape) bytes *= static_cast<uint64_t>(d);
    write_tensor(t, bytes, out, chunk);
    begin += bytes;
  }
  ISR_ASSERT(begin == out.written() && header.tensors.size() == tensors.size(), path);
  out.commit();
  return begin;
}

}  // namespace isr
