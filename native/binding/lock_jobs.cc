// The lock of a run folder. Both functions return at once, so they need no job.
#include "binding/jobs.h"
#include "io/lock.h"

namespace isr::binding {
namespace {

using LockHandle = Napi::External<std::unique_ptr<FileLock>>;

// lockFile(path) -> a handle that holds the lock until unlockFile(handle), or until it is collected.
Napi::Value lock_file(const Napi::CallbackInfo& info) {
  auto lock = std::make_unique<std::unique_ptr<FileLock>>(std::make_unique<FileLock>(info[0].As<Napi::String>().Utf8Value()));
  return LockHandle::New(info.Env(), lock.release(), [](Napi::Env, std::unique_ptr<FileLock>* held) { delete held; });
}

Napi::Value unlock_file(const Napi::CallbackInfo& info) {
  info[0].As<LockHandle>().Data()->reset();
  return info.Env().Undefined();
}

}  // namespace

void export_lock_jobs(Napi::Env env, Napi::Object exports) {
  export_as<lock_file>(env, exports, "lockFile");
  export_as<unlock_file>(env, exports, "unlockFile");
}

}  // namespace isr::binding
