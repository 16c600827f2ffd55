#include "train/optimizer.h"

#include <algorithm>
#include <cmath>

namespace isr {

// Everything that can fail comes first: a trainer that could not be made leaves the model as it was.
Optimizer::Optimizer(Model& model, std::vector<Model::Part> parts, Comm& comm, Sharing sharing)
    : reduction(*model.backend, comm),
      m_(model),
      parts_(std::move(parts)),
      comm_(comm),
      sharded_(sharing.masters && comm.size() > 1),
      lends_(sharded_ && sharing.gradients),
      shared_(comm) {
  std::vector<Place> places;
  size_t decoder = 0;   // its first group
  for (Model::Part part : parts_) {
    decoder = groups_.size();
    for (std::vector<Param*>& params : trained_groups(m_, part)) place(std::move(params), lends_ && takes_turns(m_, params), places);
  }
  for (Place& p : places) fill(p);
  const auto first = forward_.begin() + static_cast<std::ptrdiff_t>(decoder);
  const auto embeds = [this](const Group* g) { return std::find(g->params.begin(), g->params.end(), m_.token_embedding) != g->params.end(); };
  std::rotate(first, std::find_if(first, forward_.end(), embeds), forward_.end());   // the decoder begins with them
  if (comm.size() > 1) reduction.make_room({forward_.rbegin(), forward_.rend()});
  keep_rows_behind();
  take_over(places);
}

// A group's arrays, and where in them each parameter lies.
void Optimizer::place(std::vector<Param*> params, bool lent, std::vector<Place>& places) {
  Group& g = groups_.emplace_back();
  forward_.push_back(&g);
  g.params = std::move(params);
  g.written.assign(g.params.size(), false);
  for (Param* p : g.params) {
    ISR_ASSERT(!p->group, p->name, " is trained already");
    p->offset = static_cast<size_t>(g.size);
    places.push_back({p, &g, nullptr});
    states.push_back({p, 0});
    old_values_.push_back(p->value);
    g.size += (p->size() + 63) / 64 * 64;
  }
  const std::vector<int64_t> shards = cuts(g);
  const auto me = static_cast<size_t>(comm_.rank());
  g.sharded = sharded_;
  if (sharded_) g.arrivals = &shared_;
  g.begin = sharded_ ? shards[me] : 0;
  g.end = sharded_ ? shards[me + 1] : g.size;
  if (lent) g.lender = &reduction;
  else g.grad = Buffer(m_.backend->device(), static_cast<size_t>(g.size) * sizeof(float));
  for (Buffer* b : {&g.master, &g.m, &g.v}) *b = Buffer(m_.backend->device(), static_cast<size_t>(g.end - g.begin) * sizeof(float));
}

static float* at(const Group& g, const Buffer& shard, const Param& p, const Rows& rows) {
  return shard.data<float>() + (static_cast<int64_t>(p.offset) - g.begin + rows.first * p.cols());
}

// The parameter's master, and the memory that its value will have.
void Optimizer::fill(Place& to) {
  Param& p = *to.param;
  const Group& g = *to.group;
  const Rows rows = rows_within(p, g.begin, g.end);
  check_cancelled();
  if (alias(p, g)) {
    float* const master = at(g, g.master, p, rows);
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
  if (rows.count == 0) return;
  if (std::vector<float> exact(static_cast<size_t>(rows.count * p.cols())); m_.adapter && m_.adapter->read_exact(p, rows.first * p.cols(), rows.count * p.cols(), exact.data()))
    return m_.backend->device().upload(at(g, g.master, p, rows), exact.data(), exact.size() * sizeof(float));
  const Tensor value = view(to.value, p.stored(), p.rows(), p.cols());
  m_.backend->add(view(at(g, g.master, p, rows), rows.count, p.cols()), false, value.row_range(rows.first, rows.count));
}

void Optimizer::take_over(const std::vector<Place>& places) noexcept {
  for (const Place& to : places) {
    to.param->value = to.value;
    to.param->group = to.group;
  }
  for (Layer& l : m_.layers) l.group = group_of(l);
  m_.shared_group = m_.final_norm->group;
  if (sharded_) m_.arrivals = &shared_;
}

void Optimizer::keep_rows_behind() {
  const auto trains = [this](Model::Part p) { return std::find(parts_.begin(), parts_.end(), p) != parts_.end(); };
  bool before = false;
  for (Model::Part part : {Model::Part::Vision, Model::Part::Projector, Model::Part::Decoder}) {
    if ((before && !trains(part)) || (part == Model::Part::Decoder && m_.adapter))
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
  try {
    shared_.need_all();
    comm_.finish();   // what was on its way has ended, and its memory may
  } catch (...) {     // a rank was lost
  }
  m_.arrivals = nullptr;
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

void Optimizer::zero() {
  reduction.forget();
  for (Group& g : groups_) std::fill(g.written.begin(), g.written.end(), false);
}

bool Optimizer::written(const Param& p) const {
  const Group& g = *p.group;
  return g.written[static_cast<size_t>(std::find(g.params.begin(), g.params.end(), &p) - g.params.begin())];
}

// Every rank squares the part that it keeps, or would keep; sums of those are the same with shards and without.
double Optimizer::grad_norm() {
  std::vector<Flat> all;   // parameter by parameter, each in fixed chunks: the order does not depend on threads
  for (const Group& g : groups_) {
    const std::vector<int64_t> shards = cuts(g);
    const auto me = static_cast<size_t>(comm_.rank());
    for (const Param* p : g.params)
      if (const Rows rows = rows_within(*p, shards[me], shards[me + 1]); rows.count > 0 && written(*p))
        all.push_back({grad_rows(*p, rows), rows.count * p->cols()});
  }
  double squares = m_.backend->sum_squares(all);
  all_reduce(comm_, {&squares, 1});
  return std::sqrt(squares);
}

const float* Optimizer::grad_rows(const Param& p, const Rows& rows) const {
  const Group& g = *p.group;
  return g.lender ? at(g, g.sum, p, rows) : g.grad.data<float>() + p.offset + rows.first * p.cols();
}

AdamWItem Optimizer::item_of(const State& s) const {
  const Param& p = *s.param;
  const Group& g = *p.group;
  const Rows rows = shard_rows(p);
  AdamWItem item;
  item.master = at(g, g.master, p, rows);
  item.m = at(g, g.m, p, rows);
  item.v = at(g, g.v, p, rows);
  item.grad = grad_rows(p, rows);
  item.rows = rows.count;
  item.cols = p.cols();
  if (!alias(p, g)) item.value = p.tensor().row_range(rows.first, rows.count);
  item.rounded = p.vector() && p.dtype == DType::BF16;
  if (p.weight && !p.in_matrix()) item.matrix = p.weight->matrix.get();
  item.matrix_row = p.weight_row + rows.first;
  return item;
}

void Optimizer::step(double learning_rate, double grad_scale, const OptimizerOptions& o) {
  const CancelScope whole(nullptr);
  std::vector<AdamWItem> items;
  for (const State& s : states) {
    if (!written(*s.param) || shard_rows(*s.param).count == 0) continue;
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
  if (sharded_) shared_.start(forward_, [this](const Param& p) { return written(p); });
  for (State& s : states) {
    if (!written(*s.param)) continue;
    ++s.steps;
    ++s.param->version;
  }
  weights_changed();
}

Optimizer::Staging::Staging(Optimizer& optimizer) : o_(optimizer) {
  o_.shared_.need_all();
  for (const Group& g : o_.groups_) {
    for (std::deque<Buffer>* kind : {&m_, &v_}) kind->emplace_back(o_.m_.backend->device(), g.m.bytes());
    master_.push_back(g.sharded ? Buffer(o_.m_.backend->device(), g.master.bytes()) : Buffer());
  }
  items_.reserve(o_.states.size());
  reserve_threads(o_.m_.threads);
  o_.zero();
}

// Masters go where gradients are between steps, so that a trainer that has not stepped yet needs no memory beside what its
// first step takes.
float* Optimizer::Staging::place(const Param& p, Buffer Group::*array) {
  size_t g = 0;
  while (&o_.groups_[g] != p.group) ++g;
  Buffer& masters = p.group->sharded ? master_[g] : o_.groups_[g].grad;
  return at(*p.group, array == &Group::master ? masters : array == &Group::m ? m_[g] : v_[g], p, o_.shard_rows(p));
}

void Optimizer::Staging::commit(std::span<const int64_t> updates) {
  const CancelScope whole(nullptr);
  for (size_t g = 0; g < o_.groups_.size(); ++g) {
    Group& group = o_.groups_[g];
    std::swap(group.master, group.sharded ? master_[g] : group.grad);
    std::swap(group.m, m_[g]);
    std::swap(group.v, v_[g]);
    for (Param* p : group.params)
      if (o_.alias(*p, group)) p->value = group.master.data<float>() + p->offset;
  }
  for (size_t i = 0; i < updates.size(); ++i) o_.states[i].steps = updates[i];
  for (const State& s : o_.states)
    if (o_.shard_rows(*s.param).count > 0) items_.push_back(o_.item_of(s));   // within what was reserved
  o_.m_.backend->write_values(items_);
  if (o_.sharded_) o_.shared_.start(o_.forward_, [](const Param&) { return true; });
  for (State& s : o_.states)
    if (s.steps > 0) ++s.param->version;
  o_.weights_changed();
}

}  // namespace isr
