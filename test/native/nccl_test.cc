// NCCL's library: how it is looked for and refused, and the installed one, as far as it answers without a card. scripts/nccl.mjs gets one.
#include <cstdlib>

#include "check.h"
#include "dist/nccl_library.h"
#include "dist/transports.h"

namespace isr::test {
namespace {

struct Environment {
  explicit Environment(const char* value) {
    if (const char* before = std::getenv("ISR_DPO_NCCL")) kept = before, was = true;
    setenv("ISR_DPO_NCCL", value, 1);
  }
  ~Environment() {
    if (was) setenv("ISR_DPO_NCCL", kept.c_str(), 1);
    else unsetenv("ISR_DPO_NCCL");
  }
  std::string kept;
  bool was = false;
};

TEST("nccl library: one that is nowhere, or is another, is refused with what to do") {
  struct Row { const char* file; const char* words; };
  for (const Row& row : {Row{"/nowhere/libnccl.so.2", "NCCL was not found in /nowhere/libnccl.so.2"}, Row{"/proc/self/maps", "NCCL was not found in /proc/self/maps"},
                         Row{"libm.so.6", "NCCL: the library that was found has no ncclGetVersion"}}) {
    const Environment there(row.file);
    const std::string missing = nccl_missing();
    CHECK(missing.starts_with(row.words), row.file, ": ", missing);
    CHECK(missing.find("pip install nvidia-nccl-cu12") != std::string::npos, missing);
    CHECK(thrown_code([] { nccl::library(); }) == "DEVICE_UNAVAILABLE", row.file);
  }
}

TEST("nccl library: the installed one has every function, and answers as it should without a card") {
  if (std::getenv("ISR_DPO_NCCL") == nullptr) {
    skipped() = "ISR_DPO_NCCL names no library";
    return;
  }
  const nccl::Library& lib = nccl::library();
  CHECK(nccl::installed().starts_with("NCCL 2."), nccl::installed());
  nccl::UniqueId a{}, b{};
  CHECK(lib.unique_id(&a) == nccl::kSuccess && lib.unique_id(&b) == nccl::kSuccess, lib.last_error(nullptr));
  CHECK(std::string(a.bytes, sizeof a.bytes) != std::string(b.bytes, sizeof b.bytes), "two communicators have one name");
  nccl::Config config;
  nccl::Comm comm = nullptr;
  const nccl::Result r = lib.init(&comm, 1, a, 0, &config);   // without a card it fails for that
  CHECK(r != nccl::kInvalidArgument && r != nccl::kInvalidUsage, "the configuration is refused: ", lib.error_string(r), ": ", lib.last_error(nullptr));
  if (comm) lib.abort(comm);
  CHECK(lib.group_start() == nccl::kSuccess && lib.group_end() == nccl::kSuccess, "a group without messages");
  CHECK(lib.send(nullptr, 1, nccl::kBytes, 0, nullptr, nullptr) == nccl::kInvalidArgument && lib.receive(nullptr, 1, nccl::kBytes, 0, nullptr, nullptr) == nccl::kInvalidArgument,
        "messages of no communicator");
  CHECK(std::string(lib.error_string(nccl::kInProgress)).find("in progress") != std::string::npos, lib.error_string(nccl::kInProgress));
}

}  // namespace
}  // namespace isr::test
