#include "models/batch.h"

#include <algorithm>

namespace isr {
namespace {

// Rows of a sequence that others may share: those before its first row with a target, and never all of them.
int64_t shareable(const SequenceInput& s) {
  const auto first = std::find_if(s.targets.begin(), s.targets.end(), [](int32_t t) { return t >= 0; });
  return std::min<int64_t>(first - s.targets.begin(), static_cast<int64_t>(s.ids.size()) - 1);
}

// Walks the prefix tree of the sequences depth first and reports its spans: visit(members, begin, end, parent) -> span index.
// A span of several members is shared; tokens [begin, end) are those of any member.
template <class Visit>
class PrefixTree {
 public:
  PrefixTree(std::span<const SequenceInput> sequences, bool share, Visit visit)
      : sequences_(sequences), visit_(std::move(visit)) {
    for (const SequenceInput& s : sequences) limits_.push_back(share ? shareable(s) : 0);
  }
  void walk() {
    std::vector<int32_t> all(sequences_.size());
    for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int32_t>(i);
    branch(all, 0, -1);
  }

 private:
  const std::vector<int32_t>& ids(int32_t s) const { return sequences_[static_cast<size_t>(s)].ids; }
  int64_t limit(int32_t s) const { return limits_[static_cast<size_t>(s)]; }

  // Members agree on [0, depth). Those that go on alike form a shared span; the others end in a span of their own.
  void branch(const std::vector<int32_t>& members, int64_t depth, int32_t parent) {
    std::vector<bool> placed(members.size(), false);
    for (size_t i = 0; i < members.size(); ++i) {
      if (placed[i]) continue;
      std::vector<int32_t> alike{members[i]};
      int64_t end = limit(members[i]);
      for (size_t j = i + 1; j < members.size() && end > depth; ++j) {
        if (placed[j]) continue;
        const int64_t common = common_prefix(members[i], members[j], depth, std::min(end, limit(members[j])));
        if (common == depth) continue;
        end = common;
        alike.push_back(members[j]);
        placed[j] = true;
      }
      if (alike.size() == 1) {
        visit_(alike, depth, static_cast<int64_t>(ids(members[i]).size()), parent);
      } else {
        branch(alike, end, visit_(alike, depth, end, parent));
      }
    }
  }

  int64_t common_prefix(int32_t a, int32_t b, int64_t from, int64_t to) const {
    int64_t n = from;
    while (n < to && ids(a)[static_cast<size_t>(n)] == ids(b)[static_cast<size_t>(n)]) ++n;
    return n;
  }

  std::span<const SequenceInput> sequences_;
  Visit visit_;
  std::vector<int64_t> limits_;
};

void add_scored(Batch& b, const SequenceInput& s, int32_t sequence) {
  const std::vector<int32_t>& rows = b.rows[static_cast<size_t>(sequence)];
  for (size_t t = 0; t < s.ids.size(); ++t) {
    if (s.targets[t] < 0) continue;
    b.scored.push_back({rows[t], s.targets[t], sequence, s.weights.empty() ? 1.0f : s.weights[t]});
    b.scored_index.push_back(rows[t]);
    b.scored_target.push_back(s.targets[t]);
  }
}

}  // namespace

std::vector<int32_t> targets_of(std::span<const int32_t> ids, std::span<const uint8_t> scored) {
  std::vector<int32_t> targets(ids.size(), -1);
  for (size_t t = 1; t < ids.size() && t < scored.size(); ++t)
    if (scored[t]) targets[t - 1] = ids[t];
  return targets;
}

Batch make_batch(std::span<const SequenceInput> sequences, bool share, const Positioner& position) {
  Batch b;
  std::vector<SequencePositions> places;
  for (const SequenceInput& s : sequences) places.push_back(position(s.ids));
  b.positions.resize(places.empty() ? 1 : static_cast<size_t>(places[0].axes));
  b.rows.resize(sequences.size());
  std::vector<Span> spans;
  const auto visit = [&](const std::vector<int32_t>& members, int64_t begin, int64_t end, int32_t parent) {
    const auto first = static_cast<int32_t>(b.ids.size());
    const std::vector<int32_t>& ids = sequences[static_cast<size_t>(members[0])].ids;
    for (int64_t t = begin; t < end; ++t) {
      b.ids.push_back(ids[static_cast<size_t>(t)]);
      for (size_t axis = 0; axis < b.positions.size(); ++axis) b.positions[axis].push_back(places[static_cast<size_t>(members[0])].at(static_cast<int64_t>(axis), t));
      for (int32_t s : members) b.rows[static_cast<size_t>(s)].push_back(static_cast<int32_t>(b.ids.size()) - 1);
    }
    spans.push_back({first, static_cast<int32_t>(b.ids.size()), parent});
    return static_cast<int32_t>(spans.size() - 1);
  };
  PrefixTree(sequences, share, visit).walk();
  for (size_t s = 0; s < sequences.size(); ++s) add_scored(b, sequences[s], static_cast<int32_t>(s));
  b.plan = plan_attention(spans, true);
  return b;
}

int64_t packed_tokens(std::span<const SequenceInput> sequences, bool share) {
  int64_t tokens = 0;
  const auto visit = [&](const std::vector<int32_t>&, int64_t begin, int64_t end, int32_t) {
    tokens += end - begin;
    return 0;
  };
  PrefixTree(sequences, share, visit).walk();
  return tokens;
}

std::vector<std::pair<size_t, size_t>> micro_batches(std::span<const SequenceInput> sequences, size_t per_item, bool share, int64_t budget) {
  std::vector<std::pair<size_t, size_t>> ranges;
  for (size_t begin = 0; begin < sequences.size();) {
    size_t end = begin + per_item;
    while (end < sequences.size() && packed_tokens(sequences.subspan(begin, end + per_item - begin), share) <= budget) end += per_item;
    ranges.emplace_back(begin, end);
    begin = end;
  }
  return ranges;
}

}  // namespace isr
