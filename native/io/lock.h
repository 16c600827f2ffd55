// A lock that a process holds for its life: flock on an open file, so the kernel frees it however the holder ends.
#pragma once
#include <string>

#include "io/file.h"

namespace isr {

// Held until destruction. Programs started later do not inherit it.
class FileLock {
 public:
  // Creates the file where it is missing; its folder is locked with it. RUN_LOCKED, naming the holder, while another process or another FileLock has
  // it. The text in the file ("host pid boot-id since") serves that message only and stays when the lock is free.
  explicit FileLock(const std::string& path);

 private:
  Fd folder_;
  Fd fd_;
};

}  // namespace isr
