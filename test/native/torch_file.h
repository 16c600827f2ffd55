// PyTorch files from parts, right or wrong on purpose: a pickle of opcodes, a zip archive around it.
#pragma once
#include <string>
#include <vector>

#include "io/pickle.h"

namespace isr::test {

inline std::string le(uint64_t n, int bytes) {
  std::string s;
  for (int i = 0; i < bytes; ++i) s += static_cast<char>(i < 8 ? n >> (8 * i) : 0);
  return s;
}

// Pieces of a pickle, each of which leaves one value on the stack.
inline std::string p_text(const std::string& s) { return std::string("X") + le(s.size(), 4) + s; }
inline std::string p_int(int64_t n) {
  return n >= 0 && n < 256 ? std::string("K") + le(static_cast<uint64_t>(n), 1) : std::string("\x8a\x08") + le(static_cast<uint64_t>(n), 8);
}
inline std::string p_ints(const std::vector<int64_t>& values) {
  std::string s = "(";
  for (const int64_t v : values) s += p_int(v);
  return s + "t";
}
inline std::string p_global(const std::string& module, const std::string& name) { return "c" + module + "\n" + name + "\n"; }
inline std::string p_ordered_dict() { return p_global("collections", "OrderedDict") + ")R"; }
inline std::string p_storage(const std::string& type, const std::string& key, int64_t elements) {
  return std::string("(") + p_text("storage") + p_global("torch", type) + p_text(key) + p_text("cpu") + p_int(elements) + "tQ";
}
inline std::string p_tensor(const std::string& storage, int64_t offset, const std::vector<int64_t>& shape, const std::vector<int64_t>& stride) {
  return p_global("torch._utils", "_rebuild_tensor_v2") + "(" + storage + p_int(offset) + p_ints(shape) + p_ints(stride) + "\x89" +
         p_ordered_dict() + "tR";
}
// 2 x 3 floats, 24 bytes of storage 0: what hostile rows put a fault beside.
inline std::string p_matrix() { return p_tensor(p_storage("FloatStorage", "0", 6), 0, {2, 3}, {3, 1}); }
inline std::string p_items(const std::vector<std::pair<std::string, std::string>>& items) {
  std::string s = "(";
  for (const auto& [key, value] : items) s += p_text(key) + value;
  return s + "u";
}
inline std::string p_dict(const std::vector<std::pair<std::string, std::string>>& items) { return std::string("}") + p_items(items); }
inline std::string p_whole(const std::string& value) { return "\x80\x02" + value + "."; }

struct ZipItem { std::string name, bytes; uint16_t method = 0, flags = 0; };
struct ZipBytes {
  std::string bytes;
  std::vector<size_t> headers, records;  // offsets of each item's local header and directory record
  size_t directory = 0, end = 0;         // of the directory and of the (old) end record
};

// zip64: sizes and offsets in the extra fields and in a zip64 end record, the 32-bit fields saturated.
inline ZipBytes zip_bytes(const std::vector<ZipItem>& items, bool zip64 = false) {
  ZipBytes out;
  std::string& b = out.bytes;
  std::string directory;
  for (const ZipItem& item : items) {
    const size_t header = b.size();
    const std::string shared = le(item.flags, 2) + le(item.method, 2) + le(0, 4) + le(crc32(item.bytes), 4);
    const std::string sizes = le(item.bytes.size(), 4) + le(item.bytes.size(), 4) + le(item.name.size(), 2);
    b += "PK\3\4" + le(20, 2) + shared + sizes + le(5, 2) + item.name + "extra" + item.bytes;
    out.headers.push_back(header);
    out.records.push_back(directory.size());
    const std::string full = le(0xffffffff, 4);
    directory += "PK\1\2" + le(20, 2) + le(20, 2) + shared + (zip64 ? full + full + le(item.name.size(), 2) : sizes);
    directory += le(zip64 ? 28 : 0, 2) + le(0, 2) + le(0, 2) + le(0, 2) + le(0, 4) + (zip64 ? full : le(header, 4)) + item.name;
    if (zip64) directory += le(1, 2) + le(24, 2) + le(item.bytes.size(), 8) + le(item.bytes.size(), 8) + le(header, 8);
  }
  out.directory = b.size();
  for (size_t& r : out.records) r += out.directory;
  b += directory;
  if (zip64) {
    const size_t at = b.size();
    b += "PK\6\6" + le(44, 8) + le(45, 2) + le(45, 2) + le(0, 8) + le(items.size(), 8) + le(items.size(), 8) + le(directory.size(), 8) + le(out.directory, 8);
    b += "PK\6\7" + le(0, 4) + le(at, 8) + le(1, 4);
  }
  out.end = b.size();
  b += "PK\5\6" + le(0, 4) + (zip64 ? le(0xffffffff, 4) : le(items.size(), 2) + le(items.size(), 2));
  b += (zip64 ? le(0xffffffff, 4) + le(0xffffffff, 4) : le(directory.size(), 4) + le(out.directory, 4)) + le(0, 2);
  return out;
}

// data/0, data/1, ... in turn.
inline std::vector<ZipItem> torch_items(const std::string& pickle, const std::vector<std::string>& storages) {
  std::vector<ZipItem> items{{"archive/data.pkl", pickle}, {"archive/byteorder", "little"}};
  for (size_t i = 0; i < storages.size(); ++i) items.push_back({"archive/data/" + std::to_string(i), storages[i]});
  items.push_back({"archive/version", "3\n"});
  return items;
}
inline std::string torch_file(const std::string& pickle, const std::vector<std::string>& storages) {
  return zip_bytes(torch_items(pickle, storages)).bytes;
}

}  // namespace isr::test
