// Saving: byte identity, replacement of folders, and what is left on disk after every kind of failure. The last tests
// run this program again as a child under test/faults/shim.c and let each of its file operations fail in turn.
#include <algorithm>
#include <fcntl.h>
#include <spawn.h>
#include <sys/fsuid.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <fstream>

#include "io_files.h"

namespace isr::test {
namespace {

using Files = std::map<std::string, std::string>;

constexpr auto never = [](const TensorInfo&) { return false; };
constexpr auto is_w1 = [](const TensorInfo& t) { return t.name == "w1"; };
constexpr auto nothing = [](const TensorInfo&, uint64_t, uint64_t, void*) {};
constexpr auto fill_7 = [](const TensorInfo&, uint64_t, uint64_t count, void* dst) { std::memset(dst, 7, count); };
constexpr auto go_on = [] {};

uint64_t save_copy(const std::string& from, const std::string& to) { return save_checkpoint(Checkpoint::open(from), to, never, nothing, go_on); }
uint64_t save_trained(const std::string& from, const std::string& to) { return save_checkpoint(Checkpoint::open(from), to, is_w1, fill_7, go_on); }

// The small checkpoint with w1 (the last 8400 bytes of its shard) replaced by sevens.
Files trained(Files files) {
  std::string& shard = files["model-00001-of-00002.safetensors"];
  shard.replace(shard.size() - 8400, 8400, 8400, '\7');
  return files;
}

// Nothing unfinished beside or in the folder.
bool no_traces(const TempFolder& dir) {
  for (const std::string& folder : {dir.path(), dir / "model"}) {
    if (!file_exists(folder)) continue;
    for (const std::string& name : names_in(folder))
      if (is_temporary(name)) return false;
  }
  return true;
}

}  // namespace

TEST("io save: untouched checkpoints are copied byte for byte") {
  TempFolder dir;
  const Files source = write_small_checkpoint(dir / "source");
  uint64_t sum = 0;
  for (const auto& [name, bytes] : source) sum += bytes.size();
  CHECK(save_copy(dir / "source", dir / "new/deep/model") == sum);
  CHECK(read_folder(dir / "new/deep/model") == source);
  CHECK(save_copy(dir / "source", dir / "new/deep/model/") == sum, "again, over itself, with a slash");
  CHECK(read_folder(dir / "new/deep/model") == source);
  std::vector<float> x = random_values(3 * 1024 * 1024 + 5, 1);  // several chunks, the last one odd
  make_folders(dir / "one");
  write_safetensors(dir / "one/model.safetensors", {{"x", FileDType::F32, {static_cast<int64_t>(x.size())}, x.data()}}, {{"format", "pt"}});
  save_copy(dir / "one", dir / "two");
  CHECK(slurp(dir / "one/model.safetensors") == slurp(dir / "two/model.safetensors"));
  CHECK(no_traces(dir) && names_in(dir / "new/deep") == std::vector<std::string>{"model"});
}

TEST("io save: only replaced tensors change, also over the source folder") {
  TempFolder dir;
  const Files source = write_small_checkpoint(dir / "model");
  save_trained(dir / "model", dir / "other");
  CHECK(read_folder(dir / "other") == trained(source));
  const Checkpoint open = Checkpoint::open(dir / "model");
  save_checkpoint(open, dir / "model", is_w1, fill_7, go_on);
  CHECK(read_folder(dir / "model") == trained(source) && no_traces(dir));
  uint64_t first = 0;
  open.read(open.get("w1"), 0, 8, &first);
  CHECK(first != 0x0707070707070707, "an open checkpoint goes on reading what it opened");
}

TEST("io save: chunks cover a long tensor in order") {
  TempFolder dir;
  const int64_t n = static_cast<int64_t>(kSaveChunk / 4) * 2 + 3;
  std::vector<float> x = random_values(n, 2), y = random_values(n, 3);
  make_folders(dir / "a");
  write_safetensors(dir / "a/model.safetensors", {{"x", FileDType::F32, {n}, x.data()}});
  std::vector<uint64_t> begins;
  const auto fill = [&](const TensorInfo&, uint64_t begin, uint64_t count, void* dst) {
    begins.push_back(begin);
    std::memcpy(dst, reinterpret_cast<const char*>(y.data()) + begin, count);
  };
  save_checkpoint(Checkpoint::open(dir / "a"), dir / "b", [](const TensorInfo&) { return true; }, fill, go_on);
  CHECK(begins == std::vector<uint64_t>({0, kSaveChunk, 2 * kSaveChunk}));
  const Checkpoint b = Checkpoint::open(dir / "b");
  std::vector<float> got(y.size());
  b.read(b.get("x"), 0, got.size() * 4, got.data());
  CHECK(got == y);
}

TEST("io save: what stands in the folder") {
  TempFolder dir;
  const Files source = write_small_checkpoint(dir / "source");
  write_file_atomic(dir / "source/pytorch_model.bin", "old weights are not copied");
  make_folders(dir / "model");
  write_file_atomic(dir / "model/NOTES", "a user's");
  write_file_atomic(dir / "model/config.json", "an older one");
  write_file_atomic(dir / "model/model.safetensors", "an older model");
  make_folders(dir / ".model.isr-dpo-000000000000.tmp/left/by");
  write_file_atomic(dir / ".model.isr-dpo-000000000000.tmp/left/by/crash", "x");
  const Files others = {{"model.tmp/mine", "1"}, {"model.old.tmp/mine", "2"}, {"model/thesis.tmp", "3"}};
  for (const std::string folder : {"model.tmp", "model.old.tmp"}) make_folders(dir / folder);
  for (const auto& [name, bytes] : others) write_file_atomic(dir / name, bytes);
  save_copy(dir / "source", dir / "model");
  Files expected = source;
  expected["NOTES"] = "a user's";
  expected["thesis.tmp"] = "3";
  CHECK(read_folder(dir / "model") == expected && no_traces(dir));
  CHECK(read_folder(dir / "model.tmp").at("mine") == "1" && read_folder(dir / "model.old.tmp").at("mine") == "2");
  make_folders(dir / "home/photos");
  CHECK(thrown_code([&] { save_copy(dir / "source", dir / "home"); }) == "INVALID_ARGUMENT", "sub-folders would be lost");
  CHECK(names_in(dir / "home") == std::vector<std::string>{"photos"});
  CHECK(thrown_code([&] { save_copy(dir / "source", dir / "source/config.json"); }) == "INVALID_ARGUMENT");
  CHECK(thrown_code([&] { save_copy(dir / "source", dir / "source/config.json/x"); }) == "INVALID_ARGUMENT");
  CHECK(thrown_code([&] { save_copy(dir / "source", ""); }) == "INVALID_ARGUMENT");
  CHECK(symlink("model", (dir / "link").c_str()) == 0);
  save_trained(dir / "source", dir / "link");
  struct stat s;
  CHECK(lstat((dir / "link").c_str(), &s) == 0 && S_ISLNK(s.st_mode), "a link stays a link");
  CHECK(read_folder(dir / "model").at("model-00001-of-00002.safetensors") == trained(source).at("model-00001-of-00002.safetensors"));
}

TEST("io save: cancelled, thrown out of, or in each other's way: the old folder stays") {
  TempFolder dir;
  const Files source = write_small_checkpoint(dir / "model");
  for (int stop = 1; stop < 12; ++stop) {
    int left = stop;
    const Checkpoint c = Checkpoint::open(dir / "model");
    const auto poll = [&] { if (--left == 0) throw Cancelled(); };
    const std::string code = thrown_code([&] { save_checkpoint(c, dir / "model", is_w1, fill_7, poll); });
    CHECK(code == (left <= 0 ? "CANCELLED" : ""), stop, code);
    if (code.empty()) break;
    CHECK(read_folder(dir / "model") == source && no_traces(dir), stop);
    CHECK(stop < 11, "the loop reaches the end of a save");
  }
  AtomicFolder first(dir / "other");
  CHECK(thrown_code([&] { AtomicFolder second(dir / "other"); }) == "IO", "two saves at once");
}

TEST("io save: a crash between the two renames is repaired") {
  TempFolder dir;
  const Files source = write_small_checkpoint(dir / ".model.isr-dpo-000000000001.tmp");
  CHECK(Checkpoint::open(dir / "model").tensors().size() == 4);
  CHECK(read_folder(dir / "model") == source && no_traces(dir));
}

TEST("io save: no room") {
  TempFolder dir;
  const Files source = write_small_checkpoint(dir / "model");
  rlimit before;
  getrlimit(RLIMIT_FSIZE, &before);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{5000, before.rlim_max};  // the first shard has 9 kB
  setrlimit(RLIMIT_FSIZE, &small);
  const std::string over = thrown_code([&] { save_trained(dir / "model", dir / "model"); });
  const std::string fresh = thrown_code([&] { save_trained(dir / "model", dir / "new"); });
  const std::string file = thrown_code([&] { write_file_atomic(dir / "model/config.json", std::string(6000, 'x')); });
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  CHECK(over == "DISK_FULL" && fresh == "DISK_FULL" && file == "DISK_FULL", over, fresh, file);
  CHECK(read_folder(dir / "model") == source && !file_exists(dir / "new") && no_traces(dir));
  OutputFile full("/dev/full");
  CHECK(thrown_code([&] { full.write("x", 1); }) == "DISK_FULL");
}

TEST("io save: a folder that may not be written") {
  TempFolder dir;
  write_small_checkpoint(dir / "source");
  const Files source = write_small_checkpoint(dir / "closed/model");
  chmod(dir.path().c_str(), 0755);
  chmod((dir / "closed").c_str(), 0555);
  const uid_t me = geteuid();
  if (me == 0) setfsuid(65534);  // root may write anywhere; file access of this thread becomes nobody's
  std::string message, code = thrown_code([&] {
    try {
      save_copy(dir / "source", dir / "closed/model");
    } catch (const Error& e) {
      message = e.what();
      throw;
    }
  });
  const std::string fresh = thrown_code([&] { save_copy(dir / "source", dir / "closed/new"); });
  if (me == 0) setfsuid(me);
  chmod((dir / "closed").c_str(), 0755);
  CHECK(code == "IO" && fresh == "IO" && message.find("Permission denied") != std::string::npos, code, fresh, message);
  CHECK(read_folder(dir / "closed/model") == source && names_in(dir / "closed") == std::vector<std::string>{"model"});
}

TEST("io save: new files") {
  TempFolder dir;
  const std::vector<int64_t> ids{1, -2, 3};
  const auto fill = [](uint64_t begin, uint64_t count, void* dst) { std::memset(dst, static_cast<int>(begin / kSaveChunk) + 1, count); };
  const int64_t n = static_cast<int64_t>(kSaveChunk) + 9;
  const uint64_t bytes = write_safetensors(dir / "state.safetensors", {{"ids", FileDType::I64, {3}, ids.data()}, {"none", FileDType::F32, {0, 4}},
                                                                       {"big\"\n", FileDType::U8, {n}, nullptr, fill}}, {{"step", "7"}});
  CHECK(slurp(dir / "state.safetensors").size() == bytes);
  const Checkpoint c = Checkpoint::open_file(dir / "state.safetensors");
  CHECK(c.shards()[0].metadata == Metadata({{"step", "7"}}) && c.shards()[0].data_begin % 8 == 0);
  std::vector<int64_t> got(3);
  c.read(c.get("ids"), 0, 24, got.data());
  uint8_t ends[2];
  c.read(c.get("big\"\n"), kSaveChunk - 1, 2, ends);
  CHECK(got == ids && ends[0] == 1 && ends[1] == 2 && c.get("none").shape == std::vector<int64_t>({0, 4}));
  CHECK(thrown_code([&] { write_safetensors(dir / "none/x", {}); }) == "NOT_FOUND" && names_in(dir.path()).size() == 1);
}

namespace {

constexpr const char* kChild = "io save: the child of the fault tests";

std::string own_path() {
  char path[4096];
  const ssize_t n = readlink("/proc/self/exe", path, sizeof path);
  return std::string(path, static_cast<size_t>(std::max<ssize_t>(n, 0)));
}

std::string beside_me(const std::string& name) { return own_path().substr(0, own_path().find_last_of('/') + 1) + name; }

struct Way {
  const char* fault;
  bool sticky = false, reads = false, fresh = false, plain_rename = false;  // fresh: there is no folder to replace
};
struct Outcome { bool killed; std::string code; };

// Saves `source`, trained, as `model` in a child process whose k-th file operation under `dir` fails.
Outcome run_child(const TempFolder& dir, const TempFolder& outside, const Way& way, long at) {
  const std::string result = outside / "result", log = outside / "log";
  unlink(result.c_str());
  unlink(log.c_str());
  std::vector<std::string> variables{"LD_PRELOAD=" + beside_me("libisr_faults.so"), "ASAN_OPTIONS=verify_asan_link_order=0:detect_leaks=0",
                                     "ISR_FAULT_PATH=" + dir.path(), concat("ISR_FAULT=", way.fault), concat("ISR_FAULT_AT=", at),
                                     "ISR_FAULT_LOG=" + log, "ISR_IO_CHILD=" + dir.path(), "ISR_IO_RESULT=" + result};
  if (way.sticky) variables.push_back("ISR_FAULT_STICKY=1");
  if (way.reads) variables.push_back("ISR_FAULT_READS=1");
  if (way.plain_rename) variables.push_back("ISR_FAULT_PLAIN_RENAME=1");
  std::vector<char*> environment;
  for (std::string& v : variables) environment.push_back(v.data());
  environment.push_back(nullptr);
  std::string name = "native_tests", filter = kChild;
  char* arguments[] = {name.data(), filter.data(), nullptr};
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
  pid_t pid = 0;
  const int error = posix_spawn(&pid, own_path().c_str(), &actions, nullptr, arguments, environment.data());
  posix_spawn_file_actions_destroy(&actions);
  CHECK(error == 0, std::strerror(error));
  int status = 0;
  waitpid(pid, &status, 0);
  return {WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, file_exists(result) ? slurp(result) : ""};
}

long operations(const TempFolder& outside) {
  std::ifstream log(outside / "log");
  long n = 0;
  for (std::string line; std::getline(log, line);) ++n;
  return n;
}

std::string operation_of(const TempFolder& outside, long at) {
  std::ifstream log(outside / "log");
  std::string line;
  for (long i = 0; i < at; ++i) std::getline(log, line);
  return line;
}

}  // namespace

TEST(kChild) {
  const char *dir = std::getenv("ISR_IO_CHILD"), *result = std::getenv("ISR_IO_RESULT");
  if (!dir || !result) return;  // in an ordinary run there is nothing to do
  const std::string root = dir;
  std::string code = "SAVED";
  try {
    save_trained(root + "/source", root + "/model");
  } catch (const Error& e) {
    code = e.code + (e.path.rfind(root, 0) == 0 ? "" : " without its path");
  }
  std::ofstream(result) << code;
}

namespace {

// One failing operation: the folder is whole, old where the save failed and new where it did not; the next save works.
void check_fault(const TempFolder& outside, const Way& way, long at, const Files& source, const Files& after, long& failed) {
  TempFolder dir;
  write_small_checkpoint(dir / "source");
  if (!way.fresh) write_small_checkpoint(dir / "model");
  const Files before = way.fresh ? Files{} : source;
  const Outcome out = run_child(dir, outside, way, at);
  const std::string operation = operation_of(outside, at), fault = way.fault;
  const std::string where = concat(fault, way.fresh ? " fresh" : "", way.plain_rename ? " plain" : "", " at ", operation, ": ", out.code);
  const bool traces = !no_traces(dir);
  recover_folder(dir / "model");
  const Files now = file_exists(dir / "model") ? read_folder(dir / "model") : Files{};
  if (out.killed || way.sticky) {  // a disk that stays dead may refuse the undoing of a rename, too
    CHECK(now == before || now == after, where);
  } else {
    CHECK(now == (out.code == "SAVED" ? after : before), where);
    CHECK(!traces, where);
  }
  CHECK(out.killed == (fault == "KILL"), where);
  CHECK(out.killed || out.code == "SAVED" || out.code == "DISK_FULL" || out.code == "IO", where);
  if (fault == "SHORT" || fault == "EINTR") CHECK(out.code == "SAVED", "short calls and signals are no failures: ", where);
  failed += out.code != "SAVED";
  save_trained(dir / "source", dir / "model");
  CHECK(read_folder(dir / "model") == after && no_traces(dir), where);
}

}  // namespace

TEST("io save: every file operation fails once, from then on, or is the last before a kill") {
  CHECK(file_exists(beside_me("libisr_faults.so")), "build the target isr_faults beside this program");
  long cases = 0, failed = 0;
  for (const Way& way : {Way{"EIO", false, true}, Way{"ENOSPC", true}, Way{"SHORT", true, true}, Way{"EINTR", false, true}, Way{"KILL"},
                         Way{"EIO", false, false, true}, Way{"KILL", false, false, true}, Way{"EIO", false, false, false, true},
                         Way{"KILL", false, false, false, true}}) {
    TempFolder outside, probe;
    const Files source = write_small_checkpoint(probe / "source"), after = trained(source);
    if (!way.fresh) write_small_checkpoint(probe / "model");
    CHECK(run_child(probe, outside, {"none", false, way.reads, way.fresh, way.plain_rename}, 0).code == "SAVED");
    const long count = operations(outside);
    CHECK(count > 25 && count < 200, count);
    for (long at = 1; at <= count; ++at, ++cases) check_fault(outside, way, at, source, after, failed);
  }
  CHECK(failed > cases / 4, failed, " of ", cases);
}

}  // namespace isr::test
