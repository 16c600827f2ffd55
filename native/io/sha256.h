// SHA-256 (FIPS 180-4), streaming. Uses the processor's SHA instructions where it has them.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace isr {

class Sha256 {
 public:
  using Digest = std::array<uint8_t, 32>;
  explicit Sha256(bool portable = false);  // portable: without the SHA instructions (tests compare both)
  void update(const void* data, size_t bytes);
  void update(std::string_view text) { update(text.data(), text.size()); }
  Digest digest();  // ends the message; the object is not used afterwards
  std::string hex();

 private:
  using Compress = void (*)(uint32_t state[8], const uint8_t* blocks, size_t count);
  Compress compress_;
  uint32_t state_[8];
  uint8_t block_[64];
  size_t filled_ = 0;
  uint64_t bytes_ = 0;
};

std::string sha256_hex(std::string_view bytes);

}  // namespace isr
