// A Comm whose messages pass through host memory: transports give and take bytes that the host can read.
#pragma once
#include "dist/comm.h"

namespace isr {

class HostComm : public Comm {
 public:
  HostComm(int rank, int size, Device& device) : rank_(rank), size_(size), device_(device) {}
  int rank() const final { return rank_; }
  int size() const final { return size_; }
  Device& device() final { return device_; }
  void exchange(std::span<const Message> sends, std::span<const Message> receives) final;

 protected:
  // The same with memory of the host; all of it has happened on return. Peers are other ranks.
  virtual void exchange_host(std::span<const Message> sends, std::span<const Message> receives) = 0;

 private:
  const int rank_, size_;
  Device& device_;
};

}  // namespace isr
