#include "train/shards.h"

#include <algorithm>

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

bool takes_turns(const Network& network, const std::vector<Param*>& group) {
  return std::any_of(network.layers.begin(), network.layers.end(), [&](const Layer& l) { return std::find(group.begin(), group.end(), l.attention_norm) != group.end(); });
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
