// Checkpoints in the safetensors format: one file or shards with an index; PyTorch files are read too (io/pickle.h).
// Reading trusts nothing: every size is checked before it is used, tensors must cover the data area exactly, and bytes are
// fetched by pread when asked for. Saving writes a complete new folder with the source's files, names, order and dtypes,
// and swaps it in (io/file.h); it writes safetensors whatever the source is.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/tensor.h"
#include "core/threads.h"
#include "io/file.h"

namespace isr {

// Limits on a file's header. The format itself allows 100 MB; counts bound memory and time (a file with 100,000 tensors,
// more than the largest published models have, opens in well under a second).
constexpr uint64_t kMaxHeaderBytes = 100'000'000;
constexpr size_t kMaxTensors = size_t{1} << 17;     // in one checkpoint
constexpr size_t kMaxHeaderValues = size_t{1} << 21;  // JSON values: 16 a tensor
constexpr size_t kMaxShards = 512;                  // each keeps a file descriptor open
constexpr size_t kMaxNameBytes = 1024;
constexpr size_t kMaxRank = 8;
constexpr size_t kMaxIndexBytes = size_t{64} << 20;  // 2^17 entries of 512 bytes

enum class FileDType : uint8_t { Bool, U8, I8, F8E5M2, F8E4M3, U16, I16, F16, BF16, U32, I32, F32, U64, I64, F64 };
const char* name_of(FileDType);  // as in the file: "F32", "BF16", ...
size_t size_of(FileDType);
bool is_float(FileDType);        // the types that decode and encode know: F32, BF16, F16

struct TensorInfo {
  std::string name;
  FileDType dtype = FileDType::F32;
  std::vector<int64_t> shape;  // () is a scalar; zero dimensions are allowed
  uint32_t shard = 0;          // index into Checkpoint::shards()
  uint64_t offset = 0;         // of its first byte in the shard's file
  uint64_t bytes = 0;

  int64_t elements() const { return static_cast<int64_t>(bytes / size_of(dtype)); }
  int64_t rows() const { return shape.empty() ? 1 : shape[0]; }  // as a matrix: the first dimension by the rest
  int64_t cols() const;
  std::string shape_text() const;  // "[3, 4]"
};

using Metadata = std::vector<std::pair<std::string, std::string>>;

struct Header {
  std::vector<TensorInfo> tensors;  // by offset
  Metadata metadata;
};
// From the first 8 bytes: the length of the JSON text that follows; checked against the file's size and the limit.
uint64_t parse_header_length(const uint8_t prefix[8], uint64_t file_size, const std::string& path);
// The JSON text of a file of file_size bytes (8 + json + data). CHECKPOINT_CORRUPT for whatever breaks the format.
Header parse_header(std::string_view json, uint64_t file_size, const std::string& path);

struct Shard {
  std::string name;  // file name within the folder
  InputFile file;
  uint64_t data_begin = 0;  // 8 + header length; 0 in a PyTorch file, where each tensor has its own place
  Metadata metadata;
  std::vector<std::string> ignored{};  // of a PyTorch file: names of entries that are no tensors
};

enum class FileFormat : uint8_t { Safetensors, Torch };

class Checkpoint {
 public:
  Checkpoint() = default;
  // `dir` holds model.safetensors, or model.safetensors.index.json and its shards; without both, the same of
  // pytorch_model.bin. NOT_FOUND: none of these. CHECKPOINT_UNSUPPORTED: weights of another format alone, or what a
  // PyTorch file may hold beyond plain tensors. CHECKPOINT_CORRUPT: the rest.
  static Checkpoint open(const std::string& dir);
  // One file of any name (dir() is its folder); .bin, .pt and .pth, or a zip archive: as PyTorch's, else as safetensors.
  static Checkpoint open_file(const std::string& path);

