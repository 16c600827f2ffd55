#include "io/zip.h"

#include <algorithm>
#include <array>

#include "core/error.h"
#include "io/json.h"

namespace isr {
namespace {

constexpr uint32_t kLocalMark = 0x04034b50, kCentralMark = 0x02014b50, kEndMark = 0x06054b50;
constexpr uint32_t kEnd64Mark = 0x06064b50, kLocator64Mark = 0x07064b50;
constexpr size_t kLocalBytes = 30, kCentralBytes = 46, kEndBytes = 22, kEnd64Bytes = 56, kLocator64Bytes = 20;
constexpr uint64_t kFull16 = 0xffff, kFull32 = 0xffffffff;  // "see the zip64 record"
constexpr uint64_t kEncrypted = 0x2041;                     // any of the three flags of encryption

template <class... Parts>
[[noreturn]] void corrupt(const std::string& path, const Parts&... parts) {
  throw Error("CHECKPOINT_CORRUPT", concat(path, ": ", parts...), "complete the download, or convert the original again", path);
}

template <class... Parts>
[[noreturn]] void unsupported(const std::string& path, const Parts&... parts) {
  throw Error("CHECKPOINT_UNSUPPORTED", concat(path, ": ", parts...), "convert the checkpoint to safetensors", path);
}

// The integer of `bytes` bytes at `at`, lowest first; the caller has checked that they are there.
uint64_t number(std::string_view text, size_t at, int bytes) {
  uint64_t n = 0;
  for (int i = bytes - 1; i >= 0; --i) n = n << 8 | static_cast<uint8_t>(text[at + static_cast<size_t>(i)]);
  return n;
}

struct Directory { uint64_t offset, bytes, entries, end; };  // end: where the record begins that says so

// A field of the old end record: saturated, or the same as in the zip64 record.
void check_same(uint64_t old, uint64_t full, uint64_t value, const std::string& path) {
  if (old != full && old != value) corrupt(path, "the two end records of the zip archive disagree (", old, " and ", value, ")");
}

Directory directory64(const ReadAt& read, uint64_t locator_at, std::string_view locator, std::string_view end,
                      const std::string& path) {
  const uint64_t at = number(locator, 8, 8);
  if (locator_at < kEnd64Bytes || at > locator_at - kEnd64Bytes) corrupt(path, "the zip64 end record lies outside the file");
  std::string record(kEnd64Bytes, '\0');
  read(record.data(), record.size(), at);
  if (number(record, 0, 4) != kEnd64Mark) corrupt(path, "expected the zip64 end record at byte ", at);
  if (number(record, 16, 4) != 0 || number(record, 20, 4) != 0 || number(locator, 16, 4) > 1)
    unsupported(path, "the zip archive is split into several files");
  const Directory d{number(record, 48, 8), number(record, 40, 8), number(record, 32, 8), at};
  check_same(number(end, 10, 2), kFull16, d.entries, path);
  check_same(number(end, 12, 4), kFull32, d.bytes, path);
  check_same(number(end, 16, 4), kFull32, d.offset, path);
  return d;
}

// The end record is the last thing of the file but for a comment of up to 65,535 bytes.
Directory find_directory(const ReadAt& read, uint64_t file_size, const std::string& path) {
  if (file_size < kEndBytes) corrupt(path, "expected a zip archive, got a file of ", file_size, " bytes");
  std::string tail(std::min<uint64_t>(file_size, kEndBytes + kFull16 + kLocator64Bytes), '\0');
  const uint64_t tail_at = file_size - tail.size();
  read(tail.data(), tail.size(), tail_at);
  for (size_t at = tail.size() - kEndBytes + 1; at-- > 0;) {
    if (number(tail, at, 4) != kEndMark || at + kEndBytes + number(tail, at + 20, 2) != tail.size()) continue;
    const std::string_view end = std::string_view(tail).substr(at, kEndBytes);
    if (at >= kLocator64Bytes && number(tail, at - kLocator64Bytes, 4) == kLocator64Mark) {
      const size_t locator = at - kLocator64Bytes;
      return directory64(read, tail_at + locator, std::string_view(tail).substr(locator, kLocator64Bytes), end, path);
    }
    if (number(end, 4, 2) != 0 || number(end, 6, 2) != 0) unsupported(path, "the zip archive is split into several files");
    const Directory d{number(end, 16, 4), number(end, 12, 4), number(end, 10, 2), tail_at + at};
    if (d.offset == kFull32 || d.bytes == kFull32 || d.entries == kFull16) corrupt(path, "the zip64 end record is missing");
    return d;
  }
  corrupt(path, "expected a zip archive, but no end record is found: the file is cut or of another format");
}

// Sizes and offset that do not fit 32 bits stand in the extra field with id 1, in this order.
void read_zip64(std::string_view extra, std::array<uint64_t*, 3> fields, const std::string& path) {
  const auto full = [](const uint64_t* f) { return *f == kFull32; };
  if (std::none_of(fields.begin(), fields.end(), full)) return;
  for (size_t at = 0; at + 4 <= extra.size();) {
    const size_t bytes = number(extra, at + 2, 2), end = at + 4 + bytes;
    if (end > extra.size()) break;
    if (number(extra, at, 2) == 1) {
      size_t from = at + 4;
      for (uint64_t* f : fields) {
        if (!full(f)) continue;
        if (from + 8 > end) corrupt(path, "a zip64 field is too short");
        *f = number(extra, from, 8);
        from += 8;
      }
      return;
    }
    at = end;
  }
  corrupt(path, "a zip64 field is missing");
}

}  // namespace

ZipArchive::ZipArchive(ReadAt read, uint64_t file_size, std::string path)
    : read_(std::move(read)), file_size_(file_size), path_(std::move(path)) {
  const Directory d = find_directory(read_, file_size_, path_);
  if (d.offset > d.end || d.bytes > d.end - d.offset) corrupt(path_, "the zip directory lies outside the file");
  if (d.entries > kMaxZipEntries || d.bytes > kMaxDirectoryBytes)
    unsupported(path_, "expected at most ", kMaxZipEntries, " entries and a directory of ", kMaxDirectoryBytes, " bytes, got ",
                d.entries, " and ", d.bytes);
  if (d.entries * kCentralBytes > d.bytes) corrupt(path_, d.entries, " entries do not fit a zip directory of ", d.bytes, " bytes");
  std::string directory(d.bytes, '\0');
  read_(directory.data(), directory.size(), d.offset);
  read_directory(directory, d.entries);
  check_places(d.offset);
  index_names();
}

void ZipArchive::read_directory(std::string_view directory, uint64_t entries) {
  entries_.reserve(entries);
  size_t at = 0;
  for (uint64_t i = 0; i < entries; ++i) {
    if (directory.size() - at < kCentralBytes) corrupt(path_, "the zip directory ends within entry ", i);
    const std::string_view record = directory.substr(at);
    if (number(record, 0, 4) != kCentralMark) corrupt(path_, "expected entry ", i, " of the zip directory");
    const size_t name = number(record, 28, 2), extra = number(record, 30, 2), comment = number(record, 32, 2);
    if (record.size() - kCentralBytes < name + extra + comment) corrupt(path_, "the zip directory ends within entry ", i);
    ZipEntry e;
    e.name = record.substr(kCentralBytes, name);
    if (e.name.empty() || e.name.size() > kMaxEntryName || !valid_utf8(e.name))
      corrupt(path_, "expected entry ", i, " to have a UTF-8 name of 1 to ", kMaxEntryName, " bytes");
    if (number(record, 8, 2) & kEncrypted) unsupported(path_, "entry ", json_excerpt(e.name), " is encrypted");
    if (number(record, 10, 2) != 0)
      unsupported(path_, "entry ", json_excerpt(e.name), " is compressed (method ", number(record, 10, 2), "); PyTorch stores entries as they are");
    e.crc = static_cast<uint32_t>(number(record, 16, 4));
    uint64_t packed = number(record, 20, 4);
    e.size = number(record, 24, 4);
    e.header = number(record, 42, 4);
    read_zip64(record.substr(kCentralBytes + name, extra), {&e.size, &packed, &e.header}, path_);
    if (packed != e.size) corrupt(path_, "entry ", json_excerpt(e.name), " is stored, but its two sizes differ");
    entries_.push_back(std::move(e));
    at += kCentralBytes + name + extra + comment;
  }
  if (at != directory.size()) corrupt(path_, "the zip directory is longer than its ", entries, " entries");
}

void ZipArchive::check_places(uint64_t directory_offset) {
  std::stable_sort(entries_.begin(), entries_.end(), [](const ZipEntry& a, const ZipEntry& b) { return a.header < b.header; });
  for (size_t i = 0; i < entries_.size(); ++i) {
    ZipEntry& e = entries_[i];
    e.limit = i + 1 < entries_.size() ? entries_[i + 1].header : directory_offset;
    const uint64_t head = kLocalBytes + e.name.size();
    if (e.limit > directory_offset || e.header > e.limit || e.limit - e.header < head || e.limit - e.header - head < e.size)
      corrupt(path_, "entry ", json_excerpt(e.name), " (", e.size, " bytes, header at ", e.header, ") reaches past ", e.limit,
              ", where what follows it begins");
  }
}

void ZipArchive::index_names() {
  for (size_t i = 0; i < entries_.size(); ++i) by_name_.push_back(static_cast<uint32_t>(i));
  const auto name = [&](uint32_t i) -> const std::string& { return entries_[i].name; };
  std::sort(by_name_.begin(), by_name_.end(), [&](uint32_t a, uint32_t b) { return name(a) < name(b); });
  for (size_t i = 1; i < by_name_.size(); ++i)
    if (name(by_name_[i - 1]) == name(by_name_[i])) corrupt(path_, "entry ", json_excerpt(name(by_name_[i])), " is there twice");
}

const ZipEntry* ZipArchive::find(std::string_view name) const {
  const auto it = std::lower_bound(by_name_.begin(), by_name_.end(), name,
                                   [&](uint32_t i, std::string_view wanted) { return entries_[i].name < wanted; });
  return it != by_name_.end() && entries_[*it].name == name ? &entries_[*it] : nullptr;
}

uint64_t ZipArchive::data_offset(const ZipEntry& e) const {
  std::string head(kLocalBytes + e.name.size(), '\0');
  read_(head.data(), head.size(), e.header);
  const bool same = number(head, 0, 4) == kLocalMark && number(head, 8, 2) == 0 && !(number(head, 6, 2) & kEncrypted) &&
                    number(head, 26, 2) == e.name.size() && head.compare(kLocalBytes, std::string::npos, e.name) == 0;
  if (!same) corrupt(path_, "entry ", json_excerpt(e.name), ": its header at byte ", e.header, " is not what the directory says");
  const uint64_t begin = e.header + head.size() + number(head, 28, 2);
  if (begin > e.limit || e.size > e.limit - begin)
    corrupt(path_, "entry ", json_excerpt(e.name), " reaches past ", e.limit, ", where what follows it begins");
  return begin;
}

std::string ZipArchive::contents(const ZipEntry& e, size_t max_bytes) const {
  if (e.size > max_bytes)
    unsupported(path_, "expected entry ", json_excerpt(e.name), " to have at most ", max_bytes, " bytes, got ", e.size);
  std::string bytes(e.size, '\0');
  read_(bytes.data(), bytes.size(), data_offset(e));
  if (crc32(bytes) != e.crc) corrupt(path_, "entry ", json_excerpt(e.name), " does not match its checksum");
  return bytes;
}

uint32_t crc32(std::string_view bytes) {
  static constexpr auto table = [] {
    std::array<uint32_t, 256> t{};
    for (uint32_t i = 0; i < 256; ++i) {
      t[i] = i;
      for (int bit = 0; bit < 8; ++bit) t[i] = t[i] >> 1 ^ (t[i] & 1 ? 0xedb88320u : 0u);
    }
    return t;
  }();
  uint32_t crc = ~0u;
  for (const char c : bytes) crc = crc >> 8 ^ table[(crc ^ static_cast<uint8_t>(c)) & 255];
  return ~crc;
}

}  // namespace isr
