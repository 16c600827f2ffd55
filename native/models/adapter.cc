#include "models/adapter.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/rng.h"
#include "models/model.h"

namespace isr {
namespace {

constexpr int64_t kMostRank = 1 << 14;

// Whether `wanted` is the module, or its name's last parts.
bool fits(const std::string& module, const std::string& wanted) {
  if (module == wanted) return true;
  return module.size() > wanted.size() && module.ends_with(wanted) && module[module.size() - wanted.size() - 1] == '.';
}

int64_t rank_of(const LoraOptions& o, const std::string& module) {
  for (const auto& [pattern, rank] : o.rank_pattern)
    if (fits(module, pattern)) return rank;
  return o.rank;
}

bool wants(const LoraOptions& o, const std::string& module) {
  return o.targets.empty() || std::any_of(o.targets.begin(), o.targets.end(), [&](const std::string& t) { return fits(module, t); });
}

void check_rank(const char* what, int64_t rank) {
  if (rank < 1 || rank > kMostRank) fail("INVALID_ARGUMENT", what, ": expected an integer from 1 to ", kMostRank, ", got ", rank);
}

void check(const LoraOptions& o, const std::vector<Adapter::Module>& modules) {
  check_rank("lora.rank", o.rank);
  if (!std::isfinite(o.alpha) || o.alpha <= 0) fail("INVALID_ARGUMENT", "lora.alpha: expected a number above 0, got ", o.alpha);
  const auto known = [&](const char* what, const std::string& wanted) {
    if (std::any_of(modules.begin(), modules.end(), [&](const Adapter::Module& m) { return fits(m.name, wanted); })) return;
    std::string names;
    for (const Adapter::Module& m : modules)
      if (m.layer == modules.front().layer) names += (names.empty() ? "" : ", ") + m.name.substr(m.name.rfind('.') + 1);
    throw Error("INVALID_ARGUMENT", concat(what, ": no matrix of the decoder's blocks is called ", json_excerpt(wanted)), concat("they are ", names));
  };
  for (const std::string& target : o.targets) known("lora.targets", target);
  for (const auto& [pattern, rank] : o.rank_pattern) {
    known("lora.rankPattern", pattern);
    check_rank("lora.rankPattern", rank);
  }
}

// Kaiming's uniform range for a factor of sqrt(5), which PEFT draws A from: 1 / sqrt(K) to both sides.
std::vector<float> first_values(const Param& a, uint64_t seed) {
  std::vector<float> values(static_cast<size_t>(a.size()));
  const double bound = 1 / std::sqrt(static_cast<double>(a.cols()));
  const uint64_t name = hash64(a.name);
  const Philox draw(seed);
  for (size_t i = 0; i < values.size(); ++i) {
    const auto bits = draw(name, i);
    values[i] = static_cast<float>(bound * (2 * unit_double(bits[0], bits[1]) - 1));
  }
  return values;
}

}  // namespace

std::vector<Adapter::Module> adaptable(Model& model) {
  const std::string& here = model.decoder_prefix();
  const std::string& today = model.declaration().root(Root::Decoder).module_prefix();
  std::vector<Adapter::Module> all;
  for (Layer& l : model.layers)
    for (Weight* w : {&l.qkv, &l.out, &l.gate_up, &l.down})
      for (Param* p : w->parts) {
        ISR_ASSERT(p->name.starts_with(here) && p->name.ends_with(".weight"), p->name, " is no matrix of ", here);
        const size_t end = p->name.size() - std::strlen(".weight");
        all.push_back({today + p->name.substr(here.size(), end - here.size()), p, &l, w});
      }
  return all;
}

std::unique_ptr<Adapter> Adapter::make(Model& model, const LoraOptions& options) {
  const std::vector<Module> modules = adaptable(model);
  check(options, modules);
  std::unique_ptr<Adapter> adapter(new Adapter(model));
  adapter->rank_ = options.rank;
  adapter->alpha_ = options.alpha;
  adapter->rslora_ = options.rslora;
  for (const Module& m : modules) {
    if (wants(options, m.name)) adapter->add(m, rank_of(options, m.name), options.alpha);
  }
  adapter->attach();
  for (const Part& p : adapter->parts_)
    if (!model.counting) adapter->fill(*p.a, first_values(*p.a, options.seed).data());   // B is zeros, as memory is
  return adapter;
}

void Adapter::add(const Module& module, int64_t rank, double alpha) {
  const auto param = [&](const char* which, int64_t rows, int64_t cols) {
    Param& p = params_.emplace_back();
    p.name = concat("base_model.model.", module.name, ".", which, ".weight");
    p.shape = {rows, cols};
    p.dtype = model_.dtype;
    return &p;
  };
  Param* const a = param("lora_A", rank, module.base->cols());
  parts_.push_back({module, rank, alpha, a, param("lora_B", module.base->rows(), rank)});
}

double Adapter::scale_of(const Part& p) const {
  const auto rank = static_cast<double>(p.rank);
  return p.alpha / (rslora_ ? std::sqrt(rank) : rank);
}

// The products that parts of one matrix need, as LowRank has them; without memory.
void Adapter::lay_out() {
  for (auto part = parts_.begin(); part != parts_.end();) {
    LowRank& l = low_ranks_.emplace_back();
    Weight* const base = part->module.weight;
    int64_t ranks = 0, outputs = 0;
    for (; part != parts_.end() && part->module.weight == base; ++part) {
      LowRank::Piece& piece = l.pieces.emplace_back();
      piece.output = part->module.base->weight_row;
      piece.rank = ranks;
      piece.scale = static_cast<float>(scale_of(*part));
      piece.b.parts = {part->b};
      piece.b.shape = {part->b->rows(), part->rank, model_.dtype, false};
      l.a.parts.push_back(part->a);
      ranks += part->rank;
      outputs += part->b->rows();
    }
    l.a.shape = {ranks, base->k(), model_.dtype, false};
    l.whole = outputs == base->n();
    places_.emplace_back(base, &l);
  }
}

// Matrices in one block, and what they do not hold row by row in another.
void Adapter::allocate() {
  const auto aligned = [](size_t n) { return (n + 63) / 64 * 64; };
  Device& device = model_.backend->device();
  std::vector<Weight*> weights;
  for (LowRank& l : low_ranks_) {
    for (LowRank::Piece& p : l.pieces) weights.push_back(&p.b);
    weights.push_back(&l.a);
  }
  size_t panels = 0, rows = 0;
  for (const Weight* w : weights) panels += aligned(model_.backend->matrix_bytes(w->shape));
  panels_ = Buffer(device, panels);
  char* at = panels_.data<char>();
  for (Weight* w : weights) {
    w->matrix = model_.backend->matrix(w->shape, at);
    at += aligned(model_.backend->matrix_bytes(w->shape));
    int64_t row = 0;
    for (Param* p : w->parts) {
      p->weight = w;
      p->weight_row = row;
      row += p->rows();
      if (const Tensor there = w->matrix->in_place()) p->value = there.at(p->weight_row);
      else rows += aligned(static_cast<size_t>(p->size()) * size_of(p->dtype));
    }
  }
  rows_ = Buffer(device, rows);
  at = rows_.data<char>();
  for (Param& p : params_) {
    if (p.value) continue;
    p.value = at;
    at += aligned(static_cast<size_t>(p.size()) * size_of(p.dtype));
  }
}

void Adapter::attach() {
  lay_out();
  allocate();
  for (Param& p : params_) model_.by_name[p.name] = &p;
  switch_on(true);
  ++model_.generation;
}

Adapter::~Adapter() {
  switch_on(false);
  for (const Param& p : params_) model_.by_name.erase(p.name);
  ++model_.generation;
}

void Adapter::switch_on(bool on) {
  for (const auto& [weight, low_rank] : places_) weight->low_rank = on ? low_rank : nullptr;
  ++model_.adapter_switches;
}

void Adapter::check_same(const LoraOptions& o) const {
  const auto same = [](const char* what, auto mine, auto asked) {
    if (mine != asked) throw Error("INVALID_ARGUMENT", concat("lora.", what, ": the model's adapter has ", mine, ", got ", asked), "ask for the adapter that was loaded, or load the model without it");
  };
  same("rank", rank_, o.rank);
  same("alpha", alpha_, o.alpha);
  same("rslora", rslora_, o.rslora);
  std::vector<std::string> names, asked;
  for (const Part& p : parts_) {
    names.push_back(p.module.name);
    if (p.rank != rank_of(o, p.module.name)) same(("rankPattern of " + p.module.name).c_str(), p.rank, rank_of(o, p.module.name));
  }
  for (const Module& m : adaptable(model_))
    if (wants(o, m.name)) asked.push_back(m.name);
  if (names != asked) same("targets", concat(names.size(), " matrices"), concat(asked.size(), " that are not the same"));
}

AdapterOff::AdapterOff(Model& model) : adapter_(model.adapter.get()) {
  if (adapter_) adapter_->switch_on(false);
}
AdapterOff::~AdapterOff() {
  if (adapter_) adapter_->switch_on(true);
}

void Adapter::fill(Param& p, const float* values) {
  Device& device = model_.backend->device();
  const auto count = static_cast<size_t>(p.size());
  if (p.dtype == DType::F32) {
    device.upload(p.value, values, count * sizeof(float));
  } else {
    std::vector<uint8_t> narrow(count * size_of(p.dtype));
    encode(FileDType::BF16, values, p.size(), narrow.data());
    device.upload(p.value, narrow.data(), narrow.size());
  }
  if (!p.in_matrix()) p.weight->matrix->write_rows(p.weight_row, p.tensor());
}

std::vector<std::vector<Param*>> Adapter::groups() const {
  std::vector<std::vector<Param*>> all;
  const Layer* last = nullptr;
  for (const Part& p : parts_) {
    if (p.module.layer != last) all.emplace_back();
    last = p.module.layer;
    all.back().insert(all.back().end(), {p.a, p.b});
  }
  return all;
}

int64_t Adapter::parameters() const {
  int64_t n = 0;
  for (const Param& p : params_) n += p.size();
  return n;
}

const Adapter::Part* Adapter::part_of(const Param& base) const {
  const auto found = std::find_if(parts_.begin(), parts_.end(), [&](const Part& p) { return p.module.base == &base; });
  return found == parts_.end() ? nullptr : &*found;
}

bool Adapter::changes(const Param& base) const {
  const Part* p = part_of(base);
  return p && (from_file_ || p->b->version > 0);
}

bool Adapter::changed() const {
  return std::any_of(params_.begin(), params_.end(), [](const Param& p) { return p.version > 0; });
}

void Adapter::add_to(const Param& base, int64_t begin, int64_t count, float* values) {
  const Part& part = *part_of(base);
  if (factors_.part != &part || factors_.generation != model_.generation) {
    factors_ = {&part, model_.generation, model_.parameter(part.a->name), model_.parameter(part.b->name)};
  }
  const int64_t k = base.cols(), first = begin / k, last = (begin + count + k - 1) / k, rank = part.rank;
  const auto scale = static_cast<float>(scale_of(part));
  parallel(model_.threads, last - first, 1, [&](int64_t from, int64_t to, int) {
    std::vector<float> sum(static_cast<size_t>(k));
    for (int64_t row = first + from; row < first + to; ++row) {
      std::fill(sum.begin(), sum.end(), 0.0f);
      for (int64_t r = 0; r < rank; ++r) {
        const float b = factors_.b[static_cast<size_t>(row * rank + r)];
        const float* const a = factors_.a.data() + r * k;
        for (int64_t j = 0; j < k; ++j) sum[static_cast<size_t>(j)] += b * a[j];
      }
      for (int64_t j = 0; j < k; ++j)
        if (const int64_t at = row * k + j - begin; at >= 0 && at < count) values[at] += scale * sum[static_cast<size_t>(j)];
    }
  });
}

}  // namespace isr
