// Of a shipped binary alone (prebuild.cmake): what the engine and the static libstdc++ ask of glibc and glibc 2.28 has not,
// under any version. Hidden, so that nobody else finds it.
#include <pthread.h>
#include <time.h>

#include <cstddef>

#define HIDDEN extern "C" __attribute__((visibility("hidden")))

extern "C" int __fxstat64(int, int, void*);
extern "C" int __xstat64(int, const char*, void*);
extern "C" int __lxstat64(int, const char*, void*);
extern "C" int __fxstatat(int, int, const char*, void*, int);
extern "C" int getentropy(void*, std::size_t);

constexpr int kStatVersion = 1;   // of struct stat on x86-64, where stat and stat64 are the same

HIDDEN char __libc_single_threaded;
char __libc_single_threaded = 0;   // false costs a locked instruction a reference count, and is always right

HIDDEN int fstat64(int file, void* out) { return __fxstat64(kStatVersion, file, out); }
HIDDEN int fstat(int file, void* out) { return __fxstat64(kStatVersion, file, out); }
HIDDEN int stat64(const char* path, void* out) { return __xstat64(kStatVersion, path, out); }
HIDDEN int stat(const char* path, void* out) { return __xstat64(kStatVersion, path, out); }
HIDDEN int lstat64(const char* path, void* out) { return __lxstat64(kStatVersion, path, out); }
HIDDEN int lstat(const char* path, void* out) { return __lxstat64(kStatVersion, path, out); }
HIDDEN int fstatat64(int folder, const char* path, void* out, int flags) { return __fxstatat(kStatVersion, folder, path, out, flags); }
HIDDEN int fstatat(int folder, const char* path, void* out, int flags) { return __fxstatat(kStatVersion, folder, path, out, flags); }
HIDDEN unsigned arc4random() {
  unsigned value = 0;
  if (getentropy(&value, sizeof value) != 0) __builtin_trap();
  return value;
}

// Waits that steady clocks bound (glibc 2.30). A step of the wall clock inside of one moves its end; who waits looks at its own clock then.
HIDDEN int pthread_cond_clockwait(pthread_cond_t* condition, pthread_mutex_t* mutex, clockid_t clock, const timespec* until) {
  constexpr long kSecond = 1000000000;
  timespec now{}, wall{};
  clock_gettime(clock, &now);
  clock_gettime(CLOCK_REALTIME, &wall);
  wall.tv_sec += until->tv_sec - now.tv_sec;
  wall.tv_nsec += until->tv_nsec - now.tv_nsec;
  if (wall.tv_nsec < 0) wall.tv_nsec += kSecond, --wall.tv_sec;
  if (wall.tv_nsec >= kSecond) wall.tv_nsec -= kSecond, ++wall.tv_sec;
  return pthread_cond_timedwait(condition, mutex, &wall);
}
