// What an optimizer says to the other ranks: gradients to whoever keeps their rows, and masters to rank 0.
#include <algorithm>

#include "train/optimizer.h"

namespace isr {
namespace {

// y += x over n elements, in rows that threads can share.
void add_flat(Backend& be, float* y, const float* x, int64_t n) {
  constexpr int64_t kRow = 4096;
  const int64_t rows = n / kRow, rest = n % kRow;
  float* const from = const_cast<float*>(x);
  if (rows > 0) be.add(view(y, rows, kRow), true, view(from, rows, kRow));
  if (rest > 0) be.add(view(y + rows * kRow, 1, rest), true, view(from + rows * kRow, 1, rest));
}

}  // namespace

// A parameter is updated when any rank has its gradient.
void Optimizer::agree_on_written() {
  std::string mine;
  for (const Group& g : groups_)
    for (const bool w : g.written) mine += w ? '1' : '0';
  const std::vector<std::string> all = all_gather(comm_, mine);
  size_t i = 0;
  for (Group& g : groups_)
    for (size_t k = 0; k < g.params.size(); ++k, ++i) {
      const bool any = std::any_of(all.begin(), all.end(), [&](const std::string& rank) { return rank.at(i) == '1'; });
      if (any && !g.written[k])
        m_.backend->device().zero(g.grad.data<float>() + g.params[k]->offset, static_cast<size_t>(g.params[k]->size()) * sizeof(float));
      g.written[k] = any;
    }
}

void Optimizer::make_room() {
  for (const Group& g : groups_) {
    const std::vector<int64_t> shards = cuts(g);
    const auto me = static_cast<size_t>(comm_.rank());
    longest_piece_ = std::max(longest_piece_, std::min(kExchange, shards[me + 1] - shards[me]));
  }
  arrived_ = Buffer(m_.backend->device(), static_cast<size_t>(comm_.size() - 1) * static_cast<size_t>(longest_piece_) * sizeof(float));
}

void Optimizer::reduce() {
  if (comm_.size() == 1) return;
  agree_on_written();
  for (Group& g : groups_)
    if (std::find(g.written.begin(), g.written.end(), true) != g.written.end()) reduce(g);
  if (!sharded_) gather_gradients();
}

// Piece by piece of each shard: this rank's part of the others' shards goes out, theirs of this rank's shard comes in and is added.
void Optimizer::reduce(Group& g) {
  const std::vector<int64_t> shards = cuts(g);
  const int me = comm_.rank(), size = comm_.size();
  float* const grad = g.grad.data<float>();
  struct Piece { float* at; int64_t n; };
  const auto piece_of = [&](int r, int64_t k) {
    const int64_t begin = shards[static_cast<size_t>(r)], length = shards[static_cast<size_t>(r) + 1] - begin;
    return Piece{grad + begin + k * kExchange, std::clamp<int64_t>(length - k * kExchange, 0, kExchange)};
  };
  for (int64_t k = 0;; ++k) {
    std::vector<Message> sends, receives;
    const Piece mine = piece_of(me, k);
    bool any = mine.n > 0;
    for (int r = 0, slot = 0; r < size; ++r) {
      if (r == me) continue;
      const Piece theirs = piece_of(r, k);
      if (theirs.n > 0) sends.push_back({r, theirs.at, static_cast<size_t>(theirs.n) * sizeof(float)});
      if (mine.n > 0) receives.push_back({r, arrived_.data<float>() + slot++ * longest_piece_, static_cast<size_t>(mine.n) * sizeof(float)});
      any = any || theirs.n > 0;
    }
    if (!any) return;
    comm_.exchange(sends, receives);
    // ((g0 + g1) + g2) + ...: those before this rank's own are summed where the first arrived
    const auto arrived = [&](int slot) { return static_cast<float*>(receives[static_cast<size_t>(slot)].data); };
    for (int slot = 0; slot < static_cast<int>(receives.size()); ++slot) {
      const bool before_mine = slot > 0 && slot < me;
      if (before_mine) add_flat(*m_.backend, arrived(0), arrived(slot), mine.n);
      if (slot + 1 == me) add_flat(*m_.backend, mine.at, arrived(0), mine.n);
      if (slot >= me) add_flat(*m_.backend, mine.at, arrived(slot), mine.n);
    }
  }
}

void Optimizer::gather_gradients() {
  for (Group& g : groups_) {
    if (std::find(g.written.begin(), g.written.end(), true) == g.written.end()) continue;
    std::vector<size_t> bytes;
    for (const int64_t cut : cuts(g)) bytes.push_back(static_cast<size_t>(cut) * sizeof(float));
    all_gather(comm_, g.grad.data(), bytes);
  }
}

// ---- masters of all shards, read by rank 0: a question is (place in `states`, first element, elements), or -1 at the end
std::array<int64_t, 3> Optimizer::hear(std::array<int64_t, 3> question) {
  Device& device = m_.backend->device();
  const Buffer there(device, sizeof question);
  device.upload(there.data(), question.data(), sizeof question);
  broadcast(comm_, there.data(), sizeof question, 0);
  device.download(question.data(), there.data(), sizeof question);
  return question;
}

// Where [begin, begin + count) of a parameter meets elements [low, high) of its group's arrays: begin and length.
static std::pair<int64_t, int64_t> meeting(const Param& p, int64_t begin, int64_t count, int64_t low, int64_t high) {
  const auto offset = static_cast<int64_t>(p.offset);
  const int64_t from = std::max(begin, low - offset), to = std::min(begin + count, high - offset);
  return {from, std::max<int64_t>(0, to - from)};
}

void Optimizer::ask_masters(const Param& p, int64_t begin, int64_t count, float* dst) {
  const auto at = std::find_if(states.begin(), states.end(), [&](const State& s) { return s.param == &p; }) - states.begin();
  hear({at, begin, count});
  const Group& g = *p.group;
  const std::vector<int64_t> shards = cuts(g);
  const Buffer there(m_.backend->device(), static_cast<size_t>(count) * sizeof(float));
  std::vector<Message> receives;
  for (int r = 0; r < comm_.size(); ++r) {
    const auto [from, n] = meeting(p, begin, count, shards[static_cast<size_t>(r)], shards[static_cast<size_t>(r) + 1]);
    if (n == 0) continue;
    float* const to = there.data<float>() + (from - begin);
    if (r == 0) m_.backend->device().copy(to, g.master.data<float>() + (static_cast<int64_t>(p.offset) + from - g.begin), static_cast<size_t>(n) * sizeof(float));
    else receives.push_back({r, to, static_cast<size_t>(n) * sizeof(float)});
  }
  comm_.exchange({}, receives);
  m_.backend->device().download(dst, there.data(), static_cast<size_t>(count) * sizeof(float));
}

bool Optimizer::answer_masters() {
  const auto [at, begin, count] = hear({});
  if (at < 0) return false;
  const Param& p = *states[static_cast<size_t>(at)].param;
  const Group& g = *p.group;
  const auto [from, n] = meeting(p, begin, count, g.begin, g.end);
  if (n == 0) return true;
  const Message mine{0, g.master.data<float>() + (static_cast<int64_t>(p.offset) + from - g.begin), static_cast<size_t>(n) * sizeof(float)};
  comm_.exchange({&mine, 1}, {});
  return true;
}

void Optimizer::with_masters(const std::function<void()>& work) {
  if (!sharded_) return agree(comm_, [&] { return comm_.rank() == 0 ? work() : void(); });
  agree(comm_, [&] {
    if (comm_.rank() != 0) return or_abort(comm_, [&] { while (answer_masters()) {} });
    struct Asking {
      explicit Asking(Optimizer& o) : o(o) {
        o.m_.sharded_masters = [this](const Param& p, int64_t begin, int64_t count, float* dst) { this->o.ask_masters(p, begin, count, dst); };
      }
      ~Asking() { o.m_.sharded_masters = nullptr; }
      Optimizer& o;
    };
    const auto end = [&] { or_abort(comm_, [&] { hear({-1, 0, 0}); }); };
    try {
      const Asking asking(*this);
      work();
    } catch (const Error& e) {
      if (e.code != "RANK_LOST") end();
      throw;
    } catch (...) {
      end();
      throw;
    }
    end();
  });
}

}  // namespace isr
