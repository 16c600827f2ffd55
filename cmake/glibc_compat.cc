// Of a shipped binary alone (prebuild.cmake): what the engine and the static libstdc++ ask of glibc and glibc 2.28 has not,
// under any version. Hidden, so that nobody else finds it.
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
