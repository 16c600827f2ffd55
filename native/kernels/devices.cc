#include "kernels/devices.h"

namespace isr {

std::vector<DeviceKind>& device_kinds() {
  static std::vector<DeviceKind> all{
      {"cpu", [](int threads) { return make_cpu_backend(chosen_isa(), threads); }},
  };
  return all;
}

std::unique_ptr<Backend> make_backend(const std::string& device, int threads) {
  std::string names;
  for (const DeviceKind& kind : device_kinds()) {
    if (kind.name == device) return kind.make(threads);
    names += (names.empty() ? "\"" : ", \"") + kind.name + "\"";
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
