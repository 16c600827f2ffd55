// NCCL's header against what native/dist/nccl_library.h says of it. It compiles, or it names what differs; scripts/nccl.mjs does it.
#include <nccl.h>

#include <cstddef>
#include <type_traits>

#include "dist/nccl_library.h"

namespace {

using isr::nccl::Config;
using isr::nccl::Library;

// Passed alike: as many parameters, each of the same size and kind, and the same result.
template <class T>
constexpr int kind = std::is_pointer_v<T> ? 0 : std::is_class_v<T> ? 1 : 2;
template <class A, class B>
constexpr bool alike_type = sizeof(A) == sizeof(B) && kind<A> == kind<B>;
template <class F, class G>
struct Alike : std::false_type {};
template <class R, class... A, class S, class... B>
struct Alike<R (*)(A...), S (*)(B...)> {
  static constexpr bool value = [] {
    if constexpr (sizeof...(A) == sizeof...(B)) return alike_type<R, S> && (alike_type<A, B> && ...);
    else return false;
  }();
};
#define ALIKE(ours, theirs) static_assert(Alike<decltype(Library::ours), decltype(&theirs)>::value, #theirs " is declared otherwise")
ALIKE(version, ncclGetVersion);
ALIKE(unique_id, ncclGetUniqueId);
ALIKE(init, ncclCommInitRankConfig);
ALIKE(async_error, ncclCommGetAsyncError);
ALIKE(finalize, ncclCommFinalize);
ALIKE(destroy, ncclCommDestroy);
ALIKE(abort, ncclCommAbort);
ALIKE(group_start, ncclGroupStart);
ALIKE(group_end, ncclGroupEnd);
ALIKE(send, ncclSend);
ALIKE(receive, ncclRecv);
ALIKE(error_string, ncclGetErrorString);
ALIKE(last_error, ncclGetLastError);

#define SAME_PLACE(ours, theirs) static_assert(offsetof(Config, ours) == offsetof(ncclConfig_t, theirs) && sizeof(Config::ours) == sizeof(ncclConfig_t::theirs), #theirs)
SAME_PLACE(size, size);
SAME_PLACE(magic, magic);
SAME_PLACE(version, version);
SAME_PLACE(blocking, blocking);
SAME_PLACE(cga_cluster_size, cgaClusterSize);
SAME_PLACE(min_ctas, minCTAs);
SAME_PLACE(max_ctas, maxCTAs);
SAME_PLACE(net_name, netName);
SAME_PLACE(split_share, splitShare);
static_assert(sizeof(Config) <= sizeof(ncclConfig_t), "NCCL reads no more of the configuration than it has");
static_assert(isr::nccl::kDefault == NCCL_CONFIG_UNDEF_INT, "how a default is named");
static_assert(sizeof(isr::nccl::UniqueId) == sizeof(ncclUniqueId), "ncclUniqueId");
static_assert(isr::nccl::kBytes == ncclInt8, "the type of bytes");
static_assert(isr::nccl::kSuccess == ncclSuccess && isr::nccl::kInProgress == ncclInProgress && isr::nccl::kInvalidArgument == ncclInvalidArgument &&
                  isr::nccl::kInvalidUsage == ncclInvalidUsage, "results");
constexpr ncclConfig_t theirs = NCCL_CONFIG_INITIALIZER;
static_assert(Config{}.magic == theirs.magic && Config{}.net_name == theirs.netName, "the configuration's beginning");

}  // namespace

int main() { return 0; }
