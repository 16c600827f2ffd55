// The devices that models can live on, as the public API names them.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "kernels/backend.h"

namespace isr {

struct DeviceKind {
  std::string name;                                      // "cpu"
  std::unique_ptr<Backend> (*make)(int threads);         // threads: of the host
};

std::vector<DeviceKind>& device_kinds();                 // a new kind of device is a new row

// DEVICE_UNAVAILABLE: no device of this name. The device lives as long as its backend.
std::unique_ptr<Backend> make_backend(const std::string& device, int threads);

// The caller's arrays for calls of a backend: themselves on the host, copies elsewhere.
class Exchange {
 public:
  explicit Exchange(Device& device) : device_(device) {}
  Tensor in(Tensor host);
  Tensor out(Tensor host);              // written by finish()
  void finish();                        // waits

 private:
  struct Pending { Tensor host; const void* there; };
  Tensor there(Tensor host);
  Device& device_;
  std::vector<Buffer> memory_;
  std::vector<Pending> pending_;
};

}  // namespace isr
