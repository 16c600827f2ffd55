// Module entry: hosts, cancellation, and facts about the machine. All state hangs on hosts, one environment each.
#include "binding/jobs.h"
#include "kernels/devices.h"

namespace isr::binding {

using HostHandle = Napi::External<std::shared_ptr<Host>>;

Host& host_of(const Napi::CallbackInfo& info) { return **info[0].As<HostHandle>().Data(); }

namespace {

Napi::Value submit_as(Turn turn, const Napi::CallbackInfo& info, Work work, std::vector<Napi::Object> keep) {
  const uint32_t id = host_of(info).submit(info.Env(), turn, std::move(work), info[2].As<Napi::Function>(), info[3], std::move(keep));
  return Napi::Number::New(info.Env(), id);
}

}  // namespace

Napi::Value submit(const Napi::CallbackInfo& info, Work work, std::vector<Napi::Object> keep) {
  return submit_as(Turn::Alone, info, std::move(work), std::move(keep));
}

Napi::Value submit_beside(const Napi::CallbackInfo& info, Work work, std::vector<Napi::Object> keep) {
  return submit_as(Turn::Beside, info, std::move(work), std::move(keep));
}

namespace {

Napi::Value create_host(const Napi::CallbackInfo& info) {
  auto* host = new std::shared_ptr<Host>(Host::create(info.Env()));
  return HostHandle::New(info.Env(), host, [](Napi::Env, std::shared_ptr<Host>* host) {
    (*host)->close(false);
    delete host;
  });
}

Napi::Value cancel(const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), host_of(info).cancel(info[1].As<Napi::Number>().Uint32Value()));
}

// Cancels what runs and waits; its own job, the last one, frees the model on the thread that owns it.
Napi::Value dispose(const Napi::CallbackInfo& info) {
  host_of(info).cancel_all();
  return submit(info, [](JobContext& job) -> ToJs {
    job.engine.clear();
    return nothing();
  });
}

Napi::Value close(const Napi::CallbackInfo& info) {
  host_of(info).close(false);
  return info.Env().Undefined();
}

Napi::Value end_branch(const Napi::CallbackInfo& info) {
  host_of(info).end_branch(info[1].As<Napi::Number>().Uint32Value(), info[2].As<Napi::Number>().Int32Value(), info[3].As<Napi::Number>().Int32Value());
  return info.Env().Undefined();
}

Napi::Value counters(const Napi::CallbackInfo& info) {
  const WorkCounters& c = host_of(info).counters;
  Napi::Object o = Napi::Object::New(info.Env());
  o.Set("prefillTokens", static_cast<double>(c.prefill.load()));
  o.Set("decodeTokens", static_cast<double>(c.decode.load()));
  o.Set("trainTokens", static_cast<double>(c.train.load()));
  o.Set("towerPasses", static_cast<double>(c.tower.load()));
  return o;
}

Napi::Value load(const Napi::CallbackInfo& info) {
  const Host::Load l = host_of(info).load();
  Napi::Object o = Napi::Object::New(info.Env());
  o.Set("queued", static_cast<double>(l.queued));
  o.Set("running", static_cast<double>(l.running));
  o.Set("sequences", static_cast<double>(l.batch.sequences));
  o.Set("waiting", static_cast<double>(l.batch.waiting));
  return o;
}

Napi::Value machine(const Napi::CallbackInfo& info) {
  Napi::Object o = Napi::Object::New(info.Env());
  o.Set("machineIsa", name_of(machine_isa()));
  o.Set("threads", machine_threads());
  o.Set("memoryBytes", static_cast<double>(machine_memory()));
  o.Set("poolThreads", pool_threads());
  Napi::Object devices = Napi::Object::New(info.Env());
  for (const DeviceKind& kind : device_kinds()) devices.Set(kind.name, !kind.present || kind.present());
  o.Set("devices", devices);
  try {
    o.Set("isa", name_of(chosen_isa()));
  } catch (const Error& e) {
    o.Set("problem", e.what());
  }
  return o;
}

// The cards of a kind of device, and what computes on them. For a process of its own: a broken driver may take it along.
const DeviceKind& kind_of(const Napi::CallbackInfo& info) {
  const std::string name = info[0].As<Napi::String>();
  for (const DeviceKind& kind : device_kinds())
    if (kind.name == name && kind.cards) return kind;
  throw Error("DEVICE_UNAVAILABLE", concat("this binary has no devices \"", name, "\""));
}

Napi::Value cards(const Napi::CallbackInfo& info) {
  Napi::Array all = Napi::Array::New(info.Env());
  for (const Card& card : kind_of(info).cards()) {
    Napi::Object o = Napi::Object::New(info.Env());
    o.Set("name", card.name);
    o.Set("memoryBytes", static_cast<double>(card.memory));
    o.Set("capability", concat(card.major, ".", card.minor));
    o.Set("address", card.address);
    all.Set(all.Length(), o);
  }
  return all;
}

Napi::Value library(const Napi::CallbackInfo& info) { return Napi::String::New(info.Env(), kind_of(info).library()); }

Napi::Object initialise(Napi::Env env, Napi::Object exports) {
  export_as<create_host>(env, exports, "createHost");
  export_as<cancel>(env, exports, "cancel");
  export_as<dispose>(env, exports, "dispose");
  export_as<close>(env, exports, "close");
  export_as<end_branch>(env, exports, "endBranch");
  export_as<counters>(env, exports, "counters");
  export_as<load>(env, exports, "hostLoad");
  export_as<machine>(env, exports, "machine");
  export_as<cards>(env, exports, "cards");
  export_as<library>(env, exports, "library");
  export_model_jobs(env, exports);
  export_trainer_jobs(env, exports);
  export_kernel_jobs(env, exports);
  export_heartbeat_calls(env, exports);
  export_rank_jobs(env, exports);
  export_image_jobs(env, exports);
  export_lock_jobs(env, exports);
  return exports;
}

}  // namespace

NODE_API_MODULE(isr_dpo, initialise)

}  // namespace isr::binding
