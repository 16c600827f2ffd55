#include "io/lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <ctime>
#include <sstream>
#include <thread>

namespace isr {
namespace {

constexpr size_t kLargestText = 512;
constexpr auto kTextDelay = std::chrono::milliseconds(5);  // a holder writes its text just after it got the lock
constexpr int kTextTries = 20;

std::string text_of(int fd) {
  char text[kLargestText];
  const ssize_t n = pread(fd, text, sizeof text, 0);
  return std::string(text, n > 0 ? static_cast<size_t>(n) : 0);
}

std::string boot_id() {
  const Fd fd(open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC));
  const std::string text = fd ? text_of(fd.get()) : "";
  return text.empty() ? "unknown" : text.substr(0, text.find('\n'));
}

// "host pid boot-id since": none of the words holds a space.
std::string own_text() {
  char host[256] = {}, since[32] = {};
  if (gethostname(host, sizeof host - 1) != 0 || host[0] == 0) host[0] = '?';
  const time_t now = time(nullptr);
  tm parts;
  if (gmtime_r(&now, &parts)) strftime(since, sizeof since, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return concat(host, " ", getpid(), " ", boot_id(), " ", since, "\n");
}

// Bytes of the file that a terminal would obey are not shown.
std::string printable(std::string word) {
  for (char& c : word)
    if (c < 0x21 || c > 0x7e) c = '?';
  return word;
}

[[noreturn]] void throw_locked(int fd, const std::string& path) {
  std::string text = text_of(fd);
  for (int i = 0; i < kTextTries && text.find('\n') == std::string::npos; ++i) {
    std::this_thread::sleep_for(kTextDelay);
    text = text_of(fd);
  }
  std::istringstream words(text);
  std::string host = "an unknown host", pid = "?", boot, since = "an unknown time";
  if (words >> host >> pid >> boot >> since) {
    host = printable(host);
    pid = printable(pid);
    since = printable(since);
  }
  throw Error("RUN_LOCKED", concat(path, ": expected a free lock, got one held by process ", pid, " on ", host, " since ", since),
              "wait until that process has ended, or use another folder", path);
}

}  // namespace

FileLock::FileLock(const std::string& path) {
  if (path.find('\0') != std::string::npos) throw Error("INVALID_ARGUMENT", "expected a path without NUL bytes");
  fd_ = Fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0666));
  if (!fd_) throw_system("could not open the lock", path, errno);
  struct stat s;
  if (fstat(fd_.get(), &s) != 0) throw_system("could not stat the lock", path, errno);
  if (!S_ISREG(s.st_mode)) throw Error("IO", concat(path, ": expected a regular file, got something else"), "move it away", path);
  while (flock(fd_.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK) throw_locked(fd_.get(), path);
    if (errno != EINTR) throw_system("could not lock", path, errno);
  }
  // A disk too full for the text still locks: the text only serves the message.
  const std::string text = own_text();
  if (ftruncate(fd_.get(), 0) != 0 || pwrite(fd_.get(), text.data(), text.size(), 0) < 0) return;
}

}  // namespace isr
