#include "kernels/devices.h"

#include <algorithm>
#include <charconv>

namespace isr {

std::vector<DeviceKind>& device_kinds() {
  static std::vector<DeviceKind> all{
      {"cpu", [](int threads, int) { return make_cpu_backend(chosen_isa(), threads); },
       [](int threads, Device& counting) { return make_cpu_backend(chosen_isa(), threads, counting); }},
#if defined(ISR_CUDA)
      cuda_kind(),
#endif
  };
  return all;
}

const DeviceKind* find_kind(const std::string& name) {
  const auto found = std::find_if(device_kinds().begin(), device_kinds().end(), [&](const DeviceKind& kind) { return kind.name == name; });
  return found == device_kinds().end() ? nullptr : &*found;
}

std::unique_ptr<Backend> make_backend(const std::string& device, int threads) {
  const size_t colon = std::min(device.find(':'), device.size());
  const std::string name = device.substr(0, colon);
  int index = 0;
  const char* const end = device.data() + device.size();
  const bool numbered = colon < device.size();
  const auto read = std::from_chars(device.data() + colon + (numbered ? 1 : 0), end, index);
  const bool number = numbered && read.ec == std::errc() && read.ptr == end && index >= 0;
  std::string names;
  for (const DeviceKind& kind : device_kinds()) {
    if (kind.name == name && (!numbered || (number && kind.cards))) return kind.make(threads, index);
    names += concat(names.empty() ? "\"" : ", \"", kind.name, kind.cards ? "\", \"" + kind.name + ":N" : "", "\"");
  }
  throw Error("DEVICE_UNAVAILABLE", concat("device: expected ", names, ", got \"", device, "\""));
}

static size_t bytes_of(const Tensor& t) { return static_cast<size_t>(t.rows * t.cols) * size_of(t.dtype); }

Tensor Exchange::there(Tensor host) {
  if (!host || &device_ == &host_device()) return host;
  return view(memory_.emplace_back(device_, bytes_of(host)).data(), host.dtype, host.rows, host.cols);
}

Tensor Exchange::in(Tensor host) {
  const Tensor t = there(host);
  if (t.data != host.data) device_.upload(t.data, host.data, bytes_of(host));
  return t;
}

Tensor Exchange::out(Tensor host) {
  const Tensor t = there(host);
  if (t.data != host.data) pending_.push_back({host, t.data});
  return t;
}

void Exchange::finish() {
  for (const Pending& p : pending_) device_.download(p.host.data, p.there, bytes_of(p.host));
  pending_.clear();
}

}  // namespace isr
