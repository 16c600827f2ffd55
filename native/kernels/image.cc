#include "kernels/image.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "core/error.h"
#include "core/threads.h"

namespace isr {
namespace {

constexpr int kTemporalPatch = 2;                      // frames in one patch of Qwen2Vl
constexpr int64_t kMaxEdge = 4096;                     // of the result
constexpr int64_t kMaxElements = int64_t{1} << 30;     // of pixel values, 4 GiB
constexpr int64_t kMaxAspect = 200;                    // Qwen2Vl refuses longer strips
constexpr double kRescale = 1.0 / 255.0;

struct Size { int64_t height, width; };
struct Window { int64_t top, left, height, width; };   // of the resized image

// ---------- sizes

// The shortest edge becomes `size`; the other one keeps the ratio, rounded down.
Size shortest_edge(const Image& in, int64_t size) {
  const int64_t low = std::min(in.height, in.width), high = std::max(in.height, in.width);
  const auto other = static_cast<int64_t>(static_cast<double>(size * high) / static_cast<double>(low));
  return in.width <= in.height ? Size{other, size} : Size{size, other};
}

// The same with the ratio first, as LanguageBind's transform has it: another rounding for some sizes.
Size short_side_scale(const Image& in, int64_t size) {
  const double h = static_cast<double>(in.height), w = static_cast<double>(in.width), s = static_cast<double>(size);
  if (in.width < in.height) return {static_cast<int64_t>(std::floor(h / w * s)), size};
  return {size, static_cast<int64_t>(std::floor(w / h * s))};
}

Size longest_edge(const Image& in, int64_t size) {
  const double aspect = static_cast<double>(in.width) / static_cast<double>(in.height), s = static_cast<double>(size);
  const auto even = [](double edge) {
    const auto whole = static_cast<int64_t>(edge);
    return std::max<int64_t>(whole + whole % 2, 1);
  };
  if (in.width >= in.height) return {even(s / aspect), size};
  return {size, even(s * aspect)};
}

Size smart_resize(const Image& in, const ImageConfig& c) {
  const int64_t factor = c.patch * c.merge;
  if (std::max(in.height, in.width) > kMaxAspect * std::min(in.height, in.width))
    fail("INVALID_ARGUMENT", "frames: expected sides within a ratio of ", kMaxAspect, ", got ", in.width, " x ", in.height);
  const double h = static_cast<double>(in.height), w = static_cast<double>(in.width), f = static_cast<double>(factor);
  const auto whole = [&](double multiples) { return static_cast<int64_t>(multiples) * factor; };
  Size out{whole(std::nearbyint(h / f)), whole(std::nearbyint(w / f))};   // halves to even
  if (out.height * out.width > c.max_pixels) {
    const double beta = std::sqrt(h * w / static_cast<double>(c.max_pixels));
    out = {std::max(factor, whole(std::floor(h / beta / f))), std::max(factor, whole(std::floor(w / beta / f)))};
  } else if (out.height * out.width < c.min_pixels) {
    const double beta = std::sqrt(static_cast<double>(c.min_pixels) / (h * w));
    out = {whole(std::ceil(h * beta / f)), whole(std::ceil(w * beta / f))};
  }
  return out;
}

// ---------- Pillow's resampling of bytes

using Filter = double (*)(double);

double bicubic(double x) {                             // a = -0.5
  x = std::abs(x);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * -0.5;
  return 0;
}

double sinc(double x) {
  if (x == 0) return 1;
  x *= std::numbers::pi;
  return std::sin(x) / x;
}

double lanczos(double x) { return -3 <= x && x < 3 ? sinc(x) * sinc(x / 3) : 0; }

constexpr int kFractionBits = 32 - 8 - 2;

// For each output in [begin, begin + count): where its inputs start, how many they are, and their weights.
struct Taps {
  std::vector<int64_t> first;
  std::vector<int> count;
  std::vector<int32_t> weights;                        // (outputs, stride)
  int64_t stride = 0;

