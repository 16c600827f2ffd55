#include "train/optimizer.h"

#include <algorithm>
#include <cmath>

#include "core/bf16.h"

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
  for (Buffer* b : {&g.grad, &g.master, &g.m, &g.v}) *b = Buffer(static_cast<size_t>(g.size) * sizeof(float));
}

// The parameter's master, and the memory that its value will have.
void Optimizer::fill(Place& to) {
  Param& p = *to.param;
  float* master = to.group->master.data<float>() + to.offset;
  check_cancelled();
  if (p.dtype == DType::F32 && !p.vector()) {   // the master is the value
    if (p.value) std::copy_n(p.f32(), p.size(), master);
    else m_.fill_value(p, master);
    to.value = master;
    return;
  }
  to.value = p.value;
  if (!to.value) {
    to.value = values_.emplace_back(static_cast<size_t>(p.size()) * size_of(p.dtype)).data();
    m_.fill_value(p, to.value);
  }
  m_.backend->cast(master, DType::F32, to.value, p.vector() ? DType::F32 : p.dtype, p.size());
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
    if (old && old != p.value) std::copy_n(p.f32(), p.size(), static_cast<float*>(old));   // a float32 embedding leaves the master
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
  double total = 0;   // parameter by parameter, each in fixed chunks: the order does not depend on threads
  for (const State& s : states)
    if (written(*s.param)) total += m_.backend->sum_squares(grad(*s.param), s.param->size());
  return std::sqrt(total);
}

std::vector<Optimizer::Task> Optimizer::tasks(bool only_written) {
  constexpr int64_t kRows = 64;   // whole panels: a task's rows are updated, rounded and packed while they are in cache
  std::vector<Task> all;
  for (State& s : states) {
    if (only_written && !written(*s.param)) continue;
    for (int64_t r = 0; r < s.param->rows(); r += kRows) all.push_back({&s, r, std::min(kRows, s.param->rows() - r)});
  }
  return all;
}

void Optimizer::write_back(const Task& t) {
  Param& p = *t.state->param;
  const int64_t at = t.row * p.cols(), n = t.rows * p.cols();
  const float* master = p.master() + at;
  if (p.vector()) {
    for (int64_t i = 0; i < n; ++i) p.f32()[at + i] = p.dtype == DType::BF16 ? round_bf16(master[i]) : master[i];
    return;
  }
  char* value = static_cast<char*>(p.value) + at * static_cast<int64_t>(size_of(p.dtype));
  if (p.dtype != DType::F32) m_.backend->cast(value, p.dtype, master, DType::F32, n);
  if (p.weight) m_.backend->pack(p.weight->packed, p.weight_row + t.row, {value, p.dtype, t.rows, p.cols()});
}

void Optimizer::step(double learning_rate, double grad_scale, const OptimizerOptions& o) {
  const CancelScope whole(nullptr);
  const std::vector<Task> all = tasks(true);
  parallel(m_.backend->threads, static_cast<int64_t>(all.size()), 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const Task& t = all[static_cast<size_t>(i)];
      Param& p = *t.state->param;
      Group& g = *p.group;
      const size_t at = p.offset + static_cast<size_t>(t.row * p.cols());
      AdamW a;
      a.lr = static_cast<float>(learning_rate);
      a.beta1 = static_cast<float>(o.beta1);
      a.beta2 = static_cast<float>(o.beta2);
      a.eps = static_cast<float>(o.eps);
      a.weight_decay = p.vector() && !o.decay_norms ? 0 : static_cast<float>(o.weight_decay);
      a.step = t.state->steps + 1;
      a.grad_scale = static_cast<float>(grad_scale);
      m_.backend->adamw(g.master.data<float>() + at, g.m.data<float>() + at, g.v.data<float>() + at, g.grad.data<float>() + at, t.rows * p.cols(), a);
      write_back(t);
    }
  });
  for (State& s : states) {
    if (!written(*s.param)) continue;
    ++s.steps;
    ++s.param->version;
  }
  weights_changed();
}

Optimizer::Staging::Staging(Optimizer& optimizer) : o_(optimizer), tasks_(o_.tasks(false)) {
  for (const Group& g : o_.groups_)
    for (std::deque<Buffer>* kind : {&m_, &v_}) kind->emplace_back(g.m.bytes());
  reserve_threads(o_.m_.backend->threads);
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
  parallel(o_.m_.backend->threads, static_cast<int64_t>(tasks_.size()), 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) o_.write_back(tasks_[static_cast<size_t>(i)]);
  });
  for (State& s : o_.states)
    if (s.steps > 0) ++s.param->version;
  o_.weights_changed();
}

}  // namespace isr
