// Sums of gradients over ranks against the same additions on one host array: bits, orders in which groups are reached, groups that are not
// reached, pieces of long shards, memory that groups use in turn.
#include <algorithm>
#include <deque>
#include <numeric>

#include "check.h"
#include "kernels/backend.h"
#include "ranks.h"
#include "train/reduction.h"

namespace isr::test {
namespace {

struct Layout {
  const char* name;
  std::vector<std::vector<std::vector<int64_t>>> groups;   // [group][parameter]: its shape; in the order of the backward pass
  size_t turning = 0;                                      // the first so many take turns
  int64_t rounds = 1;
};

// One rank's groups, as an optimizer would make them.
struct Groups {
  Groups(const Layout& layout, Reduction& reduction, int rank, int ranks) {
    for (const auto& shapes : layout.groups) {
      Group& g = groups.emplace_back();
      for (const std::vector<int64_t>& shape : shapes) {
        Param& p = params.emplace_back();
        p.shape = shape, p.offset = static_cast<size_t>(g.size), p.group = &g;
        g.params.push_back(&p);
        g.size += (p.size() + 63) / 64 * 64;
      }
      g.written.assign(g.params.size(), false);
      const std::vector<int64_t> cuts = shard_cuts(g, ranks);
      g.sharded = true, g.begin = cuts[static_cast<size_t>(rank)], g.end = cuts[static_cast<size_t>(rank) + 1];
      if (groups.size() <= layout.turning) g.lender = &reduction;
      else g.grad = Buffer(static_cast<size_t>(g.size) * sizeof(float));
      order.push_back(&g);
    }
  }
  std::deque<Param> params;
  std::deque<Group> groups;
  std::vector<Group*> order;
};

// The gradient of one rank in one round; empty: it does not write that parameter then. Parameter 1 of group 1 is rank 1's alone, and nobody
// writes parameter 0 of the last group.
std::vector<float> gradient(const Layout& layout, int rank, int64_t round, size_t group, size_t param) {
  if (group == 1 && param == 1 && rank != 1) return {};
  if (group + 1 == layout.groups.size() && param == 0) return {};
  const std::vector<int64_t>& shape = layout.groups[group][param];
  const int64_t n = std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
  return random_values(n, static_cast<uint64_t>(1000 * rank + 100 * round) + 10 * group + param);
}

void write(Group& g, const Layout& layout, int rank, int64_t round, size_t group) {
  for (size_t i = 0; i < g.params.size(); ++i) {
    const std::vector<float> x = gradient(layout, rank, round, group, i);
    if (x.empty()) continue;
    if (g.lender && !g.grad) g.lender->lend(g);
    float* const to = g.grad.data<float>() + g.params[i]->offset;
    for (size_t k = 0; k < x.size(); ++k) to[k] = g.written[i] ? to[k] + x[k] : x[k];
    g.written[i] = true;
  }
}

// Round by round ((g0 + g1) + g2), and then the rounds; of groups that are exchanged once, each rank's rounds come first.
std::vector<float> expected(const Layout& layout, int ranks, const std::vector<int64_t>& rounds, size_t group, size_t param) {
  std::vector<float> sum;
  const auto plus = [](std::vector<float>& to, const std::vector<float>& x) {
    if (to.empty()) to = x;
    else
      for (size_t k = 0; k < x.size(); ++k) to[k] += x[k];
  };
  if (group < layout.turning) {
    for (int64_t round = 0; round < layout.rounds; ++round) {
      std::vector<float> one;
      for (int r = 0; r < ranks; ++r)
        if (round < rounds[static_cast<size_t>(r)]) plus(one, gradient(layout, r, round, group, param));
      plus(sum, one);
    }
    return sum;
  }
  for (int r = 0; r < ranks; ++r) {
    std::vector<float> own;
    for (int64_t round = 0; round < rounds[static_cast<size_t>(r)]; ++round) plus(own, gradient(layout, r, round, group, param));
    plus(sum, own);
  }
  return sum;
}

// What a rank does in its micro-batches: groups in the order of the others, or turned round, or it says nothing of them.
void backward(Groups& all, Reduction& reduction, const Layout& layout, int rank, int64_t mine) {
  for (int64_t round = 0; round < mine; ++round) {
    const bool last = round + 1 == mine, told = last || reduction.by_micro_batch();
    std::vector<size_t> order(all.order.size());
    std::iota(order.begin(), order.end(), size_t{0});
    if (rank == 1 && layout.turning == 0) std::reverse(order.begin(), order.end());
    for (const size_t g : order) {
      write(*all.order[g], layout, rank, round, g);
      if (told && (rank != 2 || layout.turning > 0)) reduction.ready(*all.order[g]);
    }
    if (told) reduction.end_round();
  }
}

const std::vector<Layout>& layouts() {
  static const std::vector<Layout> all = {
      {"once a step", {{{30, 7}, {5}}, {{3, 4}, {9, 9}}, {{2, 2}, {100, 3}}}, 0, 1},
      {"three micro-batches, once a step", {{{30, 7}}, {{3, 4}, {9, 9}}, {{2, 2}, {100, 3}}}, 0, 3},
      {"in turns", {{{30, 7}, {5}}, {{3, 4}, {9, 9}}, {{64, 3}}, {{50, 2}}, {{2, 2}, {100, 3}}}, 4, 3}
  };
  return all;
}
const std::vector<Layout>& long_layouts() {   // more elements than are exchanged at once
  static const std::vector<Layout> all = {{"long shards", {{{4200, 2048}, {5}}, {{3, 4}, {9, 9}}, {{2, 2}, {70, 3}}}, 0, 1},
                                          {"long shards in turns", {{{4200, 2048}}, {{3, 4}, {9, 9}}, {{2, 2}, {70, 3}}}, 2, 1}};
  return all;
}

void check_sums(const std::vector<Layout>& layouts, const std::vector<int>& sizes, int steps) {
  for (const Layout& layout : layouts)
    for (const int ranks : sizes) {
      std::vector<int64_t> rounds;   // of each rank; the last has fewer, or none
      for (int r = 0; r < ranks; ++r) rounds.push_back(r + 1 < ranks ? layout.rounds : layout.rounds / 2);
      const Outcomes outcomes = run_ranks(ranks, [&](Comm& comm) {
        const std::unique_ptr<Backend> be = make_cpu_backend(chosen_isa(), 1);
        Reduction reduction(*be, comm);
        Groups all(layout, reduction, comm.rank(), ranks);
        reduction.make_room(all.order);
        for (int step = 0; step < steps; ++step) {   // the second finds what the first has left
          for (Group& g : all.groups) g.written.assign(g.written.size(), false);
          reduction.forget();
          reduction.open(layout.rounds);
          backward(all, reduction, layout, comm.rank(), rounds[static_cast<size_t>(comm.rank())]);
          reduction.finish();
          for (size_t g = 0; g < all.groups.size(); ++g) {
            const float* const whole = reduction.gather(all.groups[g]);
            for (size_t i = 0; i < all.groups[g].params.size(); ++i) {
              const std::vector<float> sum = expected(layout, ranks, rounds, g, i);
              const float* const got = whole + all.groups[g].params[i]->offset;
              CHECK(std::equal(sum.begin(), sum.end(), got), layout.name, ", ", ranks, " ranks, step ", step, ": parameter ", i, " of group ", g, " on rank ", comm.rank());
              const bool wrote = rounds[static_cast<size_t>(comm.rank())] > 0 && !gradient(layout, comm.rank(), 0, g, i).empty();
              CHECK(all.groups[g].written[i] == wrote, layout.name, ": written, parameter ", i, " of group ", g);
            }
            reduction.give_back(all.groups[g]);
          }
        }
      });
      CHECK(all_well(outcomes), layout.name, ", ", ranks, " ranks: ", text(outcomes));
    }
}

TEST_CARRIED("reduction: gradients of ranks are added in their order, whatever is reached when") { check_sums(layouts(), {2, 3}, 2); }

TEST("reduction: shards that are exchanged in several pieces") { check_sums(long_layouts(), {2}, 1); }

}  // namespace
}  // namespace isr::test
