// Ranks whose messages pass through host memory: a transport implements HostLink, which gives and takes bytes that the host can
// read; a Comm on it brings them to a device and back.
#pragma once
#include "dist/comm.h"

namespace isr {

class HostLink {
 public:
  virtual ~HostLink() = default;   // a rank that ends is lost to those that still wait for it
  virtual int rank() const = 0;
  virtual int size() const = 0;
  // As Comm::exchange with memory of the host, and peers that are other ranks; all of it has happened on return. One at a time.
  virtual void exchange(std::span<const Message> sends, std::span<const Message> receives) = 0;
  virtual void abort(std::string reason) noexcept = 0;   // as Comm::abort
};

// For one caller at a time among all that share the link.
std::unique_ptr<Comm> make_host_comm(std::shared_ptr<HostLink> link, Device& device);

// RANK_LOST, as every transport tells it.
[[noreturn]] void rank_lost(const std::string& reason);

}  // namespace isr
