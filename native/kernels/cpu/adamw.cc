// The optimizer's passes over a flat group: AdamW (Loshchilov & Hutter 2019, the order of operations of PyTorch's
// torch.optim.AdamW) and the sum of squares behind the gradient norm. Both run at the speed of memory.
#include <bit>
#include <cmath>

#include "kernels/cpu/simd.h"

namespace isr::cpu::ISR_NS {
namespace {

typedef float half_vf __attribute__((vector_size(2 * kLanes)));
typedef double vd __attribute__((vector_size(4 * kLanes)));  // kLanes / 2 doubles

constexpr int64_t kChunk = 4096;
constexpr int64_t kRows = 64;   // whole panels: a task's rows are updated, rounded and packed while they are in cache

inline vd load_double(const float* p) {
  half_vf v;
  std::memcpy(&v, p, sizeof v);
  return __builtin_convertvector(v, vd);
}

double chunk_sum_squares(const float* x, int64_t n) {
  constexpr int64_t kHalf = kLanes / 2;
  vd a = {}, b = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const vd u = load_double(x + i), v = load_double(x + i + kHalf);
    a += u * u;
    b += v * v;
  }
  a += b;
  double total = 0;
  for (int64_t k = 0; k < kHalf; ++k) total += a[k];
  for (; i < n; ++i) total += static_cast<double>(x[i]) * x[i];
  return total;
}

}  // namespace

static void adamw_step(float* master, float* m, float* v, const float* grad, int64_t n, const AdamW& o, const AdamWItem& item) {
  const double correction1 = 1 - std::pow(static_cast<double>(o.beta1), static_cast<double>(item.step));
  const double correction2 = 1 - std::pow(static_cast<double>(o.beta2), static_cast<double>(item.step));
  const vf decay = splat(static_cast<float>(1 - static_cast<double>(o.lr) * item.weight_decay));
  const vf step = splat(static_cast<float>(-o.lr / correction1));
  const vf root = splat(static_cast<float>(1 / std::sqrt(correction2)));
  const vf b1 = splat(o.beta1), b2 = splat(o.beta2), eps = splat(o.eps), scale = splat(o.grad_scale);
  const vf c1 = splat(static_cast<float>(1 - static_cast<double>(o.beta1)));
  const vf c2 = splat(static_cast<float>(1 - static_cast<double>(o.beta2)));
  for_lanes(n, [&](int64_t i, auto lanes) {
    const vf g = load_at(grad + i, lanes) * scale;
    const vf first = fma(b1, load_at(m + i, lanes), c1 * g);
    const vf second = fma(b2, load_at(v + i, lanes), c2 * g * g);
    const vf change = step * first / fma(sqrtv(second), root, eps);
    store_at(m + i, first, lanes);
    store_at(v + i, second, lanes);
    store_at(master + i, fma(load_at(master + i, lanes), decay, change), lanes);
  });
}

// To what bfloat16 holds, subnormals included (core/bf16.h, which is not compiled here: level.h).
static float rounded(float x) {
  const uint32_t u = std::bit_cast<uint32_t>(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return std::bit_cast<float>((u & 0xffff0000u) | 0x400000u);
  return std::bit_cast<float>((u + 0x7fffu + ((u >> 16) & 1)) & 0xffff0000u);
}

// Masters to the type of the values, over their whole length: a bfloat16 row, or a float32 one of what bfloat16 can hold.
static void write_value(const AdamWItem& item, int64_t at, int64_t n) {
  const float* from = item.master + at;
  if (item.value.dtype == DType::BF16) {
    for_lanes(n, [&](int64_t i, auto lanes) { store_at(item.value.bf16() + at + i, load_at(from + i, lanes), lanes); });
    return;
  }
  float* to = item.value.f32() + at;
  for (int64_t i = 0; i < n; ++i) to[i] = item.rounded ? rounded(from[i]) : from[i];
}

void CpuBackend::update_rows(const AdamWItem& item, const AdamW* o, int64_t row, int64_t rows) const {
  const int64_t at = row * item.cols, n = rows * item.cols;
  if (o) adamw_step(item.master + at, item.m + at, item.v + at, item.grad + at, n, *o, item);
  if (item.value) write_value(item, at, n);
  if (!item.matrix) return;
  const Tensor all = item.value ? item.value : view(item.master, item.rows, item.cols);
  item.matrix->write_rows(item.matrix_row + row, all.row_range(row, rows));
}

// Tasks of 64 rows, numbered through all items. Allocates nothing: a step that has begun must end.
void CpuBackend::update_all(std::span<const AdamWItem> items, const AdamW* o) {
  const auto tasks_of = [&](size_t item) { return (items[item].rows + kRows - 1) / kRows; };
  int64_t tasks = 0;
  for (size_t i = 0; i < items.size(); ++i) tasks += tasks_of(i);
  parallel(threads, tasks, 1, [&](int64_t begin, int64_t end, int) {
    size_t i = 0;
    int64_t first = 0;   // task of item i
    for (int64_t task = begin; task < end; ++task) {
      while (task - first >= tasks_of(i)) first += tasks_of(i++);
      const int64_t row = (task - first) * kRows;
      update_rows(items[i], o, row, items[i].rows - row < kRows ? items[i].rows - row : kRows);
    }
  });
}

void CpuBackend::adamw(std::span<const AdamWItem> items, const AdamW& o) { update_all(items, &o); }
void CpuBackend::write_values(std::span<const AdamWItem> items) { update_all(items, nullptr); }

double CpuBackend::sum_squares(std::span<const Flat> arrays) {
  double total = 0;
  for (const Flat& x : arrays) {
    const int64_t chunks = (x.n + kChunk - 1) / kChunk;
    ArenaScope scope(scratch);
    double* const partial = scratch.allocate_n<double>(chunks);
    parallel(threads, chunks, row_grain(threads, chunks, kChunk), [&](int64_t begin, int64_t end, int) {
      for (int64_t k = begin; k < end; ++k)
        partial[k] = chunk_sum_squares(x.data + k * kChunk, x.n - k * kChunk < kChunk ? x.n - k * kChunk : kChunk);
    });
    double sum = 0;
    for (int64_t k = 0; k < chunks; ++k) sum += partial[k];
    total += sum;
  }
  return total;
}

}  // namespace isr::cpu::ISR_NS
