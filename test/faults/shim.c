// Disk faults on demand, for any program: LD_PRELOAD=libisr_faults.so. Counts the file operations under one folder and
// lets the k-th fail. Node's file API goes through libc too, so this serves both languages. Operations: open, read and
// pread (with ISR_FAULT_READS=1), write, pwrite, writev, fsync, fdatasync, ftruncate, rename*, mkdir, link*, unlink, rmdir.
//   ISR_FAULT_PATH    prefix of the absolute paths that count; unset: nothing does
//   ISR_FAULT         EIO | ENOSPC | EDQUOT | EROFS | EACCES | EINTR: that error;  KILL: SIGKILL before the operation;
//                     SHORT: a write or read moves half of its bytes;  unset: count only
//   ISR_FAULT_AT      k, from 1: the operation that fails
//   ISR_FAULT_STICKY  1: all from the k-th on fail (a dead or full disk)
//   ISR_FAULT_LOG     a file outside the prefix, which gets a line per operation: number, name, path, bytes
//   ISR_FAULT_PLAIN_RENAME  1: renameat2 says EINVAL, as on a file system that cannot exchange two names
//   ISR_FAULT_COUNT   1: the number of operations goes to stderr at exit
// A program that lives on is given another plan when it opens a name that is no file: /isr-faults/plan:FAULT:K:READS:PREFIX counts
// from 1 again, /isr-faults/report:FILE writes the number of operations so far to a file.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { NONE, SHORT = -1, KILL = -2 };
static struct { const char* prefix; size_t prefix_bytes; int fault, sticky, reads, plain_rename, log; long at; } plan;
static atomic_long operations;

static int fault_of(const char* name) {
  static const struct { const char* name; int fault; } table[] = {{"EIO", EIO}, {"ENOSPC", ENOSPC}, {"EDQUOT", EDQUOT}, {"EROFS", EROFS},
      {"EACCES", EACCES}, {"EINTR", EINTR}, {"SHORT", SHORT}, {"KILL", KILL}};
  for (size_t i = 0; name && i < sizeof table / sizeof *table; ++i)
    if (strcmp(name, table[i].name) == 0) return table[i].fault;
  return NONE;
}

__attribute__((constructor)) static void read_plan(void) {
  const char *at = getenv("ISR_FAULT_AT"), *log = getenv("ISR_FAULT_LOG");
  plan.prefix = getenv("ISR_FAULT_PATH");
  plan.prefix_bytes = plan.prefix ? strlen(plan.prefix) : 0;
  plan.fault = fault_of(getenv("ISR_FAULT"));
  plan.at = at ? atol(at) : 0;
  plan.sticky = getenv("ISR_FAULT_STICKY") != NULL;
  plan.reads = getenv("ISR_FAULT_READS") != NULL;
  plan.plain_rename = getenv("ISR_FAULT_PLAIN_RENAME") != NULL;
  plan.log = log ? (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666) : -1;
}

__attribute__((destructor)) static void report(void) {
  if (getenv("ISR_FAULT_COUNT")) fprintf(stderr, "%ld file operations\n", atomic_load(&operations));
}

// Whether the name is no file but a word to this library, which is heeded then.
static int addressed(const char* path) {
  static const char name[] = "/isr-faults/", report_to[] = "report:";
  static char fault[16], prefix[4097];
  if (strncmp(path, name, sizeof name - 1) != 0) return 0;
  path += sizeof name - 1;
  if (strncmp(path, report_to, sizeof report_to - 1) == 0) {
    FILE* const file = fopen(path + sizeof report_to - 1, "w");
    if (file) fprintf(file, "%ld\n", atomic_load(&operations)), fclose(file);
    return 1;
  }
  prefix[0] = 0;
  if (sscanf(path, "plan:%15[A-Z]:%ld:%d:%4096[^\n]", fault, &plan.at, &plan.reads, prefix) < 3) abort();
  plan.fault = fault_of(fault);
  plan.prefix = prefix;
  plan.prefix_bytes = strlen(prefix);
  atomic_store(&operations, 0);
  return 1;
}

// Counts the operation if its path is ours; tells whether the fault is due.
static int due(const char* name, const char* path, size_t bytes) {
  if (!plan.prefix_bytes || strncmp(path, plan.prefix, plan.prefix_bytes) != 0) return NONE;
  const long k = atomic_fetch_add(&operations, 1) + 1;
  if (plan.log >= 0) {
    char line[4300];
    const int n = snprintf(line, sizeof line, "%ld %s %s %zu\n", k, name, path, bytes);
    if (syscall(SYS_write, plan.log, line, (size_t)(n < (int)sizeof line ? n : (int)sizeof line - 1)) < 0) plan.log = -1;
  }
  if (plan.fault == NONE || plan.at == 0 || (plan.sticky ? k < plan.at : k != plan.at)) return NONE;
  if (plan.fault == KILL) kill(getpid(), SIGKILL);
  return plan.fault;
}

static int due_at(const char* name, int folder, const char* path) {
  char full[4200], link[64];
  if (path[0] == '/') return due(name, path, 0);
  ssize_t n;
  if (folder == AT_FDCWD) {
    n = getcwd(full, 4096) ? (ssize_t)strlen(full) : -1;
  } else {
    snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
    n = readlink(link, full, 4096);
  }
  if (n < 0) return NONE;
  snprintf(full + n, sizeof full - (size_t)n, "/%s", path);
  return due(name, full, 0);
}

