// Jobs of isr-dpo/native: kernels on raw tensors. Outputs are written into arrays that the caller made.
#include <algorithm>

#include "autograd/ops.h"
#include "binding/jobs.h"
#include "core/error.h"
#include "kernels/devices.h"
#include "kernels/reference.h"

namespace isr::binding {
namespace {

int threads_of(const Napi::Object& args) {
  const int wanted = static_cast<int>(integer_at(args, "threads"));
  return wanted > 0 ? wanted : machine_threads();
}

DType dtype_of(const Napi::Object& args) { return string_at(args, "dtype") == "bf16" ? DType::BF16 : DType::F32; }

// (T, H) to (H, T) and back: kernels keep a row's heads together, the public layout a head's rows.
std::vector<float> transposed(const float* x, int64_t rows, int64_t cols) {
  std::vector<float> y(static_cast<size_t>(rows * cols));
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c) y[static_cast<size_t>(c * rows + r)] = x[r * cols + c];
  return y;
}

struct AttentionCall {
  AttentionShape shape;
  int64_t T = 0;
  DType dtype = DType::F32;
  bool causal = true, reference = false;
  std::string device_name;
  int threads = 1;
  std::vector<Span> spans;
  Tensor q, k, v, out, dout, dq, dk, dv;
  Bytes lse;
  std::vector<Napi::Object> keep;

  explicit AttentionCall(const Napi::Object& args) {
    T = integer_at(args, "rows");
    shape = {integer_at(args, "heads"), integer_at(args, "kvHeads"), integer_at(args, "headSize"), static_cast<float>(number_at(args, "scale"))};
    dtype = dtype_of(args);
    causal = bool_at(args, "causal");
    device_name = string_at(args, "device");
    reference = device_name == "reference";
    threads = threads_of(args);
    const std::vector<int32_t> triples = ints_at(args, "spans");
    for (size_t i = 0; i + 2 < triples.size(); i += 3) spans.push_back({triples[i], triples[i + 1], triples[i + 2]});
    const int64_t wide = shape.heads * shape.head_size, narrow = shape.kv_heads * shape.head_size;
    const auto tensor = [&](const char* key, int64_t cols) { return view(bytes_at(args, key, keep).data, dtype, T, cols); };
    q = tensor("q", wide);
    k = tensor("k", narrow);
    v = tensor("v", narrow);
    out = tensor("out", wide);
    lse = bytes_at(args, "lse", keep);
    dout = tensor("dOut", wide);
    dq = tensor("dq", wide);
    dk = tensor("dk", narrow);
    dv = tensor("dv", narrow);
  }
};

Napi::Value attention_forward(const Napi::CallbackInfo& info) {
  AttentionCall call(info[1].As<Napi::Object>());
  std::vector<Napi::Object> keep = std::move(call.keep);
  return submit(info, [c = std::move(call)](JobContext&) -> ToJs {
    const AttentionPlan plan = plan_attention(c.spans, c.causal);   // refuses spans that are none, for either backend
    ISR_ASSERT(plan.rows == c.T, "spans cover ", plan.rows, " of ", c.T, " rows");
    std::vector<float> lse(static_cast<size_t>(c.T * c.shape.heads));
    if (c.reference) {
      reference::attention_forward(c.out, lse.data(), c.q, c.k, c.v, c.spans, c.causal, c.shape);
    } else {
      const auto backend = make_backend(c.device_name, c.threads);
      Exchange x(backend->device());
      const auto prepared = backend->prepare(plan);
      const Tensor log_sums = x.out(view(lse.data(), c.T, c.shape.heads));
      backend->attention_forward(x.out(c.out), log_sums.f32(), x.in(c.q), x.in(c.k), x.in(c.v), *prepared, c.shape);
      x.finish();
    }
    const std::vector<float> by_head = transposed(lse.data(), c.T, c.shape.heads);
    std::copy(by_head.begin(), by_head.end(), static_cast<float*>(c.lse.data));
    return nothing();
  }, std::move(keep));
}

Napi::Value attention_backward(const Napi::CallbackInfo& info) {
  AttentionCall call(info[1].As<Napi::Object>());
  std::vector<Napi::Object> keep = std::move(call.keep);
  return submit(info, [c = std::move(call)](JobContext&) -> ToJs {
    const AttentionPlan plan = plan_attention(c.spans, c.causal);
    ISR_ASSERT(plan.rows == c.T, "spans cover ", plan.rows, " of ", c.T, " rows");
    if (c.reference) {
      reference::attention_backward(c.dq, c.dk, c.dv, c.dout, c.q, c.k, c.v, c.spans, c.causal, c.shape);
      return nothing();
    }
    std::vector<float> lse = transposed(static_cast<const float*>(c.lse.data), c.shape.heads, c.T);
    const auto backend = make_backend(c.device_name, c.threads);
    Exchange x(backend->device());
    const auto prepared = backend->prepare(plan);
    const Tensor log_sums = x.in(view(lse.data(), c.T, c.shape.heads));
    backend->attention_backward(x.out(c.dq), x.out(c.dk), x.out(c.dv), x.in(c.dout), x.in(c.q), x.in(c.k), x.in(c.v), x.in(c.out),
                                log_sums.f32(), *prepared, c.shape);
    x.finish();
    return nothing();
  }, std::move(keep));
}

// hidden (T, C), head (V, C), targets (T) with -1 for none; logProbs (T). With `backward` (T) also dHidden and dHead.
struct LogProbCall {
  int64_t T = 0, C = 0, V = 0;
  DType dtype = DType::F32;
  int threads = 1;
  std::string device_name;
  std::vector<int32_t> targets, rows, row_targets;   // rows: those with a target
  Bytes hidden, head, log_probs, backward, d_hidden, d_head;
  std::vector<Napi::Object> keep;

