// The writing half of safetensors.h. A saved checkpoint keeps its source's layout: names, shapes, dtypes and offsets do
// not change in training, so each shard's header is copied as it is, and only tensor bytes may differ.
#include <algorithm>
#include <string>

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
  if (t.data) return out.write(t.data, bytes);
  for (uint64_t at = 0; at < bytes; at += kSaveChunk) {
    const uint64_t n = std::min(kSaveChunk, bytes - at);
    t.fill(at, n, chunk.data());
    out.write(chunk.data(), n);
  }
}

}  // namespace

uint64_t save_checkpoint(const Checkpoint& source, const std::string& dir, FunctionRef<bool(const TensorInfo&)> replaced,
                         FunctionRef<void(const TensorInfo&, uint64_t, uint64_t, void*)> fill, FunctionRef<void()> poll) {
  // Of an older checkpoint in `dir`, weights go; what a user put beside them (a note, a licence) stays.
  AtomicFolder folder(dir, [](const std::string& name) { return !is_weight_file(name); });
  std::vector<char> chunk(kSaveChunk);
  uint64_t written = 0;
  auto tensor = source.tensors().begin();
  for (uint32_t s = 0; s < source.shards().size(); ++s) {
    const Shard& shard = source.shards()[s];
    OutputFile out(folder.file(shard.name));
    copy_range(shard.file, 0, shard.data_begin, out, chunk, poll);
    for (; tensor != source.tensors().end() && tensor->shard == s; ++tensor) {
      if (!replaced(*tensor)) {
        copy_range(shard.file, tensor->offset, tensor->bytes, out, chunk, poll);
        continue;
      }
      for (uint64_t at = 0; at < tensor->bytes; at += kSaveChunk) {
        poll();
        const uint64_t n = std::min(kSaveChunk, tensor->bytes - at);
        fill(*tensor, at, n, chunk.data());
        out.write(chunk.data(), n);
      }
    }
    written += out.written();
    out.finish();
  }
  if (!source.index_text().empty()) {
    OutputFile out(folder.file("model.safetensors.index.json"));
    out.write(source.index_text().data(), source.index_text().size());
    out.finish();
    written += source.index_text().size();
  }
  const auto is_shard = [&](const std::string& name) {
    return std::any_of(source.shards().begin(), source.shards().end(), [&](const Shard& s) { return s.name == name; });
  };
  for (const FolderEntry& e : list_folder(source.dir())) {
    if (!e.regular || is_weight_file(e.name) || is_shard(e.name) || e.name.ends_with(".tmp")) continue;
    written += copy_file(source.dir() + "/" + e.name, folder.file(e.name), [&] { poll(); });
  }
  poll();
  folder.commit();
  return written;
}

uint64_t write_safetensors(const std::string& path, const std::vector<NewTensor>& tensors, const Metadata& metadata) {
  uint64_t data_bytes = 0;
  const std::string text = header_text(tensors, metadata, data_bytes);
  const Header header = parse_header(text, 8 + text.size() + data_bytes, path);  // what we write, we can read
  AtomicFile out(path);
  uint8_t prefix[8];
  for (int i = 0; i < 8; ++i) prefix[i] = static_cast<uint8_t>(text.size() >> (8 * i));
  out.write(prefix, 8);
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
