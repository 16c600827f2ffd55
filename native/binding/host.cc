#include "binding/host.h"

#include <algorithm>
#include <new>
#include <system_error>
#include <utility>

#include "binding/convert.h"
#include "core/progress.h"

namespace isr::binding {
namespace {

Napi::Object failure_of(Napi::Env env, const Error& e) {
  Napi::Object o = Napi::Object::New(env);
  o.Set("code", e.code);
  o.Set("message", e.what());
  if (!e.hint.empty()) o.Set("hint", e.hint);
  if (!e.path.empty()) o.Set("path", e.path);
  set_items(o, e.items);
  return o;
}

}  // namespace

void Engine::step(WorkCounters& counters, const std::atomic<bool>* cancel) {
  const auto advance = [&](Generator& g) {
    const Counters before = g.counters;
    g.step(cancel);
    counters.prefill += g.counters.prefill_tokens - before.prefill_tokens;
    counters.decode += g.counters.decode_tokens - before.decode_tokens;
  };
  for (auto& [id, g] : sessions)
    if (!g->idle()) advance(*g);
  for (auto& [budget, g] : shared) advance(*g);
  std::erase_if(shared, [](const auto& one) { return one.second->idle(); });
}

BatchLoad Engine::load() const {
  BatchLoad all;
  const auto add = [&](const Generator& g) {
    const BatchLoad l = g.load();
    all.calls += l.calls, all.sequences += l.sequences, all.waiting += l.waiting;
  };
  for (const auto& [id, g] : sessions) add(*g);
  for (const auto& [budget, g] : shared) add(*g);
  return all;
}

std::shared_ptr<Host> Host::create(Napi::Env env) {
  std::shared_ptr<Host> host(new Host);
  host->env_ = env;
  auto* context = new std::shared_ptr<Host>(host);
  const auto finalize = [](napi_env, void*, void* context) { delete static_cast<std::shared_ptr<Host>*>(context); };
  const napi_status made = napi_create_threadsafe_function(env, nullptr, nullptr, Napi::String::New(env, "isr-dpo jobs"), 0, 1, nullptr,
                                                           finalize, context, call_js, &host->wake_);
  if (made != napi_ok) {
    delete context;
    throw Napi::Error::New(env, "cannot create a thread-safe function");
  }
  napi_unref_threadsafe_function(env, host->wake_);          // an idle model does not keep the process alive
  napi_add_env_cleanup_hook(env, at_env_end, host.get());    // after wake_, so that it runs before wake_ is closed
  return host;
}

Host::~Host() {
  if (thread_.joinable()) thread_.join();
}

// ---- JS thread

uint32_t Host::submit(Napi::Env env, Turn turn, Work work, Napi::Function settle, Napi::Value event, std::vector<Napi::Object> keep) {
  if (closed_) throw Napi::Error::New(env, "the host is closed");
  start();
  const uint32_t id = next_id_++;
  auto job = std::make_shared<Job>();
  job->id = job->settled.front().job = id;
  job->settled.front().kind = -1;
  job->turn = turn;
  job->work = std::move(work);
  Pending pending;
  pending.settle = Napi::Persistent(settle);
  if (event.IsFunction()) pending.event = Napi::Persistent(event.As<Napi::Function>());
  for (Napi::Object& object : keep) pending.keep.push_back(Napi::Persistent(object));
  pending_.emplace(id, std::move(pending));
  if (pending_.size() == 1) napi_ref_threadsafe_function(env, wake_);
  try {
    std::lock_guard lock(mutex_);
    queue_.push_back(std::move(job));
  } catch (...) {
    forget(env, id);
    throw;
  }
  changed_.notify_one();
  return id;
}

void Host::start() {
  if (thread_.joinable()) return;
  try {
    thread_ = std::thread([this] { loop(); });
  } catch (const std::system_error& e) {
    throw Error("OUT_OF_MEMORY", concat("the system refused a thread: ", e.what()), "raise the limit on processes (ulimit -u, cgroup pids.max)");
  }
}

bool Host::cancel(uint32_t id) {
  std::shared_ptr<Job> removed;  // its work is destroyed outside the lock
  {
    std::lock_guard lock(mutex_);
    if (Job* job = begun(id)) {
      job->cancel.store(true);
      update_abandoned();
      room_.notify_one();
    }
    for (auto it = queue_.begin(); it != queue_.end(); ++it)
      if ((*it)->id == id) {
        removed = *it;
        queue_.erase(it);
        break;
      }
  }
  if (!removed) return false;
  forget(env_, id);
  return true;
}

void Host::end_branch(uint32_t id, int32_t request, int32_t copy) {
  std::lock_guard lock(mutex_);
  Job* job = begun(id);
  if (!job) return;   // it has settled
  job->ended.insert({request, copy});
  job->any_ended.store(true);
}

// Under the mutex. Null: it waits, or has settled.
Host::Job* Host::begun(uint32_t id) {
  if (running_ && running_->id == id) return running_.get();
  for (const auto& job : joined_)
    if (job->id == id) return job.get();
  return nullptr;
}

Host::Load Host::load() {
  std::lock_guard lock(mutex_);
  return {static_cast<int64_t>(queue_.size()), static_cast<int64_t>(joined_.size()) + (running_ ? 1 : 0), batch_};
}

void Host::cancel_all() {
  std::lock_guard lock(mutex_);
  if (running_) running_->cancel.store(true);
  for (auto& job : joined_) job->cancel.store(true);
  for (auto& job : queue_) job->cancel.store(true);
  abandoned_.store(true);
  room_.notify_one();
}

void Host::close(bool env_ending) {
  if (closed_) return;
  closed_ = true;
  cancel_all();
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_one();
  room_.notify_one();
  if (thread_.joinable()) thread_.join();
  pending_.clear();
  if (env_ending) return;  // Node closes wake_ itself, next
  napi_remove_env_cleanup_hook(env_, at_env_end, this);
  napi_release_threadsafe_function(wake_, napi_tsfn_release);
}

void Host::at_env_end(void* host) { static_cast<Host*>(host)->close(true); }

void Host::call_js(napi_env env, napi_value, void* context, void*) {
  if (!env) return;
  const std::shared_ptr<Host> host = *static_cast<std::shared_ptr<Host>*>(context);  // a callback may dispose it
  host->drain(Napi::Env(env));
}

void Host::drain(Napi::Env env) {
  std::list<Message> messages;
  {
    std::lock_guard lock(mutex_);
    woken_ = false;
    messages.swap(outbox_);
    events_ = 0;
  }
  room_.notify_one();
  for (Message& message : messages) {
    if (closed_) return;
    const Napi::HandleScope scope(env);
    try {
      deliver(env, message);
    } catch (const Napi::Error&) {
      // Callbacks of src/base/addon.ts do not throw: this is an environment that is being terminated.
    }
  }
}

void Host::deliver(Napi::Env env, Message& message) {
  const auto found = pending_.find(message.job);
  if (found == pending_.end()) return;
  if (message.kind >= 0) {
    if (!found->second.event.IsEmpty()) found->second.event.Call({message.value(env)});
    return;
  }
  Napi::Value error = env.Null(), value = env.Undefined();
  if (message.failure) {
    error = describe(env, message.failure);
  } else {
    try {
      value = message.value(env);
    } catch (const Napi::Error& e) {
      error = failure_of(env, Error("OUT_OF_MEMORY", e.Message(), "the result does not fit into JavaScript's memory"));
    }
  }
  const Napi::Function settle = found->second.settle.Value();
  forget(env, message.job);
  settle.Call({error, value});
}

void Host::forget(Napi::Env env, uint32_t id) {
  pending_.erase(id);
  if (pending_.empty()) napi_unref_threadsafe_function(env, wake_);
}

// What a job threw, told on this side: there the system may just have refused memory.
Napi::Value Host::describe(Napi::Env env, const std::exception_ptr& failure) {
  try {
    std::rethrow_exception(failure);
  } catch (const Cancelled&) {
    Napi::Object o = Napi::Object::New(env);
    o.Set("cancelled", true);
    return o;
  } catch (const Error& e) {
    return failure_of(env, e);
  } catch (const std::bad_alloc&) {
    return failure_of(env, Error("OUT_OF_MEMORY", "the system refused memory", "use shorter or fewer sequences, or dtype 'bf16'"));
  } catch (const std::system_error& e) {
    const bool refused = e.code() == std::errc::resource_unavailable_try_again || e.code() == std::errc::not_enough_memory;
    return failure_of(env, Error(refused ? "OUT_OF_MEMORY" : "BUG", e.what()));
  } catch (const std::exception& e) {
    return failure_of(env, Error("BUG", e.what()));
  } catch (...) {
    return failure_of(env, Error("BUG", "an exception of unknown type"));
  }
}

// ---- job thread

void Host::loop() {
  bool step_first = false;   // what began between two steps was work of its own: the batch goes on before the next
  for (;;) {
    const std::shared_ptr<Job> job = step_first ? nullptr : take();
    step_first = false;
    if (job) {
      const size_t before = joined_.size();
      run(job);
      step_first = !joined_.empty() && joined_.size() == before;
    } else if (joined_.empty()) {
      break;
    } else {
      step();
    }
    std::lock_guard lock(mutex_);
    if (stop_) break;
  }
  engine_.clear();
}

// The next job that may begin. Null: none, but a batch runs; or this is the end.
std::shared_ptr<Host::Job> Host::take() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return stop_ || !queue_.empty() || !joined_.empty(); });
  if (stop_ || queue_.empty() || (queue_.front()->turn == Turn::Alone && !joined_.empty())) return nullptr;
  running_ = queue_.front();
  queue_.pop_front();
  return running_;
}

