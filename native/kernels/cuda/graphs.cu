#include "kernels/cuda/graphs.h"

#include <algorithm>

#include "kernels/cuda/cuda_backend.h"

namespace isr::cuda {

void CudaBackend::repeat(std::span<const uint64_t> key, const std::function<void()>& calls) { graphs_.run(key, calls); }

void Graphs::run(std::span<const uint64_t> key, const std::function<void()>& calls) {
  if (device_.only_counts()) return calls();
  if (changes_ != device_.changes()) forget();
  const auto known = std::find_if(known_.begin(), known_.end(), [&](const Known& k) { return std::equal(key.begin(), key.end(), k.key.begin(), k.key.end()); });
  if (known == known_.end()) {
    calls();
    if (changes_ != device_.changes()) return;   // the next time will be the first
    if (known_.size() == kMost) drop_oldest();
    known_.push_back({{key.begin(), key.end()}, nullptr, ++clock_});
    return;
  }
  if (!known->graph) known->graph = record(calls);
  known->used = ++clock_;
  check(cudaGraphLaunch(known->graph, device_.stream()), "cudaGraphLaunch");
}

cudaGraphExec_t Graphs::record(const std::function<void()>& calls) {
  const cudaStream_t stream = device_.stream();
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  device_.set_recording(true);
  cudaGraph_t graph = nullptr;
  const auto end = [&] {
    device_.set_recording(false);
    return cudaStreamEndCapture(stream, &graph);
  };
  try {
    calls();
  } catch (...) {
    end();
    if (graph) cudaGraphDestroy(graph);
    throw;
  }
  check(end(), "cudaStreamEndCapture");
  cudaGraphExec_t ready = nullptr;
  const cudaError_t made = cudaGraphInstantiate(&ready, graph, 0);
  cudaGraphDestroy(graph);
  check(made, "cudaGraphInstantiate");
  return ready;
}

// Nothing of a graph may go while it runs.
void Graphs::forget() noexcept {
  changes_ = device_.changes();
  if (std::any_of(known_.begin(), known_.end(), [](const Known& k) { return k.graph != nullptr; })) cudaStreamSynchronize(device_.stream());
  for (const Known& k : known_)
    if (k.graph) cudaGraphExecDestroy(k.graph);
  known_.clear();
}

void Graphs::drop_oldest() {
  const auto oldest = std::min_element(known_.begin(), known_.end(), [](const Known& a, const Known& b) { return a.used < b.used; });
  if (oldest->graph) {
    device_.synchronize();
    cudaGraphExecDestroy(oldest->graph);
  }
  known_.erase(oldest);
}

}  // namespace isr::cuda
