#include "interposed.h"

#include <vector>

namespace isr {
namespace {

// The inner backend's object, and nothing of it while calls that read it are under way.
template <class Base>
struct Held : Base {
  template <class... Args>
  Held(Interposed& owner, std::unique_ptr<Base> inner, Args&&... args) : Base(std::forward<Args>(args)...), owner(owner), inner(std::move(inner)) {}
  ~Held() override { owner.wait(); }
  Interposed& owner;
  std::unique_ptr<Base> inner;
};

struct HeldMatrix final : Held<Matrix> {
  HeldMatrix(Interposed& owner, std::unique_ptr<Matrix> inner) : Held<Matrix>(owner, std::move(inner), inner->shape) {}
  void write_rows(int64_t row0, Tensor rows) override {
    owner.check_resident(rows.data);
    owner.launch([=, m = inner.get()](Backend&) { m->write_rows(row0, rows); });
  }
  void read_rows(Tensor rows, int64_t row0) const override {
    owner.check_resident(rows.data);
    owner.launch([=, m = inner.get()](Backend&) { m->read_rows(rows, row0); });
  }
  Tensor in_place() const override { return inner->in_place(); }
};

const Matrix& inner_of(const Matrix& m) { return *static_cast<const HeldMatrix&>(m).inner; }
const Prepared& inner_of(const Prepared& p) { return *static_cast<const Held<Prepared>&>(p).inner; }

template <class T>
std::vector<T> copied(std::span<const T> all) {
  return {all.begin(), all.end()};
}

const void* address(const Tensor& t) { return t.data; }
const void* address(const Ints& i) { return i.data; }
const void* address(const void* p) { return p; }
const void* address(const KvStore& kv) { return kv.blocks[0]; }

}  // namespace

template <class... Addresses>
void Interposed::check(const Addresses&... all) {
  (check_resident(address(all)), ...);
}

std::unique_ptr<Matrix> Interposed::matrix(const MatrixShape& s, void* memory) {
  check(memory);
  return std::make_unique<HeldMatrix>(*this, inner_->matrix(s, memory));
}

std::unique_ptr<Prepared> Interposed::prepare(const AttentionPlan& plan) { return std::make_unique<Held<Prepared>>(*this, inner_->prepare(plan)); }
std::unique_ptr<Prepared> Interposed::prepare(const CachedPlan& plan) { return std::make_unique<Held<Prepared>>(*this, inner_->prepare(plan)); }

// ---- products
void Interposed::gemm_nt(Tensor y, Tensor x, const Matrix& w, const Epilogue& e) {
  check(y, x, e.bias, e.pre, e.residual);
  launch([=, &w = inner_of(w)](Backend& be) { be.gemm_nt(y, x, w, e); });
}
void Interposed::gemm_nn(Tensor dx, bool accumulate, Tensor dy, std::span<const Tensor> w) {
  check(dx, dy);
  for (const Tensor& part : w) check(part);
  launch([=, w = copied(w)](Backend& be) { be.gemm_nn(dx, accumulate, dy, w); });
}
void Interposed::gemm_tn(std::span<const GradPart> dw, Tensor dy, Tensor x) {
  check(dy, x);
  for (const GradPart& part : dw) check(part.dw, part.db);
  launch([=, dw = copied(dw)](Backend& be) { be.gemm_tn(dw, dy, x); });
}

// ---- attention
void Interposed::attention_forward(Tensor out, float* lse, Tensor q, Tensor k, Tensor v, const Prepared& plan, const AttentionShape& s) {
  check(out, lse, q, k, v);
  launch([=, &p = inner_of(plan)](Backend& be) { be.attention_forward(out, lse, q, k, v, p, s); });
}
void Interposed::attention_backward(Tensor dq, Tensor dk, Tensor dv, Tensor dout, Tensor q, Tensor k, Tensor v, Tensor out, const float* lse,
                                    const Prepared& plan, const AttentionShape& s) {
  check(dq, dk, dv, dout, q, k, v, out, lse);
  launch([=, &p = inner_of(plan)](Backend& be) { be.attention_backward(dq, dk, dv, dout, q, k, v, out, lse, p, s); });
}
void Interposed::kv_append(const KvStore& kv, int64_t layer, Tensor k, Tensor v, const Prepared& plan, const AttentionShape& s) {
  check(kv, k, v);
  launch([=, &p = inner_of(plan)](Backend& be) { be.kv_append(kv, layer, k, v, p, s); });
}
void Interposed::attention_cached(Tensor out, Tensor q, const KvStore& kv, int64_t layer, const Prepared& plan, const AttentionShape& s) {
  check(out, q, kv);
  launch([=, &p = inner_of(plan)](Backend& be) { be.attention_cached(out, q, kv, layer, p, s); });
}

// ---- row-wise
void Interposed::rms_norm_forward(Tensor y, float* rstd, Tensor x, Flat w, float eps) {
  check(y, rstd, x, w.data);
  launch([=](Backend& be) { be.rms_norm_forward(y, rstd, x, w, eps); });
}
void Interposed::rms_norm_backward(Tensor dx, bool accumulate, float* dw, bool accumulate_w, Tensor dy, Tensor x, Flat w, const float* rstd) {
  check(dx, dw, dy, x, w.data, rstd);
  launch([=](Backend& be) { be.rms_norm_backward(dx, accumulate, dw, accumulate_w, dy, x, w, rstd); });
}
void Interposed::layer_norm_forward(Tensor y, float* mean, float* rstd, Tensor x, const float* w, const float* b, float eps) {
  check(y, mean, rstd, x, w, b);
  launch([=](Backend& be) { be.layer_norm_forward(y, mean, rstd, x, w, b, eps); });
}
void Interposed::layer_norm_backward(Tensor dx, bool accumulate, float* dw, float* db, bool accumulate_w, Tensor dy, Tensor x, const float* w,
                                     const float* mean, const float* rstd) {
  check(dx, dw, db, dy, x, w, mean, rstd);
  launch([=](Backend& be) { be.layer_norm_backward(dx, accumulate, dw, db, accumulate_w, dy, x, w, mean, rstd); });
}
void Interposed::swiglu_backward(Tensor dpre, Tensor dy, Tensor pre) {
  check(dpre, dy, pre);
  launch([=](Backend& be) { be.swiglu_backward(dpre, dy, pre); });
}
void Interposed::act_forward(Tensor y, Tensor pre, Act act) {
  check(y, pre);
  launch([=](Backend& be) { be.act_forward(y, pre, act); });
}
void Interposed::act_backward(Tensor dpre, Tensor dy, Tensor pre, Act act) {
  check(dpre, dy, pre);
  launch([=](Backend& be) { be.act_backward(dpre, dy, pre, act); });
}
void Interposed::add(Tensor y, bool accumulate, Tensor a) {
  check(y, a);
  launch([=](Backend& be) { be.add(y, accumulate, a); });
}

// ---- rotary positions, rows by index
void Interposed::rope_table(float* table, Ints positions, const RopeFrequencies& f) {
  check(table, positions);
  launch([=, inverse = copied(f.inverse), axis = copied(f.axis), factor = f.factor, axes = f.axes](Backend& be) {
    be.rope_table(table, positions, {inverse, factor, axes, axis});
  });
}
void Interposed::rope(Tensor x, const float* table, int64_t heads, int64_t head_size, bool inverse) {
  check(x, table);
  launch([=](Backend& be) { be.rope(x, table, heads, head_size, inverse); });
}
void Interposed::gather_rows(Tensor y, bool accumulate, Tensor x, Ints index) {
  check(y, x, index);
  launch([=](Backend& be) { be.gather_rows(y, accumulate, x, index); });
}
void Interposed::pool_rows(Tensor y, bool accumulate, Tensor x, Ints index, int64_t n, float scale) {
  check(y, x, index);
  launch([=](Backend& be) { be.pool_rows(y, accumulate, x, index, n, scale); });
}
void Interposed::embedding_forward(Tensor y, Tensor table, Ints ids) {
  check(y, table, ids);
  launch([=](Backend& be) { be.embedding_forward(y, table, ids); });
}
void Interposed::embedding_backward(float* dw, bool accumulate, Tensor dy, Ints ids, int64_t vocab) {
  check(dw, dy, ids);
  launch([=](Backend& be) { be.embedding_backward(dw, accumulate, dy, ids, vocab); });
}
void Interposed::patchify(Tensor y, const float* pixels, int64_t frames, int64_t height, int64_t width, int64_t patch) {
  check(y, pixels);
  launch([=](Backend& be) { be.patchify(y, pixels, frames, height, width, patch); });
}

// ---- head
void Interposed::token_logp_forward(float* logp, float* lse, Tensor x, const Matrix& head, Ints targets) {
  check(logp, lse, x, targets);
  launch([=, &head = inner_of(head)](Backend& be) { be.token_logp_forward(logp, lse, x, head, targets); });
}
void Interposed::token_logp_backward(Tensor dx, bool accumulate, float* dw, bool accumulate_w, const float* dlogp, Tensor x, const Matrix& head,
                                     Tensor head_rows, Ints targets, const float* lse) {
  check(dx, dw, dlogp, x, head_rows, targets, lse);
  launch([=, &head = inner_of(head)](Backend& be) {
    be.token_logp_backward(dx, accumulate, dw, accumulate_w, dlogp, x, head, head_rows, targets, lse);
  });
}
void Interposed::pair_loss(float* dlogp, double* figures, const float* logp, const float* reference, Ints sides, const PairLoss& o) {
  check(dlogp, figures, logp, reference, sides);
  launch([=](Backend& be) { be.pair_loss(dlogp, figures, logp, reference, sides, o); });
}
void Interposed::sample(int32_t* host_ids, float* host_logp, Tensor logits, std::span<const SampleOptions> options,
                        std::span<const std::span<const int32_t>> suppress) {
  check(logits);
  launch([=](Backend& be) { be.sample(host_ids, host_logp, logits, options, suppress); });
  wait();
}

// ---- optimizer
static std::vector<AdamWItem> inner_items(std::span<const AdamWItem> items) {
  std::vector<AdamWItem> all = copied(items);
  for (AdamWItem& item : all)
    if (item.matrix) item.matrix = static_cast<HeldMatrix*>(item.matrix)->inner.get();
  return all;
}

void Interposed::adamw(std::span<const AdamWItem> items, const AdamW& o) {
  for (const AdamWItem& i : items) check(i.master, i.m, i.v, i.grad, i.value);
  launch([items = inner_items(items), o](Backend& be) { be.adamw(items, o); });
}
void Interposed::write_values(std::span<const AdamWItem> items) {
  for (const AdamWItem& i : items) check(i.master, i.value);
  launch([items = inner_items(items)](Backend& be) { be.write_values(items); });
}
double Interposed::sum_squares(std::span<const Flat> arrays) {
  double sum = 0;
  for (const Flat& a : arrays) check(a.data);
  launch([&, arrays = copied(arrays)](Backend& be) { sum = be.sum_squares(arrays); });
  wait();
  return sum;
}

}  // namespace isr
