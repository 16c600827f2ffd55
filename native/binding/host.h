// A host is one job thread with a queue, and what that thread owns: a model, its trainer, its sessions. Every call from
// JavaScript becomes a job: values are read on the JS thread into plain structs, work runs on the job thread without any
// Node-API call, and results come back through an outbox that a thread-safe function drains on the JS thread.
//
// Jobs begin in the order of their calls. A generation joins the running batch and goes on beside those that are in it, a
// step of all at a time; between two steps begin those behind it that leave weights as they are (Turn::Beside). A job that
// changes them (Turn::Alone) begins when the batch is empty, and nobody overtakes it.
//
// Who may touch what: Engine and Job::work belong to the job thread; `pending_` and every JS reference belong to the JS
// thread; queue, joined jobs and outbox are behind the mutex. The environment's cleanup hook cancels and joins before Node closes the
// thread-safe function, so the job thread never calls into an environment that is going away.
//
// The outbox is bounded: a job whose events JavaScript does not take waits for room, until it is cancelled. The message that
// settles a job is made when it is submitted, so that a job can always end, also where the system refuses memory.
#pragma once
#include <node_api.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <set>
#include <utility>
#include <vector>

#include <napi.h>

#include "infer/generator.h"
#include "models/model.h"
#include "train/trainer.h"

namespace isr::binding {

// Makes the JS value of a result or event; runs on the JS thread, captures plain data only.
using ToJs = std::function<Napi::Value(Napi::Env)>;

struct WorkCounters { std::atomic<uint64_t> prefill{0}, decode{0}, train{0}, tower{0}; };   // tokens, and passes of a vision tower, since load

struct Engine {  // in order of destruction from the end: a trainer or session never outlives its model
  std::unique_ptr<Model> model;
  std::unique_ptr<Comm> ranks;         // of the trainer, where they are several
  std::unique_ptr<Trainer> trainer;
  std::map<uint32_t, std::unique_ptr<Generator>> sessions;
  std::map<uint64_t, std::unique_ptr<Generator>> shared;   // of calls outside sessions, by budget; only while one is in

  Model& loaded() {
    ISR_ASSERT(model, "no model is loaded");
    return *model;
  }
  Trainer& training() {
    ISR_ASSERT(trainer, "no trainer was created");
    return *trainer;
  }
  // One step of every batch that runs.
  void step(WorkCounters& counters, const std::atomic<bool>* cancel);
  BatchLoad load() const;
  void clear() {
    shared.clear();
    sessions.clear();
    trainer.reset();
    ranks.reset();
    model.reset();
  }
};

class Host;

struct JobContext {
  Engine& engine;
  WorkCounters& counters;
  const std::atomic<bool>* cancel;
  // kind > 0: only the newest event of that kind is kept until JavaScript takes it; 0: never dropped, waits for room.
  std::function<void(int kind, ToJs event)> emit;
  // Whether JavaScript has ended this branch of a generation (a stop string).
  std::function<bool(int32_t request, int32_t copy)> ended;
  // Settles a job that has joined a batch; called once. `value`, unless it failed.
  std::function<void(std::exception_ptr failure, const std::function<ToJs()>& value)> end;
};
// Gives the result, or nothing where the job has joined a batch: `end` settles it then.
using Work = std::function<ToJs(JobContext&)>;
enum class Turn { Alone, Beside };

class Host : public std::enable_shared_from_this<Host> {
 public:
  static std::shared_ptr<Host> create(Napi::Env env);
  ~Host();

  // JS thread. `settle(error | null, value)` is called once, `event(value)` any number of times before it; `keep` are the
  // objects whose memory the work reads or writes.
  uint32_t submit(Napi::Env env, Turn turn, Work work, Napi::Function settle, Napi::Value event, std::vector<Napi::Object> keep = {});
  bool cancel(uint32_t id);      // true: it had not begun, and will never settle
  void cancel_all();
  void end_branch(uint32_t id, int32_t request, int32_t copy);
  void close(bool env_ending);   // cancels, waits, ends the thread; may be called again

  struct Load { int64_t queued = 0, running = 0; BatchLoad batch; };   // jobs that have not begun, that have; of generations
  Load load();
  WorkCounters counters;

 private:
  struct Message {
    uint32_t job = 0;
    int kind = 0;                // < 0: settles; else an event
    ToJs value{};
    std::exception_ptr failure{};
  };
  struct Job {
    uint32_t id;
    Turn turn;
    Work work;
    std::list<Message> settled{1};   // one, moved into the outbox as it is
    std::atomic<bool> cancel{false};
    std::atomic<bool> any_ended{false};
    std::set<std::pair<int32_t, int32_t>> ended;   // under mutex_
  };
  static constexpr size_t kOutbox = 256;   // events that wait for JavaScript
  struct Pending {               // the JS side of a job
    Napi::FunctionReference settle, event;
    std::vector<Napi::ObjectReference> keep;
  };

  Host() = default;
  void start();
  void loop();
  std::shared_ptr<Job> take();
  void step();
  void run(const std::shared_ptr<Job>& job);
  Job* begun(uint32_t id);
  void post_event(Job& job, int kind, ToJs event);
  void end(Job& job, std::exception_ptr failure, const std::function<ToJs()>& value);
  void update_abandoned();
  void post_end(Job& job);
  void wake();
  void drain(Napi::Env env);
  void deliver(Napi::Env env, Message& message);
  void forget(Napi::Env env, uint32_t id);
  static Napi::Value describe(Napi::Env env, const std::exception_ptr& failure);
  static void call_js(napi_env env, napi_value, void* context, void*);
  static void at_env_end(void* host);

  napi_env env_ = nullptr;
  napi_threadsafe_function wake_ = nullptr;
  std::thread thread_;
  bool closed_ = false;
  uint32_t next_id_ = 1;
  std::map<uint32_t, Pending> pending_;

  std::mutex mutex_;
  std::condition_variable changed_;   // of queue_ and stop_
  std::condition_variable room_;      // in the outbox, or the running job was cancelled
  std::deque<std::shared_ptr<Job>> queue_;
  std::shared_ptr<Job> running_;
  std::list<std::shared_ptr<Job>> joined_;   // a batch computes them
  std::atomic<bool> abandoned_{false};   // every joined job is cancelled: the step that runs is of no use
  BatchLoad batch_;
  std::list<Message> outbox_;
  size_t events_ = 0;                 // in the outbox
  bool stop_ = false, woken_ = false;

  Engine engine_;
};

}  // namespace isr::binding
