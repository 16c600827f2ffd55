#include "io/pickle_machine.h"

#include <algorithm>
#include <iterator>

#include "io/json.h"
#include "io/pickle.h"

namespace isr {
namespace {

enum class Role : uint8_t { Dict, Tensor, Parameter, Storage };
struct Global { const char *module, *name; Role role; FileDType dtype = FileDType::F32; };
// Every name that a file may give, and what stands for it here.
constexpr Global kGlobals[] = {
    {"collections", "OrderedDict", Role::Dict},
    {"torch._utils", "_rebuild_tensor_v2", Role::Tensor},
    {"torch._utils", "_rebuild_parameter", Role::Parameter},
    {"torch", "FloatStorage", Role::Storage, FileDType::F32},
    {"torch", "HalfStorage", Role::Storage, FileDType::F16},
    {"torch", "BFloat16Storage", Role::Storage, FileDType::BF16},
    {"torch", "DoubleStorage", Role::Storage, FileDType::F64},
    {"torch", "LongStorage", Role::Storage, FileDType::I64},
    {"torch", "IntStorage", Role::Storage, FileDType::I32},
    {"torch", "ShortStorage", Role::Storage, FileDType::I16},
    {"torch", "CharStorage", Role::Storage, FileDType::I8},
    {"torch", "ByteStorage", Role::Storage, FileDType::U8},
    {"torch", "BoolStorage", Role::Storage, FileDType::Bool}};

// The opcodes, by their names in Python's pickletools.
enum Op : uint8_t {
  kMark = '(', kStop = '.', kNone = 'N', kReduce = 'R', kBuild = 'b', kGlobal = 'c', kAppend = 'a', kAppends = 'e',
  kSetItem = 's', kSetItems = 'u', kTuple = 't', kEmptyTuple = ')', kEmptyList = ']', kEmptyDict = '}', kBinPersId = 'Q',
  kBinInt = 'J', kBinInt1 = 'K', kBinInt2 = 'M', kBinFloat = 'G', kBinUnicode = 'X', kBinBytes = 'B', kShortBinBytes = 'C',
  kBinGet = 'h', kLongBinGet = 'j', kBinPut = 'q', kLongBinPut = 'r', kProto = 0x80, kTuple1 = 0x85, kTuple2 = 0x86,
  kTuple3 = 0x87, kNewTrue = 0x88, kNewFalse = 0x89, kLong1 = 0x8a, kShortBinUnicode = 0x8c, kBinUnicode8 = 0x8d,
  kStackGlobal = 0x93, kMemoize = 0x94, kFrame = 0x95
};

}  // namespace

template <class... Parts>
void PickleMachine::corrupt(const Parts&... parts) const {
  throw Error("CHECKPOINT_CORRUPT", concat(path_, ": data.pkl, byte ", at_, ": ", parts...), {}, path_);
}

template <class... Parts>
void PickleMachine::unsupported(const Parts&... parts) const {
  throw Error("CHECKPOINT_UNSUPPORTED", concat(path_, ": data.pkl, byte ", at_, ": ", parts...), kPickleHint, path_);
}

PickleValue PickleMachine::run() {
  if (pickle_.size() < 2 || static_cast<uint8_t>(pickle_[0]) != kProto) corrupt("expected a pickle of protocol 2 or later");
  if (const int protocol = static_cast<uint8_t>(pickle_[1]); protocol < 2 || protocol > 5)
    unsupported("expected a pickle of protocol 2 to 5, got ", protocol);
  at_ = 2;
  for (size_t ops = 0;; ++ops) {
    if (ops == kMaxPickleOps) unsupported("expected at most ", kMaxPickleOps, " opcodes");
    const auto op = static_cast<uint8_t>(number(1));
    if (op == kStop) break;
    if (!push_scalar(op) && !push_container(op) && !keep_or_get(op) && !change(op))
      unsupported("opcode ", static_cast<int>(op), " is none that a dict of tensors needs");
  }
  if (at_ != pickle_.size()) corrupt("expected nothing after the end");
  const PickleValue root = pop();
  if (!stack_.empty() || !marks_.empty()) corrupt("expected one value at the end");
  return root;
}

uint64_t PickleMachine::number(int bytes) {
  const std::string_view text = take(static_cast<uint64_t>(bytes));
  uint64_t n = 0;
  for (size_t i = text.size(); i-- > 0;) n = n << 8 | static_cast<uint8_t>(text[i]);
  return n;
}

std::string_view PickleMachine::take(uint64_t bytes) {
  if (bytes > pickle_.size() - at_) corrupt("expected ", bytes, " bytes, got the end");
  at_ += bytes;
  return pickle_.substr(at_ - bytes, bytes);
}

std::string_view PickleMachine::line() {
  const size_t end = pickle_.substr(0, std::min(pickle_.size(), at_ + kMaxNameBytes)).find('\n', at_);
  if (end == std::string_view::npos) corrupt("expected a name of at most ", kMaxNameBytes, " bytes and a line's end");
  const std::string_view text = take(end + 1 - at_);
  return text.substr(0, text.size() - 1);
}

void PickleMachine::push(PickleValue v) {
  if (stack_.size() == kMaxPickleStack) unsupported("expected at most ", kMaxPickleStack, " values on the stack");
  stack_.push_back(v);
}

PickleValue PickleMachine::pop() {
  if (stack_.size() <= (marks_.empty() ? 0 : marks_.back())) corrupt("expected a value on the stack");
  const PickleValue v = stack_.back();
  stack_.pop_back();
  return v;
}

PickleValue PickleMachine::pop(PickleKind kind, const char* what) {
  const PickleValue v = pop();
  if (v.kind != kind) corrupt("expected ", what);
  return v;
}

std::span<const PickleValue> PickleMachine::since_mark() {
  if (marks_.empty()) corrupt("expected a mark on the stack");
  return std::span(stack_).subspan(marks_.back());
}

void PickleMachine::drop_to_mark() {
  stack_.resize(marks_.back());
  marks_.pop_back();
}

bool PickleMachine::push_scalar(uint8_t op) {
  switch (op) {
    case kNone: push({}); return true;
    case kNewTrue: push({PickleKind::Bool, 0, 1}); return true;
    case kNewFalse: push({PickleKind::Bool, 0, 0}); return true;
    case kBinInt: push({PickleKind::Int, 0, static_cast<int32_t>(number(4))}); return true;
    case kBinInt1: push({PickleKind::Int, 0, static_cast<int64_t>(number(1))}); return true;
    case kBinInt2: push({PickleKind::Int, 0, static_cast<int64_t>(number(2))}); return true;
    case kLong1: push_long(); return true;
    case kBinFloat: take(8); push({PickleKind::Other}); return true;
    case kShortBinBytes: take(number(1)); push({PickleKind::Other}); return true;
    case kBinBytes: take(number(4)); push({PickleKind::Other}); return true;
    case kShortBinUnicode: push_text(number(1)); return true;
    case kBinUnicode: push_text(number(4)); return true;
    case kBinUnicode8: push_text(number(8)); return true;
    default: return false;
  }
}

bool PickleMachine::push_container(uint8_t op) {
  switch (op) {
    case kMark:
      if (marks_.size() == kMaxPickleMarks) unsupported("expected at most ", kMaxPickleMarks, " open tuples and batches");
      marks_.push_back(stack_.size());
      return true;
    case kEmptyTuple: push(make_tuple({})); return true;
    case kEmptyList: push({PickleKind::List}); return true;
    case kEmptyDict: push_dict(); return true;
    case kTuple: {
      const PickleValue tuple = make_tuple(since_mark());
      drop_to_mark();
      push(tuple);
      return true;
    }
    case kTuple1:
    case kTuple2:
    case kTuple3: {
      const size_t n = op - kTuple1 + 1u;
      PickleValue items[3];
      for (size_t i = n; i-- > 0;) items[i] = pop();
      push(make_tuple({items, n}));
      return true;
    }
    default: return false;
  }
}

bool PickleMachine::keep_or_get(uint8_t op) {
  const auto get = [&](uint64_t i) {
    if (i >= memo_.size()) corrupt("expected a memo index below ", memo_.size(), ", got ", i);
    push(memo_[i]);
  };
  switch (op) {
    case kBinPut: keep(number(1)); return true;
    case kLongBinPut: keep(number(4)); return true;
    case kMemoize: keep(memo_.size()); return true;
    case kBinGet: get(number(1)); return true;
    case kLongBinGet: get(number(4)); return true;
    default: return false;
  }
}

bool PickleMachine::change(uint8_t op) {
  switch (op) {
    case kFrame:
      if (const uint64_t bytes = number(8); bytes > pickle_.size() - at_) corrupt("a frame of ", bytes, " bytes leaves the pickle");
      return true;
    case kGlobal: {
      const std::string_view module = line(), name = line();
      find_global(module, name);
      return true;
    }
    case kStackGlobal: {
      const PickleValue name = pop(PickleKind::Text, "a name"), module = pop(PickleKind::Text, "a module's name");
      find_global(text(module), text(name));
      return true;
    }
    case kBinPersId: load_storage(); return true;
    case kReduce: reduce(); return true;
    case kBuild: {  // attributes of a dict (_metadata of a state dict), which hold no tensors
      pop();
      push(pop(PickleKind::Dict, "a dict before its attributes"));
      return true;
    }
    case kAppend:
      pop();
      push(pop(PickleKind::List, "a list before its item"));
      return true;
    case kAppends:
      since_mark();
      drop_to_mark();
      push(pop(PickleKind::List, "a list before its items"));
      return true;
    case kSetItem: {
      const PickleValue value = pop(), item[2] = {pop(), value};
      set_items(item);
      return true;
    }
    case kSetItems: set_items_since_mark(); return true;
    default: return false;
  }
}

void PickleMachine::push_text(uint64_t bytes) {
  if (bytes > kMaxPickleText) unsupported("expected strings of at most ", kMaxPickleText, " bytes, got ", bytes);
  const PickleValue v{PickleKind::Text, static_cast<uint32_t>(bytes), static_cast<int64_t>(at_)};
  if (!valid_utf8(take(bytes))) corrupt("expected a string in UTF-8");
  push(v);
}

void PickleMachine::push_long() {
  const std::string_view bytes = take(number(1));
  if (bytes.size() > 8) return push({PickleKind::Other});
  uint64_t n = !bytes.empty() && bytes.back() < 0 ? ~uint64_t{0} : 0;  // the sign
  for (size_t i = bytes.size(); i-- > 0;) n = n << 8 | static_cast<uint8_t>(bytes[i]);
  push({PickleKind::Int, 0, static_cast<int64_t>(n)});
}

PickleValue PickleMachine::make_tuple(std::span<const PickleValue> items) {
  const PickleValue tuple{PickleKind::Tuple, static_cast<uint32_t>(items.size()), static_cast<int64_t>(items_.size())};
  items_.insert(items_.end(), items.begin(), items.end());
  return tuple;
}

void PickleMachine::push_dict() {
  push({PickleKind::Dict, 0, static_cast<int64_t>(dicts_.size())});
  dicts_.emplace_back();
}

// Picklers number what they keep from 0 on without gaps; another order would let a small file ask for a large memo.
void PickleMachine::keep(uint64_t index) {
  const PickleValue v = pop();
  push(v);
  if (index > memo_.size()) corrupt("expected a memo index of at most ", memo_.size(), ", got ", index);
  if (index == memo_.size()) memo_.push_back(v);
  memo_[index] = v;
}

// Keys and values in turn, put into the dict below them, which stays on the stack.
void PickleMachine::set_items(std::span<const PickleValue> items) {
  if (items.size() % 2 != 0) corrupt("expected a value for every key");
  const PickleValue target = pop(PickleKind::Dict, "a dict before its items");
  PickleDict& dict = dicts_[static_cast<size_t>(target.number)];
  for (size_t i = 0; i < items.size(); i += 2) dict.emplace_back(items[i], items[i + 1]);
  push(target);
}

void PickleMachine::set_items_since_mark() {
  const auto span = since_mark();
  const std::vector<PickleValue> items(span.begin(), span.end());
  drop_to_mark();
  set_items(items);
}

void PickleMachine::find_global(std::string_view module, std::string_view name) {
  for (size_t i = 0; i < std::size(kGlobals); ++i)
    if (module == kGlobals[i].module && name == kGlobals[i].name)
      return push({PickleKind::Global, 0, static_cast<int64_t>(i)});
  if (!valid_utf8(module) || !valid_utf8(name)) corrupt("expected a name in UTF-8");
  unsupported("the file asks for ", json_excerpt(concat(module, ".", name)), ", which is no part of a dict of tensors");
}

// ("storage", type, key, device, number of elements)
void PickleMachine::load_storage() {
  const auto id = items(pop(PickleKind::Tuple, "a tuple that names a storage"));
  const bool valid = id.size() == 5 && id[0].kind == PickleKind::Text && text(id[0]) == "storage" &&
                     id[1].kind == PickleKind::Global && kGlobals[id[1].number].role == Role::Storage &&
                     id[2].kind == PickleKind::Text && id[2].size <= kMaxStorageKey && id[4].kind == PickleKind::Int;
  if (!valid) corrupt("expected (\"storage\", type, key, device, elements)");
  storages_.push_back({kGlobals[id[1].number].dtype, id[2], id[4].number});
  push({PickleKind::Storage, 0, static_cast<int64_t>(storages_.size() - 1)});
}

void PickleMachine::reduce() {
  const auto args = items(pop(PickleKind::Tuple, "a tuple of arguments"));
  switch (kGlobals[pop(PickleKind::Global, "a name before its arguments").number].role) {
    case Role::Dict:
      if (!args.empty()) unsupported("expected an OrderedDict to be made empty");
      return push_dict();
    case Role::Tensor: return rebuild_tensor(args);
    case Role::Parameter:
      if (args.empty() || args[0].kind != PickleKind::Tensor) corrupt("expected a parameter to be made of a tensor");
      return push(args[0]);
    case Role::Storage: corrupt("a storage type takes no arguments");
  }
}

// (storage, offset, size, stride, requires_grad, backward_hooks[, metadata])
void PickleMachine::rebuild_tensor(std::span<const PickleValue> args) {
  const bool valid = (args.size() == 6 || args.size() == 7) && args[0].kind == PickleKind::Storage &&
                     args[1].kind == PickleKind::Int && args[2].kind == PickleKind::Tuple && args[3].kind == PickleKind::Tuple;
  if (!valid) corrupt("expected (storage, offset, size, stride, ...) to make a tensor of");
  tensors_.push_back({args[0], args[1].number, args[2], args[3]});
  push({PickleKind::Tensor, 0, static_cast<int64_t>(tensors_.size() - 1)});
}

}  // namespace isr
