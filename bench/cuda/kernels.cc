// The card's limits, every op against float64, and attention at the sizes of models.
#include "../../test/native/check.h"
#include "../../test/native/op_check.h"
#include "sections.h"

namespace isr::gpu {
namespace {

Tensor space(Arena& arena, int64_t rows, int64_t cols) {
  return view(arena.allocate(static_cast<size_t>(rows * cols) * sizeof(uint16_t)), DType::BF16, rows, cols);
}

// Random values in memory of the device: a pattern of a prime length, from `seed` of it on, repeated.
Tensor values(Arena& arena, Device& device, int64_t rows, int64_t cols, size_t seed) {
  static const std::vector<uint16_t> pattern = [] {
    std::vector<uint16_t> all;
    for (const float x : test::random_values(1000003, 5)) all.push_back(f32_to_bf16(x));
    return all;
  }();
  const Tensor t = space(arena, rows, cols);
  const size_t n = static_cast<size_t>(rows * cols);
  for (size_t done = 0; done < n;) {
    const size_t at = (seed * 7919 + done) % pattern.size(), some = std::min(n - done, pattern.size() - at);
    device.upload(static_cast<uint16_t*>(t.data) + done, pattern.data() + at, some * sizeof(uint16_t));
    done += some;
  }
  return t;
}

// Rows [row, row + rows) of a tensor, on the host.
std::vector<float> rows_of(Device& device, const Tensor& t, int64_t row, int64_t rows = 1) {
  std::vector<uint16_t> bits(static_cast<size_t>(rows * t.cols));
  device.download(bits.data(), t.row_range(row, rows).data, bits.size() * sizeof(uint16_t));
  std::vector<float> all;
  for (const uint16_t b : bits) all.push_back(bf16_to_f32(b));
  return all;
}

// The largest difference of a row to what it should be, over the largest value that it should have.
double distance(const std::vector<float>& got, const std::vector<double>& want) {
  double error = 0, scale = 1e-30;
  for (size_t i = 0; i < want.size(); ++i) {
    if (!std::isfinite(got[i])) return INFINITY;
    error = std::max(error, std::abs(got[i] - want[i])), scale = std::max(scale, std::abs(want[i]));
  }
  return error / scale;
}

constexpr double kClose = 0.02;   // of bfloat16 with sums in float32: five times what one rounding changes

// y (rows, n) = x w^T: its time, and some rows against float64.
void product(Backend& be, int64_t rows, int64_t n, const Options& o) {
  Device& device = be.device();
  Arena arena(device);
  const Tensor w = values(arena, device, n, n, 1), x = values(arena, device, rows, n, 2), y = space(arena, rows, n);
  const MatrixShape shape{n, n, DType::BF16, false};
  const Buffer memory(device, be.matrix_bytes(shape));
  const auto matrix = be.matrix(shape, memory.data());
  matrix->write_rows(0, w);
  const double seconds = seconds_of(device, o, [&] { be.gemm_nt(y, x, *matrix, {}); });
  double worst = 0;
  for (const int64_t row : {int64_t{0}, rows / 2, rows - 1}) {
    const std::vector<float> left = rows_of(device, x, row), got = rows_of(device, y, row);
    std::vector<float> some;
    std::vector<double> want;
    for (int64_t column = 0; column < n; column += std::max<int64_t>(n / 50, 1)) {
      const std::vector<float> right = rows_of(device, w, column);
      double sum = 0;
      for (size_t i = 0; i < left.size(); ++i) sum += double{left[i]} * right[i];
      want.push_back(sum);
      some.push_back(got[static_cast<size_t>(column)]);
    }
    worst = std::max(worst, distance(some, want));
  }
  Line line(concat("product of ", rows, " rows, ", n, " x ", n, ", bf16"));
  line.flag("ok", worst <= kClose).number("error", worst).number("seconds", seconds);
  line.number("tflops", 2e-12 * static_cast<double>(rows) * static_cast<double>(n * n) / seconds);
  if (rows < n) line.number("weights_gb_per_s", 2e-9 * static_cast<double>(n * n) / seconds);
}

struct Case {
  const char* what;
  std::vector<Span> spans;
  int64_t heads, kv_heads, size;
};

// `count` spans of `rows` rows.
std::vector<Span> alike(int count, int rows) {
  std::vector<Span> spans;
  for (int i = 0; i < count; ++i) spans.push_back({i * rows, (i + 1) * rows, -1});
  return spans;
}

// `count` pairs: a prompt, and two answers that share it.
std::vector<Span> pairs(int count, int prompt, int answer) {
  std::vector<Span> spans;
  for (int i = 0; i < count; ++i) {
    const int32_t parent = 3 * i, first = i * (prompt + 2 * answer);
    spans.push_back({first, first + prompt, -1});
    spans.push_back({first + prompt, first + prompt + answer, parent});
    spans.push_back({first + prompt + answer, first + prompt + 2 * answer, parent});
  }
  return spans;
}

// Pairs of rows that see each other; a causal span's own are counted as half of its square.
double visible(const Case& c) {
  double sum = 0;
  for (const Span& s : c.spans) {
    const double own = s.end - s.begin;
    sum += own * own / 2;
    if (s.parent >= 0) sum += own * (c.spans[static_cast<size_t>(s.parent)].end - c.spans[static_cast<size_t>(s.parent)].begin);
  }
  return sum;
}

struct Attended { Tensor q, k, v, out, dout, dq; };

// Rows of the last span, of the last head, and their gradient against float64: they see the most.
double attention_error(Device& device, const Case& c, const Attended& a) {
  const Span last = c.spans.back(), before = last.parent < 0 ? Span{0, 0, -1} : c.spans[static_cast<size_t>(last.parent)];
  const int64_t size = c.size, head = c.heads - 1, kv_head = head / (c.heads / c.kv_heads), kv = kv_head * size, own = head * size;
  const auto head_of = [&](const Tensor& t, int64_t row, int64_t column) {
    const std::vector<float> all = rows_of(device, t, row);
    return std::vector<double>(all.begin() + column, all.begin() + column + size);
  };
  const auto dot = [](const std::vector<double>& x, const std::vector<double>& y) {
    double sum = 0;
    for (size_t i = 0; i < x.size(); ++i) sum += x[i] * y[i];
    return sum;
  };
  double worst = 0;
  for (const int64_t row : {int64_t{last.begin}, int64_t{last.end} - 1}) {
    std::vector<std::vector<double>> keys, seen;
    const auto add = [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) keys.push_back(head_of(a.k, r, kv)), seen.push_back(head_of(a.v, r, kv));
    };
    add(before.begin, before.end);
    add(last.begin, row + 1);
    const std::vector<double> q = head_of(a.q, row, own), above = head_of(a.dout, row, own);
    const double scale = 1 / std::sqrt(static_cast<double>(size));
    double sum = 0, inner = 0;
    std::vector<double> weight, out(static_cast<size_t>(size)), dq(static_cast<size_t>(size));
    for (const auto& key : keys) sum += weight.emplace_back(std::exp(scale * dot(q, key)));
    for (size_t j = 0; j < keys.size(); ++j) {
      inner += (weight[j] /= sum) * dot(above, seen[j]);
      for (size_t i = 0; i < out.size(); ++i) out[i] += weight[j] * seen[j][i];
    }
    for (size_t j = 0; j < keys.size(); ++j)
      for (size_t i = 0; i < dq.size(); ++i) dq[i] += scale * weight[j] * (dot(above, seen[j]) - inner) * keys[j][i];
    const auto got = [&](const Tensor& t) {
      const std::vector<double> x = head_of(t, row, own);
      return std::vector<float>(x.begin(), x.end());
    };
    worst = std::max({worst, distance(got(a.out), out), distance(got(a.dq), dq)});
  }
  return worst;
}

void attention_of(Backend& be, const Case& c, const Options& o) {
  Device& device = be.device();
  Arena arena(device);
  const AttentionPlan plan = plan_attention(c.spans, true);
  const auto prepared = be.prepare(plan);
  const AttentionShape s{c.heads, c.kv_heads, c.size, 1 / std::sqrt(static_cast<float>(c.size))};
  const int64_t rows = plan.rows, wide = c.heads * c.size, narrow = c.kv_heads * c.size;
  const Tensor q = values(arena, device, rows, wide, 1), k = values(arena, device, rows, narrow, 2), v = values(arena, device, rows, narrow, 3),
               dout = values(arena, device, rows, wide, 4), out = space(arena, rows, wide), dq = space(arena, rows, wide), dk = space(arena, rows, narrow),
               dv = space(arena, rows, narrow);
  float* const lse = arena.allocate_n<float>(rows * c.heads);
  const double flops = 4 * visible(c) * static_cast<double>(wide);   // two products; five in backward
  const double forward = seconds_of(device, o, [&] { be.attention_forward(out, lse, q, k, v, *prepared, s); });
  const double backward = seconds_of(device, o, [&] { be.attention_backward(dq, dk, dv, dout, q, k, v, out, lse, *prepared, s); });
  const double worst = attention_error(device, c, {q, k, v, out, dout, dq});
  Line(concat("attention ", c.what, ", D ", c.size, ", heads ", c.heads, "/", c.kv_heads, ", causal, bf16"))
      .flag("ok", worst <= kClose).number("error", worst).number("forward_seconds", forward).number("forward_tflops", flops / forward * 1e-12)
      .number("backward_seconds", backward).number("backward_tflops", 2.5 * flops / backward * 1e-12);
}

}  // namespace

