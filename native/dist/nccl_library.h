// NCCL, which is opened when ranks ask for it: the functions that are used, as nccl.h of 2.19 and newer declares them. Communicators do not
// block: a call may answer kInProgress, and async_error() says when it is done.
#pragma once
#include <climits>
#include <cstddef>
#include <string>

namespace isr::nccl {

using Comm = struct Communicator*;
using Result = int;
constexpr Result kSuccess = 0, kInvalidArgument = 4, kInvalidUsage = 5, kInProgress = 7;
constexpr int kBytes = 0;            // the type of what is sent: int8
constexpr int kOldest = 21900;       // 2.19: in older ones an abort by another thread may hang

struct UniqueId { char bytes[128]; };

// Of 2.18: NCCL reads as much as `size` says, and takes the default of all that came later.
constexpr int kDefault = INT_MIN;
struct Config {
  size_t size = sizeof(Config);
  unsigned magic = 0xcafebeef, version = 21800;
  int blocking = 0, cga_cluster_size = kDefault, min_ctas = kDefault, max_ctas = kDefault;
  const char* net_name = nullptr;
  int split_share = kDefault;
};

struct Library {
  Result (*version)(int*);
  Result (*unique_id)(UniqueId*);
  Result (*init)(Comm*, int size, UniqueId, int rank, Config*);
  Result (*async_error)(Comm, Result*);
  Result (*finalize)(Comm);
  Result (*destroy)(Comm);
  Result (*abort)(Comm);
  Result (*group_start)();
  Result (*group_end)();
  Result (*send)(const void*, size_t count, int type, int peer, Comm, void* stream);
  Result (*receive)(void*, size_t count, int type, int peer, Comm, void* stream);
  const char* (*error_string)(Result);
  const char* (*last_error)(Comm);
};

const Library& library();            // DEVICE_UNAVAILABLE: it is nowhere, lacks a function, or is older than 2.19
void use_library(const Library*);    // a test's double; null: the installed one
std::string installed();             // name, version and file; DEVICE_UNAVAILABLE

}  // namespace isr::nccl
