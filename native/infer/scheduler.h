// Continuous batching over the KV tree: which rows the next step computes, which of them are drawn from, and what becomes
// of the draws. Requests enter first come, first served, when their pages can be promised, so nothing ever waits for a
// page in mid-sequence. It knows ids and pages; what computes a step is behind Stepper.
#pragma once
#include <atomic>
#include <deque>
#include <span>
#include <vector>

#include "infer/generator.h"
#include "infer/kv_cache.h"

namespace isr {

struct Draws {                                  // i-th draw: from the hidden state of batch row rows[i] (ascending; a row may repeat)
  std::vector<int32_t> rows;
  std::vector<SampleOptions> options;
  std::vector<std::span<const int32_t>> suppress;
  size_t size() const { return rows.size(); }
};

class Stepper {
 public:
  virtual ~Stepper() = default;
  // Appends the batch's rows to their pages, computes them, and draws: ids, logp (draws.size()).
  virtual void step(int32_t* ids, float* logp, const CachedBatch& batch, const Draws& draws, const KvStore& kv) = 0;
};

class Scheduler {
 public:
  struct Limits {
    int64_t prefill_rows = 512;                 // rows of prompts in one step
    int64_t branches = 64;                      // sequences in flight: beyond, a step is no faster a row and only takes pages
  };

  Scheduler(KvCache& cache, Stepper& stepper, const std::vector<GenerateRequest>& requests, std::span<const int32_t> end_tokens,
            int64_t vocab, const GenerateCallbacks& callbacks, const Limits& limits);
  ~Scheduler();                                 // closes what an exception left open
  Scheduler(const Scheduler&) = delete;

  std::vector<GeneratedSequence> run(const std::atomic<bool>* cancel, Counters& counters);

  // Most tokens that a branch of this request has in pages: the last drawn token is never computed.
  static int64_t branch_tokens(const GenerateRequest& r) { return static_cast<int64_t>(r.ids.size()) + r.sampling.max_tokens - 1; }
  // A page beside: the copies that wait hold the prompt's last page while others continue it.
  static int64_t extra_pages(const GenerateRequest& r) { return r.copies > 1 && r.ids.size() % kKeyBlock ? 1 : 0; }

 private:
  struct Rules {                                // what is the same for all copies of a request
    uint64_t stream = 0;
    std::vector<int32_t> stops;                 // ascending
    std::vector<int32_t> early;                 // suppressed while position < min_tokens
    size_t first = 0;                           // result of copy 0
  };
  struct Prompt { int32_t request; int64_t done; KvCache::Branch branch; };          // `done` tokens are computed
  struct Live { int32_t request, copy; KvCache::Branch branch; bool over; };         // its last id is not yet computed

  void drop_ended();
  void admit();
  bool admit_prompt();
  bool admit_copy();
  void plan_decode();
  void plan_prefill();
  void add_draw(int32_t row, int32_t request, int32_t copy, size_t position);
  void take_decoded(Counters& counters);
  void take_prompts(Counters& counters);
  bool take(int32_t request, int32_t copy, size_t draw);
  void finish(int32_t request, int32_t copy, bool stopped);
  GeneratedSequence& result(int32_t request, int32_t copy) {
    return results_[rules_[static_cast<size_t>(request)].first + static_cast<size_t>(copy)];
  }
  const GenerateRequest& request(int32_t r) const { return requests_[static_cast<size_t>(r)]; }

  KvCache& cache_;
  Stepper& stepper_;
  const std::vector<GenerateRequest>& requests_;
  const GenerateCallbacks& callbacks_;
  Limits limits_;
  std::vector<Rules> rules_;
  std::vector<GeneratedSequence> results_;

  int32_t next_ = 0;                            // first request that is still outside
  std::vector<Prompt> prompts_;                 // in order of admission
  std::deque<Live> copies_;                     // drew their first token from a prompt's last row and wait for room
  std::vector<Live> live_;

  // One step; kept so that a decode step allocates nothing.
  CachedBatch batch_;
  Draws draws_;
  struct Chunk { size_t prompt; int64_t rows; };
  std::vector<Chunk> chunks_;
  std::vector<int32_t> ids_;
  std::vector<float> logp_;
};

}  // namespace isr
