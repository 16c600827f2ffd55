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
  // A Comm whose messages go from this device's memory to that of the others without the host's; null: there is none for this device.
  // `self` is this link. INVALID_ARGUMENT: the device is another card than the link's.
  virtual std::unique_ptr<Comm> direct(std::shared_ptr<HostLink> self, Device& device) { return static_cast<void>(self), static_cast<void>(device), nullptr; }
};

// A link that several Comms share, one caller at a time: groups of all of them go across in the order of their start.
class SharedLink {
 public:
  explicit SharedLink(std::shared_ptr<HostLink> link);
  ~SharedLink();                                          // what was started goes across first
  SharedLink(const SharedLink&) = delete;
  const std::shared_ptr<HostLink> link;

  class Carrier;                                          // a thread that brings started groups across
  Carrier* carrier() const { return carrier_.get(); }     // null until reserve()
  void reserve();                                         // OUT_OF_MEMORY: the system refuses a thread

 private:
  std::unique_ptr<Carrier> carrier_;
};

// Between cards directly where the link can, else through the host.
std::unique_ptr<Comm> make_comm(std::shared_ptr<SharedLink> link, Device& device);
std::unique_ptr<Comm> make_host_comm(std::shared_ptr<SharedLink> link, Device& device);   // always through the host

// RANK_LOST, as every transport tells it.
[[noreturn]] void rank_lost(const std::string& reason);

}  // namespace isr
