// Generation: a tree of KV pages over one pool, continuous batching, keyed draws. Prompts that begin alike share what
// they share, found by longest common prefix. A completion depends on its own request alone, bit for bit. Calls share the
// running batch: one joins between two steps and has ended when its last sequence has.
#pragma once
#include <atomic>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "models/decoder.h"

namespace isr {

struct SamplingOptions {
  double temperature = 0, top_p = 1;
  int32_t top_k = 0;
  int64_t max_tokens = 256, min_tokens = 0;    // before min_tokens, end and stop ids are suppressed
  std::vector<int32_t> suppress, stop_ids;     // stop_ids: besides the model's end tokens
  uint64_t seed = 0;
  std::string stream;                          // draw = f(seed, stream, copy, position)
};

struct GenerateRequest {
  std::vector<int32_t> ids;                    // the prompt, at least one token
  int32_t copies = 1;
  SamplingOptions sampling;
  SequencePositions positions;                 // of the prompt, by the model's rule: Generator::join fills them in
};

struct GeneratedToken { int32_t request, copy, id; float logp; };
struct GeneratedSequence {
  int32_t request = 0, copy = 0;
  std::vector<int32_t> ids;                    // with the end or stop id, if one was drawn
  std::vector<float> logp;                     // nats, at temperature 1, before any filter
  bool stopped = false;                        // by an end or stop id, or by the host; else by length
};

struct GenerateCallbacks {
  std::function<void(const GeneratedToken&)> token;
  std::function<void(const GeneratedSequence&)> completion;
  // Asked between steps: branches that the host ended (a stop string); the sequence then ends as stopped after its last id.
  std::function<bool(int32_t request, int32_t copy)> ended;
  // Once, behind everything else: null, or why the call failed. Everything of the call is given back by then. It must not throw.
  std::function<void(std::exception_ptr)> end;
};

// The load of a running batch: its calls, their sequences that steps compute, and those that wait for room.
struct BatchLoad { int64_t calls = 0, sequences = 0, waiting = 0; };

struct Counters { uint64_t prefill_tokens = 0, decode_tokens = 0; };

class KvCache;                                  // kv_cache.h
class Scheduler;                                // scheduler.h

class Generator {
 public:
  // max_bytes: budget of the page pool (0: default, a quarter of the machine's memory). keep: prefixes stay after a call (a session).
  Generator(Model& model, uint64_t max_bytes, bool keep);
  ~Generator();

  // A call that takes part in the steps from now on, until callbacks.end. Throws for what cannot be asked, with the request's
  // index in Error::items: then nothing has joined. `cancel` makes the call leave between two steps.
  void join(std::vector<GenerateRequest> requests, GenerateCallbacks callbacks, const std::atomic<bool>* cancel);
  // One step of every call that has joined. `cancel`: set once nobody waits for the step any more. Never throws for a call's
  // sake: callbacks.end tells.
  void step(const std::atomic<bool>* cancel);
  bool idle() const;                            // no call is in
  BatchLoad load() const;

  // One call from its beginning to its end, alone. By request, then by copy.
  std::vector<GeneratedSequence> generate(const std::vector<GenerateRequest>& requests, const GenerateCallbacks& callbacks,
                                          const std::atomic<bool>* cancel);
  uint64_t cached_tokens() const;               // kept prefixes
  uint64_t bytes() const;                       // of the pool
  Counters counters;                            // since construction
  int64_t prefill_rows = 512;                   // rows of prompts in one step; a matter of speed alone

 private:
  void rest();

  Model& model_;
  std::unique_ptr<KvCache> cache_;
  std::unique_ptr<Scheduler> scheduler_;        // after the pages that its calls hold
  bool keep_;
  uint64_t generation_, epoch_;                 // of the weights and the media ids that the cache was computed with
};

}  // namespace isr
