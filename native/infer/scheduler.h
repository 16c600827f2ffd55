// Continuous batching over the KV tree: which rows the next step computes, which of them are drawn from, and what becomes
// of the draws. Calls join between two steps and leave between two steps, each with its own requests; a call's sequences
// have the bits that they would have alone. It knows ids and pages; what computes a step is behind Stepper.
//
// Who enters next: a sequence of the call that has the fewest in flight, then of the call that came first; within a call in
// the order of its requests. A sequence enters when all its pages can be promised, so nothing ever waits for a page in
// mid-sequence; while the next one finds no room, nobody overtakes it. The rows of prompts in a step are shared out evenly
// between the calls, so that a short prompt behind a long one waits for one step and not for the other prompt.
#pragma once
#include <atomic>
#include <deque>
#include <exception>
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
    int64_t branches = 64;                      // sequences in flight: beyond, a step is no faster per row and only takes pages
    int64_t shared_rows = 128;                  // rows of prompts in a step that tokens of another call wait for
  };

  Scheduler(KvCache& cache, std::span<const int32_t> end_tokens, int64_t vocab, const Limits& limits);
  ~Scheduler();                                 // closes what is open; tells nobody
  Scheduler(const Scheduler&) = delete;

  // A call that takes part from the next step on, until callbacks.end; it throws before that or not at all. `cancel` is looked
  // at between steps: the call then ends with Cancelled.
  void join(std::vector<GenerateRequest> requests, GenerateCallbacks callbacks, const std::atomic<bool>* cancel);
  // Computes one step of everything that is in. What fails for one call ends that call; what fails for the step ends all.
  void step(Stepper& stepper, Counters& counters);
  bool idle() const { return calls_.empty(); }
  BatchLoad load() const;

  // Most tokens that a branch of this request has in pages: the last drawn token is never computed.
  static int64_t branch_tokens(const GenerateRequest& r) { return static_cast<int64_t>(r.ids.size()) + r.sampling.max_tokens - 1; }
  // A page beside: the copies that wait hold the prompt's last page while others continue it.
  static int64_t extra_pages(const GenerateRequest& r) { return r.copies > 1 && r.ids.size() % kKeyBlock ? 1 : 0; }

  Limits limits;

 private:
  struct Call;
  struct Rules {                                // what is the same for all copies of a request
    uint64_t stream = 0;
    std::vector<int32_t> stops;                 // ascending
    std::vector<int32_t> early;                 // suppressed while position < min_tokens
    size_t first = 0;                           // result of copy 0
    int64_t in_flight = 0;
    bool outside = true;                        // its prompt has not entered
  };
  struct Prompt { Call* call; int32_t request; int64_t done; KvCache::Branch branch; bool ready; };   // `done` tokens are computed
  struct Live { Call* call; int32_t request, copy; KvCache::Branch branch; bool over; };              // its last id is not yet computed
  struct Call {
    std::vector<GenerateRequest> requests;
    GenerateCallbacks callbacks;
    const std::atomic<bool>* cancel = nullptr;
    std::vector<Rules> rules;
    std::vector<GeneratedSequence> results;
    std::deque<Live> copies;                    // drew their first token from a prompt's last row and wait for room
    size_t next = 0;                            // no request before it is outside
    int64_t open = 0, in_flight = 0;            // sequences that have not ended; that are computed by steps now
    int64_t wanted = 0, share = 0;              // rows of its prompts: that could be computed, that this step computes
    std::exception_ptr failure;
    bool over() const { return failure || open == 0; }
    bool waits() const { return !copies.empty() || next < requests.size(); }
    GeneratedSequence& result(int32_t request, int32_t copy) { return results[rules[static_cast<size_t>(request)].first + static_cast<size_t>(copy)]; }
    const GenerateRequest& request(int32_t r) const { return requests[static_cast<size_t>(r)]; }
  };

  void compute(Stepper& stepper, Counters& counters);
  void drop_ended();
  void part();
  void restart_waiting();
  void admit();
  void revive(Call& c);
  bool admit_prompt(Call& c);
  bool admit_copy(Call& c, size_t index);
  void plan_decode();
  void share_rows();
  void plan_prefill();
  void add_draw(int32_t row, Call& c, int32_t request, int32_t copy, size_t position);
  void take_decoded(Counters& counters);
  void take_prompts(Counters& counters);
  bool take(Call& c, int32_t request, int32_t copy, size_t draw);
  void finish(Call& c, int32_t request, int32_t copy, bool stopped);
  void enter(Call& c, int32_t request);
  void leave(Call& c, int32_t request);

  KvCache& cache_;
  std::vector<int32_t> ends_;
  std::vector<std::unique_ptr<Call>> calls_;    // in order of arrival
  std::vector<Prompt> prompts_;                 // in order of admission
  std::vector<Live> live_;
  int64_t in_flight_ = 0;

  // One step; kept so that a decode step allocates nothing.
  CachedBatch batch_;
  Draws draws_;
  struct Chunk { size_t prompt; int64_t rows; };
  std::vector<Chunk> chunks_;
  std::vector<int32_t> ids_;
  std::vector<float> logp_;
};

}  // namespace isr
