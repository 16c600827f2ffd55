// Where tensors live and in which order things happen to them. A device has one stream: kernels, copies and the end of an
// allocation take effect in the order of their calls. A call may return before it has taken effect; only download() and
// synchronize() wait (of the kernels, Backend::sample() and Backend::sum_squares()).
// The host is a device whose calls have taken effect when they return. What a device allocates may be read and written by
// its kernels and by these functions alone. Nothing is moved where bytes are 0; the host's address may be null then.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace isr {

class SideStream;

class Device {
 public:
  virtual ~Device() = default;
  virtual void* allocate(size_t bytes) = 0;                            // zeros, 64-byte aligned; OUT_OF_MEMORY
  virtual void free(void* p, size_t bytes) noexcept = 0;               // p and bytes as allocated; null is allowed
  virtual void upload(void* dst, const void* host, size_t bytes) = 0;  // `host` may change or go when it returns
  virtual void download(void* host, const void* src, size_t bytes) = 0;
  virtual void copy(void* dst, const void* src, size_t bytes) = 0;     // within the device; not overlapping
  virtual void zero(void* dst, size_t bytes) = 0;
  virtual void synchronize() = 0;
  virtual size_t memory() const = 0;                                   // bytes that jobs may plan with
  virtual bool separate_blocks() const { return false; }               // whether an arena asks for each block by itself
  virtual bool only_counts() const { return false; }                   // nothing is there to compute with: see below
  virtual int card() const { return -1; }                              // its number among the cards of this process; -1: no card
  virtual std::string card_address() const { return ""; }              // of a card: its place in the machine, the same for all processes
  virtual std::unique_ptr<SideStream> side_stream() { return nullptr; }   // of a card
};

// A stream beside those of a card's devices, for a library that has streams of CUDA's as its own: what it puts there goes on while the
// devices compute. For one thread at a time. Pieces of work are numbered 1, 2, ..., and happen in this order.
class SideStream {
 public:
  virtual ~SideStream() = default;
  virtual void* handle() = 0;                        // the driver's: a cudaStream_t
  virtual void use() = 0;                            // makes the card that of the calling thread
  virtual void begin(Device& device) = 0;            // what is put here next waits for all that a device of this card was given before
  virtual uint64_t end() = 0;                        // the number of the work that was put here since begin()
  virtual void join(Device& device, uint64_t work) = 0;   // what the device is given from now on waits for it
  virtual bool done(uint64_t work) = 0;              // does not wait
  virtual double seconds() = 0;                      // that work has taken of which done() was true
};

Device& host_device();

// A device that only counts: addresses without memory behind them, and copies that do nothing (what is downloaded is
// zeros). Later allocations may overlap earlier ones. A backend on it takes the memory that calls need and computes nothing.
// For plans (train/plan.h). OUT_OF_MEMORY where the system refuses even address space.
std::unique_ptr<Device> make_measuring_device();

}  // namespace isr