  explicit LogProbCall(const Napi::Object& args) {
    T = integer_at(args, "rows");
    C = integer_at(args, "width");
    V = integer_at(args, "vocab");
    dtype = dtype_of(args);
    device_name = string_at(args, "device");
    threads = threads_of(args);
    targets = ints_at(args, "targets");
    for (size_t t = 0; t < targets.size(); ++t)
      if (targets[t] >= 0) {
        rows.push_back(static_cast<int32_t>(t));
        row_targets.push_back(targets[t]);
      }
    hidden = bytes_at(args, "hidden", keep);
    head = bytes_at(args, "head", keep);
    log_probs = bytes_at(args, "logProbs", keep);
    backward = bytes_at(args, "backward", keep);
    d_hidden = bytes_at(args, "dHidden", keep);
    d_head = bytes_at(args, "dHead", keep);
  }

  void run() const {
    const int64_t R = static_cast<int64_t>(rows.size());
    if (R == 0) return;   // outputs were made as zeros
    const auto be = make_backend(device_name, threads);
    Device& device = be->device();
    Exchange x(device);
    const MatrixShape shape{V, C, dtype, false};
    const Buffer memory(device, be->matrix_bytes(shape));
    const auto matrix = be->matrix(shape, memory.data());
    const Tensor head_rows = x.in(view(head.data, dtype, V, C));
    write_matrix(*matrix, head_rows);

    Arena arena(device);
    const RowIndex index = row_index(*be, arena, rows, T);
    const Ints wanted = resident(*be, arena, row_targets);
    const auto scored = [&] { return view(arena.allocate(static_cast<size_t>(R * C) * size_of(dtype)), dtype, R, C); };
    const Tensor hidden_rows = scored();
    be->gather_rows(hidden_rows, false, x.in(view(hidden.data, dtype, T, C)), index.rows);
    std::vector<float> values(rows.size());
    float* const logp = arena.allocate_n<float>(R);
    float* const lse = arena.allocate_n<float>(R);
    be->token_logp_forward(logp, lse, hidden_rows, *matrix, wanted);
    device.download(values.data(), logp, values.size() * sizeof(float));
    for (size_t r = 0; r < rows.size(); ++r) static_cast<float*>(log_probs.data)[rows[r]] = values[r];
    if (!backward.data) return;

    for (size_t r = 0; r < rows.size(); ++r) values[r] = static_cast<const float*>(backward.data)[rows[r]];
    float* const dlogp = arena.allocate_n<float>(R);
    device.upload(dlogp, values.data(), values.size() * sizeof(float));
    const Tensor dx = scored(), d_head_rows = x.out(view(static_cast<float*>(d_head.data), V, C));
    be->token_logp_backward(dx, false, d_head_rows.f32(), false, dlogp, hidden_rows, *matrix, head_rows, wanted, lse);
    be->gather_rows(x.out(view(d_hidden.data, dtype, T, C)), false, dx, index.owner);
    x.finish();
  }

