// Zip archives of stored entries, the container that torch.save writes: the central directory is read and checked, entry
// bytes stay in the file and are found by offset. CHECKPOINT_UNSUPPORTED: compressed, encrypted or split archives.
// CHECKPOINT_CORRUPT: the rest. Entries may not overlap, and names are unique.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace isr {

constexpr size_t kMaxZipEntries = size_t{1} << 18;      // twice the tensors of a checkpoint
constexpr size_t kMaxDirectoryBytes = size_t{64} << 20;  // 256 bytes an entry
constexpr size_t kMaxEntryName = 1024;

using ReadAt = std::function<void(void* dst, size_t bytes, uint64_t offset)>;  // all bytes, or it throws

struct ZipEntry {
  std::string name;
  uint64_t size = 0;    // bytes
  uint64_t header = 0;  // offset of its local header in the file
  uint64_t limit = 0;   // where the next entry or the directory begins
  uint32_t crc = 0;
};

class ZipArchive {
 public:
  // `path` is for messages. Local headers are not read here.
  ZipArchive(ReadAt read, uint64_t file_size, std::string path);

  const std::vector<ZipEntry>& entries() const { return entries_; }  // by offset
  const ZipEntry* find(std::string_view name) const;                 // null when absent
  // Offset of the entry's first byte in the file: header and bytes lie within [header, limit).
  uint64_t data_offset(const ZipEntry&) const;
  // The whole entry, its CRC checked; longer than max_bytes is CHECKPOINT_UNSUPPORTED.
  std::string contents(const ZipEntry&, size_t max_bytes) const;

 private:
  void read_directory(std::string_view directory, uint64_t entries);
  void check_places(uint64_t directory_offset);
  void index_names();

  ReadAt read_;
  uint64_t file_size_;
  std::string path_;
  std::vector<ZipEntry> entries_;
  std::vector<uint32_t> by_name_;  // indices into entries_, sorted by name
};

uint32_t crc32(std::string_view bytes);  // of zip and PNG

}  // namespace isr
