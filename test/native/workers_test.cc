// Problems of one to three tasks on many more threads, in memory that ends at an unmapped page: whoever takes scratch for
// the workers that can be busy must never see another number, and nothing may reach behind the end of what it was given.
// The file stands last in the alphabet: its threads stay in the pool.
#include <atomic>
#include <cstring>
#include <memory>
#include <thread>

#include "check.h"
#include "host.h"
#include "core/memory.h"
#include "core/threads.h"
#include "infer/generator.h"
#include "models/score.h"
#include "seeded_model.h"
#include "train/trainer.h"

namespace isr::test {
namespace {

TEST("threads: a worker's number is below the number of chunks too") {
  for (int threads : {1, 3, 17, 64})
    for (int64_t n : {1, 2, 3, 40})
      for (int64_t grain : {1, 2, 7}) {
        const int most = workers_of(threads, n, grain);
        CHECK(most <= threads && most <= (n + grain - 1) / grain, threads, " threads, n ", n, ", grain ", grain, ": ", most);
        std::atomic<int> wrong{0};
        for (int round = 0; round < 20; ++round)
          parallel(threads, n, grain, [&](int64_t, int64_t, int worker) {
            if (worker < 0 || worker >= most) ++wrong;
            std::this_thread::yield();   // others come in between
          });
        CHECK(wrong.load() == 0, threads, " threads, n ", n, ", grain ", grain);
      }
}

// Tensors of an op's call, in memory of their own; what was written is compared as bytes.
struct Call {
  Backend& be;
  DType dtype;
  std::deque<Buffer> memory{};
  std::deque<HostMatrix> matrices{};
  std::vector<std::pair<const void*, size_t>> outputs{};
  uint64_t seed = 1;

