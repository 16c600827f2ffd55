#include "train/shards.h"

#include <algorithm>
#include <array>

namespace isr {

std::vector<int64_t> shard_cuts(const Group& group, int ranks) {
  std::vector<int64_t> cuts{0};
  size_t next = 0;   // the parameter that holds the cut, or begins behind it
  for (int r = 1; r < ranks; ++r) {
    const int64_t even = group.size / ranks * r + group.size % ranks * r / ranks;
    const auto begins = [&](size_t i) { return static_cast<int64_t>(group.params[i]->offset); };
    while (next + 1 < group.params.size() && begins(next + 1) <= even) ++next;
    const Param& p = *group.params[next];
    const int64_t rows = (even - begins(next) + p.cols() - 1) / p.cols();
    const int64_t cut = rows < p.rows() ? begins(next) + rows * p.cols() : next + 1 < group.params.size() ? begins(next + 1) : group.size;
    cuts.push_back(std::max(cut, cuts.back()));
  }
  cuts.push_back(group.size);
  return cuts;
}

std::vector<std::vector<Param*>> trained_groups(const Model& model, Part part) {
  return part == Part::Decoder && model.adapter ? model.adapter->groups() : model.groups(part);
}

Group* group_of(const Layer& layer) {
  if (layer.attention_norm->group) return layer.attention_norm->group;
  for (const Weight* w : {&layer.qkv, &layer.out, &layer.gate_up, &layer.down})
    if (w->low_rank && w->low_rank->a.parts.front()->group) return w->low_rank->a.parts.front()->group;
  return nullptr;
}

bool takes_turns(const Network& network, const std::vector<Param*>& group) {
  const auto holds = [&](const Param* p) { return std::find(group.begin(), group.end(), p) != group.end(); };
  return std::any_of(network.layers.begin(), network.layers.end(), [&](const Layer& l) {
    if (holds(l.attention_norm)) return true;
    const std::array weights{&l.qkv, &l.out, &l.gate_up, &l.down};
    return std::any_of(weights.begin(), weights.end(), [&](const Weight* w) { return w->low_rank && holds(w->low_rank->a.parts.front()); });
  });
}

Rows rows_within(const Param& p, int64_t begin, int64_t end) {
  const auto row_at = [&](int64_t element) {
    const int64_t inside = std::max<int64_t>(0, element - static_cast<int64_t>(p.offset));
    return std::min(p.rows(), (inside + p.cols() - 1) / p.cols());
  };
  const int64_t first = row_at(begin);
  return {first, row_at(end) - first};
}

}  // namespace isr
