// What an optimizer says to the other ranks: which parameters have gradients, whole gradients, and masters to rank 0.
#include <algorithm>

#include "train/optimizer.h"

namespace isr {
// A parameter is updated when any rank has its gradient.
void Optimizer::agree_on_written() {
  std::string mine;
  for (const Group& g : groups_)
    for (const bool w : g.written) mine += w ? '1' : '0';
  const std::vector<std::string> all = all_gather(comm_, mine);
  size_t i = 0;
  for (Group& g : groups_)
    for (size_t k = 0; k < g.params.size(); ++k, ++i)
      g.written[k] = std::any_of(all.begin(), all.end(), [&](const std::string& rank) { return rank.at(i) == '1'; });
}

void Optimizer::end_reduction() {
  if (comm_.size() == 1) return;
  agree_on_written();
  if (sharded_) return;
  for (Group& g : groups_)
    if (std::find(g.written.begin(), g.written.end(), true) != g.written.end()) reduction.gather(g);
}

uint64_t Optimizer::gradient_bytes() const {
  if (comm_.size() > 1) return reduction.bytes();
  uint64_t all = 0;
  for (const Group& g : groups_) all += g.grad.bytes();
  return all;
}

void Optimizer::each_gradient(const std::function<void(const Param&, const float*)>& take) {
  for (Group& g : groups_) {
    if (std::find(g.written.begin(), g.written.end(), true) == g.written.end()) continue;
    const float* const whole = sharded_ ? reduction.gather(g) : g.grad.data<float>();
    comm_.finish();
    for (const Param* p : g.params)
      if (written(*p)) take(*p, whole + p->offset);
    reduction.give_back(g);
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
