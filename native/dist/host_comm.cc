#include "dist/host_comm.h"

#include <chrono>
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

class HostComm final : public Comm {
 public:
  HostComm(std::shared_ptr<HostLink> link, Device& device) : link_(std::move(link)), device_(device) {}
  int rank() const override { return link_->rank(); }
  int size() const override { return link_->size(); }
  Device& device() override { return device_; }
  double seconds() const override { return seconds_; }
  void abort(std::string reason) noexcept override { link_->abort(std::move(reason)); }

  void exchange(std::span<const Message> sends, std::span<const Message> receives) override {
    const auto start = std::chrono::steady_clock::now();
    for (std::span<const Message> side : {sends, receives})
      for (const Message& m : side) ISR_ASSERT(m.peer >= 0 && m.peer < size(), "rank ", m.peer, " of ", size());
    std::vector<Message> in;
    std::vector<Message> out = keep_own(device_, rank(), sends, receives, in);
    if (&device_ == &host_device()) link_->exchange(out, in);
    else exchange_staged(out, in);
    seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }

 private:
  void exchange_staged(std::vector<Message>& out, std::vector<Message>& in) {   // a device's memory is not the host's to read
    std::deque<std::vector<char>> staged;
    for (Message& m : out) {
      std::vector<char>& bytes = staged.emplace_back(m.bytes);
      device_.download(bytes.data(), m.data, m.bytes);
      m.data = bytes.data();
    }
    const std::vector<Message> resident = in;
    for (Message& m : in) m.data = staged.emplace_back(m.bytes).data();
    link_->exchange(out, in);
    for (size_t i = 0; i < in.size(); ++i) device_.upload(resident[i].data, in[i].data, in[i].bytes);
  }

  const std::shared_ptr<HostLink> link_;
  Device& device_;
  double seconds_ = 0;
};

}  // namespace

std::unique_ptr<Comm> make_host_comm(std::shared_ptr<HostLink> link, Device& device) { return std::make_unique<HostComm>(std::move(link), device); }

void rank_lost(const std::string& reason) {
  throw Error("RANK_LOST", reason, "the ranks that are left cannot go on; start all of them again");
}

}  // namespace isr
