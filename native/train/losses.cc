#include "train/losses.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"

namespace isr {
namespace {

double sigmoid(double x) { return x >= 0 ? 1 / (1 + std::exp(-x)) : std::exp(x) / (1 + std::exp(x)); }
double log_sigmoid(double x) { return x >= 0 ? -std::log1p(std::exp(-x)) : x - std::log1p(std::exp(x)); }

// A pair's loss as a function of its two log-ratios c = log pi/ref of the chosen, r of the rejected.
struct Point { double loss, dc, dr; };

// -log sigmoid(b x) and its slope in x.
struct Slope { double value, d; };
Slope nls(double b, double x) { return {-log_sigmoid(b * x), -b * sigmoid(-b * x)}; }

Point of_difference(Slope s) { return {s.value, s.d, -s.d}; }

Point sigmoid_loss(double c, double r, double b, double) { return of_difference(nls(b, c - r)); }   // DPO, eq. 7

Point cdpo(double c, double r, double b, double e) {   // conservative DPO: labels flipped with probability e
  const Slope p = nls(b, c - r), n = nls(-b, c - r);
  return of_difference({(1 - e) * p.value + e * n.value, (1 - e) * p.d + e * n.d});
}
Point robust(double c, double r, double b, double e) {   // Chowdhury et al. 2024: unbiased under flips with probability e
  const Slope p = nls(b, c - r), n = nls(-b, c - r);
  const double scale = 1 / (1 - 2 * e);
  return of_difference({((1 - e) * p.value - e * n.value) * scale, ((1 - e) * p.d - e * n.d) * scale});
}
Point hinge(double c, double r, double b, double) {   // SLiC
  const double gap = 1 - b * (c - r);
  return gap > 0 ? Point{gap, -b, b} : Point{0, 0, 0};
}
Point ipo(double c, double r, double b, double) {   // Azar et al. 2023, eq. 17
  const double gap = c - r - 1 / (2 * b);
  return {gap * gap, 2 * gap, -2 * gap};
}
Point exo_pair(double c, double r, double b, double e) {   // Ji et al. 2024: reverse KL to the smoothed labels (1 - e, e)
  const double x = b * (c - r), w = sigmoid(x), l = sigmoid(-x);
  const double aw = log_sigmoid(x) - std::log1p(-e), al = log_sigmoid(-x) - std::log(e);
  const double d = b * w * l * (aw - al);   // the slopes of the two logarithms cancel: w * l - l * w
  return {w * aw + l * al, d, -d};
}
Point nca_pair(double c, double r, double b, double) {   // Chen et al. 2024
  const Slope cw = nls(b, c), cn = nls(-b, c), rn = nls(-b, r);
  return {cw.value + 0.5 * cn.value + 0.5 * rn.value, cw.d + 0.5 * cn.d, 0.5 * rn.d};
}
Point bco_pair(double c, double r, double b, double) {   // Jung et al. 2024, reward shift delta = 0
  const Slope p = nls(b, c), n = nls(-b, r);
  return {p.value + n.value, p.d, n.d};
}
Point sppo_hard(double c, double r, double b, double) {   // Wu et al. 2024
  const double u = c - 0.5 / b, v = r + 0.5 / b;
  return {u * u + v * v, 2 * u, 2 * v};
}
Point apo_zero(double c, double r, double b, double) {   // D'Oosterlinck et al. 2024
  const double p = sigmoid(b * c), q = sigmoid(b * r);
  return {1 - p + q, -b * p * (1 - p), b * q * (1 - q)};
}
Point apo_down(double c, double r, double b, double) {
  const double p = sigmoid(b * c), q = sigmoid(b * (c - r));
  return {p + 1 - q, b * p * (1 - p) - b * q * (1 - q), b * q * (1 - q)};
}
Point discopop(double c, double r, double b, double) {   // Lu et al. 2024: blend of logistic and exponential, temperature 0.05
  constexpr double tau = 0.05;
  const double x = b * (c - r), m = sigmoid(x / tau), logistic = -log_sigmoid(x), exponential = std::exp(-x);
  const double d = b * (-sigmoid(-x) * (1 - m) - exponential * m + (exponential - logistic) * m * (1 - m) / tau);
  return {logistic * (1 - m) + exponential * m, d, -d};
}

enum class Coupling { None, Paired, Unpaired };   // aot: differences are of sorted values over the step
struct LossRow {
  const char* name;
  Point (*pair)(double c, double r, double beta, double smoothing);
  bool smoothing;        // takes labelSmoothing
  bool token_mean;       // log-ratios are means over a side's tokens
  Coupling coupling = Coupling::None;
};
constexpr LossRow kLosses[] = {
    {"sigmoid", sigmoid_loss, false, false}, {"ipo", ipo, false, true},
    {"hinge", hinge, false, false},          {"robust", robust, true, false},
    {"cdpo", cdpo, true, false},             {"sigmoid_norm", sigmoid_loss, false, true},
    {"exo_pair", exo_pair, true, false},     {"nca_pair", nca_pair, false, false},
    {"bco_pair", bco_pair, false, false},    {"sppo_hard", sppo_hard, false, false},
    {"aot", cdpo, true, false, Coupling::Paired}, {"aot_unpaired", cdpo, true, false, Coupling::Unpaired},
    {"apo_zero", apo_zero, false, false},    {"apo_down", apo_down, false, false},
    {"discopop", discopop, false, false},
};

const LossRow& find_loss(const std::string& name) {
  std::string all;
  for (const LossRow& row : kLosses) {
    if (name == row.name) return row;
    all += concat(all.empty() ? "" : ", ", row.name);
  }
  fail("INVALID_ARGUMENT", "loss: expected one of ", all, ", got \"", name, "\"");
}

// f-DPO (Wang et al. 2023): what the log-ratio becomes under another divergence, and its slope.
Slope divergence(const std::string& name, double u) {
  if (name == "forward_kl") return {-std::exp(-u), std::exp(-u)};
  if (name == "js_divergence") return {log_sigmoid(u), sigmoid(-u)};
  return {u, 1};
}

// One side of a pair: its log-ratio and what each token weighs in it.
struct Side { double policy = 0, reference = 0, front = 1, rest = 1; size_t split = 0; };

Side side(const std::vector<float>& policy, const std::vector<float>& reference, size_t other, const LossOptions& o, bool token_mean) {
  ISR_ASSERT(policy.size() == reference.size(), "policy and reference have one value per token");
  Side s;
  s.split = o.ld_alpha < 0 ? policy.size() : std::min(policy.size(), other);   // LD-DPO: the shared length
  const double mean = token_mean && !policy.empty() ? 1 / static_cast<double>(policy.size()) : 1;
  s.front = mean;
  s.rest = mean * (o.ld_alpha < 0 ? 1 : o.ld_alpha);
  for (size_t t = 0; t < policy.size(); ++t) {
    const double w = t < s.split ? s.front : s.rest;
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
std::vector<Point> coupled(const LossRow& row, const std::vector<Side>& chosen, const std::vector<Side>& rejected, const LossOptions& o) {
  const size_t n = chosen.size();
  std::vector<double> a(n), b(n);
  for (size_t i = 0; i < n; ++i) {
    const bool paired = row.coupling == Coupling::Paired;
    a[i] = paired ? chosen[i].policy - rejected[i].policy : chosen[i].policy - chosen[i].reference;
    b[i] = paired ? chosen[i].reference - rejected[i].reference : rejected[i].policy - rejected[i].reference;
  }
  const std::vector<size_t> ia = ascending(a), ib = ascending(b);
  std::vector<Point> out(n, Point{0, 0, 0});
  for (size_t k = 0; k < n; ++k) {
    const Point p = row.pair(a[ia[k]], b[ib[k]], o.beta, o.label_smoothing);
    out[ia[k]].loss += p.loss;
    out[ia[k]].dc += p.dc;
    if (row.coupling == Coupling::Paired) out[ia[k]].dr -= p.dc;   // a = chosen - rejected; the reference has no gradient
    else out[ib[k]].dr += p.dr;
  }
  return out;
}

std::vector<float> token_gradient(const Side& s, size_t tokens, double d) {
  std::vector<float> out(tokens);
  for (size_t t = 0; t < tokens; ++t) out[t] = static_cast<float>(d * (t < s.split ? s.front : s.rest));
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
  if (o.divergence != "reverse_kl" && o.divergence != "forward_kl" && o.divergence != "js_divergence")
    fail("INVALID_ARGUMENT", "divergence: expected reverse_kl, forward_kl or js_divergence, got \"", o.divergence, "\"");
  if (o.divergence != "reverse_kl" && o.loss != "sigmoid") fail("INVALID_ARGUMENT", "divergence: only the loss \"sigmoid\" takes one, got \"", o.divergence, "\" with \"", o.loss, "\"");
}

bool loss_couples_pairs(const LossOptions& o) { return o.loss != "sft" && find_loss(o.loss).coupling != Coupling::None; }

LossResult preference_loss(const std::vector<PairLogps>& pairs, const LossOptions& o) {
  int64_t tokens = 0;
  for (const PairLogps& p : pairs) tokens += static_cast<int64_t>(p.chosen.size());
  return preference_loss_part(pairs, o, static_cast<int64_t>(pairs.size()), tokens);
}

LossResult preference_loss_part(const std::vector<PairLogps>& pairs, const LossOptions& o, int64_t total_pairs, int64_t total_chosen_tokens) {
  const LossRow& row = find_loss(o.loss);
  std::vector<Side> chosen, rejected;
  for (const PairLogps& p : pairs) {
    chosen.push_back(side(p.chosen, p.ref_chosen, p.rejected.size(), o, row.token_mean));
    rejected.push_back(side(p.rejected, p.ref_rejected, p.chosen.size(), o, row.token_mean));
  }
  std::vector<Point> points;
  if (row.coupling != Coupling::None) {
    ISR_ASSERT(static_cast<int64_t>(pairs.size()) == total_pairs, "this loss needs all pairs of a step at once");
    points = coupled(row, chosen, rejected, o);
  } else {
    for (size_t i = 0; i < pairs.size(); ++i) {
      const Slope c = divergence(o.divergence, chosen[i].policy - chosen[i].reference), r = divergence(o.divergence, rejected[i].policy - rejected[i].reference);
      const Point p = row.pair(c.value, r.value, o.beta, o.label_smoothing);
      points.push_back({p.loss, p.dc * c.d, p.dr * r.d});
    }
  }
  LossResult out;
  const double per_pair = 1 / static_cast<double>(total_pairs);
  const double per_token = o.gamma > 0 && total_chosen_tokens > 0 ? 1 / static_cast<double>(total_chosen_tokens) : 0;   // not computed at gamma 0
  for (size_t i = 0; i < pairs.size(); ++i) {
    out.dpo_loss += points[i].loss * per_pair;
    out.d_chosen.push_back(token_gradient(chosen[i], pairs[i].chosen.size(), points[i].dc * per_pair));
    out.d_rejected.push_back(token_gradient(rejected[i], pairs[i].rejected.size(), points[i].dr * per_pair));
    if (per_token > 0) {
      out.sft_loss -= sum(pairs[i].chosen) * per_token;
      for (float& d : out.d_chosen.back()) d -= static_cast<float>(o.gamma * per_token);
    }
    out.chosen_reward.push_back(o.beta * (sum(pairs[i].chosen) - sum(pairs[i].ref_chosen)));
    out.rejected_reward.push_back(o.beta * (sum(pairs[i].rejected) - sum(pairs[i].ref_rejected)));
  }
  out.loss = out.dpo_loss + o.gamma * out.sft_loss;
  return out;
}

}  // namespace isr