  Taps(int64_t in, int64_t out, int64_t begin, int64_t outputs, Filter filter, double radius) {
    const double scale = static_cast<double>(in) / static_cast<double>(out), stretch = std::max(scale, 1.0);
    const double support = radius * stretch;
    stride = static_cast<int64_t>(std::ceil(support)) * 2 + 1;
    weights.resize(static_cast<size_t>(outputs * stride));
    std::vector<double> exact(static_cast<size_t>(stride));
    for (int64_t o = 0; o < outputs; ++o) {
      const double centre = (static_cast<double>(begin + o) + 0.5) * scale;
      const int64_t low = std::max<int64_t>(static_cast<int64_t>(centre - support + 0.5), 0);
      const int64_t high = std::min<int64_t>(static_cast<int64_t>(centre + support + 0.5), in);
      double sum = 0;
      for (int64_t i = low; i < high; ++i) {
        const double w = filter((static_cast<double>(i) - centre + 0.5) * (1.0 / stretch));
        exact[static_cast<size_t>(i - low)] = w;
        sum += w;
      }
      for (int64_t i = low; i < high; ++i) {
        double w = exact[static_cast<size_t>(i - low)];
        if (sum != 0) w *= 1.0 / sum;
        weights[static_cast<size_t>(o * stride + i - low)] = static_cast<int32_t>((w < 0 ? -0.5 : 0.5) + w * (1 << kFractionBits));
      }
      first.push_back(low);
      count.push_back(static_cast<int>(high - low));
    }
  }
};

uint8_t to_byte(int32_t fixed) { return static_cast<uint8_t>(std::clamp(fixed >> kFractionBits, 0, 255)); }

constexpr int32_t kHalf = 1 << (kFractionBits - 1);

// One row of the pass along x.
void along_row(uint8_t* out, const uint8_t* in, const Taps& taps) {
  for (size_t x = 0; x < taps.first.size(); ++x) {
    const uint8_t* p = in + taps.first[x] * 3;
    const int32_t* w = taps.weights.data() + static_cast<int64_t>(x) * taps.stride;
    int32_t r = kHalf, g = kHalf, b = kHalf;
    for (int k = 0; k < taps.count[x]; ++k, p += 3) {
      r += p[0] * w[k];
      g += p[1] * w[k];
      b += p[2] * w[k];
    }
    out[x * 3] = to_byte(r);
    out[x * 3 + 1] = to_byte(g);
    out[x * 3 + 2] = to_byte(b);
  }
}

// Row y of the pass along y. `in` begins at input row `from`, rows are `stride` bytes apart, `line` of them are wanted.
void along_column(uint8_t* out, const uint8_t* in, int64_t from, int64_t stride, int64_t line, const Taps& taps, size_t y,
                  std::vector<int32_t>& sums) {
  sums.assign(static_cast<size_t>(line), kHalf);
  for (int k = 0; k < taps.count[y]; ++k) {
    const int32_t w = taps.weights[y * static_cast<size_t>(taps.stride) + static_cast<size_t>(k)];
    const uint8_t* p = in + (taps.first[y] - from + k) * stride;
    for (int64_t i = 0; i < line; ++i) sums[static_cast<size_t>(i)] += p[i] * w;
  }
  for (int64_t i = 0; i < line; ++i) out[i] = to_byte(sums[static_cast<size_t>(i)]);
}

struct Range { int64_t begin, end; };

Range inputs_of(const Taps& taps) {
  Range r{taps.first[0], 0};
  for (size_t i = 0; i < taps.first.size(); ++i) {
    r.begin = std::min(r.begin, taps.first[i]);
    r.end = std::max(r.end, taps.first[i] + taps.count[i]);
  }
  return r;
}

// The order of the passes shows in the last bit, since bytes lie between them: along x first, but along y first where the
// height loses more than twice what the width loses (measured on Pillow 13; earlier releases always begin along x).
bool columns_first(const Image& in, Size size) { return in.height - size.height > 2 * std::max<int64_t>(in.width - size.width, 0); }

// `window` of the image resized to `size`; out: (window.height, window.width, 3). Only what the window needs is computed.
void resample(uint8_t* out, const Image& in, Size size, Window window, Filter filter, double radius) {
  const Taps across(in.width, size.width, window.left, window.width, filter, radius);
  const Taps down(in.height, size.height, window.top, window.height, filter, radius);
  const int64_t line = window.width * 3;
  std::vector<uint8_t> middle;
  std::vector<int32_t> sums;
  if (columns_first(in, size)) {
    const Range columns = inputs_of(across);
    const int64_t wide = (columns.end - columns.begin) * 3;
    middle.resize(static_cast<size_t>(in.width * 3));   // one row, each column where `across` looks for it
    for (int64_t y = 0; y < window.height; ++y) {
      along_column(middle.data() + columns.begin * 3, in.data + columns.begin * 3, 0, in.width * 3, wide, down, static_cast<size_t>(y), sums);
      along_row(out + y * line, middle.data(), across);
    }
    return;
  }
  const Range rows = inputs_of(down);
  middle.resize(static_cast<size_t>((rows.end - rows.begin) * line));
  for (int64_t y = rows.begin; y < rows.end; ++y) along_row(middle.data() + (y - rows.begin) * line, in.data + y * in.width * 3, across);
  for (int64_t y = 0; y < window.height; ++y) along_column(out + y * line, middle.data(), rows.begin, line, line, down, static_cast<size_t>(y), sums);
}

// ---------- torch's resampling of floats

struct PointTaps {                                     // up to four inputs, repeated at the border
  std::array<int64_t, 4> at{};
  std::array<float, 4> weight{};
};

std::vector<PointTaps> point_taps(int64_t in, int64_t out, int64_t begin, int64_t count, bool cubic) {
  const double scale = static_cast<double>(in) / static_cast<double>(out);
  std::vector<PointTaps> taps(static_cast<size_t>(count));
  for (int64_t o = 0; o < count; ++o) {
    PointTaps& tap = taps[static_cast<size_t>(o)];
    double source = scale * (static_cast<double>(begin + o) + 0.5) - 0.5;
    if (!cubic) source = std::max(source, 0.0);
    const double base = std::floor(source), t = source - base;
    const std::array<double, 4> linear{0, 1 - t, t, 0};
    for (int k = 0; k < 4; ++k) {
      const double d = std::abs(t + 1 - k);            // distance to input base - 1 + k
      const double a = -0.75, near = ((a + 2) * d - (a + 3)) * d * d + 1, far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a;
      tap.at[static_cast<size_t>(k)] = std::clamp<int64_t>(static_cast<int64_t>(base) - 1 + k, 0, in - 1);
      tap.weight[static_cast<size_t>(k)] = static_cast<float>(!cubic ? linear[static_cast<size_t>(k)] : d <= 1 ? near : far);
    }
  }
  return taps;
}

using Table = std::array<std::array<float, 256>, 3>;   // a channel's value of each byte

// out: plane c of the frame starts at c * plane.
void interpolate(float* out, int64_t plane, uint8_t* bytes, const Image& in, Size size, Window window, const Table& table, bool cubic) {
  const auto columns = point_taps(in.width, size.width, window.left, window.width, cubic);
  const auto rows = point_taps(in.height, size.height, window.top, window.height, cubic);
  for (int64_t y = 0; y < window.height; ++y)
    for (int64_t x = 0; x < window.width; ++x)
      for (int c = 0; c < 3; ++c) {
        const PointTaps &row = rows[static_cast<size_t>(y)], &column = columns[static_cast<size_t>(x)];
        float value = 0, raw = 0;
        for (size_t j = 0; j < 4; ++j) {
          const uint8_t* line = in.data + row.at[j] * in.width * 3 + c;
          float v = 0, r = 0;
          for (size_t i = 0; i < 4; ++i) {
            const uint8_t byte = line[column.at[i] * 3];
            v += column.weight[i] * table[static_cast<size_t>(c)][byte];
            r += column.weight[i] * static_cast<float>(byte);
          }
          value += row.weight[j] * v;
          raw += row.weight[j] * r;
        }
        const int64_t i = y * window.width + x;
        out[c * plane + i] = value;
        if (bytes) bytes[i * 3 + c] = static_cast<uint8_t>(std::clamp(raw + 0.5f, 0.0f, 255.0f));
      }
}

// ---------- recipes

Table value_table(const ImageConfig& c) {
  Table table;
  for (size_t k = 0; k < 3; ++k)
    for (int v = 0; v < 256; ++v) table[k][static_cast<size_t>(v)] = (static_cast<float>(v * kRescale) - c.mean[k]) / c.std[k];
  return table;
}

bool interpolates(ImageRecipe r) { return r == ImageRecipe::LanguageBind || r == ImageRecipe::LanguageBindImage; }

int64_t crop_edge(const ImageConfig& c) { return c.crop > 0 && c.recipe != ImageRecipe::SiglipSmol ? c.crop : c.size; }

Window centre(const ImageConfig& c, Size size) {
  const int64_t crop = crop_edge(c);
  if (!interpolates(c.recipe)) return {(size.height - crop) / 2, (size.width - crop) / 2, crop, crop};
  const auto offset = [&](int64_t edge) { return static_cast<int64_t>(std::nearbyint(static_cast<double>(edge - crop) / 2.0)); };
  return {offset(size.height), offset(size.width), crop, crop};
}

// The resized bytes of every recipe that resamples bytes.
void resize_frame(uint8_t* out, const Image& in, const ImageConfig& c, const ImagePlan& plan) {
  const Window whole{0, 0, plan.height, plan.width};
  if (c.recipe == ImageRecipe::Qwen2Vl) return resample(out, in, {plan.height, plan.width}, whole, bicubic, 2);
  if (c.recipe == ImageRecipe::Clip) {
    const Size size = c.exact ? Size{c.size, c.size} : shortest_edge(in, c.size);
    return resample(out, in, size, centre(c, size), bicubic, 2);
  }
  const Size first = longest_edge(in, c.size);
  std::vector<uint8_t> middle(static_cast<size_t>(first.height * first.width * 3));
  resample(middle.data(), in, first, {0, 0, first.height, first.width}, lanczos, 3);
  resample(out, {middle.data(), first.height, first.width}, {c.size, c.size}, whole, lanczos, 3);
}

void write_planes(float* out, const uint8_t* bytes, const ImagePlan& plan, const Table& table) {
  const int64_t area = plan.height * plan.width;
  for (size_t c = 0; c < 3; ++c)
    for (int64_t i = 0; i < area; ++i) out[static_cast<int64_t>(c) * area + i] = table[c][bytes[i * 3 + static_cast<int64_t>(c)]];
}

// Rows go block by block of merge x merge patches; a row is (channel, time, y, x).
void write_patches(float* pixels, const uint8_t* bytes, int64_t frame, const ImageConfig& c, const ImagePlan& plan, const Table& table) {
  const auto [times, gh, gw] = plan.grid;
  const int64_t p = c.patch, m = c.merge, time = frame / kTemporalPatch, slot = frame % kTemporalPatch;
  for (int64_t i = 0; i < gh; ++i)
    for (int64_t j = 0; j < gw; ++j) {
      const int64_t row = time * gh * gw + ((i / m) * (gw / m) + j / m) * m * m + (i % m) * m + j % m;
      for (int64_t k = 0; k < 3; ++k) {
        float* out = pixels + (row * 3 * kTemporalPatch + k * kTemporalPatch + slot) * p * p;
        for (int64_t y = 0; y < p; ++y)
          for (int64_t x = 0; x < p; ++x)
            out[y * p + x] = table[static_cast<size_t>(k)][bytes[((i * p + y) * plan.width + j * p + x) * 3 + k]];
      }
    }
}

void check_range(const char* name, int64_t value, int64_t low, int64_t high) {
  if (value < low || value > high) fail("INVALID_ARGUMENT", name, ": expected ", low, " to ", high, ", got ", value);
}

void check_config(const ImageConfig& c) {
  if (c.recipe == ImageRecipe::Qwen2Vl) {
    check_range("patch", c.patch, 1, 256);
    check_range("merge", c.merge, 1, 16);
    check_range("maxPixels", c.max_pixels, c.patch * c.merge * c.patch * c.merge, int64_t{1} << 25);
    check_range("minPixels", c.min_pixels, 1, c.max_pixels);
  } else {
    check_range("size", c.size, 1, kMaxEdge);
    check_range("crop", crop_edge(c), 1, c.size);
  }
  for (size_t k = 0; k < 3; ++k)
    if (!std::isfinite(c.mean[k]) || !std::isfinite(c.std[k]) || c.std[k] <= 0)
      fail("INVALID_ARGUMENT", "mean and std: expected finite numbers, std above 0");
}

}  // namespace

ImageRecipe image_recipe_of(const std::string& name) {
  if (name == "clip") return ImageRecipe::Clip;
  if (name == "siglip_smol") return ImageRecipe::SiglipSmol;
  if (name == "qwen2_vl") return ImageRecipe::Qwen2Vl;
  if (name == "languagebind") return ImageRecipe::LanguageBind;
  if (name == "languagebind_image") return ImageRecipe::LanguageBindImage;
  fail("INVALID_ARGUMENT", "type: unknown recipe '", name, "'");
}

ImagePlan plan_images(std::span<const Image> frames, const ImageConfig& c) {
  check_config(c);
  const auto n = static_cast<int64_t>(frames.size());
  check_range("frames", n, 1, kMaxImageFrames);
  for (const Image& f : frames) {
    check_range("height", f.height, 1, kMaxImageSide);
    check_range("width", f.width, 1, kMaxImageSide);
    check_range("pixels of a frame", f.height * f.width, 1, kMaxImagePixels);
  }
  ImagePlan plan{n, crop_edge(c), crop_edge(c), {}, 0};
  int64_t counted = n;
  if (c.recipe == ImageRecipe::Qwen2Vl) {
    const Size size = smart_resize(frames[0], c);
    for (const Image& f : frames)
      if (const Size other = smart_resize(f, c); other.height != size.height || other.width != size.width)
        fail("INVALID_ARGUMENT", "frames: expected frames that resize to ", size.width, " x ", size.height, ", as the first does, got one of ",
             f.width, " x ", f.height);
    counted = n + n % kTemporalPatch;                  // an odd last frame is repeated
    plan.height = size.height;
    plan.width = size.width;
    plan.grid = {counted / kTemporalPatch, size.height / c.patch, size.width / c.patch};
  }
  plan.elements = counted * 3 * plan.height * plan.width;
  if (plan.elements > kMaxElements)
    fail("INVALID_ARGUMENT", "frames: expected at most ", kMaxElements, " pixel values, got ", plan.elements, "; give fewer or smaller frames");
  return plan;
}

void preprocess_images(float* pixels, uint8_t* resized, std::span<const Image> frames, const ImageConfig& c, const ImagePlan& plan,
                       int threads) {
  const Table table = value_table(c);
  const int64_t area = plan.height * plan.width, n = plan.frames;
  parallel(threads, n, 1, [&](int64_t begin, int64_t end, int) {
    std::vector<uint8_t> own;
    for (int64_t t = begin; t < end; ++t) {
      const Image& in = frames[static_cast<size_t>(t)];
      if (interpolates(c.recipe)) {
        const bool cubic = c.recipe == ImageRecipe::LanguageBindImage;
        const Size size = cubic ? shortest_edge(in, c.size) : short_side_scale(in, c.size);
        interpolate(pixels + t * area, n * area, resized ? resized + t * area * 3 : nullptr, in, size, centre(c, size), table, cubic);
        continue;
      }
      own.resize(static_cast<size_t>(area * 3));
      uint8_t* bytes = resized ? resized + t * area * 3 : own.data();
      resize_frame(bytes, in, c, plan);
      if (c.recipe != ImageRecipe::Qwen2Vl) {
        write_planes(pixels + t * 3 * area, bytes, plan, table);
        continue;
      }
      write_patches(pixels, bytes, t, c, plan, table);
      if (t + 1 == n && n % kTemporalPatch != 0) write_patches(pixels, bytes, t + 1, c, plan, table);
    }
  });
}

}  // namespace isr
