// FileLock: one holder at a time, named to the others; free once the holder is gone.
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <memory>

#include "io/lock.h"
#include "io_files.h"

namespace isr::test {

TEST("io lock: one holder, named to the second, free after it") {
  const TempFolder dir;
  const std::string path = dir / "lock";
  auto first = std::make_unique<FileLock>(path);
  try {
    FileLock second(path);
    CHECK(false, "a second lock was given");
  } catch (const Error& e) {
    const std::string message = e.what();
    CHECK(e.code == "RUN_LOCKED" && e.path == path && !e.hint.empty(), e.code);
    CHECK(message.find(concat("process ", getpid(), " on ")) != std::string::npos, message);
    CHECK(message.find(" since 20") != std::string::npos, message);
  }
  first.reset();
  const FileLock again(path);
}

TEST("io lock: a child that runs another program does not keep it") {
  const TempFolder dir;
  const std::string path = dir / "lock";
  auto held = std::make_unique<FileLock>(path);
  int started[2];
  CHECK(pipe2(started, O_CLOEXEC) == 0);
  const pid_t program = fork();
  if (program == 0) {
    execl("/bin/sleep", "sleep", "30", nullptr);
    _exit(127);
  }
  close(started[1]);
  char byte;
  CHECK(read(started[0], &byte, 1) == 0, "the pipe closes when the other program runs");
  close(started[0]);
  held.reset();
  const FileLock again(path);
  CHECK(waitpid(program, nullptr, WNOHANG) == 0, "it still runs");
  kill(program, SIGKILL);
  CHECK(waitpid(program, nullptr, 0) == program);
}

TEST("io lock: what is no regular file is refused, and no folder is not found") {
  const TempFolder dir;
  CHECK(mkfifo((dir / "fifo").c_str(), 0600) == 0);
  CHECK(symlink("elsewhere", (dir / "link").c_str()) == 0);
  CHECK(thrown_code([&] { FileLock lock(dir / "fifo"); }) == "IO");
  CHECK(thrown_code([&] { FileLock lock(dir / "link"); }) == "IO");
  CHECK(thrown_code([&] { FileLock lock(dir.path()); }) == "IO");
  CHECK(thrown_code([&] { FileLock lock(dir / "none/lock"); }) == "NOT_FOUND");
  CHECK(thrown_code([&] { FileLock lock(std::string("a\0b", 3)); }) == "INVALID_ARGUMENT");
}

}  // namespace isr::test
