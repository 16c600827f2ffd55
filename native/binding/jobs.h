// The functions that the addon exports. Each job has the form f(host, args, settle, event?) -> job id.
#pragma once
#include "binding/convert.h"
#include "binding/host.h"
#include "dist/transports.h"

namespace isr::binding {

Host& host_of(const Napi::CallbackInfo& info);
// A job that may change weights, or that runs alone on its host; and one that leaves them as they are.
Napi::Value submit(const Napi::CallbackInfo& info, Work work, std::vector<Napi::Object> keep = {});
Napi::Value submit_beside(const Napi::CallbackInfo& info, Work work, std::vector<Napi::Object> keep = {});

Adapter& adapter_of(Model& model);   // INVALID_ARGUMENT: it has none

void export_model_jobs(Napi::Env env, Napi::Object exports);     // load, forward, generate, ...
void export_trainer_jobs(Napi::Env env, Napi::Object exports);   // createTrainer, trainStep, ...
void export_kernel_jobs(Napi::Env env, Napi::Object exports);    // attention, sequenceLogProbs, dpoLoss
void export_heartbeat_calls(Napi::Env env, Napi::Object exports);   // leadHeartbeat, heartbeatSigns, ...
void export_rank_jobs(Napi::Env env, Napi::Object exports);      // openRank, connectRank, gatherText, ...
void export_image_jobs(Napi::Env env, Napi::Object exports);     // preprocess
void export_lock_jobs(Napi::Env env, Napi::Object exports);      // lockFile, unlockFile

// A rank of several, until all that use it are gone.
struct Rank { std::unique_ptr<OpenEnd> end; std::shared_ptr<SharedLink> link; };
std::shared_ptr<SharedLink> link_at(const Napi::Object& args, const char* key);   // null where there is none

inline ToJs nothing() {
  return [](Napi::Env env) { return env.Undefined(); };
}

using Callback = Napi::Value (*)(const Napi::CallbackInfo&);
template <Callback F>
Napi::Value safely(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] { return F(info); });
}
template <Callback F>
void export_as(Napi::Env env, Napi::Object exports, const char* name) {
  exports.Set(name, Napi::Function::New<safely<F>>(env, name));
}

}  // namespace isr::binding
