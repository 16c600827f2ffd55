#include "models/parts.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <tuple>

namespace isr {
namespace {

// "" is the block itself.
std::string below(const std::string& name, const char* end) { return name.empty() ? end : concat(name, ".", end); }

}  // namespace

Part part_of(Root root) {
  if (root == Root::ImageTower || root == Root::VideoTower) return Part::Vision;
  return root == Root::Projector ? Part::Projector : Part::Decoder;
}

void Parts::begin(Root root) {
  root_ = root;
  prefix_ = names_[root];
  ++block_;
}

void Parts::group(const std::string& name) {
  const auto found = std::find_if(groups_.begin(), groups_.end(), [&](const GroupPlace& g) { return g.root == root_ && g.name == name; });
  group_ = static_cast<size_t>(found - groups_.begin());
  if (found == groups_.end()) groups_.push_back({root_, name, 0});
  groups_[group_].rank = ++opened_;
}

void Parts::block(const std::string& prefix) {
  ++block_;
  prefix_ = names_[root_] + prefix;
  claim("");
}

void Parts::claim(const std::string& prefix) { claims_.push_back({prefix_ + prefix, {}, root_, 0, {}}); }

void Parts::add(const std::string& name, std::vector<int64_t> shape, Slot slot) {
  ISR_ASSERT(!groups_.empty(), name, " is declared outside of a group");
  slot.group = group_;
  slot.block = block_;
  tensors_.push_back({prefix_ + name, std::move(shape), root_, 0, {}});
  slots_.push_back(slot);
}

void Parts::vector(const std::string& name, int64_t size, Param*& at) { add(name, {size}, {Storage::Vector, &at, nullptr, 0, 0, 0, 0, nullptr}); }

void Parts::norm(const std::string& name, int64_t width, LayerNorm& at) {
  vector(below(name, "weight"), width, at.w);
  vector(below(name, "bias"), width, at.b);
}

void Parts::table(const std::string& name, std::vector<int64_t> shape, Param*& at) {
  add(name, std::move(shape), {Storage::Table, &at, nullptr, 0, 0, 0, 0, nullptr});
}

void Parts::matrix(Weight& weight, const std::vector<Stacked>& rows, const std::vector<int64_t>& in, bool bias, bool swiglu) {
  weights_.push_back(&weight);
  int64_t n = 0;
  for (const Stacked& s : rows) {
    std::vector<int64_t> shape{s.out};
    shape.insert(shape.end(), in.begin(), in.end());
    add(below(s.name, "weight"), std::move(shape), {Storage::Rows, nullptr, &weight, n, 0, 0, weights_.size(), nullptr});
    if (bias) add(below(s.name, "bias"), {s.out}, {Storage::Bias, nullptr, &weight, n, 0, 0, weights_.size(), nullptr});
    n += s.out;
  }
  shape(weight, n, std::accumulate(in.begin(), in.end(), int64_t{1}, std::multiplies<>()), swiglu);
}

void Parts::tie(Weight& weight, Param*& table) {
  const auto declared = std::find_if(slots_.begin(), slots_.end(), [&](const Slot& s) { return s.at == &table; });
  ISR_ASSERT(declared != slots_.end() && declared->storage == Storage::Table, "a matrix is tied to what is no table");
  const auto tensor = static_cast<size_t>(declared - slots_.begin());
  const std::vector<int64_t>& rows = tensors_[tensor].shape;
  weights_.push_back(&weight);
  ties_.push_back({&weight, &table, tensor});
  shape(weight, rows[0], rows[1], false);
}

void Parts::shape(Weight& weight, int64_t n, int64_t k, bool swiglu) { weight.shape = {n, k, dtype_, swiglu}; }

void Parts::bind(std::deque<Param>& params) {
  for (size_t i = 0; i < tensors_.size(); ++i) {
    Slot& s = slots_[i];
    Param& p = params.emplace_back();
    p.name = tensors_[i].name;
    p.shape = tensors_[i].shape;
    p.dtype = dtype_;
    p.embedding = s.storage == Storage::Table;
    s.param = &p;
    if (s.at) *s.at = &p;
    if (s.storage == Storage::Bias) s.weight->bias.push_back(&p);
    if (s.storage != Storage::Rows) continue;
    s.weight->parts.push_back(&p);
    p.weight = s.weight;
    p.weight_row = s.row;
  }
  for (const Tie& t : ties_) {
    t.weight->parts = {*t.table};
    (*t.table)->weight = t.weight;
  }
}

std::vector<std::vector<Param*>> Parts::groups(Part part) const {
  std::vector<size_t> order(groups_.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return groups_[a].rank < groups_[b].rank; });
  std::vector<std::vector<Param*>> all;
  for (size_t g : order) {
    if (part_of(groups_[g].root) != part) continue;
    std::vector<const Slot*> slots;
    for (const Slot& s : slots_)
      if (s.group == g) slots.push_back(&s);
    const auto key = [](const Slot* s) { return std::tuple(s->block, s->matrix, s->storage == Storage::Bias); };
    std::stable_sort(slots.begin(), slots.end(), [&](const Slot* a, const Slot* b) { return key(a) < key(b); });
    std::vector<Param*>& params = all.emplace_back();
    for (const Slot* s : slots) params.push_back(s->param);
  }
  return all;
}

Declared Parts::outside() const { return {tensors_, claims_, ties_.empty() ? std::string() : tensors_[ties_.front().tensor].name}; }

Declared declared(const Family& family, const Names& names, const ModelConfig& config) {
  Network nowhere;   // only names and shapes are wanted
  Parts parts(names, DType::F32);
  family.parts(parts, nowhere, config);
  return parts.outside();
}

std::vector<TensorSpec> expected_tensors(const Family& family, const Names& names, const ModelConfig& config) { return declared(family, names, config).tensors; }

}  // namespace isr
