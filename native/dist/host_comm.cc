#include "dist/host_comm.h"

#include <deque>

#include "core/error.h"

namespace isr {
namespace {

// Messages to oneself, in their order; the others stay.
std::vector<Message> keep_own(Device& device, int me, std::span<const Message> sends, std::span<const Message> receives, std::vector<Message>& others) {
  std::vector<Message> out, in, away;
  for (const Message& m : sends) (m.peer == me ? out : away).push_back(m);
  for (const Message& m : receives) (m.peer == me ? in : others).push_back(m);
  ISR_ASSERT(out.size() == in.size(), "rank ", me, " sends itself ", out.size(), " messages and expects ", in.size());
  for (size_t i = 0; i < out.size(); ++i) {
    ISR_ASSERT(out[i].bytes == in[i].bytes, "rank ", me, " sends itself ", out[i].bytes, " bytes and expects ", in[i].bytes);
    if (out[i].data != in[i].data) device.copy(in[i].data, out[i].data, out[i].bytes);
  }
  return away;
}

}  // namespace

void HostComm::exchange(std::span<const Message> sends, std::span<const Message> receives) {
  for (std::span<const Message> side : {sends, receives})
    for (const Message& m : side) ISR_ASSERT(m.peer >= 0 && m.peer < size_, "rank ", m.peer, " of ", size_);
  std::vector<Message> in;
  std::vector<Message> out = keep_own(device_, rank_, sends, receives, in);
  if (&device_ == &host_device()) return exchange_host(out, in);
  std::deque<std::vector<char>> staged;   // a device's memory is not the host's to read
  for (Message& m : out) {
    std::vector<char>& bytes = staged.emplace_back(m.bytes);
    device_.download(bytes.data(), m.data, m.bytes);
    m.data = bytes.data();
  }
  const std::vector<Message> resident = in;
  for (Message& m : in) m.data = staged.emplace_back(m.bytes).data();
  exchange_host(out, in);
  for (size_t i = 0; i < in.size(); ++i) device_.upload(resident[i].data, in[i].data, in[i].bytes);
}

}  // namespace isr
