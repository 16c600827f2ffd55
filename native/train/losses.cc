#include "train/losses.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "kernels/pair_formulas.h"

namespace isr {
namespace {

enum class Coupling { None, Paired, Unpaired };   // aot: differences are of sorted values over the step
struct LossRow {
  const char* name;
  PairFunction pair;
  bool smoothing;        // takes labelSmoothing
  bool token_mean;       // log-ratios are means over a side's tokens
  Coupling coupling = Coupling::None;
};
constexpr LossRow kLosses[] = {
    {"sigmoid", PairFunction::Sigmoid, false, false},  {"ipo", PairFunction::Ipo, false, true},
    {"hinge", PairFunction::Hinge, false, false},      {"robust", PairFunction::Robust, true, false},
    {"cdpo", PairFunction::Cdpo, true, false},         {"sigmoid_norm", PairFunction::Sigmoid, false, true},
    {"exo_pair", PairFunction::ExoPair, true, false},  {"nca_pair", PairFunction::NcaPair, false, false},
    {"bco_pair", PairFunction::BcoPair, false, false}, {"sppo_hard", PairFunction::SppoHard, false, false},
    {"aot", PairFunction::Cdpo, true, false, Coupling::Paired}, {"aot_unpaired", PairFunction::Cdpo, true, false, Coupling::Unpaired},
    {"apo_zero", PairFunction::ApoZero, false, false}, {"apo_down", PairFunction::ApoDown, false, false},
    {"discopop", PairFunction::Discopop, false, false},
};

const LossRow& find_loss(const std::string& name) {
  std::string all;
  for (const LossRow& row : kLosses) {
    if (name == row.name) return row;
    all += concat(all.empty() ? "" : ", ", row.name);
  }
  fail("INVALID_ARGUMENT", "loss: expected one of ", all, ", got \"", name, "\"");
}

constexpr struct { const char* name; Divergence divergence; } kDivergences[] = {
    {"reverse_kl", Divergence::ReverseKl}, {"forward_kl", Divergence::ForwardKl}, {"js_divergence", Divergence::JsDivergence}};

// One side of a pair: its log-ratios of policy and reference.
struct Side { double policy = 0, reference = 0; };

Side side(const std::vector<float>& policy, const std::vector<float>& reference, size_t other, const PairLoss& o) {
  ISR_ASSERT(policy.size() == reference.size(), "policy and reference have one value per token");
  Side s;
  for (size_t t = 0; t < policy.size(); ++t) {
    const double w = token_weight(o, static_cast<int64_t>(t), static_cast<int64_t>(policy.size()), static_cast<int64_t>(other));
    s.policy += w * policy[t];
    s.reference += w * reference[t];
  }
  return s;
}

double sum(const std::vector<float>& x) { return std::accumulate(x.begin(), x.end(), 0.0); }

std::vector<size_t> ascending(const std::vector<double>& x) {
  std::vector<size_t> order(x.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return x[a] < x[b]; });
  return order;
}

// AOT (Melnyk et al. 2024): the k-th smallest of one distribution against the k-th smallest of the other.
std::vector<PairPoint> coupled(const LossRow& row, const std::vector<Side>& chosen, const std::vector<Side>& rejected, const LossOptions& o) {
  const size_t n = chosen.size();
  std::vector<double> a(n), b(n);
  for (size_t i = 0; i < n; ++i) {
    const bool paired = row.coupling == Coupling::Paired;
    a[i] = paired ? chosen[i].policy - rejected[i].policy : chosen[i].policy - chosen[i].reference;
    b[i] = paired ? chosen[i].reference - rejected[i].reference : rejected[i].policy - rejected[i].reference;
  }
  const std::vector<size_t> ia = ascending(a), ib = ascending(b);
  std::vector<PairPoint> out(n, PairPoint{0, 0, 0});
  for (size_t k = 0; k < n; ++k) {
    const PairPoint p = pair_point(row.pair, a[ia[k]], b[ib[k]], o.beta, o.label_smoothing);
    out[ia[k]].loss += p.loss;
    out[ia[k]].dc += p.dc;
    if (row.coupling == Coupling::Paired) out[ia[k]].dr -= p.dc;   // a = chosen - rejected; the reference has no gradient
    else out[ib[k]].dr += p.dr;
  }
  return out;
}

std::vector<float> token_gradient(const PairLoss& o, size_t tokens, size_t other, double d) {
  std::vector<float> out(tokens);
  for (size_t t = 0; t < tokens; ++t)
    out[t] = static_cast<float>(d * token_weight(o, static_cast<int64_t>(t), static_cast<int64_t>(tokens), static_cast<int64_t>(other)));
  return out;
}

}  // namespace

