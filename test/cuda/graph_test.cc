// Calls that come again: recorded once, and right whatever has changed since.
#include "check.h"
#include "emulated.h"
#include "infer/generator.h"
#include "runtime.h"

namespace isr::test {
namespace {

// y = x, four values: the calls of a step, and how often they were made.
struct Doubled {
  std::unique_ptr<Backend> be = make_emulated_cuda();
  Buffer x{be->device(), 16}, y{be->device(), 16};
  int made = 0;

  float run(float value, uint64_t key = 1) {
    const float in[4] = {value, value, value, value};
    be->device().upload(x.data(), in, sizeof in);
    be->repeat({&key, 1}, [&] {
      ++made;
      be->add(view(y.data<float>(), 1, 4), false, view(x.data<float>(), 1, 4));
    });
    float out[4];
    be->device().download(out, y.data(), sizeof out);
    return out[3];
  }
};

TEST("cuda graphs: calls are made, then recorded, then come again with what memory holds by then") {
  Doubled d;
  const size_t before = emulated::graphs_launched();
  for (int i = 0; i < 10; ++i) CHECK(d.run(static_cast<float>(i)) == static_cast<float>(i), "run ", i);
  CHECK(d.made == 2, d.made, " times");
  CHECK(emulated::graphs_launched() - before == 9, emulated::graphs_launched() - before, " launches");
}

TEST("cuda graphs: memory that comes or goes begins them anew, a key of its own is a graph of its own") {
  Doubled d;
  for (int i = 0; i < 4; ++i) d.run(1);
  { const Buffer other(d.be->device(), 64); }
  const int made = d.made;
  for (int i = 0; i < 4; ++i) CHECK(d.run(static_cast<float>(i)) == static_cast<float>(i), "after memory went, run ", i);
  CHECK(d.made == made + 2, d.made - made, " times more");
  for (int i = 0; i < 4; ++i) d.run(2, 7);
  CHECK(d.made == made + 4, d.made - made, " times more, with another key");
}

TEST("cuda graphs: the least used of many keys is dropped, and comes again") {
  Doubled d;
  for (int round = 0; round < 3; ++round)
    for (uint64_t key = 0; key < 40; ++key) CHECK(d.run(static_cast<float>(key), key) == static_cast<float>(key), "key ", key);
  const int made = d.made;
  for (int i = 0; i < 3; ++i) d.run(5, 39);
  CHECK(d.made == made + 1, "the latest key was kept, ", d.made - made);
}

TEST("cuda graphs: calls that may not be recorded are a BUG, and the stream goes on") {
  const size_t held = emulated::things_held();
  {
    Doubled d;
    const float one = 1;
    float back = 0;
    const uint64_t key = 3;
    const struct { const char* name; std::function<void()> call; } rows[] = {
        {"allocate", [&] { const Buffer more(d.be->device(), 64); }},
        {"upload", [&] { d.be->device().upload(d.x.data(), &one, sizeof one); }},
        {"download", [&] { d.be->device().download(&back, d.x.data(), sizeof back); }},
        {"synchronize", [&] { d.be->device().synchronize(); }},
    };
    for (const auto& row : rows) {
      d.be->repeat({&key, 1}, [] {});
      CHECK(thrown_code([&] { d.be->repeat({&key, 1}, row.call); }) == "BUG", row.name);
      CHECK(d.run(4, 100) == 4, "after ", row.name);
      { const Buffer other(d.be->device(), 64); }   // so that the key is new again
    }
  }
  CHECK(emulated::things_held() == held, "what was recorded was given back: ", emulated::things_held(), ", ", held, " before");
}

TEST("cuda graphs: what runs is waited for before it goes") {
  const size_t held = emulated::things_held();
  {
    Doubled d;
    const auto queue = [&](uint64_t key) { d.be->repeat({&key, 1}, [&] { d.be->add(view(d.y.data<float>(), 1, 4), false, view(d.x.data<float>(), 1, 4)); }); };
    for (int i = 0; i < 3; ++i) queue(1);
    const Buffer more(d.be->device(), 64);
    for (int i = 0; i < 3; ++i) queue(1);
    for (uint64_t key = 2; key < 60; ++key)
      for (int i = 0; i < 3; ++i) queue(key);
  }
  CHECK(emulated::things_held() == held, emulated::things_held(), " things, ", held, " before");
}

// ---- steps of decoding

GenerateRequest request_of(std::vector<int32_t> ids, int tokens) {
  GenerateRequest r;
  r.ids = std::move(ids);
  r.sampling.max_tokens = tokens;
  r.sampling.min_tokens = tokens;
  return r;
}

std::unique_ptr<Model> golden_model(const char* dtype) {
  LoadOptions o;
  o.device = "cuda";
  o.dtype = dtype;
  return Model::load(concat(ISR_TEST_FOLDER, "/golden/text_llama_gqa_tied/policy"), o);
}

// Log-probs of a sequence that decodes alone, and beside others that join and leave: rows of few are computed row by row, so that they
// have to be the same bits. The graphs of 1, 2 and 3 rows take turns, and pages come while they do.
TEST("cuda graphs: a sequence has the same bits alone and beside others that come and go") {
  const auto model = golden_model("f32");
  const std::vector<int32_t> prompt{1, 5, 9, 13, 17}, other{2, 4, 8};
  Generator alone(*model, 0, false);
  const std::vector<GeneratedSequence> want = alone.generate({request_of(prompt, 80)}, {}, nullptr);
  const size_t launched = emulated::graphs_launched();
  Generator shared(*model, 0, false);
  GeneratedSequence got;
  std::exception_ptr failure;
  const auto join = [&](const std::vector<int32_t>& ids, int tokens, GeneratedSequence* to) {
    GenerateCallbacks told;
    told.completion = [to](const GeneratedSequence& g) {
      if (to) *to = g;
    };
    told.end = [&failure](std::exception_ptr e) {
      if (e) failure = std::move(e);
    };
    shared.join({request_of(ids, tokens)}, told, nullptr);
  };
  join(prompt, 80, &got);
  for (int step = 0; !shared.idle(); ++step) {
    if (step == 10) join(other, 30, nullptr);
    if (step == 20) join({3, 6}, 8, nullptr);
    if (step == 50) join(other, 5, nullptr);
    shared.step(nullptr);
  }
  if (failure) std::rethrow_exception(failure);
  CHECK(got.ids == want[0].ids, "ids");
  CHECK(got.logp == want[0].logp, "log-probs, in every bit");
  CHECK(emulated::graphs_launched() > launched + 40, "steps were recorded: ", emulated::graphs_launched() - launched);
}

}  // namespace
}  // namespace isr::test
