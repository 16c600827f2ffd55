// PyTorch checkpoints (.bin, .pt, .pth) as torch.save writes them since 1.6: a zip archive with a pickle that describes
// the tensors (data.pkl) and one stored entry of raw little-endian bytes a storage (data/0, data/1, ...).
// A pickle is a program. Here it is interpreted by a machine that knows only what a dict of tensors needs: no name that
// it gives is looked up or called, and any name outside a short list refuses the file. Values live in flat arrays,
// nothing recurses, and every count has a limit. Checksums are verified for data.pkl, not for tensor bytes.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "io/safetensors.h"
#include "io/zip.h"

namespace isr {

constexpr size_t kMaxPickleBytes = size_t{64} << 20;
constexpr size_t kMaxPickleOps = size_t{1} << 22;    // about 33 a tensor; bounds memory too (under 200 bytes each)
constexpr size_t kMaxPickleStack = size_t{1} << 16;  // values; picklers flush a dict every 1,000 items
constexpr size_t kMaxPickleMarks = 64;               // open tuples and batches
constexpr size_t kMaxStorageKey = 64;               // bytes; a number in practice
constexpr size_t kMaxPickleText = size_t{1} << 20;   // bytes of one string

// A tensor as data.pkl describes it: contiguous, `bytes` bytes from `offset` on in the storage data/<storage>.
struct PickledTensor {
  std::string name;
  FileDType dtype = FileDType::F32;
  std::vector<int64_t> shape;
  std::string storage;
  uint64_t storage_bytes = 0;  // what the entry must hold at least
  uint64_t offset = 0;
  uint64_t bytes = 0;
};

struct PickledCheckpoint {
  std::vector<PickledTensor> tensors;  // in the dict's order
  std::vector<std::string> ignored;    // names of entries that are no tensors
};

// The text of data.pkl: a dict of tensors, or a dict without tensors that holds one as "state_dict" or "model".
// CHECKPOINT_UNSUPPORTED: opcodes or names beyond the list, tensors that are not contiguous, no tensors, past a limit.
// CHECKPOINT_CORRUPT: whatever breaks the format, a name twice, a tensor that leaves its storage.
PickledCheckpoint parse_pickle(std::string_view pickle, const std::string& path);

struct TorchHeader {
  std::vector<TensorInfo> tensors;   // in the dict's order; offsets in the file; tied tensors share bytes
  std::vector<std::string> ignored;  // as above
};
// A whole file of file_size bytes. CHECKPOINT_UNSUPPORTED also for files of PyTorch before 1.6, TorchScript archives,
// big-endian files and compressed entries.
TorchHeader read_torch_header(const ReadAt& read, uint64_t file_size, const std::string& path);

}  // namespace isr
