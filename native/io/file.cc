#include "io/file.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstring>
#include <memory>

namespace isr {
namespace {

constexpr size_t kLargestCall = size_t{1} << 30;  // Linux moves at most 2 GiB - 4 KiB a call
constexpr size_t kCopyChunk = size_t{4} << 20;

// A signal may interrupt any call, even open on a network disk.
template <class F>
auto again(F&& call) {
  for (;;)
    if (const auto result = call(); result != -1 || errno != EINTR) return result;
}

std::string parent_of(const std::string& path) {
  const size_t slash = path.find_last_of('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

Fd open_again(const std::string& path, int flags) {
  return Fd(again([&] { return open(path.c_str(), flags | O_CLOEXEC, 0666); }));
}

Fd open_folder(const std::string& path) { return open_again(path, O_RDONLY | O_DIRECTORY); }

void sync_fd(int fd, const std::string& path) {
  if (again([&] { return fsync(fd); }) != 0) throw_system("could not sync", path, errno);
}

// A rename is durable once its folder is. Some file systems have no fsync for folders and say EINVAL.
void sync_folder(const std::string& path) {
  const Fd folder = open_folder(path);
  if (!folder) throw_system("could not open the folder", path, errno);
  if (again([&] { return fsync(folder.get()); }) != 0 && errno != EINVAL && errno != ENOTSUP)
    throw_system("could not sync the folder", path, errno);
}

bool renamed(const std::string& from, const std::string& to) {
  return again([&] { return rename(from.c_str(), to.c_str()); }) == 0;
}

void rename_or_throw(const std::string& from, const std::string& to) {
  if (!renamed(from, to)) throw_system("could not put in place", to, errno);
}

bool is_folder(const std::string& path) {
  struct stat s;
  return stat(path.c_str(), &s) == 0 && S_ISDIR(s.st_mode);
}

const char* kind_of(mode_t mode) {
  return S_ISDIR(mode) ? "a folder" : S_ISFIFO(mode) ? "a FIFO" : S_ISSOCK(mode) ? "a socket" : "a device";
}

std::string without_slashes(std::string dir) {
  while (dir.size() > 1 && dir.back() == '/') dir.pop_back();
  return dir;
}

// The path with links resolved, so that a link to a folder survives a save and its target is replaced.
std::string resolved(const std::string& dir) {
  const std::unique_ptr<char, void (*)(void*)> full(realpath(dir.c_str(), nullptr), free);
  return full ? std::string(full.get()) : without_slashes(dir);
}

// What is not finished stands beside its place under a name that no other program gives: .NAME.isr-dpo-<12 digits>.tmp, by
// which a run's start knows it too (src/base/output-path.ts). Number 0 is being written, 1 is what a save has just replaced.
std::string temporary_of(const std::string& path, int number) {
  const size_t slash = path.rfind('/') + 1;  // npos + 1: 0
  return concat(path.substr(0, slash), ".", path.substr(slash), ".isr-dpo-00000000000", number, ".tmp");
}

// Twice, since one failed call need not leave anything behind; what still stays is removed by the next save.
void remove_quietly(const std::string& path) {
  for (int attempt = 0; attempt < 2; ++attempt) try {
      return remove_tree(path);
    } catch (const Error&) {
    }
}

// The system's calls would end the path there and open another file.
const std::string& without_nul(const std::string& path) {
  if (path.find('\0') != std::string::npos) throw Error("INVALID_ARGUMENT", "expected a path without NUL bytes");
  return path;
}

// Keeps two saves into one folder apart. File systems without locks count as free.
Fd lock_folder(const std::string& path) {
  Fd folder = open_folder(path);
  if (!folder) throw_system("could not open the folder", path, errno);
  if (flock(folder.get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
    throw Error("IO", concat(path, ": another save into this folder is under way"), "wait for it, or save elsewhere", path);
  return folder;
}

}  // namespace

void throw_system(const char* what, const std::string& path, int error) {
  const bool full = error == ENOSPC || error == EDQUOT || error == EFBIG;
  const bool missing = error == ENOENT || error == ENOTDIR;
  const char* hint = full                                   ? "free disk space or choose another disk, then repeat"
                     : error == EACCES || error == EPERM    ? "check the permissions of the path"
                     : error == EROFS                       ? "the file system is read-only: choose another folder"
                     : error == EMFILE || error == ENFILE   ? "raise the limit on open files (ulimit -n)"
                                                            : "";
  const char* code = full ? "DISK_FULL" : missing ? "NOT_FOUND" : "IO";
  throw Error(code, concat(what, " ", path, ": ", std::strerror(error)), hint, path);
}

// O_NONBLOCK: a FIFO without a writer must not hang the open; it means nothing for regular files.
InputFile::InputFile(std::string path, const char* code)
    : fd_(open_again(without_nul(path), O_RDONLY | O_NONBLOCK | O_NOCTTY)), path_(std::move(path)), code_(code) {
  if (!fd_) throw_system("could not open", path_, errno);
  struct stat s;
  if (fstat(fd_.get(), &s) != 0) throw_system("could not stat", path_, errno);
  if (!S_ISREG(s.st_mode))
    throw Error(code_, concat(path_, ": expected a regular file, got ", kind_of(s.st_mode)), {}, path_);
  size_ = static_cast<uint64_t>(s.st_size);
}

void InputFile::read_exact(void* dst, size_t bytes, uint64_t offset) const {
  char* to = static_cast<char*>(dst);
  while (bytes > 0) {
    const ssize_t n = again([&] { return pread(fd_.get(), to, std::min(bytes, kLargestCall), static_cast<off_t>(offset)); });
    if (n < 0) throw_system("could not read", path_, errno);
    if (n == 0)
      throw Error(code_, concat(path_, ": the file ends at byte ", offset, ", ", bytes, " bytes too early"),
                  "it was cut short, or is being changed by another program", path_);
    to += n;
    bytes -= static_cast<size_t>(n);
    offset += static_cast<uint64_t>(n);
  }
}

std::string read_file(const std::string& path, size_t max_bytes, const char* code) {
  const InputFile file(path, code);
  if (file.size() > max_bytes)
    throw Error(code, concat(path, ": expected at most ", max_bytes, " bytes, got ", file.size()), {}, path);
  std::string bytes(static_cast<size_t>(file.size()), '\0');
  file.read_exact(bytes.data(), bytes.size(), 0);
  return bytes;
}

OutputFile::OutputFile(std::string path)
    : fd_(open_again(without_nul(path), O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW)), path_(std::move(path)) {
  if (!fd_) throw_system("could not create", path_, errno);
}

void OutputFile::write(const void* data, size_t bytes) {
  const char* from = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t n = again([&] { return ::write(fd_.get(), from, std::min(bytes, kLargestCall)); });
    if (n < 0) throw_system("could not write", path_, errno);
    if (n == 0) throw_system("could not write", path_, EIO);  // never for a regular file; an error beats an endless loop
    from += n;
    bytes -= static_cast<size_t>(n);
    written_ += static_cast<uint64_t>(n);
  }
}

void OutputFile::finish() {
  sync_fd(fd_.get(), path_);
  fd_ = Fd();
}

AtomicFile::AtomicFile(std::string path) : path_(std::move(path)), out_(temporary_of(path_, 0)) {}

AtomicFile::~AtomicFile() {
  if (!done_) remove_quietly(out_.path());
}

void AtomicFile::commit() {
  out_.finish();
  rename_or_throw(out_.path(), path_);
  done_ = true;
  sync_folder(parent_of(path_));
}

void write_file_atomic(const std::string& path, std::string_view bytes) {
  AtomicFile file(path);
  file.write(bytes);
  file.commit();
}

AtomicFolder::AtomicFolder(const std::string& dir, std::function<bool(const std::string&)> keep) : keep_(std::move(keep)) {
  if (dir.empty()) throw Error("INVALID_ARGUMENT", "expected a folder to save into, got an empty path");
  recover_folder(without_nul(dir));
  dir_ = resolved(dir);
  tmp_ = temporary_of(dir_, 0);
  parent_ = parent_of(dir_);
  if (file_exists(dir_)) {
    if (!is_folder(dir_)) throw Error("INVALID_ARGUMENT", concat(dir_, ": expected a folder, got a file"), {}, dir_);
    for (const FolderEntry& e : list_folder(dir_))
      if (e.folder)
        throw Error("INVALID_ARGUMENT", concat(dir_, " holds the sub-folder ", e.name, ", which replacing it would lose"),
                    "save to a new folder, or move the sub-folder away", dir_);
  }
  make_folders(parent_);
  const bool made = again([&] { return mkdir(tmp_.c_str(), 0777); }) == 0;
  if (!made && errno != EEXIST) throw_system("could not make the folder", tmp_, errno);
  if (!is_folder(tmp_)) throw Error("IO", concat(tmp_, ": expected a folder or nothing, got a file"), "move it away", tmp_);
  try {
    lock_ = lock_folder(tmp_);  // not made here: left by a crash, or in use; then this throws
  } catch (const Error&) {
    if (made) rmdir(tmp_.c_str());
    throw;
  }
  for (const FolderEntry& e : list_folder(tmp_)) remove_tree(tmp_ + "/" + e.name);
  if (file_exists(dir_)) remove_quietly(temporary_of(dir_, 1));
}

AtomicFolder::~AtomicFolder() {
  if (!done_) remove_quietly(tmp_);
}

void AtomicFolder::commit() {
  const bool replace = file_exists(dir_);
  if (replace) keep_old_files();
  sync_folder(tmp_);
  if (replace) {
    swap_in();
  } else {
    rename_or_throw(tmp_, dir_);
    sync_or_undo([&] { renamed(dir_, tmp_); });
  }
  done_ = true;
}

void AtomicFolder::keep_old_files() {
  old_lock_ = lock_folder(dir_);
  for (const FolderEntry& e : list_folder(dir_)) {
    if (!e.regular || !keep_ || !keep_(e.name) || file_exists(file(e.name))) continue;
    const std::string from = dir_ + "/" + e.name, to = file(e.name);
    if (linkat(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), AT_SYMLINK_FOLLOW) != 0) copy_file(from, to);
  }
}

// Once a rename may be lost with the power, the caller must not be told that the new folder is there.
void AtomicFolder::sync_or_undo(const std::function<void()>& undo) {
  try {
    sync_folder(parent_);
  } catch (const Error&) {
    undo();
    throw;
  }
}

void AtomicFolder::swap_in() {
#ifdef RENAME_EXCHANGE
  const auto exchange = [&] {
    return again([&] { return renameat2(AT_FDCWD, tmp_.c_str(), AT_FDCWD, dir_.c_str(), RENAME_EXCHANGE); });
  };
  if (exchange() == 0) {
    sync_or_undo(exchange);
    return remove_quietly(tmp_);  // now the old folder
  }
  if (errno != EINVAL && errno != ENOSYS) throw_system("could not replace", dir_, errno);
#endif
  const std::string old = temporary_of(dir_, 1);
  remove_tree(old);
  rename_or_throw(dir_, old);
  const auto put_back = [&] { renamed(old, dir_); };
  if (!renamed(tmp_, dir_)) {
    const int error = errno;
    put_back();
    throw_system("could not put in place", dir_, error);
  }
  sync_or_undo([&] {
    renamed(dir_, tmp_);
    put_back();
  });
  remove_quietly(old);
}

void recover_folder(const std::string& dir) {
  const std::string path = without_slashes(dir), old = temporary_of(path, 1);
  if (!file_exists(path) && is_folder(old)) rename_or_throw(old, path);
}

std::vector<FolderEntry> list_folder(const std::string& dir) {
  const std::unique_ptr<DIR, int (*)(DIR*)> folder(opendir(dir.c_str()), closedir);
  if (!folder) throw_system("could not open the folder", dir, errno);
  std::vector<FolderEntry> entries;
  for (errno = 0; const dirent* e = readdir(folder.get()); errno = 0) {
    const std::string name = e->d_name;
    if (name == "." || name == "..") continue;
    struct stat s;
    const bool known = fstatat(dirfd(folder.get()), e->d_name, &s, 0) == 0;
    entries.push_back({name, known && S_ISREG(s.st_mode), known && S_ISDIR(s.st_mode)});
  }
  if (errno != 0) throw_system("could not list the folder", dir, errno);
  std::sort(entries.begin(), entries.end(), [](const FolderEntry& a, const FolderEntry& b) { return a.name < b.name; });
  return entries;
}

bool file_exists(const std::string& path) {
  struct stat s;
  return stat(path.c_str(), &s) == 0;
}

bool is_temporary(const std::string& name) {
  constexpr std::string_view mark = ".isr-dpo-", end = ".tmp";
  constexpr size_t digits = 12, tail = mark.size() + digits + end.size();
  if (name.size() < tail + 2 || name[0] != '.' || !name.ends_with(end)) return false;
  const std::string_view rest = std::string_view(name).substr(name.size() - tail);
  return rest.starts_with(mark) && rest.substr(mark.size(), digits).find_first_not_of("0123456789abcdef") == rest.npos;
}

void make_folders(const std::string& dir) {
  if (is_folder(dir)) return;
  const std::string parent = parent_of(dir);
  if (parent != dir) make_folders(parent);
  if (again([&] { return mkdir(dir.c_str(), 0777); }) == 0 || (errno == EEXIST && is_folder(dir))) return;
  if (errno == EEXIST) throw Error("INVALID_ARGUMENT", concat(dir, ": expected a folder, got a file"), {}, dir);
  throw_system("could not make the folder", dir, errno);
}

void remove_tree(const std::string& path) {
  struct stat s;
  if (lstat(path.c_str(), &s) != 0) {
    if (errno == ENOENT) return;
    throw_system("could not remove", path, errno);
  }
  if (S_ISDIR(s.st_mode)) {
    for (const FolderEntry& e : list_folder(path)) remove_tree(path + "/" + e.name);
    if (again([&] { return rmdir(path.c_str()); }) != 0) throw_system("could not remove", path, errno);
  } else if (again([&] { return unlink(path.c_str()); }) != 0) {
    throw_system("could not remove", path, errno);
  }
}

uint64_t copy_file(const std::string& from, const std::string& to, const std::function<void()>& poll) {
  const InputFile in(from);
  OutputFile out(to);
  std::vector<char> chunk(static_cast<size_t>(std::min<uint64_t>(std::max<uint64_t>(in.size(), 1), kCopyChunk)));
  for (uint64_t at = 0; at < in.size(); at += chunk.size()) {
    if (poll) poll();
    const size_t n = static_cast<size_t>(std::min<uint64_t>(chunk.size(), in.size() - at));
    in.read_exact(chunk.data(), n, at);
    out.write(chunk.data(), n);
  }
  out.finish();
  return in.size();
}

}  // namespace isr
