// Elements between the float types of checkpoint files and those of the engine. Branch-free bodies, so that the
// compiler turns every loop into vector code; the results are those of core/bf16.h bit for bit.
#include <bit>
#include <cstring>

#include "core/bf16.h"
#include "io/safetensors.h"

namespace isr {
namespace {

inline float wide(uint16_t h) {  // float16: select among the three cases instead of branching
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16, rest = static_cast<uint32_t>(h & 0x7fffu) << 13;
  const uint32_t normal = rest + (112u << 23);
  const uint32_t special = rest | 0x7f800000u;
  const uint32_t small = std::bit_cast<uint32_t>(static_cast<float>(static_cast<int32_t>(h & 0x3ffu)) * 0x1p-24f);
  const uint32_t exponent = h & 0x7c00u;
  const uint32_t magnitude = exponent == 0 ? small : exponent == 0x7c00u ? special : normal;
  return std::bit_cast<float>(sign | magnitude);
}

inline uint16_t round_to_bf16(float x) {
  const uint32_t u = std::bit_cast<uint32_t>(x);
  const uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1)) >> 16, nan = (u >> 16) | 0x40;
  return static_cast<uint16_t>((u & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
}

// In two loops by way of f32, each of which is vector code of one element width.
void narrow_f16(const uint16_t* from, int64_t n, uint16_t* to) {
  constexpr int64_t kPiece = 1024;
  float piece[kPiece];
  for (int64_t at = 0; at < n; at += kPiece) {
    const int64_t m = n - at < kPiece ? n - at : kPiece;
    for (int64_t i = 0; i < m; ++i) piece[i] = wide(from[at + i]);
    for (int64_t i = 0; i < m; ++i) to[at + i] = round_to_bf16(piece[i]);
  }
}

}  // namespace

void decode(FileDType from, const void* src, int64_t n, DType to, void* dst) {
  const auto* half = static_cast<const uint16_t*>(src);
  const auto* full = static_cast<const float*>(src);
  auto* f32 = static_cast<float*>(dst);
  auto* bf16 = static_cast<uint16_t*>(dst);
  ISR_ASSERT(is_float(from) && (to == DType::F32 || to == DType::BF16), name_of(from), " to ", name_of(to));
  if (to == DType::F32) {
    if (from == FileDType::F32) std::memcpy(dst, src, static_cast<size_t>(n) * 4);
    if (from == FileDType::BF16) for (int64_t i = 0; i < n; ++i) f32[i] = bf16_to_f32(half[i]);
    if (from == FileDType::F16) for (int64_t i = 0; i < n; ++i) f32[i] = wide(half[i]);
  } else {
    if (from == FileDType::F32) for (int64_t i = 0; i < n; ++i) bf16[i] = round_to_bf16(full[i]);
    if (from == FileDType::BF16) std::memcpy(dst, src, static_cast<size_t>(n) * 2);
    if (from == FileDType::F16) narrow_f16(half, n, bf16);
  }
}

void encode(FileDType to, const float* src, int64_t n, void* dst) {
  auto* half = static_cast<uint16_t*>(dst);
  ISR_ASSERT(is_float(to), name_of(to));
  if (to == FileDType::F32) std::memcpy(dst, src, static_cast<size_t>(n) * 4);
  if (to == FileDType::BF16) for (int64_t i = 0; i < n; ++i) half[i] = round_to_bf16(src[i]);
  if (to == FileDType::F16) for (int64_t i = 0; i < n; ++i) half[i] = f32_to_f16(src[i]);
}

}  // namespace isr
