// Calls that come again, as graphs of CUDA: recorded once, queued by one call from then on. Otherwise a step of decoding in a small
// model takes the host longer to queue than the card to compute.
#pragma once
#include <functional>
#include <span>
#include <vector>

#include "kernels/cuda/device.h"

namespace isr::cuda {

class Graphs {
 public:
  explicit Graphs(CudaDevice& device) : device_(device) {}
  ~Graphs() { forget(); }
  Graphs(const Graphs&) = delete;
  // Backend::repeat. The first time, calls are made as they are: kernels are loaded then, and arenas grow. The second time they
  // are recorded. A graph holds addresses, so all are forgotten when memory has come or gone.
  void run(std::span<const uint64_t> key, const std::function<void()>& calls);

 private:
  static constexpr size_t kMost = 32;   // of keys
  struct Known {
    std::vector<uint64_t> key;
    cudaGraphExec_t graph = nullptr;    // null: seen once
    uint64_t used = 0;
  };
  cudaGraphExec_t record(const std::function<void()>& calls);
  void forget() noexcept;
  void drop_oldest();

  CudaDevice& device_;
  std::vector<Known> known_;
  uint64_t changes_ = 0, clock_ = 0;
};

}  // namespace isr::cuda