void Host::step() {
  const CancelScope scope(&abandoned_);
  const JobRuns runs;
  engine_.step(counters, &abandoned_);
  counters.tower.store(engine_.loaded().media.passes);
  std::lock_guard lock(mutex_);
  batch_ = engine_.load();
}

void Host::run(const std::shared_ptr<Job>& job) {
  Message& settled = job->settled.front();
  std::list<std::shared_ptr<Job>> joining;
  try {
    joining.push_back(job);   // what joins a batch needs no memory for it
    const CancelScope scope(&job->cancel);
    const JobRuns runs;
    check_cancelled();
    JobContext context{engine_, counters, &job->cancel,
                       [this, job = job.get()](int kind, ToJs event) { post_event(*job, kind, std::move(event)); },
                       [this, job = job.get()](int32_t request, int32_t copy) {
                         if (!job->any_ended.load(std::memory_order_relaxed)) return false;
                         std::lock_guard lock(mutex_);
                         return job->ended.count({request, copy}) > 0;
                       },
                       [this, job = job.get()](std::exception_ptr failure, const std::function<ToJs()>& value) {
                         end(*job, std::move(failure), value);
                       }};
    settled.value = job->work(context);
  } catch (...) {
    settled.failure = std::current_exception();   // allocates nothing
  }
  job->work = nullptr;
  if (engine_.model) counters.tower.store(engine_.model->media.passes);
  const bool joined = !settled.failure && !settled.value;
  std::lock_guard lock(mutex_);
  running_.reset();
  batch_ = engine_.load();
  if (!joined) return post_end(*job);
  joined_.splice(joined_.end(), joining);
  update_abandoned();
}

