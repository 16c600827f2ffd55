#include "train/values.h"

#include "core/threads.h"

namespace isr {

void SharedValues::start(std::span<Group* const> in_order, const std::function<bool(const Param&)>& which) {
  ISR_ASSERT(groups_.empty(), "values of an update are sent while those before are on their way");
  const int me = comm_.rank();
  for (const Group* const g : in_order) {
    const std::vector<int64_t> shards = shard_cuts(*g, comm_.size());
    OnTheirWay group{g, 0, false, {}};
    std::vector<Message> sends, receives;
    for (Param* const p : g->params)
      for (int r = 0; r < (which(*p) ? comm_.size() : 0); ++r) {
        const Rows rows = rows_within(*p, shards[static_cast<size_t>(r)], shards[static_cast<size_t>(r) + 1]);
        if (rows.count == 0) continue;
        const Tensor values = p->tensor().row_range(rows.first, rows.count);
        const size_t bytes = static_cast<size_t>(rows.count * p->cols()) * size_of(values.dtype);
        if (r != me) {
          receives.push_back({r, values.data, bytes});
          group.rows.emplace_back(p, rows);
          continue;
        }
        for (int to = 0; to < comm_.size(); ++to)
          if (to != me) sends.push_back({to, values.data, bytes});
      }
    if (sends.empty() && receives.empty()) continue;
    OnTheirWay& placed = groups_.emplace_back(std::move(group));
    try {
      placed.number = comm_.start(sends, receives);
    } catch (...) {
      groups_.pop_back();
      throw;
    }
  }
}

void SharedValues::land(size_t count) {
  const CancelScope whole(nullptr);   // half of a group's rows would be worse than none
  or_abort(comm_, [&] {
    for (; count > 0; --count) {
      OnTheirWay& g = groups_.front();
      if (!g.there) comm_.wait(g.number);
      g.there = true;
      for (const auto& [p, rows] : g.rows)
        if (p->weight && !p->in_matrix()) p->weight->matrix->write_rows(p->weight_row + rows.first, p->tensor().row_range(rows.first, rows.count));
      groups_.pop_front();
    }
  });
}

void SharedValues::need(const Group& group) {
  for (size_t i = groups_.size(); i-- > 0;)
    if (groups_[i].group == &group) return land(i + 1);
}

void SharedValues::need_all() {
  if (groups_.empty()) return;
  land(groups_.size());
  or_abort(comm_, [&] { comm_.finish(); });
}

}  // namespace isr
