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
  virtual std::shared_ptr<HostLink> connect(const std::vector<std::string>& addresses) = 0;
};

struct Transport {
  std::string name;
  std::string missing;   // why this binary or machine has none, and what to do; empty: it is there
  // host: the name or address under which other machines reach this one; empty: found out.
  std::unique_ptr<OpenEnd> (*open)(int rank, int size, const std::string& host);
};
const std::vector<Transport>& transports();

// Where a process number means this process, and memory can be shared: the boot and the namespace of processes.
std::string this_machine();

std::string gloo_missing();
std::unique_ptr<OpenEnd> open_gloo(int rank, int size, const std::string& host);            // processes of several machines
std::unique_ptr<OpenEnd> open_shared_memory(int rank, int size, const std::string& host);   // processes of one machine and user

}  // namespace isr
