// Heartbeats between rank 0 and the others, on a thread of their own: they go on while JavaScript's thread is busy, and tell whether the
// rank's work goes on. Every beat is one record over TCP; who connects has to know the job's key.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace isr {

class Heartbeat {
 public:
  struct Sign {
    bool heard = false;              // at least once
    double silent = 0;               // seconds since something was heard, or since this began
    double stuck = 0;                // seconds for which a job of its engine has run without a sign of progress; 0: none runs, or it does
    double patience = 0;             // seconds: five times the longest that has passed between two signs of it
    bool waiting = false;            // its job waits for other ranks
  };
  virtual ~Heartbeat() = default;
  virtual int port() const = 0;
  virtual std::vector<Sign> signs() = 0;   // of all ranks on rank 0, its own at 0; elsewhere {rank 0's}
};

// key: 64 digits, the same on all ranks. Rank 0 listens at a free port of 127.0.0.1 or ::1, where `loopback` is that, else of all
// addresses. DEVICE_UNAVAILABLE: no port.
std::unique_ptr<Heartbeat> lead_heartbeat(int size, const std::string& key, const std::string& loopback);
// Connects in the background to a numeric address, for a search of a name could hold up its end; signs() tells when rank 0 was heard.
std::unique_ptr<Heartbeat> join_heartbeat(int rank, const std::string& key, const std::string& address, int port);

}  // namespace isr