  Tensor in(int64_t rows, int64_t cols, DType type) {
    Buffer& b = memory.emplace_back(static_cast<size_t>(rows * cols) * size_of(type));
    const std::vector<float> values = random_values(rows * cols, seed++);
    be.add(view(b.data(), type, rows, cols), false, view(const_cast<float*>(values.data()), rows, cols));
    return view(b.data(), type, rows, cols);
  }
  Tensor in(int64_t rows, int64_t cols) { return in(rows, cols, dtype); }
  float* floats(int64_t n) { return in(1, n, DType::F32).f32(); }
  Tensor out(int64_t rows, int64_t cols, DType type) {
    Buffer& b = memory.emplace_back(static_cast<size_t>(rows * cols) * size_of(type));
    outputs.emplace_back(b.data(), b.bytes());
    return view(b.data(), type, rows, cols);
  }
  Tensor out(int64_t rows, int64_t cols) { return out(rows, cols, dtype); }
  float* out_floats(int64_t n) { return out(1, n, DType::F32).f32(); }
  const Matrix& packed(Tensor w) { return matrices.emplace_back(be, w); }
  std::vector<char> bytes() const {
    std::vector<char> all;
    for (const auto& [p, n] : outputs) all.insert(all.end(), static_cast<const char*>(p), static_cast<const char*>(p) + n);
    return all;
  }
};

struct Op { const char* name; std::function<void(Call&, int tasks)> run; };

const std::vector<Op>& ops() {
  static const std::vector<Op> all{
      {"attention", [](Call& c, int heads) {
         const AttentionPlan plan = plan_attention(std::vector<Span>{{0, 150, -1}, {150, 331, 0}}, true);
         const AttentionShape s{2 * heads, heads, 24, 0.2f};
         const int64_t T = 331, wide = s.heads * 24, narrow = heads * 24;
         const Tensor q = c.in(T, wide), k = c.in(T, narrow), v = c.in(T, narrow), out = c.out(T, wide);
         float* lse = c.out_floats(T * s.heads);
         const auto prepared = c.be.prepare(plan);
         c.be.attention_forward(out, lse, q, k, v, *prepared, s);
         c.be.attention_backward(c.out(T, wide), c.out(T, narrow), c.out(T, narrow), c.in(T, wide), q, k, v, out, lse, *prepared, s);
       }},
      {"attention_cached", [](Call& c, int heads) {
         const AttentionShape s{2 * heads, heads, 24, 0.2f};
         constexpr int32_t T = 150, kPages = 3;
         const auto page = static_cast<int64_t>(c.be.kv_page_bytes(s, c.dtype));
         const KvStore kv{c.memory.emplace_back(static_cast<size_t>(kPages * page)).data<char>(), page, kPages};
         CachedPlan plan;
         for (int32_t t = 0; t < T; ++t) plan.rows.push_back({t / 64, t % 64});
         plan.page_list = {0, 1, 2};
         plan.sequences = {{0, T, 0, 0, kPages}};
         const auto prepared = c.be.prepare(plan);
         c.be.kv_append(kv, 0, c.in(T, heads * 24), c.in(T, heads * 24), *prepared, s);
         c.be.attention_cached(c.out(T, 2 * heads * 24), c.in(T, 2 * heads * 24), kv, 0, *prepared, s);
       }},
      {"products", [](Call& c, int n) {
         const int64_t M = 14 * n - 1, N = 33 * n, K = 1200;
         const Tensor w = c.in(N, K), x = c.in(M, K), dy = c.in(M, N);
         c.be.gemm_nt(c.out(M, N), x, c.packed(w), {});
         c.be.gemm_nn(c.out(M, K), false, dy, {&w, 1});
         const GradPart part{c.out_floats(N * K), c.out_floats(N), N, false, false};
         c.be.gemm_tn({&part, 1}, dy, x);
       }},
      {"token_logp", [](Call& c, int R) {
         const int64_t C = 40, V = 9000;
         const Tensor head = c.in(V, C), x = c.in(R, C);
         const Matrix& packed = c.packed(head);
         const std::vector<int32_t> targets(static_cast<size_t>(R), 8999);
         float *logp = c.out_floats(R), *lse = c.out_floats(R);
         c.be.token_logp_forward(logp, lse, x, packed, ints(targets));
         c.be.token_logp_backward(c.out(R, C), false, c.out_floats(V * C), false, logp, x, packed, head, ints(targets), lse);
       }},
      {"sample", [](Call& c, int M) {
         const Tensor logits = c.in(M, 20001, DType::F32);
         const std::vector<SampleOptions> o(static_cast<size_t>(M), {.temperature = 0.7f, .top_p = 0.9f, .uniform = 0.6});
         c.be.sample(static_cast<int32_t*>(static_cast<void*>(c.out_floats(M))), c.out_floats(M), logits, o, {});
       }},
      {"norms", [](Call& c, int n) {
         const int64_t T = 64 * n, C = 1003;
         const Tensor x = c.in(T, C), dy = c.in(T, C);
         float *w = c.floats(C), *b = c.floats(C), *mean = c.out_floats(T), *rstd = c.out_floats(T);
         c.be.layer_norm_forward(c.out(T, C), mean, rstd, x, w, b, 1e-5f);
         c.be.layer_norm_backward(c.out(T, C), false, c.out_floats(C), c.out_floats(C), false, dy, x, w, mean, rstd);
         c.be.rms_norm_forward(c.out(T, C), rstd, x, {w, C}, 1e-5f);
         c.be.rms_norm_backward(c.out(T, C), false, c.out_floats(C), false, dy, x, {w, C}, rstd);
       }},
      {"rows", [](Call& c, int n) {
         const int64_t C = 30001;
         const Tensor x = c.in(3, C), y = c.out(n, C);
         std::vector<int32_t> index;
         for (int i = 0; i < n; ++i) index.push_back(i == 1 ? -1 : 2 - i);
         c.be.gather_rows(y, false, x, ints(index));
         c.be.add(y, true, c.in(n, C));
         c.be.pool_rows(c.out(1, C), false, x, ints(index), n, 0.5f);
         c.be.embedding_backward(c.out_floats(3 * C), false, c.in(n, C), ints(index), 3);
         c.be.act_forward(y, y, Act::GeluErf);
         c.be.swiglu_backward(c.out(n, 2 * C), c.in(n, C), c.in(n, 2 * C));
         *c.out_floats(1) = static_cast<float>(c.be.sum_squares(std::vector<Flat>{{c.floats(4096 * n + 5), 4096 * n + 5}}));
       }},
  };
  return all;
}

std::vector<char> result_of(const Op& op, Isa isa, DType dtype, int threads, int tasks) {
  const auto be = make_cpu_backend(isa, threads);
  Call call{*be, dtype};
  op.run(call, tasks);
  return call.bytes();
}

TEST("workers: one to three tasks on 1, 3, 17 and 64 threads, in guarded memory") {
  const GuardedMemory guarded;
  for (Isa isa : levels())
    for (DType dtype : {DType::F32, DType::BF16})
      for (const Op& op : ops())
        for (int tasks : {1, 2, 3}) {
          const std::vector<char> want = result_of(op, isa, dtype, 1, tasks);
          for (int threads : {3, 17, 64})
            CHECK(result_of(op, isa, dtype, threads, tasks) == want, op.name, ", ", tasks, " tasks, ", threads, " threads, ", name_of(dtype), " at ", name_of(isa));
        }
}

std::vector<std::vector<float>> trained(int threads) {
  ModelSpec spec;
  spec.heads = 4, spec.kv_heads = 2, spec.layers = 1;
  LoadOptions load;
  load.threads = threads;
  auto model = seeded_model(spec, load);
  Trainer trainer(*model, [] {
    TrainerOptions o;
    o.learning_rate = 1e-3;
    return o;
  }());
  TrainPair pair;
  for (SequenceInput* s : {&pair.chosen, &pair.rejected}) {
    s->ids = random_ids(300, spec.vocab, s == &pair.chosen ? 1 : 2);
    s->targets.assign(s->ids.begin() + 1, s->ids.end());
    s->targets.push_back(-1);
  }
  trainer.train_step({pair}, nullptr);
  std::vector<std::vector<float>> all;
  for (const Param& p : model->params) all.push_back(model->parameter(p.name));
  Generator generator(*model, 0, false);
  GenerateRequest r;
  r.ids = random_ids(200, spec.vocab, 3);
  r.copies = 2;
  r.sampling.max_tokens = 6;
  r.sampling.temperature = 1;
  for (const GeneratedSequence& g : generator.generate({r}, {}, nullptr)) all.push_back(g.logp);
  return all;
}

TEST("workers: a step of one pair and a prompt give the bits of one thread on 3, 17 and 64, in guarded memory") {
  const GuardedMemory guarded;
  const auto want = trained(1);
  for (int threads : {3, 17, 64}) CHECK(trained(threads) == want, threads, " threads");
}

TEST("workers: guarded memory ends where it says") {
  const GuardedMemory guarded;
  Arena arena;
  char* p = static_cast<char*>(arena.allocate(100));
  p[99] = 1;
  CHECK((reinterpret_cast<uintptr_t>(p) + 100) % 4096 == 0, "the end of an allocation is the end of a page");
  const Arena::Mark mark = arena.mark();
  arena.allocate(10000);
  arena.release(mark);
  CHECK(arena.total() == 128 && p[99] == 1, arena.total());
}

}  // namespace
}  // namespace isr::test
