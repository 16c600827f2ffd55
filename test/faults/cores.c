// A machine of another size, for any program: LD_PRELOAD=libisr_cores.so ISR_CORES=17. Every way in which the engine, Node and
// the C++ library ask for the number of processors says that many; the threads share those that there are.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static long cores(void) {
  const char* wish = getenv("ISR_CORES");
  const long n = wish ? atol(wish) : 0;
  return n > 0 && n <= CPU_SETSIZE ? n : 1;
}

int sched_getaffinity(pid_t pid, size_t bytes, cpu_set_t* set) {
  (void)pid;
  memset(set, 0, bytes);
  for (long i = 0; i < cores(); ++i) CPU_SET_S((size_t)i, bytes, set);
  return 0;
}

int get_nprocs(void) { return (int)cores(); }
int get_nprocs_conf(void) { return (int)cores(); }

long sysconf(int name) {
  static long (*real)(int);
  if (name == _SC_NPROCESSORS_ONLN || name == _SC_NPROCESSORS_CONF) return cores();
  if (!real) real = (long (*)(int))dlsym(RTLD_NEXT, "sysconf");
  return real(name);
}