static int due_fd(const char* name, int fd, size_t bytes) {
  char link[64], path[4097];
  if (!plan.prefix_bytes) return NONE;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const ssize_t n = readlink(link, path, sizeof path - 1);
  if (n < 0) return NONE;
  path[n] = 0;
  return due(name, path, bytes);
}

#define REAL(type, name, ...) \
  static type (*real)(__VA_ARGS__); \
  if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name);
#define FAIL_IF(expression) \
  do { \
    const int fault_ = (expression); \
    if (fault_ > 0) return errno = fault_, -1; \
  } while (0)

#define OPEN(name) \
  int name(const char* path, int flags, ...) { \
    REAL(int, name, const char*, int, ...) \
    va_list rest; \
    va_start(rest, flags); \
    const mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
    va_end(rest); \
    if (addressed(path)) return errno = ENOENT, -1; \
    FAIL_IF(due_at("open", AT_FDCWD, path)); \
    return real(path, flags, mode); \
  }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
  int name(int folder, const char* path, int flags, ...) { \
    REAL(int, name, int, const char*, int, ...) \
    va_list rest; \
    va_start(rest, flags); \
    const mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
    va_end(rest); \
    FAIL_IF(due_at("open", folder, path)); \
    return real(folder, path, flags, mode); \
  }
OPENAT(openat)
OPENAT(openat64)

// SHORT moves half, at least one byte, so that a correct loop still ends.
#define MOVE(name, operation, reads_only, args, pass, ...) \
  ssize_t name args { \
    REAL(ssize_t, name, __VA_ARGS__) \
    const int fault = reads_only && !plan.reads ? NONE : due_fd(operation, fd, bytes); \
    FAIL_IF(fault); \
    if (fault == SHORT && bytes > 1) bytes /= 2; \
    return real pass; \
  }
MOVE(write, "write", 0, (int fd, const void* data, size_t bytes), (fd, data, bytes), int, const void*, size_t)
MOVE(pwrite, "write", 0, (int fd, const void* data, size_t bytes, off_t at), (fd, data, bytes, at), int, const void*, size_t, off_t)
MOVE(pwrite64, "write", 0, (int fd, const void* data, size_t bytes, off64_t at), (fd, data, bytes, at), int, const void*, size_t, off64_t)
MOVE(read, "read", 1, (int fd, void* data, size_t bytes), (fd, data, bytes), int, void*, size_t)
MOVE(pread, "read", 1, (int fd, void* data, size_t bytes, off_t at), (fd, data, bytes, at), int, void*, size_t, off_t)
MOVE(pread64, "read", 1, (int fd, void* data, size_t bytes, off64_t at), (fd, data, bytes, at), int, void*, size_t, off64_t)

// SHORT: the first half of the first piece only.
ssize_t writev(int fd, const struct iovec* pieces, int count) {
  REAL(ssize_t, writev, int, const struct iovec*, int)
  const int fault = due_fd("write", fd, count > 0 ? pieces[0].iov_len : 0);
  FAIL_IF(fault);
  if (fault != SHORT || count < 1 || pieces[0].iov_len < 2) return real(fd, pieces, count);
  const struct iovec half = {pieces[0].iov_base, pieces[0].iov_len / 2};
  return real(fd, &half, 1);
}

#define ON_FD(name, operation) \
  int name(int fd) { \
    REAL(int, name, int) \
    FAIL_IF(due_fd(operation, fd, 0)); \
    return real(fd); \
  }
ON_FD(fsync, "fsync")
ON_FD(fdatasync, "fsync")

#define TRUNCATE(name, offset) \
  int name(int fd, offset bytes) { \
    REAL(int, name, int, offset) \
    FAIL_IF(due_fd("ftruncate", fd, (size_t)bytes)); \
    return real(fd, bytes); \
  }
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)

#define ON_PATH(name) \
  int name(const char* path) { \
    REAL(int, name, const char*) \
    FAIL_IF(due_at(#name, AT_FDCWD, path)); \
    return real(path); \
  }
ON_PATH(unlink)
ON_PATH(rmdir)

int mkdir(const char* path, mode_t mode) {
  REAL(int, mkdir, const char*, mode_t)
  FAIL_IF(due_at("mkdir", AT_FDCWD, path));
  return real(path, mode);
}

// Two paths: an operation counts where it puts something.
int rename(const char* from, const char* to) {
  REAL(int, rename, const char*, const char*)
  FAIL_IF(due_at("rename", AT_FDCWD, to));
  return real(from, to);
}

int renameat2(int from_folder, const char* from, int to_folder, const char* to, unsigned flags) {
  REAL(int, renameat2, int, const char*, int, const char*, unsigned)
  if (plan.plain_rename && flags) return errno = EINVAL, -1;
  FAIL_IF(due_at("rename", to_folder, to));
  return real(from_folder, from, to_folder, to, flags);
}

int link(const char* from, const char* to) {
  REAL(int, link, const char*, const char*)
  FAIL_IF(due_at("link", AT_FDCWD, to));
  return real(from, to);
}

int linkat(int from_folder, const char* from, int to_folder, const char* to, int flags) {
  REAL(int, linkat, int, const char*, int, const char*, int)
  FAIL_IF(due_at("link", to_folder, to));
  return real(from_folder, from, to_folder, to, flags);
}
