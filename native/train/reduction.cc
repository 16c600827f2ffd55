#include "train/reduction.h"

#include <algorithm>

#include "core/threads.h"

namespace isr {
namespace {

constexpr int64_t kExchange = int64_t{1} << 22;   // elements of a shard that are exchanged at once

// y = x, or y += x, over n elements, in rows that threads can share.
void add_flat(Backend& be, float* y, bool accumulate, const float* x, int64_t n) {
  constexpr int64_t kRow = 4096;
  const int64_t rows = n / kRow, rest = n % kRow;
  float* const from = const_cast<float*>(x);
  if (rows > 0) be.add(view(y, rows, kRow), accumulate, view(from, rows, kRow));
  if (rest > 0) be.add(view(y + rows * kRow, 1, rest), accumulate, view(from + rows * kRow, 1, rest));
}

int64_t pieces_of(int64_t elements) { return (elements + kExchange - 1) / kExchange; }

// What all ranks do alike, to its end.
void speak(Comm& comm, const std::function<void()>& work) {
  const CancelScope whole(nullptr);
  or_abort(comm, work);
}

}  // namespace

ArrivalRoom arrival_room(std::span<const Group* const> groups, int rank, int ranks) {
  ArrivalRoom room;
  for (const Group* g : groups) {
    const std::vector<int64_t> shards = shard_cuts(*g, ranks);
    for (int r = 0; r < ranks; ++r) {
      const int64_t shard = shards[static_cast<size_t>(r) + 1] - shards[static_cast<size_t>(r)];
      room.slots = std::max(room.slots, 2 * pieces_of(shard));
      if (r == rank) room.piece = std::max(room.piece, std::min(kExchange, shard));
    }
  }
  return room;
}

void Reduction::make_room(std::vector<Group*> groups) {
  groups_ = std::move(groups);
  int64_t largest = 0;
  for (Group* g : groups_) {
    written_.emplace_back(g->params.size(), false);
    if (!g->lender) continue;
    ISR_ASSERT(turning_ + 1 == written_.size(), "groups that take turns come first");
    ++turning_;
    largest = std::max(largest, g->size);
    g->sum = Buffer(be_.device(), static_cast<size_t>(g->end - g->begin) * sizeof(float));
  }
  for (int i = 0; i < (turning_ > 0 ? kTurns : 0); ++i) free_.emplace_back(be_.device(), static_cast<size_t>(largest) * sizeof(float));
  reached_.assign(groups_.size(), false);
  summed_.assign(groups_.size(), false);
  room_ = arrival_room({groups_.data(), groups_.size()}, comm_.rank(), comm_.size());
  arrived_ = Buffer(be_.device(), room_.bytes(comm_.size()));
  comm_.reserve();
}

uint64_t Reduction::bytes() const {
  uint64_t all = arrived_.bytes();
  for (const Buffer& b : free_) all += b.bytes();
  for (const Group* g : groups_) all += g->grad.bytes() + g->sum.bytes();
  return all;
}

size_t Reduction::place(const Group& g) const { return static_cast<size_t>(std::find(groups_.begin(), groups_.end(), &g) - groups_.begin()); }

void Reduction::forget() {
  speak(comm_, [&] {
    while (!flying_.empty()) land();   // of a step in which a rank was lost
  });
  round_ = rounds_ = 0;
  summed_.assign(groups_.size(), false);
  for (std::vector<bool>& w : written_) w.assign(w.size(), false);
}

void Reduction::open(int64_t micro_batches) {
  rounds_ = by_micro_batch() ? std::max<int64_t>(1, micro_batches) : 1;
  round_ = 0;
  next_ = 0;
  reached_.assign(groups_.size(), false);
}

void Reduction::ready(Group& group) {
  reached_[place(group)] = true;
  speak(comm_, [&] { pump(); });
}

void Reduction::pump() {
  for (; next_ < round_end() && reached_[next_]; ++next_) start(next_);
}

void Reduction::end_round() {
  reached_.assign(groups_.size(), true);
  speak(comm_, [&] { pump(); });
  ++round_;
  next_ = 0;
  reached_.assign(groups_.size(), false);
}

void Reduction::finish() {
  if (rounds_ == 0) return;
  while (round_ < rounds_) end_round();
  speak(comm_, [&] {
    while (!flying_.empty()) land();
  });
  for (size_t i = 0; i < turning_; ++i) groups_[i]->written = written_[i];
  rounds_ = 0;
}

void Reduction::lend(Group& group) {
  speak(comm_, [&] {
    while (free_.empty()) {
      ISR_ASSERT(!flying_.empty(), "more than ", kTurns, " groups have gradients at one time");
      land();
    }
  });
  group.grad = std::move(free_.back());
  free_.pop_back();
}

// Piece by piece of each shard: this rank's part of the others' shards goes out, theirs of this rank's shard comes in.
void Reduction::start(size_t place) {
  Group& g = *groups_[place];
  if (g.lender && !g.grad) lend(g);
  float* const grad = g.grad.data<float>();
  for (size_t i = 0; i < g.params.size(); ++i) {
    if (g.lender) written_[place][i] = written_[place][i] || g.written[i];
    if (!g.written[i]) be_.device().zero(grad + g.params[i]->offset, static_cast<size_t>(g.params[i]->size()) * sizeof(float));
  }
  if (g.lender) g.written.assign(g.written.size(), false);   // its next gradient is another micro-batch's
  const std::vector<int64_t> shards = shard_cuts(g, comm_.size());
  const int me = comm_.rank();
  const auto length = [&](int r) { return shards[static_cast<size_t>(r) + 1] - shards[static_cast<size_t>(r)]; };
  int64_t pieces = 0;
  for (int r = 0; r < comm_.size(); ++r) pieces = std::max(pieces, pieces_of(length(r)));
  for (int64_t k = 0; k < pieces; ++k) {
    while (static_cast<int64_t>(flying_.size()) >= room_.slots) land();
    const auto elements = [&](int r) { return std::clamp<int64_t>(length(r) - k * kExchange, 0, kExchange); };
    const auto at = [&](int r) { return grad + shards[static_cast<size_t>(r)] + k * kExchange; };
    Flight f{&g, 0, at(me), elements(me), {}, {}};
    float* slot = arrived_.data<float>() + static_cast<int64_t>(started_ % static_cast<uint64_t>(room_.slots)) * (comm_.size() - 1) * room_.piece;
    std::vector<Message> sends, receives;
    for (int r = 0; r < comm_.size(); ++r) {
      if (r == me) continue;
      if (elements(r) > 0) sends.push_back({r, at(r), static_cast<size_t>(elements(r)) * sizeof(float)});
      if (f.n == 0) continue;
      receives.push_back({r, slot, static_cast<size_t>(f.n) * sizeof(float)});
      f.arrived.push_back(slot);
      slot += room_.piece;
    }
    flying_.push_back(std::move(f));
    try {
      flying_.back().number = comm_.start(sends, receives);
    } catch (...) {
      flying_.pop_back();
      throw;
    }
    ++started_;
  }
  if (g.lender) flying_.back().lent = std::move(g.grad);   // the next micro-batch may be there before it has landed
}

// ((g0 + g1) + g2) + ...: those before this rank's own are summed where the first arrived.
void Reduction::add(const Flight& f) {
  const int me = comm_.rank();
  for (int i = 0; i < static_cast<int>(f.arrived.size()); ++i) {
    float* const arrived = f.arrived[static_cast<size_t>(i)];
    const bool before_mine = i > 0 && i < me;
    if (before_mine) add_flat(be_, f.arrived[0], true, arrived, f.n);
    if (i + 1 == me) add_flat(be_, f.mine, true, f.arrived[0], f.n);
    if (i >= me) add_flat(be_, f.mine, true, arrived, f.n);
  }
}

void Reduction::land() {
  comm_.wait(flying_.front().number);
  Flight f = std::move(flying_.front());
  flying_.pop_front();
  add(f);
  if (!f.lent) return;
  const Group& g = *f.group;
  const size_t at = place(g);
  add_flat(be_, g.sum.data<float>(), summed_[at], f.lent.data<float>() + g.begin, g.end - g.begin);
  summed_[at] = true;
  free_.push_back(std::move(f.lent));
}

const float* Reduction::gather(Group& g) {
  speak(comm_, [&] {
    if (g.lender) {
      lend(g);
      be_.device().copy(g.grad.data<float>() + g.begin, g.sum.data(), g.sum.bytes());
    }
    std::vector<size_t> bytes;
    for (const int64_t cut : shard_cuts(g, comm_.size())) bytes.push_back(static_cast<size_t>(cut) * sizeof(float));
    all_gather(comm_, g.grad.data(), bytes);
  });
  return g.grad.data<float>();
}

void Reduction::give_back(Group& g) {
  if (g.lender) free_.push_back(std::move(g.grad));
}

}  // namespace isr