  FileFormat format() const { return format_; }
  const std::string& dir() const { return dir_; }
  const std::vector<TensorInfo>& tensors() const { return tensors_; }  // shard by shard, by offset (PyTorch: as listed)
  const std::vector<Shard>& shards() const { return shards_; }
  const std::string& index_text() const { return index_; }  // of the index file; empty without one
  uint64_t bytes() const;                               // of all tensors
  const TensorInfo* find(std::string_view name) const;  // null when absent
  const TensorInfo& get(std::string_view name) const;   // CHECKPOINT_CORRUPT when absent

  // Bytes [begin, begin + count) of a tensor as they are in the file. Safe to call from several threads.
  void read(const TensorInfo&, uint64_t begin, uint64_t count, void* dst) const;
  // Elements [begin, begin + count) as float32.
  void read_values(const TensorInfo&, int64_t begin, int64_t count, float* dst) const;
  // Rows [row, row + rows) converted to f32 or bf16, row-major and contiguous in dst. `staging` is grown as needed (one
  // per thread) and not touched when the file's dtype is dst's. CHECKPOINT_UNSUPPORTED for integer and f8 tensors.
  void read_rows(const TensorInfo&, int64_t row, int64_t rows, DType to, void* dst, std::vector<uint8_t>& staging) const;

 private:
  Checkpoint(FileFormat format, std::string dir, std::string index, const std::vector<std::string>& shard_names);
  static Checkpoint open_shards(FileFormat format, const std::string& dir);
  void read_as(const TensorInfo&, int64_t first, int64_t count, DType to, void* dst, std::vector<uint8_t>& staging) const;
  void add_shard(const std::string& name);
  void index_names();
  void check_index(const std::vector<std::pair<std::string, std::string>>& weight_map, const std::string& path) const;

  FileFormat format_ = FileFormat::Safetensors;
  std::string dir_, index_;
  std::vector<Shard> shards_;
  std::vector<TensorInfo> tensors_;
  std::vector<uint32_t> by_name_;  // indices into tensors_, sorted by name: no hashing of names that others chose
};

// Whether a file of that name holds weights (of any common format) or their index: such files are not copied on save.
bool is_weight_file(std::string_view name);

// n elements between a file's float dtype and f32 / bf16; rounding to nearest even. Plain loops over one thread's share.
void decode(FileDType from, const void* src, int64_t n, DType to, void* dst);
void encode(FileDType to, const float* src, int64_t n, void* dst);

// Saves `source` as the folder `dir`, which may be the folder it was read from. Tensors with replaced(t) get their bytes
// (in the file's dtype) from fill(t, begin, count, dst), called front to back in chunks that begin at multiples of
// kSaveChunk bytes; all others are copied from the source byte for byte. Headers, index, config, tokenizer and every
// other file of the source folder that holds no weights are copied as they are. poll() is called before each chunk and
// may throw (Cancelled). Until the end `dir` is untouched; a failure leaves nothing behind. Returns the bytes written.
// A PyTorch source is saved as model.safetensors, or with an index as model-0000i-of-0000n.safetensors, one file per shard:
// metadata {"format": "pt"}, names, order, shapes and dtypes as they were; tied tensors are written once for each name.
constexpr uint64_t kSaveChunk = uint64_t{4} << 20;
uint64_t save_checkpoint(const Checkpoint& source, const std::string& dir, FunctionRef<bool(const TensorInfo&)> replaced,
                         FunctionRef<void(const TensorInfo&, uint64_t begin, uint64_t count, void* dst)> fill,
                         FunctionRef<void()> poll);

// A new file at `path`, atomically (io/file.h).
struct NewTensor {
  std::string name;
  FileDType dtype;
  std::vector<int64_t> shape;
  const void* data = nullptr;                                             // all bytes, or
  std::function<void(uint64_t begin, uint64_t count, void* dst)> fill{};  // asked in order, in chunks, when data is null
};
uint64_t write_safetensors(const std::string& path, const std::vector<NewTensor>& tensors, const Metadata& metadata = {});

}  // namespace isr
