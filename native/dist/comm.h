// Ranks: processes, or threads, that compute one job together. A rank holds a Comm, and what it says is matched with what the
// others say: every call here but abort() is made by all ranks, in the same order.
//
// Transports implement one call, a group of messages. All else is made of groups and sums in the order of the ranks, so that bits
// depend on how many ranks there are, not on what carries their messages.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/device.h"

namespace isr {

struct Message {                   // `data` is resident: in memory of the rank's device
  int peer = 0;
  void* data = nullptr;
  size_t bytes = 0;
};

class Comm {
 public:
  virtual ~Comm() = default;       // a rank that ends is lost to those that still wait for it
  virtual int rank() const = 0;    // [0, size)
  virtual int size() const = 0;
  virtual Device& device() = 0;
  // Sends and receives as one group: no order of them can block another. From one rank to another messages arrive in the order
  // of their sending, and have the size that the receiver expects (BUG). What is sent may change, and what is received is there,
  // from the device's next call on. RANK_LOST: a rank ended, could not be reached, or gave up (abort).
  virtual void exchange(std::span<const Message> sends, std::span<const Message> receives) = 0;
  // The same beside what this rank computes: until wait() what is sent may not change, and what is received is not there. Groups are
  // numbered 1, 2, ..., and happen in the order of their start, an exchange() behind those before it. wait(n) comes once for each n, in
  // their order; what start() needs besides memory is there after reserve().
  virtual uint64_t start(std::span<const Message> sends, std::span<const Message> receives) = 0;
  virtual void wait(uint64_t group) = 0;
  virtual void reserve() {}
  // Waits until all exchanges have happened, or throws RANK_LOST. What the host downloads of received bytes comes after it: the memory
  // of a device may hold anything where a rank was lost.
  virtual void finish() = 0;
  // Ends what all ranks wait for, now and later, with RANK_LOST. From any thread. The first reason stays; the others are told it where
  // the transport can, else that they have lost a rank.
  virtual void abort(std::string reason) noexcept = 0;
  // That messages have kept this rank waiting so far: in exchange(), wait() and finish(), waiting for other ranks included. Of messages
  // that pass between cards: that they took there.
  virtual double seconds() const = 0;
};

// One rank alone.
std::unique_ptr<Comm> make_single_rank(Device& device);

// Ranks of one process, each for a thread of its own; devices[r] is that of rank r.
std::vector<std::unique_ptr<Comm>> make_thread_ranks(std::span<Device* const> devices);

// ---- host values, for few of them: all of these wait

// What every rank gave, by rank; any lengths.
std::vector<std::vector<double>> all_gather(Comm& comm, std::span<const double> mine);
std::vector<std::string> all_gather(Comm& comm, const std::string& mine);
// Sums over the ranks, in their order: values of rank 0 + those of rank 1 + ... Same length everywhere (BUG).
void all_reduce(Comm& comm, std::span<double> values);
void barrier(Comm& comm);
// Runs `work` and comes back, or throws, on all ranks alike. A rank whose work failed throws its own error, when all know of it;
// the others throw one with the code of the first such rank, which names it. Cancelled counts as an error, too.
void agree(Comm& comm, const std::function<void()>& work);
// Runs `work`, which all ranks do alike and speak in: who fails here alone cannot tell the others any more but by abort().
void or_abort(Comm& comm, const std::function<void()>& work);

// ---- resident arrays

// The bytes of `root` to all.
void broadcast(Comm& comm, void* data, size_t bytes, int root);
// float32 of the host, on a device that is the host: this rank's part [cuts[r], cuts[r + 1]) of x becomes the sum over the ranks,
// in their order.
void reduce_scatter(Comm& comm, std::span<float> x, std::span<const size_t> cuts);
// Each rank has part [cuts[r], cuts[r + 1]) of `data`, in bytes, and gets the others': cuts are those of all ranks, size() + 1.
void all_gather(Comm& comm, void* data, std::span<const size_t> cuts);

}  // namespace isr
