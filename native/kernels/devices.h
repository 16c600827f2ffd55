// The devices that models can live on, as the public API names them.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "kernels/backend.h"

namespace isr {

struct Card {                                            // facts that are known without a context on it
  std::string name;
  uint64_t memory = 0;                                   // bytes
  int major = 0, minor = 0;                              // compute capability
  std::string address;                                   // on the machine's bus, the same for all processes
};

struct DeviceKind {
  std::string name;                                      // "cpu", "cuda"
  std::unique_ptr<Backend> (*make)(int threads, int index);   // threads: of the host
  std::unique_ptr<Backend> (*outline)(int threads, Device& counting) = nullptr;   // takes the memory that calls need, of make_measuring_device(), and
                                                         // computes nothing: there need not be such a device. Null: plans measure the CPU's
  bool (*present)() = nullptr;                           // whether it may be here, without asking a driver; null: always
  std::vector<Card> (*cards)() = nullptr;                // devices of this kind ("cuda:0" is the first); null: one, without a number.
                                                         // DEVICE_UNAVAILABLE says why there is none. A broken driver may hang or crash
  std::shared_ptr<Device> (*memory)(int index) = nullptr;   // the memory and a stream of a device without a backend; null: the host's
  std::string (*library)() = nullptr;                    // what it computes with besides: name, version and file; DEVICE_UNAVAILABLE
};

std::vector<DeviceKind>& device_kinds();                 // a new kind of device is a new row
DeviceKind cuda_kind();                                  // of builds with CUDA (kernels/cuda/backend.cu)

// "cpu", "cuda", "cuda:1". DEVICE_UNAVAILABLE: no such device. The device lives as long as its backend.
std::unique_ptr<Backend> make_backend(const std::string& device, int threads);
const DeviceKind* find_kind(const std::string& name);    // null: this binary has none

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
