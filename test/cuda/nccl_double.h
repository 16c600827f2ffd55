// NCCL for emulated cards (nccl_double.cc), of threads and of processes; and what tests set of it.
#pragma once
#include <atomic>
#include <functional>
#include <map>
#include <mutex>
#include <string>

namespace isr::test {

struct NcclDouble {
  // Asked in each call: its name, and the rank of its communicator (-1: it has none). What it returns, if not 0, is what the call answers
  // instead of doing its work.
  std::function<int(const std::string& call, int rank)> answer;
  std::function<int(int rank)> state;        // what ncclCommGetAsyncError finds, if not 0
  std::atomic<int> questions{2};             // that are answered with ncclInProgress after each call
  std::atomic<int> version{22203};
  std::atomic<int> communicators{0}, aborted{0}, destroyed{0};   // that there are, and what became of the others
  std::mutex lock;
  std::map<std::string, int> calls;          // how often
};
NcclDouble& nccl_double();
void use_nccl_double();                      // from now on, as new

}  // namespace isr::test
