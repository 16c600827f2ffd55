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
constexpr int kTries = 50;  // while others remove and make the same folder

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

// Whether the lock of an open file or folder was got; false while somebody has it.
bool try_lock(int fd, const std::string& path) {
  while (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK) return false;
    if (errno != EINTR) throw_system("could not lock", path, errno);
  }
  return true;
}

// Whether the open file or folder is what the path names now.
bool is_at(int fd, const std::string& path) {
  struct stat held, named;
  return fstat(fd, &held) == 0 && stat(path.c_str(), &named) == 0 && held.st_dev == named.st_dev && held.st_ino == named.st_ino;
}

// The folder is locked too, so that a lock file which somebody removed does not let a second holder in. Some file systems
// lock no folders: there the file alone holds.
Fd locked_folder(const std::string& dir, const std::string& lock) {
  for (int tries = 0; tries <= kTries; ++tries) {
    Fd fd(open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!fd) throw_system("could not open the lock", lock, errno);
    int result = 0;
    do result = flock(fd.get(), LOCK_EX | LOCK_NB);
    while (result != 0 && errno == EINTR);
    if (result != 0 && errno == EWOULDBLOCK) {
      const Fd text(open(lock.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
      throw_locked(text.get(), lock);
    }
    if (result != 0) return Fd();
    if (is_at(fd.get(), dir)) return fd;  // else the folder was removed, and perhaps made anew
  }
  return Fd();
}

}  // namespace

FileLock::FileLock(const std::string& path) {
  if (path.find('\0') != std::string::npos) throw Error("INVALID_ARGUMENT", "expected a path without NUL bytes");
  const size_t slash = path.find_last_of('/');
  folder_ = locked_folder(slash == std::string::npos ? "." : path.substr(0, slash + 1), path);
  for (int tries = 0;; ++tries) {
    fd_ = Fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0666));
    if (!fd_) throw_system("could not open the lock", path, errno);
    struct stat s;
    if (fstat(fd_.get(), &s) != 0) throw_system("could not stat the lock", path, errno);
    if (!S_ISREG(s.st_mode)) throw Error("IO", concat(path, ": expected a regular file, got something else"), "move it away", path);
    if (!try_lock(fd_.get(), path)) throw_locked(fd_.get(), path);
    if (is_at(fd_.get(), path) || tries == kTries) break;  // else its last holder has removed it meanwhile
  }
  // A disk too full for the text still locks: the text only serves the message.
  const std::string text = own_text();
  if (pwrite(fd_.get(), text.data(), text.size(), 0) < 0 || ftruncate(fd_.get(), static_cast<off_t>(text.size())) != 0) return;
}

}  // namespace isr
