// What carries messages between processes. A transport is a row of the table: each rank opens its end, which has an address; the
// addresses of all ranks, brought together by other means, connect it.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "dist/host_comm.h"

namespace isr {

class OpenEnd {
 public:
  virtual ~OpenEnd() = default;
  virtual std::string address() const = 0;   // text of at most 4096 bytes, for the other ranks
  // addresses[r]: of rank r. INVALID_ARGUMENT: none of this transport. DEVICE_UNAVAILABLE: it cannot be reached from here.
  // RANK_LOST: abort() ended it.
  virtual std::shared_ptr<HostLink> connect(const std::vector<std::string>& addresses) = 0;
  virtual void abort(std::string reason) noexcept { static_cast<void>(reason); }   // ends a connect() that waits, or comes later. From any thread
};

struct Opening {
  int rank = 0, size = 1;
  std::string host;                // the name or address under which other machines reach this one; empty: found out
  std::shared_ptr<Device> card;    // of this rank, where a transport is for cards
};

struct Transport {
  std::string name;
  bool for_cards;                  // it needs Opening::card
  std::string (*missing)();        // why this binary or machine has none, and what to do; empty: it is there
  std::unique_ptr<OpenEnd> (*open)(const Opening& o);
  std::string (*library)() = nullptr;   // what carries the messages, where it is not ours: name, version and file
};
const std::vector<Transport>& transports();

// Where a process number means this process, and memory can be shared: the boot and the namespace of processes.
std::string this_machine();

std::string gloo_missing();
std::string nccl_missing();
std::unique_ptr<OpenEnd> open_gloo(const Opening& o);            // processes of several machines
std::unique_ptr<OpenEnd> open_nccl(const Opening& o);            // a card each
std::unique_ptr<OpenEnd> open_shared_memory(const Opening& o);   // processes of one machine and user

}  // namespace isr
