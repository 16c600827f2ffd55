// Heartbeats of ranks (dist/heartbeat.h): the thread beats, and JavaScript asks when it likes.
#include "binding/jobs.h"
#include "dist/heartbeat.h"

namespace isr::binding {
namespace {

using Handle = Napi::External<std::unique_ptr<Heartbeat>>;

Napi::Value handle_of(Napi::Env env, std::unique_ptr<Heartbeat> heartbeat) {
  return Handle::New(env, new std::unique_ptr<Heartbeat>(std::move(heartbeat)), [](Napi::Env, std::unique_ptr<Heartbeat>* held) { delete held; });
}

// leadHeartbeat(size, key, loopback), joinHeartbeat(rank, key, host, port) -> a handle.
Napi::Value lead(const Napi::CallbackInfo& info) {
  return handle_of(info.Env(), lead_heartbeat(info[0].As<Napi::Number>().Int32Value(), info[1].As<Napi::String>(), info[2].As<Napi::String>()));
}
Napi::Value join(const Napi::CallbackInfo& info) {
  return handle_of(info.Env(), join_heartbeat(info[0].As<Napi::Number>().Int32Value(), info[1].As<Napi::String>(), info[2].As<Napi::String>(), info[3].As<Napi::Number>().Int32Value()));
}
Napi::Value port(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), (*info[0].As<Handle>().Data())->port()); }

// heartbeatSigns(handle) -> [{heard, silent, stuck, patience, waiting}], seconds; [] after closeHeartbeat(handle).
Napi::Value signs(const Napi::CallbackInfo& info) {
  Napi::Array all = Napi::Array::New(info.Env());
  const std::unique_ptr<Heartbeat>& heartbeat = *info[0].As<Handle>().Data();
  if (!heartbeat) return all;
  for (const Heartbeat::Sign& s : heartbeat->signs()) {
    Napi::Object o = Napi::Object::New(info.Env());
    o.Set("heard", s.heard);
    o.Set("silent", s.silent);
    o.Set("stuck", s.stuck);
    o.Set("patience", s.patience);
    o.Set("waiting", s.waiting);
    all.Set(all.Length(), o);
  }
  return all;
}
Napi::Value close_heartbeat(const Napi::CallbackInfo& info) {
  info[0].As<Handle>().Data()->reset();
  return info.Env().Undefined();
}

}  // namespace

void export_heartbeat_calls(Napi::Env env, Napi::Object exports) {
  export_as<lead>(env, exports, "leadHeartbeat");
  export_as<join>(env, exports, "joinHeartbeat");
  export_as<port>(env, exports, "heartbeatPort");
  export_as<signs>(env, exports, "heartbeatSigns");
  export_as<close_heartbeat>(env, exports, "closeHeartbeat");
}

}  // namespace isr::binding