void limits(const Options& o) {
  const DeviceKind& kind = device_kinds().back();
  for (const Card& c : kind.cards())
    Line("card").text("name", c.name).number("memory_gib", static_cast<double>(c.memory) / 1073741824.0).text("compute_capability", concat(c.major, ".", c.minor));
  Line("library").text("name", kind.library());
  const auto be = card();
  Device& device = be->device();
  const size_t bytes = o.small ? size_t{1} << 16 : size_t{1} << 30;
  {
    const Buffer from(device, bytes), to(device, bytes);
    const double seconds = seconds_of(device, o, [&] { device.copy(to.data(), from.data(), bytes); });
    Line("copy on the card").number("gb_per_s", 2e-9 * static_cast<double>(bytes) / seconds);
    std::vector<char> host(bytes);
    const double up = seconds_of(device, o, [&] { device.upload(to.data(), host.data(), bytes); }, 2);
    Line("upload").number("gb_per_s", 1e-9 * static_cast<double>(bytes) / up);
  }
  const int64_t n = o.small ? 64 : 8192;
  for (const int64_t rows : {n, int64_t{8}, int64_t{1}}) attempt(device, concat("product of ", rows, " rows"), [&] { product(*be, rows, n, o); });
}

namespace {

// How much of what is allowed the worst results take, and how many took more.
struct Found {
  int results = 0, bad = 0;
  double worst[2] = {0, 0};   // float32, bfloat16
};

void op(Backend& be, const test::OpRow& row, DType dtype, Found& found) {
  const auto got = test::errors_of(row, be, dtype);
  const auto again = test::bytes_of(row, be, dtype);
  for (size_t i = 0; i < got.size(); ++i) {
    const double most = dtype == DType::F32 ? 1e-11 : 8 * got[i].rounding;
    const bool same = got[i].bytes == again[i], close = got[i].nmse <= most;
    double& top = found.worst[dtype == DType::F32 ? 0 : 1];
    top = std::max(top, got[i].nmse / most);
    ++found.results;
    if (same && close) continue;
    ++found.bad;
    Line(concat(row.name, " (", row.vars, ") ", name_of(dtype), ": ", got[i].result))
        .flag("ok", false).number("nmse", got[i].nmse).number("at_most", most).flag("same_bits_twice", same);
  }
}

}  // namespace

