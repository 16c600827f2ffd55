// One table of backends times one table of ops: every op on every backend against the float64 oracle, and in bits where a
// backend promises them. ISR_TEST_OPS="NAME (VARS);NAME": those rows alone, or all of that name.
#include <algorithm>
#include <cstdlib>
#include <map>

#include "check.h"
#include "far.h"
#include "op_check.h"
#if defined(ISR_CUDA_EMULATED)
#include "emulated.h"
#include "fibers.h"
#endif

namespace isr::test {
namespace {

struct BackendRow {
  std::string name;
  std::function<std::unique_ptr<Backend>()> make;
  double nmse;                                       // of float32: squared error over the squared values, at most
  double bf16_ratio;                                 // of bfloat16: that, over what one rounding of the oracle's values costs
  std::string twin;                                  // whose bits it has; "": it promises none
  std::function<std::unique_ptr<Backend>()> make_twin;
};

std::vector<BackendRow> backends() {
  std::vector<BackendRow> all;
  for (Isa isa : levels()) {
    const auto alone = [isa] { return make_cpu_backend(isa, 1); };
    for (int threads : {1, 3, 17})
      all.push_back({concat(name_of(isa), ", ", threads, " threads"), [=] { return make_cpu_backend(isa, threads); }, 1e-11, 8, name_of(isa), alone});
    all.push_back({concat("far, ", name_of(isa)), [isa] { return make_far_backend(isa, 2); }, 1e-11, 8, name_of(isa), alone});
  }
#if defined(ISR_CUDA_EMULATED)
  for (unsigned schedule = 0; schedule < emulated::kSchedules; ++schedule)
    all.push_back({concat("cuda, emulated, schedule ", schedule), [=] { return make_emulated_cuda(schedule); }, 1e-11, 8, schedule == 0 ? "" : "cuda",
                   [] { return make_emulated_cuda(0); }});
#endif
  return all;
}

using Bytes = std::vector<std::vector<uint8_t>>;

// Of a row's twin, computed once for all who have its bits.
const Bytes& bytes_of_twin(const OpRow& op, const BackendRow& row, DType dtype) {
  static std::map<std::string, Bytes> known;
  const std::string key = concat(row.twin, "; ", op.name, " (", op.vars, ") ", name_of(dtype));
  auto found = known.find(key);
  if (found == known.end()) found = known.emplace(key, bytes_of(op, *row.make_twin(), dtype)).first;
  return found->second;
}

void check(const OpRow& op, const BackendRow& row, DType dtype) {
  const std::vector<OpError> got = errors_of(op, *row.make(), dtype);
  const Bytes* const same = row.twin.empty() ? nullptr : &bytes_of_twin(op, row, dtype);
  for (size_t i = 0; i < got.size(); ++i) {
    const std::string what = concat(row.name, ", ", op.name, " (", op.vars, ") ", name_of(dtype), ": ");
    const double most = dtype == DType::F32 ? row.nmse : row.bf16_ratio * got[i].rounding;
    CHECK(got[i].nmse <= most, what, got[i].result, ": NMSE ", got[i].nmse, ", at most ", most);
    if (same) CHECK(got[i].bytes == (*same)[i], what, "bits of ", got[i].result);
  }
}

bool asked_for(const OpRow& op) {
  const char* const some = std::getenv("ISR_TEST_OPS");
  const auto named = [&](const std::string& row) { return concat(";", some, ";").find(concat(";", row, ";")) != std::string::npos; };
  return !some || named(op.name) || named(concat(op.name, " (", op.vars, ")"));
}

const bool registered = [] {
  for (const BackendRow& row : backends())
    cases().push_back({concat("backend: ", row.name), [row] {
                         int64_t rows = 0;
                         for (const OpRow& op : op_table()) {
                           if (!asked_for(op)) continue;
                           ++rows;
                           for (DType dtype : {DType::F32, DType::BF16}) check(op, row, dtype);
                         }
                         CHECK(rows > 0, "no row of the table has that name");
                       }});
  return true;
}();

TEST("backend: the table has a row for every call of the contract") {
  const std::vector<std::string> calls{"gemm_nt", "gemm_nn", "gemm_tn", "attention", "attention_cached", "rms_norm", "layer_norm", "act", "swiglu_backward", "add",
                                       "rope", "gather_rows", "pool_rows", "embedding_forward", "embedding_backward", "patchify", "token_logp", "pair_loss", "sample", "adamw",
                                       "sum_squares"};
  for (const std::string& call : calls)
    CHECK(std::any_of(op_table().begin(), op_table().end(), [&](const OpRow& op) { return op.name == call; }), call);
}

}  // namespace
}  // namespace isr::test
