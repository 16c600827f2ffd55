// The interpreter behind pickle.h: opcodes in, values in flat arrays out. It knows no zip and no tensor rules.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "io/safetensors.h"

namespace isr {

constexpr const char* kPickleHint =
    "only tensors are read and nothing in the file is executed; convert it where you trust it: load it with PyTorch and save "
    "as safetensors (save_pretrained(dir, safe_serialization=True))";

enum class PickleKind : uint8_t { None, Bool, Int, Text, Global, Tuple, List, Dict, Storage, Tensor, Other };

// `number` is an Int's or Bool's value; for a Text the offset of its bytes in the pickle, for a Tuple that of its items;
// else an index. Lists and Others (floats, bytes, integers beyond 64 bits) keep no contents.
struct PickleValue {
  PickleKind kind = PickleKind::None;
  uint32_t size = 0;  // bytes of a Text, items of a Tuple
  int64_t number = 0;
};

using PickleDict = std::vector<std::pair<PickleValue, PickleValue>>;  // in the order of assignment, repeated keys too

struct PickleStorage { FileDType dtype; PickleValue key; int64_t elements; };  // key: Text, the entry's name below data/
struct PickleTensor { PickleValue storage; int64_t offset; PickleValue size, stride; };  // offset in elements; Tuples

class PickleMachine {
 public:
  PickleMachine(std::string_view pickle, const std::string& path) : pickle_(pickle), path_(path) {}
  PickleValue run();  // once; the value before STOP

  std::string_view text(const PickleValue& v) const { return pickle_.substr(static_cast<size_t>(v.number), v.size); }
  std::span<const PickleValue> items(const PickleValue& v) const { return {items_.data() + v.number, v.size}; }
  const PickleDict& dict(const PickleValue& v) const { return dicts_[static_cast<size_t>(v.number)]; }
  const PickleStorage& storage(const PickleValue& v) const { return storages_[static_cast<size_t>(v.number)]; }
  const PickleTensor& tensor(const PickleValue& v) const { return tensors_[static_cast<size_t>(v.number)]; }

 private:
  template <class... Parts>
  [[noreturn]] void corrupt(const Parts&... parts) const;
  template <class... Parts>
  [[noreturn]] void unsupported(const Parts&... parts) const;

  uint64_t number(int bytes);
  std::string_view take(uint64_t bytes);
  std::string_view line();
  void push(PickleValue v);
  PickleValue pop();
  PickleValue pop(PickleKind kind, const char* what);
  std::span<const PickleValue> since_mark();
  void drop_to_mark();

  bool push_scalar(uint8_t op);
  bool push_container(uint8_t op);
  bool keep_or_get(uint8_t op);
  bool change(uint8_t op);
  void push_text(uint64_t bytes);
  void push_long();
  PickleValue make_tuple(std::span<const PickleValue> items);
  void push_dict();
  void keep(uint64_t index);
  void set_items(std::span<const PickleValue> items);
  void set_items_since_mark();
  void find_global(std::string_view module, std::string_view name);
  void load_storage();
  void reduce();
  void rebuild_tensor(std::span<const PickleValue> args);

  std::string_view pickle_;
  const std::string& path_;
  size_t at_ = 0;
  std::vector<PickleValue> stack_, memo_, items_;
  std::vector<size_t> marks_;  // heights of the stack
  std::vector<PickleDict> dicts_;
  std::vector<PickleStorage> storages_;
  std::vector<PickleTensor> tensors_;
};

}  // namespace isr
