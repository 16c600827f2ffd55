// Frames to pixel values, equal to the families' own image processors. Resampling of bytes follows Pillow 13 (8-bit
// fixed point with 22 fraction bits, its order of passes), that of floats follows torch without antialiasing.
// Knows nothing of files, videos or models.
#pragma once
#include <array>
#include <cstdint>
#include <span>
#include <string>

namespace isr {

struct Image {                // (height, width, 3) bytes, RGB
  const uint8_t* data = nullptr;
  int64_t height = 0, width = 0;
};

enum class ImageRecipe {
  Clip,                       // bicubic to the shortest edge, centre crop, normalise                         (n, 3, crop, crop)
  SiglipSmol,                 // Lanczos to the longest edge, Lanczos to a square, normalise                  (n, 3, size, size)
  Qwen2Vl,                    // bicubic to multiples of patch * merge; patches of two frames      (patches, 3 * 2 * patch * patch)
  LanguageBind,               // normalise, bilinear to the shortest edge, centre crop                        (3, n, crop, crop)
  LanguageBindImage,          // normalise, bicubic (a = -0.75, no antialiasing), centre crop                 (3, n, crop, crop)
};
ImageRecipe image_recipe_of(const std::string& name);   // "clip", "siglip_smol", "qwen2_vl", "languagebind", "languagebind_image"

struct ImageConfig {
  ImageRecipe recipe = ImageRecipe::Clip;
  int64_t size = 0;           // edge to resize to; unused by Qwen2Vl
  int64_t crop = 0;           // edge of the centre crop; 0: size
  bool exact = false;         // Clip: resize to size x size without regard to the ratio
  int64_t patch = 14, merge = 2, min_pixels = 56 * 56, max_pixels = 28 * 28 * 1280;   // Qwen2Vl
  std::array<float, 3> mean{}, std{};
};

struct ImagePlan {
  int64_t frames = 0, height = 0, width = 0;    // of `resized`
  std::array<int64_t, 3> grid{};                // Qwen2Vl: times, rows and columns of patches
  int64_t elements = 0;                         // of `pixels`
};

constexpr int64_t kMaxImageSide = 16384, kMaxImagePixels = int64_t{1} << 27, kMaxImageFrames = 4096;

// Checks sizes and settings (INVALID_ARGUMENT) and says what the result's sizes are. Frames may differ in size where the
// recipe gives them one size.
ImagePlan plan_images(std::span<const Image> frames, const ImageConfig& config);

// pixels: see ImageRecipe; resized: (n, height, width, 3) bytes before scaling and normalisation, may be null.
// LanguageBind interpolates normalised floats; its `resized` holds the same interpolation of the bytes, rounded.
void preprocess_images(float* pixels, uint8_t* resized, std::span<const Image> frames, const ImageConfig& config,
                       const ImagePlan& plan, int threads);

}  // namespace isr
