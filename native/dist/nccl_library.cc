#include "dist/nccl_library.h"

#include "core/library.h"

namespace isr::nccl {
namespace {

const Library* g_mine = nullptr;

const LibrarySearch& search() {
  static const LibrarySearch all = {"NCCL", "ISR_DPO_NCCL", {"libnccl.so.2"}, "libnccl.so.2", {"nccl"},
                                    "install libnccl2 2.19 or newer, or pip install nvidia-nccl-cu12 in the active environment"};
  return all;
}

std::string version_text(int v) { return concat(v / 10000, ".", v / 100 % 100, ".", v % 100); }

int version_of(const Library& lib) {
  int version = 0;
  return lib.version(&version) == kSuccess ? version : 0;
}

Library load() {
  void* const from = open_library(search());
  Library all{};
  const auto take = [from](const char* name, auto& to) { bind(from, name, to, search()); };
  take("ncclGetVersion", all.version);
  take("ncclGetUniqueId", all.unique_id);
  take("ncclCommInitRankConfig", all.init);
  take("ncclCommGetAsyncError", all.async_error);
  take("ncclCommFinalize", all.finalize);
  take("ncclCommDestroy", all.destroy);
  take("ncclCommAbort", all.abort);
  take("ncclGroupStart", all.group_start);
  take("ncclGroupEnd", all.group_end);
  take("ncclSend", all.send);
  take("ncclRecv", all.receive);
  take("ncclGetErrorString", all.error_string);
  take("ncclGetLastError", all.last_error);
  if (const int version = version_of(all); version < kOldest)
    throw Error("DEVICE_UNAVAILABLE", concat("NCCL: expected 2.19 or newer, found ", version_text(version), " in ", file_of(reinterpret_cast<const void*>(all.version))), search().hint);
  return all;
}

}  // namespace

const Library& library() {
  if (g_mine) return *g_mine;
  static const Library loaded = load();
  return loaded;
}
void use_library(const Library* mine) { g_mine = mine; }

std::string installed() {
  const Library& lib = library();
  return concat("NCCL ", version_text(version_of(lib)), ", ", file_of(reinterpret_cast<const void*>(lib.version)));
}

}  // namespace isr::nccl