void check_loss_options(const LossOptions& o) {
  const LossRow& row = find_loss(o.loss);
  if (!(o.beta > 0) || !std::isfinite(o.beta)) fail("INVALID_ARGUMENT", "beta: expected a number above 0, got ", o.beta);
  if (!(o.label_smoothing >= 0 && o.label_smoothing < 0.5)) fail("INVALID_ARGUMENT", "labelSmoothing: expected a number in [0, 0.5), got ", o.label_smoothing);
  if (o.label_smoothing > 0 && !row.smoothing)
    throw Error("INVALID_ARGUMENT", concat("labelSmoothing: the loss \"", o.loss, "\" has none, got ", o.label_smoothing), "losses with label smoothing: cdpo, robust, exo_pair, aot, aot_unpaired");
  if (o.loss == "exo_pair" && o.label_smoothing == 0) fail("INVALID_ARGUMENT", "labelSmoothing: \"exo_pair\" needs a number above 0 (its target distribution), got 0");
  if (!std::isfinite(o.ld_alpha) || o.ld_alpha > 1) fail("INVALID_ARGUMENT", "ldAlpha: expected a number in [0, 1], got ", o.ld_alpha);
  if (!(o.gamma >= 0) || !std::isfinite(o.gamma)) fail("INVALID_ARGUMENT", "gamma: expected a number of 0 or more, got ", o.gamma);
  if (std::none_of(std::begin(kDivergences), std::end(kDivergences), [&](const auto& d) { return o.divergence == d.name; }))
    fail("INVALID_ARGUMENT", "divergence: expected reverse_kl, forward_kl or js_divergence, got \"", o.divergence, "\"");
  if (o.divergence != "reverse_kl" && o.loss != "sigmoid") fail("INVALID_ARGUMENT", "divergence: only the loss \"sigmoid\" takes one, got \"", o.divergence, "\" with \"", o.loss, "\"");
}

bool loss_couples_pairs(const LossOptions& o) { return o.loss != "sft" && find_loss(o.loss).coupling != Coupling::None; }

PairLoss pair_loss_of(const LossOptions& o, int64_t total_pairs, int64_t total_chosen_tokens) {
  const LossRow& row = find_loss(o.loss);
  PairLoss p;
  p.function = row.pair;
  for (const auto& d : kDivergences)
    if (o.divergence == d.name) p.divergence = d.divergence;
  p.beta = o.beta, p.smoothing = o.label_smoothing, p.ld_alpha = o.ld_alpha, p.token_mean = row.token_mean;
  p.per_pair = 1 / static_cast<double>(total_pairs);
  p.per_chosen = o.gamma > 0 && total_chosen_tokens > 0 ? o.gamma * (1 / static_cast<double>(total_chosen_tokens)) : 0;   // not computed at gamma 0
  return p;
}

LossResult preference_loss(const std::vector<PairLogps>& pairs, const LossOptions& o) {
  const LossRow& row = find_loss(o.loss);
  int64_t chosen_tokens = 0;
  for (const PairLogps& pair : pairs) chosen_tokens += static_cast<int64_t>(pair.chosen.size());
  const PairLoss p = pair_loss_of(o, static_cast<int64_t>(pairs.size()), chosen_tokens);
  std::vector<Side> chosen, rejected;
  for (const PairLogps& pair : pairs) {
    chosen.push_back(side(pair.chosen, pair.ref_chosen, pair.rejected.size(), p));
    rejected.push_back(side(pair.rejected, pair.ref_rejected, pair.chosen.size(), p));
  }
  std::vector<PairPoint> points;
  if (row.coupling != Coupling::None) {
    points = coupled(row, chosen, rejected, o);
  } else {
    for (size_t i = 0; i < pairs.size(); ++i)
      points.push_back(pair_point(p, chosen[i].policy - chosen[i].reference, rejected[i].policy - rejected[i].reference));
  }
  LossResult out;
  for (size_t i = 0; i < pairs.size(); ++i) {
    const size_t c = pairs[i].chosen.size(), r = pairs[i].rejected.size();
    out.dpo_loss += points[i].loss * p.per_pair;
    out.d_chosen.push_back(token_gradient(p, c, r, points[i].dc * p.per_pair));
    out.d_rejected.push_back(token_gradient(p, r, c, points[i].dr * p.per_pair));
    if (p.per_chosen > 0) {
      out.sft_loss -= sum(pairs[i].chosen) * (1 / static_cast<double>(chosen_tokens));
      for (float& d : out.d_chosen.back()) d -= static_cast<float>(p.per_chosen);
    }
    out.chosen_reward.push_back(o.beta * (sum(pairs[i].chosen) - sum(pairs[i].ref_chosen)));
    out.rejected_reward.push_back(o.beta * (sum(pairs[i].rejected) - sum(pairs[i].ref_rejected)));
  }
  out.loss = out.dpo_loss + o.gamma * out.sft_loss;
  return out;
}

}  // namespace isr
