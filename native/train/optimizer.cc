#include "train/optimizer.h"

#include <algorithm>
#include <cmath>

namespace isr {

// Everything that can fail comes first: a trainer that could not be made leaves the model as it was.
Optimizer::Optimizer(Model& model, std::vector<Model::Part> parts) : m_(model), parts_(std::move(parts)) {
  std::vector<Place> places;
  for (Model::Part part : parts_)
    for (std::vector<Param*>& params : m_.groups(part)) place(std::move(params), places);
  for (Place& p : places) fill(p);
  keep_rows_behind();
  take_over(places);
}

// A group's arrays, and where in them each parameter will lie.
void Optimizer::place(std::vector<Param*> params, std::vector<Place>& places) {
  Group& g = groups_.emplace_back();
  g.params = std::move(params);
  g.written.assign(g.params.size(), false);
  for (Param* p : g.params) {
    ISR_ASSERT(!p->group, p->name, " is trained already");
    places.push_back({p, &g, static_cast<size_t>(g.size), nullptr});
    states.push_back({p, 0});
    old_values_.push_back(p->value);
    g.size += (p->size() + 63) / 64 * 64;
  }
  for (Buffer* b : {&g.grad, &g.master, &g.m, &g.v}) *b = Buffer(m_.backend->device(), static_cast<size_t>(g.size) * sizeof(float));
}

// The parameter's master, and the memory that its value will have.
void Optimizer::fill(Place& to) {
  Param& p = *to.param;
  float* master = to.group->master.data<float>() + to.offset;
  check_cancelled();
  if (p.dtype == DType::F32 && !p.vector()) {   // the master is the value
    if (p.value) m_.backend->device().copy(master, p.value, static_cast<size_t>(p.size()) * sizeof(float));
    else m_.fill_value(p, master);
    to.value = master;
    return;
  }
  to.value = p.value;
  if (!to.value) {
    to.value = values_.emplace_back(m_.backend->device(), static_cast<size_t>(p.size()) * size_of(p.dtype)).data();
    m_.fill_value(p, to.value);
  }
  m_.backend->add(view(master, p.rows(), p.cols()), false, view(to.value, p.stored(), p.rows(), p.cols()));
}

void Optimizer::take_over(const std::vector<Place>& places) noexcept {
  for (const Place& to : places) {
    to.param->value = to.value;
    to.param->offset = to.offset;
    to.param->group = to.group;
  }
  for (Layer& l : m_.layers) l.group = l.attention_norm->group;
  m_.shared_group = m_.final_norm->group;
}

void Optimizer::keep_rows_behind() {
  const auto trains = [this](Model::Part p) { return std::find(parts_.begin(), parts_.end(), p) != parts_.end(); };
  bool before = false;
  for (Model::Part part : {Model::Part::Vision, Model::Part::Projector, Model::Part::Decoder}) {
    if (before && !trains(part))
      for (const std::vector<Param*>& group : m_.groups(part))
        for (Param* p : group) m_.keep_row_major(*p);
    before = before || trains(part);
  }
}

void Optimizer::weights_changed() {
  ++m_.generation;
  for (Model::Part part : parts_) {
    if (part == Model::Part::Vision) ++m_.vision_version;
    if (part != Model::Part::Decoder) ++m_.projector_version;
  }
}

Optimizer::~Optimizer() {
  for (size_t i = 0; i < states.size(); ++i) {
    Param& p = *states[i].param;
    void* old = old_values_[i];
    if (old && old != p.value)   // a float32 embedding leaves the master
      m_.backend->device().copy(old, p.value, static_cast<size_t>(p.size()) * sizeof(float));
    p.value = old;                                                                      // null: the panels hold it alone again
    p.group = nullptr;
  }
  for (Layer& l : m_.layers) l.group = nullptr;
  m_.shared_group = nullptr;
  ++m_.generation;   // with the masters goes what bfloat16 values cannot hold: a memoised hash is stale
}

void Optimizer::zero() noexcept {
  for (Group& g : groups_) std::fill(g.written.begin(), g.written.end(), false);
}

bool Optimizer::written(const Param& p) const {
  const Group& g = *p.group;
  return g.written[static_cast<size_t>(std::find(g.params.begin(), g.params.end(), &p) - g.params.begin())];
}

double Optimizer::grad_norm() {
  std::vector<Flat> all;   // parameter by parameter, each in fixed chunks: the order does not depend on threads
  for (const State& s : states)
    if (written(*s.param)) all.push_back({grad(*s.param), s.param->size()});
  return std::sqrt(m_.backend->sum_squares(all));
}

AdamWItem Optimizer::item_of(const State& s) const {
  const Param& p = *s.param;
  const Group& g = *p.group;
  AdamWItem item;
  item.master = g.master.data<float>() + p.offset;
  item.m = g.m.data<float>() + p.offset;
  item.v = g.v.data<float>() + p.offset;
  item.grad = g.grad.data<float>() + p.offset;
  item.rows = p.rows();
  item.cols = p.cols();
  if (p.value != item.master) item.value = p.tensor();
  item.rounded = p.vector() && p.dtype == DType::BF16;
  if (p.weight && !p.in_matrix()) item.matrix = p.weight->matrix.get();
  item.matrix_row = p.weight_row;
  return item;
}

void Optimizer::step(double learning_rate, double grad_scale, const OptimizerOptions& o) {
  const CancelScope whole(nullptr);
  std::vector<AdamWItem> items;
  for (const State& s : states) {
    if (!written(*s.param)) continue;
    AdamWItem& item = items.emplace_back(item_of(s));
    item.step = s.steps + 1;
    item.weight_decay = s.param->vector() && !o.decay_norms ? 0 : static_cast<float>(o.weight_decay);
  }
  AdamW a;
  a.lr = static_cast<float>(learning_rate);
  a.beta1 = static_cast<float>(o.beta1);
  a.beta2 = static_cast<float>(o.beta2);
  a.eps = static_cast<float>(o.eps);
  a.grad_scale = static_cast<float>(grad_scale);
  m_.backend->adamw(items, a);
  for (State& s : states) {
    if (!written(*s.param)) continue;
    ++s.steps;
    ++s.param->version;
  }
  weights_changed();
}

Optimizer::Staging::Staging(Optimizer& optimizer) : o_(optimizer) {
  for (const Group& g : o_.groups_)
    for (std::deque<Buffer>* kind : {&m_, &v_}) kind->emplace_back(o_.m_.backend->device(), g.m.bytes());
  items_.reserve(o_.states.size());
  reserve_threads(o_.m_.threads);
  o_.zero();
}

// Masters go where gradients are between steps, so that a trainer that has not stepped yet needs no memory beside what its
// first step takes.
float* Optimizer::Staging::place(const Param& p, Buffer Group::*array) {
  size_t g = 0;
  while (&o_.groups_[g] != p.group) ++g;
  Buffer& to = array == &Group::master ? o_.groups_[g].grad : array == &Group::m ? m_[g] : v_[g];
  return to.data<float>() + p.offset;
}

void Optimizer::Staging::commit(std::span<const int64_t> updates) {
  const CancelScope whole(nullptr);
  for (size_t g = 0; g < o_.groups_.size(); ++g) {
    Group& group = o_.groups_[g];
    std::swap(group.master, group.grad);
    std::swap(group.m, m_[g]);
    std::swap(group.v, v_[g]);
    for (Param* p : group.params)
      if (p->dtype == DType::F32 && !p->vector()) p->value = group.master.data<float>() + p->offset;
  }
  for (size_t i = 0; i < updates.size(); ++i) o_.states[i].steps = updates[i];
  for (const State& s : o_.states) items_.push_back(o_.item_of(s));   // within what was reserved
  o_.m_.backend->write_values(items_);
  for (State& s : o_.states)
    if (s.steps > 0) ++s.param->version;
  o_.weights_changed();
}

}  // namespace isr
