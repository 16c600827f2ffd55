// Counter-based random numbers (Philox 4x32-10, Salmon et al. 2011): a draw is a pure function of key and counter,
// so it depends on neither batch, order, threads nor resume.
#pragma once
#include <array>
#include <cstdint>
#include <string_view>

namespace isr {

struct Philox {
  uint32_t key[2];
  explicit Philox(uint64_t seed) : key{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)} {}

  std::array<uint32_t, 4> operator()(uint64_t hi, uint64_t lo) const {
    std::array<uint32_t, 4> c{static_cast<uint32_t>(lo), static_cast<uint32_t>(lo >> 32), static_cast<uint32_t>(hi),
                              static_cast<uint32_t>(hi >> 32)};
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; ++round) {
      const uint64_t p0 = 0xD2511F53ull * c[0], p1 = 0xCD9E8D57ull * c[2];
      c = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<uint32_t>(p1),
           static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k1, static_cast<uint32_t>(p0)};
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    return c;
  }
};

inline float unit_float(uint32_t x) { return static_cast<float>(x >> 8) * 0x1p-24f; }  // [0, 1)
inline double unit_double(uint32_t hi, uint32_t lo) {                                   // [0, 1)
  return static_cast<double>((static_cast<uint64_t>(hi) << 21) | (lo >> 11)) * 0x1p-53;
}

// FNV-1a with a final mix: names of streams to 64 bits.
inline uint64_t hash64(std::string_view s, uint64_t h = 0xcbf29ce484222325ull) {
  for (unsigned char ch : s) h = (h ^ ch) * 0x100000001b3ull;
  h ^= h >> 32;
  h *= 0xd6e8feb86659fd93ull;
  return h ^ (h >> 32);
}

}  // namespace isr
