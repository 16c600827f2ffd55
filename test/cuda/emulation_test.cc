// The emulation notices what kernels do wrong: each row is a kernel with one fault, and the words of the error that it has to give.
#include <algorithm>
#include <cmath>

#include "check.h"
#include "core/bf16.h"
#include "emulated.h"
#include "kernels/cuda/ptx.h"
#include "runtime.h"

namespace isr::test {
namespace {

using emulated::Extent;
using emulated::run_grid;

std::string said_of(Extent block, size_t shared, const std::function<void()>& kernel) {
  try {
    run_grid("faulty", 1, block, shared, kernel);
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

struct Fault { const char* name; const char* words; Extent block; size_t shared; void (*kernel)(); };
const Fault kFaults[] = {
    {"threads that wait for each other at different places", "never come: thread 0 at a barrier", 64, 0, [] {
       if (threadIdx.x <= 32) __syncthreads();
       else __shfl_xor_sync(~0u, 1, 1);
     }},
    {"a warp that comes apart", "comes to __ballot_sync while its warp waits at __shfl_xor_sync", 32, 0, [] {
       if (threadIdx.x == 0) __shfl_xor_sync(~0u, 1, 1);
       else __ballot_sync(~0u, 1);
     }},
    {"a lane outside its own mask", "is not in its own mask", 32, 0, [] { __ballot_sync(1u, 1); }},
    {"a copy that nobody waits for", "ends before it has waited", 1, 32, [] {
       alignas(16) static const char from[16] = {};
       cuda::copy_async(emulated::shared_memory(), from, true);
     }},
    {"a copy behind shared memory", "outside of its shared memory", 1, 16, [] {
       alignas(16) static const char from[16] = {};
       cuda::copy_async(emulated::shared_memory() + 16, from, true);
     }},
    {"a copy from an odd address", "no multiple of 16", 1, 32, [] { cuda::copy_async(emulated::shared_memory() + 8, emulated::shared_memory(), true); }},
    {"a matrix behind shared memory", "outside of its shared memory", 32, 512, [] {
       uint32_t r[4];
       cuda::load_matrices(r, cuda::shared_as<cuda::Bf16>() + (threadIdx.x + 1) * 8);
     }},
};

const bool registered = [] {
  for (const Fault& f : kFaults)
    cases().push_back({concat("cuda emulation: ", f.name), [f] {
                         const std::string said = said_of(f.block, f.shared, f.kernel);
                         CHECK(said.find(f.words) != std::string::npos, "expected \"", f.words, "\", got \"", said, "\"");
                         CHECK(said_of(32, 0, [] { __syncthreads(); }) == "", "the next kernel runs");
                       }});
  return true;
}();

TEST("cuda emulation: an asynchronous copy is not there before it was waited for, unless the schedule says so") {
  for (unsigned schedule = 0; schedule < emulated::kSchedules; ++schedule) {
    emulated::set_schedule(schedule);
    float before = 0, after = 0;
    run_grid("copying", 1, 1, 16, [&] {
      alignas(16) static const float from[4] = {1, 2, 3, 4};
      float* const to = cuda::shared_as<float>();
      cuda::copy_async(to, from, true);
      cuda::commit_copies();
      before = to[1];
      cuda::wait_copies<0>();
      after = to[1];
    });
    CHECK((schedule & 2 ? before == 2 : std::isnan(before)), "schedule ", schedule, ": ", before);
    CHECK(after == 2, "schedule ", schedule);
  }
  emulated::set_schedule(0);
}

TEST("cuda emulation: a product of a warp is that of the matrices that its fragments hold") {
  // a (16, 16) and b (16, 8) in bfloat16, row-major in shared memory; b goes through the transposing load.
  const std::vector<float> values = random_values(16 * 16 + 16 * 8, 5);
  const auto rounded = [&](int i) { return round_bf16(values[static_cast<size_t>(i)]); };
  float got[16][8];
  run_grid("product", 1, 32, sizeof(uint16_t) * values.size(), [&] {
    auto* const shared = cuda::shared_as<cuda::Bf16>();
    const int lane = static_cast<int>(emulated::lane());
    for (size_t i = static_cast<size_t>(lane); i < values.size(); i += 32) shared[i].bits = f32_to_bf16(values[i]);
    __syncthreads();
    uint32_t a[4], b[4];
    cuda::load_matrices(a, shared + lane % 16 * 16 + lane / 16 * 8);
    cuda::load_transposed(b, shared + 256 + lane % 16 * 8);
    float d[4] = {};
    cuda::mma(d, a, {b[0], b[1]});
    for (int i = 0; i < 4; ++i) got[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2] = d[i];
  });
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < 8; ++j) {
      double want = 0;
      for (int k = 0; k < 16; ++k) want += static_cast<double>(rounded(i * 16 + k)) * rounded(256 + k * 8 + j);
      CHECK(std::abs(got[i][j] - want) < 1e-5, "row ", i, ", column ", j, ": ", got[i][j], ", want ", want);
    }
}

TEST("cuda emulation: device memory is refused behind the end of a block, and when it is full") {
  void* p = nullptr;
  cudaStream_t stream = nullptr;
  CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess, "a stream");
  CHECK(cudaMalloc(&p, 100) == cudaSuccess, "a block");
  CHECK(thrown_code([&] { cudaMemsetAsync(p, 0, 101, stream); }) == "BUG", "one byte too many");
  CHECK(thrown_code([&] { cudaMemsetAsync(p, 0, 100, stream); }) == "", "all of it");
  CHECK(cudaFree(p) == cudaSuccess && cudaFree(p) == cudaErrorInvalidValue, "given back once");
  const size_t used = emulated::device_memory_used();
  emulated::set_device_memory(used + 64);
  CHECK(cudaMalloc(&p, 65) == cudaErrorMemoryAllocation && emulated::device_memory_used() == used, "no room");
  emulated::set_device_memory(size_t{8} << 30);
  CHECK(cudaStreamDestroy(stream) == cudaSuccess, "the stream's end");
}

TEST("cuda emulation: a machine without a card, or with too old a driver, says what to do") {
  for (const auto& [count, error] : {std::pair{0, 0}, std::pair{1, static_cast<int>(cudaErrorInsufficientDriver)}}) {
    emulated::set_devices(count, error);
    try {
      make_emulated_cuda();
      CHECK(false, "a backend without a card");
    } catch (const Error& e) {
      CHECK(e.code == "DEVICE_UNAVAILABLE" && e.hint.find("nvidia-smi") != std::string::npos, e.code, ": ", e.what(), " (", e.hint, ")");
    }
  }
  emulated::set_devices(1);
}

TEST("cuda emulation: a card that is too old, and one that is not there, are named") {
  const auto said = [](int index) {
    try {
      make_emulated_cuda(0, index);
    } catch (const Error& e) {
      return e.code + ": " + e.what();
    }
    return std::string();
  };
  emulated::set_capability(7, 5);
  CHECK(said(0).find("DEVICE_UNAVAILABLE: device: cuda:0 (an emulated card) has compute capability 7.5, 8.0 is the oldest") == 0, said(0));
  emulated::set_capability(8, 0);
  emulated::set_devices(2);
  CHECK(said(0).empty() && said(1).empty(), said(0), said(1));
  CHECK(said(2).find("expected cuda:0 to cuda:1, got cuda:2") != std::string::npos, said(2));
  emulated::set_devices(1);
  emulated::set_capability(9, 0);
}

// Whether a prompt's rows come at once, one at a time (each chunk of pages then has a block of its own), or beside another sequence.
TEST("cuda emulation: cached attention of a row has the bits of its own tokens") {
  constexpr int32_t kTokens = 530, kPages = 2 * ((kTokens + kKeyBlock - 1) / kKeyBlock);
  const auto be = make_emulated_cuda();
  for (const AttentionShape& s : {AttentionShape{6, 2, 64, 0.125f}, AttentionShape{1, 1, 80, 0.11f}}) {
    Arena arena(be->device());
    const int64_t width = s.heads * s.head_size, kv_width = s.kv_heads * s.head_size, page = static_cast<int64_t>(be->kv_page_bytes(s, DType::BF16));
    const auto filled = [&](int64_t rows, int64_t cols, uint64_t seed) {
      const std::vector<float> values = random_values(static_cast<size_t>(rows * cols), seed);
      std::vector<uint16_t> bits(values.size());
      std::transform(values.begin(), values.end(), bits.begin(), f32_to_bf16);
      const Tensor t = view(arena.allocate_n<uint16_t>(rows * cols), rows, cols);
      be->device().upload(t.data, bits.data(), bits.size() * sizeof(uint16_t));
      return t;
    };
    const Tensor q = filled(kTokens, width, 1), k = filled(kTokens, kv_width, 2), v = filled(kTokens, kv_width, 3);
    const Buffer memory(be->device(), static_cast<size_t>(kPages * page));
    const std::vector<uint16_t> nan(memory.bytes() / sizeof(uint16_t), 0xFFFF);   // a page may hold anything
    be->device().upload(memory.data(), nan.data(), memory.bytes());
    const KvStore kv{memory.data<char>(), page, kPages};
    // New rows [begin, end) of sequence 0, and of a second one with the same tokens, in pages of its own.
    const auto plan_of = [](int32_t begin, int32_t end, bool both) {
      CachedPlan plan;
      for (int32_t which = 0; which <= (both ? 1 : 0); ++which) {
        const auto first = static_cast<int32_t>(plan.rows.size()), list = static_cast<int32_t>(plan.page_list.size());
        for (int32_t t = begin; t < end; ++t) plan.rows.push_back({which * kPages / 2 + t / kKeyBlock, t % kKeyBlock});
        for (int32_t p = 0; p < kPages / 2; ++p) plan.page_list.push_back(which * kPages / 2 + p);
        plan.sequences.push_back({first, end - begin, begin, list, (end + kKeyBlock - 1) / kKeyBlock});
      }
      return plan;
    };
    const CachedPlan everything = plan_of(0, kTokens, false);
    const auto all = be->prepare(everything);
    be->kv_append(kv, 0, k, v, *all, s);
    const auto attended = [&](const CachedPlan& plan, Tensor queries) {
      const auto prepared = be->prepare(plan);
      const Tensor out = view(arena.allocate_n<uint16_t>(queries.rows * width), queries.rows, width);
      be->attention_cached(out, queries, kv, 0, *prepared, s);
      std::vector<uint16_t> bits(static_cast<size_t>(queries.rows * width));
      be->device().download(bits.data(), out.data, bits.size() * sizeof(uint16_t));
      return bits;
    };
    emulated::counters() = {};
    const std::vector<uint16_t> at_once = attended(everything, q);
    CHECK(std::all_of(at_once.begin(), at_once.end(), [](uint16_t x) { return std::isfinite(bf16_to_f32(x)); }), "D ", s.head_size, ": what nobody wrote is not read");
    CHECK(emulated::counters().mma > 0 && emulated::counters().conflicts == 0, "D ", s.head_size, ": bank conflicts of ", emulated::counters().ldmatrix, " loads");
    for (int32_t t : {0, 63, 64, 511, 512, 529}) {
      const auto own = at_once.begin() + t * width;
      CHECK(std::equal(own, own + width, attended(plan_of(t, t + 1, false), q.row_range(t, 1)).begin()), "row ", t, " alone, D ", s.head_size);
    }
    for (const auto& [begin, end] : {std::pair{500, 530}, std::pair{508, 515}}) {   // a chunk ends among them
      const std::vector<uint16_t> some = attended(plan_of(begin, end, false), q.row_range(begin, end - begin));
      CHECK(std::equal(some.begin(), some.end(), at_once.begin() + begin * width), "rows ", begin, " to ", end, ", D ", s.head_size);
    }
    const CachedPlan pair = plan_of(520, 525, true);
    be->device().copy(kv.page(0, kPages / 2), kv.page(0, 0), static_cast<size_t>(kPages / 2 * page));
    const Tensor both = view(arena.allocate_n<uint16_t>(10 * width), 10, width);
    for (int64_t i : {0, 5}) be->device().copy(both.row_range(i, 5).data, q.row_range(520, 5).data, static_cast<size_t>(5 * width) * sizeof(uint16_t));
    const std::vector<uint16_t> beside = attended(pair, both);
    for (int64_t i : {0, 5})
      CHECK(std::equal(beside.begin() + i * width, beside.begin() + (i + 5) * width, at_once.begin() + 520 * width), "beside another sequence, D ", s.head_size);
  }
}

// Rows are padded so that the eight rows of a matrix load never share a bank.
TEST("cuda emulation: attention on the tensor cores has no bank conflicts") {
  for (int64_t size : {64, 80, 96, 128}) {
    const auto be = make_emulated_cuda();
    const AttentionShape s{2, 1, size, 0.1f};
    const Span spans[] = {{0, 70, -1}};
    const AttentionPlan plan = plan_attention(spans, true);
    Arena arena(be->device());
    const auto tensor = [&](int64_t heads) { return view(arena.allocate_n<uint16_t>(70 * heads * size), 70, heads * size); };
    const Tensor q = tensor(2), k = tensor(1), v = tensor(1), out = tensor(2), dq = tensor(2), dk = tensor(1), dv = tensor(1);
    float* const lse = arena.allocate_n<float>(140);
    const auto prepared = be->prepare(plan);
    emulated::counters() = {};
    be->attention_forward(out, lse, q, k, v, *prepared, s);
    be->attention_backward(dq, dk, dv, out, q, k, v, out, lse, *prepared, s);
    be->device().synchronize();
    CHECK(emulated::counters().mma > 0, "D ", size, ": the tensor cores' kernels ran");
    CHECK(emulated::counters().conflicts == 0, "D ", size, ": of ", emulated::counters().ldmatrix, " loads");
  }
}

}  // namespace
}  // namespace isr::test