void ops(const Options&) {
  const auto be = card();
  Found found;
  for (const test::OpRow& row : test::op_table())
    for (const DType dtype : {DType::F32, DType::BF16})
      attempt(be->device(), concat(row.name, " (", row.vars, ") ", name_of(dtype)), [&] { op(*be, row, dtype, found); });
  Line("ops").flag("ok", found.bad == 0).number("results", found.results).number("bad", found.bad).number("worst_share_f32", found.worst[0])
      .number("worst_share_bf16", found.worst[1]);
}

void once(const Options&) {
  const auto be = card();
  for (const test::OpRow& row : test::op_table())
    attempt(be->device(), concat(row.name, " (", row.vars, ")"), [&] { test::bytes_of(row, *be, DType::BF16); });
}

void attention(const Options& o) {
  const auto be = card();
  const std::vector<Case> small{{"of 130", alike(1, 130), 2, 1, 64}, {"of a pair 70 + 20 | 20", pairs(1, 70, 20), 2, 2, 128}};
  const std::vector<Case> large{{"of 8 x 2048", alike(8, 2048), 32, 32, 64},   {"of 2 x 8192", alike(2, 8192), 32, 32, 64},
                                {"of 8 x 2048", alike(8, 2048), 16, 16, 128},  {"of 2 x 8192", alike(2, 8192), 16, 16, 128},
                                {"of 8 x 2048", alike(8, 2048), 32, 8, 128},   {"of 8 pairs 2048 + 128 | 128", pairs(8, 2048, 128), 32, 32, 128},
                                {"of 16 x 2304", alike(16, 2304), 32, 32, 128}};
  for (const Case& c : o.small ? small : large) attempt(be->device(), concat("attention ", c.what, ", D ", c.size), [&] { attention_of(*be, c, o); });
}

}  // namespace isr::gpu
