// gpu_check: what a card does, section by section, as lines of JSON on standard output (scripts/gpu/check runs it and keeps them).
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "../native/bench.h"
#include "kernels/devices.h"

namespace isr::gpu {

struct Options { bool small = false; };   // small: sizes for the emulated card, which shows that the program runs and no speed

struct Section {
  const char* name;
  void (*run)(const Options&);
};
const std::vector<Section>& sections();

void limits(const Options& o);            // the card, its library, copies and one large product
void ops(const Options& o);               // every row of the op table against float64, and its bits twice
void once(const Options& o);              // the same calls once, in bfloat16, with no oracle: for tools that watch a program
void attention(const Options& o);         // forward and backward at the sizes of models
void nccl(const Options& o);              // a communicator of one rank: bytes to itself, an abort
void model_134m(const Options& o);        // loading, generation, a DPO step
void model_1b(const Options& o);
void model_7b(const Options& o);

// One result. Printed at once, so that a program which is stopped has told all that it knew.
class Line {
 public:
  explicit Line(const std::string& what) { text("what", what); }
  ~Line() {
    std::printf("{%s}\n", fields_.c_str());
    std::fflush(stdout);
  }
  Line(const Line&) = delete;
  Line& text(const char* key, const std::string& value);
  Line& number(const char* key, double value);   // null where it is none
  Line& flag(const char* key, bool value) { return raw(key, value ? "true" : "false"); }

 private:
  Line& raw(const char* key, const std::string& value);
  std::string fields_;
};

// Runs f; what it throws is a result that failed, and the section goes on, unless the card answers no more.
template <class F>
void attempt(Device& device, const std::string& what, F f) {
  try {
    f();
    return;
  } catch (const Error& e) {
    Line(what).flag("ok", false).text("code", e.code).text("message", e.what());
  } catch (const std::exception& e) {
    Line(what).flag("ok", false).text("message", e.what());
  }
  device.synchronize();
}

inline std::unique_ptr<Backend> card() { return make_backend("cuda", machine_threads()); }

// Seconds of one call: the best mean of `rounds` over as many calls as take 50 ms, behind two that are not timed: the first may load a
// kernel, the second find memory that was merged.
template <class F>
double seconds_of(Device& device, const Options& o, F f, int rounds = 5) {
  for (int i = 0; i < (o.small ? 1 : 2); ++i) f();
  device.synchronize();
  const auto timed = [&](int calls) {
    const double start = bench::wall_seconds();
    for (int i = 0; i < calls; ++i) f();
    device.synchronize();
    return (bench::wall_seconds() - start) / calls;
  };
  double best = timed(1);
  if (o.small) return best;
  for (int i = 0; i < rounds; ++i) best = std::min(best, timed(std::clamp(static_cast<int>(0.05 / best), 1, 1000)));
  return best;
}

}  // namespace isr::gpu
