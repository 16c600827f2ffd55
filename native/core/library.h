// Shared libraries of others that are opened when they are first needed: where they are looked for, and what they have to have.
#pragma once
#include <string>
#include <vector>

#include "core/error.h"

namespace isr {

struct LibrarySearch {
  const char* name;                    // for people: "cuBLASLt"
  const char* variable;                // of the environment: the file itself; nothing else is looked for then
  std::vector<std::string> files;      // for the system's search
  std::string pattern;                 // of file names in folders
  std::vector<std::string> wheels;     // folders of site-packages/nvidia
  const char* hint;                    // how to get it
};

// DEVICE_UNAVAILABLE: it is nowhere; the message has all places.
void* open_library(const LibrarySearch& search);
std::string file_of(const void* function);   // that it was loaded from

// DEVICE_UNAVAILABLE: the library has no such function.
void* function_of(void* library, const char* name, const LibrarySearch& search);
template <class F>
void bind(void* library, const char* name, F*& to, const LibrarySearch& search) {
  to = reinterpret_cast<F*>(function_of(library, name, search));
}

}  // namespace isr
