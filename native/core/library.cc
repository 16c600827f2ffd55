#include "core/library.h"

#include <dlfcn.h>
#include <glob.h>

#include <cstdlib>

namespace isr {
namespace {

void* open(const std::string& path, std::string& searched) {
  searched += (searched.empty() ? "" : ", ") + path;
  return dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
}

// Files of a pattern of folders, newest name last.
std::vector<std::string> matching(const std::string& pattern) {
  std::vector<std::string> all;
  glob_t found{};
  if (glob(pattern.c_str(), 0, nullptr, &found) == 0)
    for (size_t i = 0; i < found.gl_pathc; ++i) all.emplace_back(found.gl_pathv[i]);
  globfree(&found);
  return all;
}

void* find(const LibrarySearch& s, std::string& searched) {
  if (const char* given = std::getenv(s.variable); given && *given) return open(given, searched);
  for (const std::string& name : s.files)
    if (void* p = open(name, searched)) return p;
  std::vector<std::string> folders{"/usr/local/cuda/lib64", "/usr/local/cuda-1[23]*/lib64", "/usr/lib/x86_64-linux-gnu"};
  for (const char* name : {"VIRTUAL_ENV", "CONDA_PREFIX"})
    if (const char* root = std::getenv(name); root && *root)
      for (const std::string& wheel : s.wheels) folders.push_back(concat(root, "/lib/python3*/site-packages/nvidia/", wheel, "/lib"));
  for (const std::string& folder : folders)
    for (const std::string& path : matching(folder + "/" + s.pattern))
      if (void* p = open(path, searched)) return p;
  for (const std::string& folder : folders) searched += ", " + folder;
  return nullptr;
}

}  // namespace

void* open_library(const LibrarySearch& search) {
  std::string searched;
  if (void* const found = find(search, searched)) return found;
  throw Error("DEVICE_UNAVAILABLE", concat(search.name, " was not found in ", searched), concat(search.hint, ", or name the file in ", search.variable));
}

void* function_of(void* library, const char* name, const LibrarySearch& search) {
  if (void* const f = dlsym(library, name)) return f;
  throw Error("DEVICE_UNAVAILABLE", concat(search.name, ": the library that was found has no ", name), search.hint);
}

std::string file_of(const void* function) {
  Dl_info from{};
  dladdr(function, &from);
  return from.dli_fname ? from.dli_fname : "an unnamed file";
}

}  // namespace isr
