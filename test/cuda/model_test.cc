// Models on the emulated card: what they take of its memory, and that a step is the same twice.
#include "check.h"
#include "emulated.h"
#include "models/model.h"
#include "runtime.h"

namespace isr::test {
namespace {

LoadOptions on_the_card(const char* dtype) {
  if (device_kinds().back().name != "cuda") device_kinds().push_back(emulated_kind());
  LoadOptions o;
  o.device = "cuda";
  o.dtype = dtype;
  return o;
}

std::string golden(const char* family) { return concat(ISR_TEST_FOLDER, "/golden/", family, "/policy"); }

// Products read rows as they stand in the checkpoint, and a tied head is the table itself.
TEST("cuda model: weights stand on the card once") {
  for (const char* family : {"text_llama_gqa_tied", "text_qwen2", "llava_hound"})
    for (const char* dtype : {"f32", "bf16"}) {
      size_t before = 0;
      {
        const auto backend = make_emulated_cuda();
        before = emulated::device_memory_used();   // with what a backend takes for itself
      }
      const size_t others = emulated::device_memory_used();
      const auto model = Model::load(golden(family), on_the_card(dtype));
      size_t weights = 0;
      for (const Param& p : model->params) weights += static_cast<size_t>(p.size()) * size_of(p.stored());
      const size_t own = emulated::device_memory_used() - others, room = model->params.size() * 64;
      CHECK(own >= before - others + weights && own <= before - others + weights + room, family, " ", dtype, ": ", own, " bytes for ", weights, " of weights");
    }
}

TEST("cuda model: what a model and a backend take, they give back") {
  const size_t held = emulated::things_held(), used = emulated::device_memory_used();
  {
    const auto model = Model::load(golden("text_llama"), on_the_card("f32"));
    CHECK(emulated::things_held() > held, "a model holds something");
  }
  CHECK(emulated::things_held() == held && emulated::device_memory_used() == used, emulated::things_held(), " things, ", held, " before");
}

// More than the ring of pinned memory holds, so that each of its slots is used again while its copies wait in the stream.
TEST("cuda model: uploads of many megabytes arrive as they were sent") {
  const auto backend = make_emulated_cuda();
  constexpr size_t n = (size_t{27} << 20) / sizeof(uint32_t) + 3;
  std::vector<uint32_t> sent(n), back(n);
  for (size_t i = 0; i < n; ++i) sent[i] = static_cast<uint32_t>(i * 2654435761u);
  const Buffer there(backend->device(), n * sizeof(uint32_t));
  backend->device().upload(there.data(), sent.data(), n * sizeof(uint32_t));
  const std::vector<uint32_t> kept = sent;
  std::fill(sent.begin(), sent.end(), 0);   // the caller's again
  backend->device().download(back.data(), there.data(), n * sizeof(uint32_t));
  CHECK(back == kept, "all of it");
}

TEST("cuda model: a device is known by its kind and number") {
  on_the_card("f32");
  for (const char* name : {"cuda", "cuda:0"}) CHECK(std::string(make_backend(name, 1)->level()) == "cuda", name);
  for (const char* name : {"cuda:1", "cuda:", "cuda:-1", "cuda:0x", "cpu:0", "gpu", ""}) CHECK(thrown_code([&] { make_backend(name, 1); }) == "DEVICE_UNAVAILABLE", name);
}

}  // namespace
}  // namespace isr::test