  // In tasks of whole panels.
  void write_matrix(Matrix& m, Tensor all) const {
    constexpr int64_t kRows = 64;
    parallel(threads, (V + kRows - 1) / kRows, 8, [&](int64_t begin, int64_t end, int) {
      const int64_t row = begin * kRows, n = std::min(end * kRows, V) - row;
      m.write_rows(row, all.row_range(row, n));
    });
  }
};

Napi::Value sequence_log_probs(const Napi::CallbackInfo& info) {
  LogProbCall call(info[1].As<Napi::Object>());
  std::vector<Napi::Object> keep = std::move(call.keep);
  return submit(info, [c = std::move(call)](JobContext&) -> ToJs {
    c.run();
    return nothing();
  }, std::move(keep));
}

struct PairCall {
  std::vector<PairLogps> pairs;
  LossOptions options;
};

PairCall pair_call_of(const Napi::Object& args) {
  const auto chosen = float_lists_at(args, "chosen"), rejected = float_lists_at(args, "rejected"), ref_chosen = float_lists_at(args, "refChosen"),
             ref_rejected = float_lists_at(args, "refRejected");
  PairCall call;
  for (size_t i = 0; i < chosen.size(); ++i) call.pairs.push_back({chosen[i], rejected[i], ref_chosen[i], ref_rejected[i]});
  call.options = loss_options_of(object_at(args, "options"));
  check_loss_options(call.options);
  return call;
}

Napi::Value loss_to_js(Napi::Env env, const LossResult& r) {
  Napi::Object o = Napi::Object::New(env);
  o.Set("loss", r.loss);
  o.Set("dChosen", to_js(env, r.d_chosen));
  o.Set("dRejected", to_js(env, r.d_rejected));
  return o;
}

// A host function of a few thousand numbers: answers at once.
Napi::Value dpo_loss(const Napi::CallbackInfo& info) {
  const PairCall call = pair_call_of(info[0].As<Napi::Object>());
  return loss_to_js(info.Env(), preference_loss(call.pairs, call.options));
}

// The same by one call of a device, as a training step makes it.
LossResult loss_on(Backend& be, const PairCall& call) {
  std::vector<float> logp, reference;
  std::vector<int32_t> sides{0};
  int64_t chosen = 0;
  const auto side = [&](const std::vector<float>& policy, const std::vector<float>& ref) {
    logp.insert(logp.end(), policy.begin(), policy.end());
    reference.insert(reference.end(), ref.begin(), ref.end());
    sides.push_back(static_cast<int32_t>(logp.size()));
  };
  for (const PairLogps& p : call.pairs) {
    side(p.chosen, p.ref_chosen);
    side(p.rejected, p.ref_rejected);
    chosen += static_cast<int64_t>(p.chosen.size());
  }
  const PairLoss loss = pair_loss_of(call.options, static_cast<int64_t>(call.pairs.size()), chosen);
  const auto tokens = static_cast<int64_t>(logp.size());
  std::vector<float> slopes(logp.size());
  std::vector<double> told(call.pairs.size() * kPairFigures);
  Device& device = be.device();
  Arena arena(device);
  Exchange x(device);
  double* const figures = arena.allocate_n<double>(static_cast<int64_t>(told.size()));
  be.pair_loss(x.out(view(slopes.data(), 1, tokens)).f32(), figures, x.in(view(logp.data(), 1, tokens)).f32(), x.in(view(reference.data(), 1, tokens)).f32(),
               resident(be, arena, sides), loss);
  device.download(told.data(), figures, told.size() * sizeof(double));
  x.finish();

  LossResult r;
  double chosen_logp = 0;
  for (size_t i = 0; i < call.pairs.size(); ++i) {
    r.dpo_loss += told[i * kPairFigures + kLoss] * loss.per_pair;
    chosen_logp += told[i * kPairFigures + kChosenLogp];
    const auto part = [&](size_t s) { return std::vector<float>(slopes.begin() + sides[s], slopes.begin() + sides[s + 1]); };
    r.d_chosen.push_back(part(2 * i));
    r.d_rejected.push_back(part(2 * i + 1));
  }
  r.sft_loss = -chosen_logp / static_cast<double>(chosen);
  r.loss = r.dpo_loss + call.options.gamma * r.sft_loss;
  return r;
}

Napi::Value preference_loss_job(const Napi::CallbackInfo& info) {
  const Napi::Object args = info[1].As<Napi::Object>();
  PairCall call = pair_call_of(args);
  if (loss_couples_pairs(call.options)) fail("INVALID_ARGUMENT", "options.loss: '", call.options.loss, "' couples the pairs of a step, and devices compute pair by pair: use dpoLoss()");
  return submit(info, [device = string_at(args, "device"), c = std::move(call)](JobContext&) -> ToJs {
    const auto backend = make_backend(device, 1);
    return [r = loss_on(*backend, c)](Napi::Env env) { return loss_to_js(env, r); };
  }, {});
}

}  // namespace

void export_kernel_jobs(Napi::Env env, Napi::Object exports) {
  export_as<attention_forward>(env, exports, "attentionForward");
  export_as<attention_backward>(env, exports, "attentionBackward");
  export_as<sequence_log_probs>(env, exports, "sequenceLogProbs");
  export_as<dpo_loss>(env, exports, "dpoLoss");
  export_as<preference_loss_job>(env, exports, "preferenceLoss");
}

}  // namespace isr::binding