// A job that has joined a batch is over.
void Host::end(Job& job, std::exception_ptr failure, const std::function<ToJs()>& value) {
  Message& settled = job.settled.front();
  settled.failure = std::move(failure);
  try {
    if (!settled.failure) settled.value = value();
  } catch (...) {
    settled.failure = std::current_exception();
  }
  std::list<std::shared_ptr<Job>> over;   // destroyed outside the lock
  std::lock_guard lock(mutex_);
  const auto place = std::find_if(joined_.begin(), joined_.end(), [&](const auto& j) { return j.get() == &job; });
  over.splice(over.end(), joined_, place);
  batch_ = engine_.load();
  update_abandoned();
  post_end(job);
}

// Under the mutex.
void Host::update_abandoned() {
  abandoned_.store(std::all_of(joined_.begin(), joined_.end(), [](const auto& j) { return j->cancel.load(); }));
}

void Host::post_event(Job& job, int kind, ToJs event) {
  std::list<Message> one;
  one.push_back({job.id, kind, std::move(event), {}});
  std::unique_lock lock(mutex_);
  if (kind > 0) {
    for (Message& queued : outbox_)
      if (queued.job == job.id && queued.kind == kind) return void(queued.value = std::move(one.front().value));
  } else {
    room_.wait(lock, [&] { return events_ < kOutbox || job.cancel.load(); });
    if (job.cancel.load()) throw Cancelled();
  }
  outbox_.splice(outbox_.end(), one);
  ++events_;
  wake();
}

// Under the mutex.
void Host::post_end(Job& job) {
  outbox_.splice(outbox_.end(), job.settled);
  wake();
}

// Under the mutex. Nobody will read what is posted behind stop_, and wake_ may be closing.
void Host::wake() {
  if (stop_ || woken_) return;
  woken_ = true;
  napi_call_threadsafe_function(wake_, nullptr, napi_tsfn_nonblocking);
}

}  // namespace isr::binding
