// Gradients of several ranks become their sums while backward goes on: a group's exchange starts when it has its last gradient, and the
// one before it is added meanwhile. All ranks exchange groups in one order, that of the backward pass: who reaches them in another
// holds them back, and who does not reach them sends zeros.
//
// Once a step, in each rank's last micro-batch; or, for groups whose gradients are shared out (ZeRO stage 2: Rajbhandari et al. 2020), in
// every micro-batch: their gradients are written into memory that groups use in turn, and summed where their shard is.
#pragma once
#include <deque>
#include <span>
#include <vector>

#include "dist/comm.h"
#include "train/shards.h"

namespace isr {

// Room for what arrives at a rank: `slots` pieces of each other rank, of so many elements. Two of the longest shards, so that one
// comes while the one before is added.
struct ArrivalRoom {
  int64_t piece = 0, slots = 2;
  uint64_t bytes(int ranks) const { return static_cast<uint64_t>(ranks - 1) * static_cast<uint64_t>(slots * piece) * sizeof(float); }
};
ArrivalRoom arrival_room(std::span<const Group* const> groups, int rank, int ranks);
constexpr int kTurns = 2;   // gradients of groups that take turns: one is written while the one before goes out

class Reduction final : public GradientLender {
 public:
  Reduction(Backend& backend, Comm& comm) : be_(backend), comm_(comm) {}
  // In the order of the backward pass, those whose gradients are shared out before the others. Their memory is taken here.
  void make_room(std::vector<Group*> groups);
  uint64_t bytes() const;                     // that it holds, gradients lent to groups included
  bool by_micro_batch() const { return turning_ > 0; }

  // ---- a step, between open() and finish() of all ranks
  void open(int64_t micro_batches);           // the most that a rank has
  void ready(Group& group);                   // in backward: it has its last gradient of this round
  void end_round();                           // backward is over: the round's other groups follow
  void finish();                              // of all rounds that are left; nothing without open()
  void forget();                              // a new step

  void lend(Group& group) override;
  const float* gather(Group& group);          // behind finish(): the sums of all shards, until give_back()
  void give_back(Group& group);

 private:
  struct Flight {
    Group* group;
    uint64_t number;                          // as Comm counts
    float* mine;
    int64_t n;                                // elements that arrive of each other rank
    std::vector<float*> arrived;              // by rank, without this one
    Buffer lent;                              // with its group's last piece, where it takes turns: the gradients
  };
  size_t round_end() const { return round_ + 1 < rounds_ ? turning_ : groups_.size(); }
  size_t place(const Group& g) const;
  void pump();
  void start(size_t place);
  void land();                                // the oldest
  void add(const Flight& f);

  Backend& be_;
  Comm& comm_;
  std::vector<Group*> groups_;
  size_t turning_ = 0;                        // the first so many are shared out
  ArrivalRoom room_;
  Buffer arrived_;
  std::vector<Buffer> free_;                  // gradients that no group has
  uint64_t started_ = 0;                      // pieces
  std::deque<Flight> flying_;
  int64_t round_ = 0, rounds_ = 0;
  size_t next_ = 0;                           // of the round: those before have started
  std::vector<bool> reached_;                 // in this round
  std::vector<bool> summed_;                  // the group's sum has had its first round
  std::vector<std::vector<bool>> written_;    // of groups that take turns, in this step
};

}  // namespace isr
