// Frames to pixel values: bytes against checksums of Pillow's results, layouts against their formulas, limits.
// The golden files of the families' processors and the float64 reference are read by test/video-preprocess.test.ts.
#include <algorithm>
#include <cstring>
#include <utility>

#include "check.h"
#include "kernels/image.h"

namespace isr::test {
namespace {

std::vector<uint8_t> noise(int64_t height, int64_t width) {
  std::vector<uint8_t> bytes(static_cast<size_t>(height * width * 3));
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(((i + 1) * 2654435761u & 0xffffffffu) >> 24);
  return bytes;
}

uint64_t fnv(const std::vector<uint8_t>& bytes) {
  uint64_t x = 0xcbf29ce484222325ull;
  for (uint8_t b : bytes) x = (x ^ b) * 0x100000001b3ull;
  return x;
}

ImageConfig config_of(ImageRecipe recipe, int64_t size, int64_t crop = 0) {
  ImageConfig c;
  c.recipe = recipe;
  c.size = size;
  c.crop = crop;
  c.mean = {0.5f, 0.25f, 0.125f};
  c.std = {0.5f, 2, 4};
  return c;
}

struct Result {
  ImagePlan plan;
  std::vector<float> pixels;
  std::vector<uint8_t> resized;
};

Result run(const std::vector<Image>& frames, const ImageConfig& c, int threads = 1) {
  Result r{plan_images(frames, c), {}, {}};
  r.pixels.assign(static_cast<size_t>(r.plan.elements), NAN);   // what is not written stays NaN
  r.resized.resize(static_cast<size_t>(r.plan.frames * r.plan.height * r.plan.width * 3));
  preprocess_images(r.pixels.data(), r.resized.data(), frames, c, r.plan, threads);
  return r;
}

float value(const ImageConfig& c, uint8_t byte, size_t channel) {
  return (static_cast<float>(byte / 255.0) - c.mean[channel]) / c.std[channel];
}

}  // namespace

TEST("image: the bytes that Pillow 13 gives") {
  struct Row { ImageRecipe recipe; int64_t height, width, size, crop; uint64_t sum; };
  const Row rows[] = {
      {ImageRecipe::Clip, 40, 53, 28, 28, 0x18228d69dc3b8209ull},
      {ImageRecipe::Clip, 53, 40, 28, 20, 0xf454b24b50c0a4faull},
      {ImageRecipe::Clip, 200, 31, 28, 28, 0xdd49361e2c4b2cf2ull},
      {ImageRecipe::Clip, 300, 20, 17, 9, 0xf61ca409d139e1d2ull},
      {ImageRecipe::Clip, 31, 200, 28, 28, 0xc76169fe8da11acfull},
      {ImageRecipe::Clip, 9, 9, 64, 64, 0x9237d3236d12a849ull},
      {ImageRecipe::Clip, 1, 50, 32, 32, 0xae9d6938d9295b65ull},
      {ImageRecipe::Clip, 97, 8, 64, 33, 0x291503b69e3671e6ull},
      {ImageRecipe::Clip, 333, 250, 224, 224, 0x82753cf42e657d49ull},
      {ImageRecipe::SiglipSmol, 40, 61, 28, 28, 0xe326f78357b6eb1eull},
      {ImageRecipe::SiglipSmol, 90, 33, 56, 56, 0xb0a5b2b1efe0ab12ull},
      {ImageRecipe::SiglipSmol, 300, 20, 64, 64, 0x003a136358306bd7ull},
      {ImageRecipe::SiglipSmol, 20, 300, 64, 64, 0xb2c6f5c8a8e63f21ull},
      {ImageRecipe::SiglipSmol, 5, 5, 32, 32, 0xe9e15d27d8b9a933ull},
      {ImageRecipe::SiglipSmol, 64, 64, 64, 64, 0x7c1b7c8f274fc0bbull},
  };
  for (const Row& row : rows) {
    const std::vector<uint8_t> bytes = noise(row.height, row.width);
    const Result r = run({{bytes.data(), row.height, row.width}}, config_of(row.recipe, row.size, row.crop));
    CHECK(fnv(r.resized) == row.sum, row.height, " x ", row.width, " to ", row.size, ", crop ", row.crop, ": ", std::hex, fnv(r.resized));
  }
}

TEST("image: planes are the bytes scaled and normalised, frames in their order") {
  const std::vector<uint8_t> a = noise(20, 30), b = noise(33, 17);
  const std::vector<Image> frames{{a.data(), 20, 30}, {b.data(), 33, 17}};   // sizes of their own
  for (ImageRecipe recipe : {ImageRecipe::Clip, ImageRecipe::SiglipSmol}) {
    const ImageConfig c = config_of(recipe, 12);
    const Result r = run(frames, c);
    int wrong = 0;
    for (size_t t = 0; t < 2; ++t)
      for (size_t i = 0; i < 144; ++i)
        for (size_t k = 0; k < 3; ++k) wrong += r.pixels[(t * 3 + k) * 144 + i] != value(c, r.resized[(t * 144 + i) * 3 + k], k);
    CHECK(wrong == 0, wrong);
  }
}

TEST("image: rows of patches, two frames in each, an odd last one twice") {
  const std::vector<uint8_t> a = noise(50, 71), b = noise(50, 71), d = noise(50, 71);
  std::vector<uint8_t> e = b;
  for (uint8_t& x : e) x = static_cast<uint8_t>(255 - x);
  ImageConfig c = config_of(ImageRecipe::Qwen2Vl, 0);
  c.patch = 4;
  c.merge = 2;
  c.min_pixels = 256;
  c.max_pixels = 1536;
  const Result r = run({{a.data(), 50, 71}, {e.data(), 50, 71}, {d.data(), 50, 71}}, c);
  const auto [times, gh, gw] = r.plan.grid;
  CHECK(times == 2 && gh * 4 == r.plan.height && gw * 4 == r.plan.width && gh % 2 == 0 && gw % 2 == 0, times, gh, gw);
  int wrong = 0;
  size_t at = 0;
  for (int64_t t = 0; t < times; ++t)
    for (int64_t bi = 0; bi < gh / 2; ++bi)
      for (int64_t bj = 0; bj < gw / 2; ++bj)
        for (int64_t m = 0; m < 4; ++m)
          for (size_t k = 0; k < 3; ++k)
            for (int64_t slot = 0; slot < 2; ++slot)
              for (int64_t p = 0; p < 16; ++p, ++at) {
                const int64_t y = (bi * 2 + m / 2) * 4 + p / 4, x = (bj * 2 + m % 2) * 4 + p % 4, frame = std::min<int64_t>(t * 2 + slot, 2);
                const auto i = static_cast<size_t>(((frame * r.plan.height + y) * r.plan.width + x) * 3) + k;
                wrong += r.pixels[at] != value(c, r.resized[i], k);
              }
  CHECK(wrong == 0 && at == r.pixels.size(), wrong, " of ", at);
}

TEST("image: any number of threads gives the same bits; nothing stays unwritten") {
  std::vector<std::vector<uint8_t>> bytes;
  std::vector<Image> frames;
  for (int64_t t = 0; t < 7; ++t) bytes.push_back(noise(40 + t, 60 - 2 * t));
  for (int64_t t = 0; t < 7; ++t) frames.push_back({bytes[static_cast<size_t>(t)].data(), 40 + t, 60 - 2 * t});
  for (ImageRecipe recipe : {ImageRecipe::Clip, ImageRecipe::SiglipSmol, ImageRecipe::LanguageBind, ImageRecipe::LanguageBindImage}) {
    const Result one = run(frames, config_of(recipe, 24)), many = run(frames, config_of(recipe, 24), 4);
    const bool same = std::memcmp(one.pixels.data(), many.pixels.data(), one.pixels.size() * sizeof(float)) == 0;
    CHECK(same && one.resized == many.resized, "recipe ", static_cast<int>(recipe));
    int unwritten = 0;
    for (float v : one.pixels) unwritten += std::isnan(v);
    CHECK(unwritten == 0, unwritten);
  }
}

TEST("image: sizes and settings that are refused") {
  const std::vector<uint8_t> bytes = noise(8, 8);
  const uint8_t* p = bytes.data();
  const auto code = [](const std::vector<Image>& frames, const ImageConfig& c) { return thrown_code([&] { plan_images(frames, c); }); };
  const ImageConfig clip = config_of(ImageRecipe::Clip, 8), qwen = config_of(ImageRecipe::Qwen2Vl, 0);
  CHECK(code({{p, 8, 8}}, clip).empty() && code({{p, 8, 8}}, qwen).empty());
  const std::pair<std::vector<Image>, ImageConfig> rows[] = {
      {{}, clip},
      {std::vector<Image>(kMaxImageFrames + 1, Image{p, 1, 1}), clip},
      {{{p, 0, 8}}, clip},
      {{{p, kMaxImageSide + 1, 1}}, clip},
      {{{p, kMaxImageSide, kMaxImageSide}}, clip},
      {{{p, 8, 8}}, config_of(ImageRecipe::Clip, 0)},
      {{{p, 8, 8}}, config_of(ImageRecipe::Clip, 5000)},
      {{{p, 8, 8}}, config_of(ImageRecipe::LanguageBind, 8, 9)},
      {std::vector<Image>(4096, Image{p, 1, 1}), config_of(ImageRecipe::Clip, 4096)},
      {{{p, 1, 201}}, qwen},
      {{{p, 8, 8}, {p, 4, 16}}, qwen},   // no common size
  };
  for (const auto& [frames, config] : rows) CHECK(code(frames, config) == "INVALID_ARGUMENT", frames.size(), " frames");
  ImageConfig bad = clip;
  bad.std[1] = 0;
  CHECK(code({{p, 8, 8}}, bad) == "INVALID_ARGUMENT");
  bad = qwen;
  bad.min_pixels = bad.max_pixels + 1;
  CHECK(code({{p, 8, 8}}, bad) == "INVALID_ARGUMENT");
  CHECK(thrown_code([] { image_recipe_of("clipp"); }) == "INVALID_ARGUMENT");
}

}  // namespace isr::test
