// The job that turns frames into pixel values. Called without `pixels` it says what the result's sizes are; called with it,
// it writes into the arrays that the caller made.
#include "binding/jobs.h"
#include "kernels/image.h"

namespace isr::binding {
namespace {

std::array<float, 3> channels_at(const Napi::Object& o, const char* key) {
  const std::vector<float> values = floats_at(o, key);
  ISR_ASSERT(values.size() == 3, key, " has ", values.size(), " values");
  return {values[0], values[1], values[2]};
}

ImageConfig image_config_of(const Napi::Object& o) {
  ImageConfig c;
  c.recipe = image_recipe_of(string_at(o, "type"));
  c.size = integer_at(o, "size");
  c.crop = integer_at(o, "crop");
  c.exact = bool_at(o, "exact");
  c.patch = integer_at(o, "patch");
  c.merge = integer_at(o, "merge");
  c.min_pixels = integer_at(o, "minPixels");
  c.max_pixels = integer_at(o, "maxPixels");
  c.mean = channels_at(o, "mean");
  c.std = channels_at(o, "std");
  return c;
}

ToJs describe(const ImagePlan& plan) {
  return [plan](Napi::Env env) -> Napi::Value {
    Napi::Object o = Napi::Object::New(env);
    o.Set("height", static_cast<double>(plan.height));
    o.Set("width", static_cast<double>(plan.width));
    o.Set("elements", static_cast<double>(plan.elements));
    o.Set("gridThw", shape_to_js(env, {plan.grid.begin(), plan.grid.end()}));
    return o;
  };
}

Napi::Value preprocess(const Napi::CallbackInfo& info) {
  const Napi::Object args = info[1].As<Napi::Object>();
  std::vector<Napi::Object> keep;
  std::vector<Image> frames;
  for (const Napi::Object& item : objects_at(args, "frames")) {
    const Bytes bytes = bytes_at(item, "data", keep);
    const int64_t height = integer_at(item, "height"), width = integer_at(item, "width");
    ISR_ASSERT(bytes.bytes == static_cast<uint64_t>(height) * static_cast<uint64_t>(width) * 3, "a frame of ", bytes.bytes, " bytes");
    frames.push_back({static_cast<const uint8_t*>(bytes.data), height, width});
  }
  const ImageConfig config = image_config_of(object_at(args, "config"));
  const Bytes pixels = bytes_at(args, "pixels", keep), resized = bytes_at(args, "resized", keep);
  return submit(info, [frames, config, pixels, resized](JobContext&) -> ToJs {
    const ImagePlan plan = plan_images(frames, config);
    if (!pixels.data) return describe(plan);
    ISR_ASSERT(pixels.bytes == static_cast<uint64_t>(plan.elements) * sizeof(float), "pixels of ", pixels.bytes, " bytes");
    const auto size = static_cast<uint64_t>(plan.frames * plan.height * plan.width * 3);
    ISR_ASSERT(!resized.data || resized.bytes == size, "resized of ", resized.bytes, " bytes");
    preprocess_images(static_cast<float*>(pixels.data), static_cast<uint8_t*>(resized.data), frames, config, plan, machine_threads());
    return nothing();
  }, std::move(keep));
}

}  // namespace

void export_image_jobs(Napi::Env env, Napi::Object exports) { export_as<preprocess>(env, exports, "preprocess"); }

}  // namespace isr::binding
