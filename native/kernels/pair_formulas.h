// Formulas of the preference losses, in float64: what hosts, the CPU's kernel and the card's compute. A loss is a function of the pair's two
// log-ratios c = log pi/ref of the chosen answer and r of the rejected one; b is beta, e the label smoothing.
// Source: DPO (Rafailov et al. 2023, eq. 7) and the variants that TRL names; values pinned by the golden data.
#pragma once
#include <cmath>

#include "kernels/pair_losses.h"

#if defined(__CUDACC__)
#define ISR_ANYWHERE __host__ __device__ inline
#else
#define ISR_ANYWHERE inline
#endif

namespace isr {

struct PairPoint { double loss, dc, dr; };   // the loss and its slopes in c and r
struct PairSlope { double value, d; };       // a function of one variable and its slope

ISR_ANYWHERE bool pair_finite(double x) { return x - x == 0; }
ISR_ANYWHERE double pair_sigmoid(double x) { return x >= 0 ? 1 / (1 + ::exp(-x)) : ::exp(x) / (1 + ::exp(x)); }
ISR_ANYWHERE double pair_log_sigmoid(double x) { return x >= 0 ? -::log1p(::exp(-x)) : x - ::log1p(::exp(x)); }
ISR_ANYWHERE PairSlope pair_nls(double b, double x) { return {-pair_log_sigmoid(b * x), -b * pair_sigmoid(-b * x)}; }   // -log sigmoid(b x)
ISR_ANYWHERE PairPoint of_difference(PairSlope s) { return {s.value, s.d, -s.d}; }

ISR_ANYWHERE PairPoint pair_point(PairFunction f, double c, double r, double b, double e) {
  switch (f) {
    case PairFunction::Sigmoid: return of_difference(pair_nls(b, c - r));   // DPO, eq. 7
    case PairFunction::Cdpo: {   // conservative DPO: labels flipped with probability e
      const PairSlope p = pair_nls(b, c - r), n = pair_nls(-b, c - r);
      return of_difference({(1 - e) * p.value + e * n.value, (1 - e) * p.d + e * n.d});
    }
    case PairFunction::Robust: {   // Chowdhury et al. 2024: unbiased under flips with probability e
      const PairSlope p = pair_nls(b, c - r), n = pair_nls(-b, c - r);
      const double scale = 1 / (1 - 2 * e);
      return of_difference({((1 - e) * p.value - e * n.value) * scale, ((1 - e) * p.d - e * n.d) * scale});
    }
    case PairFunction::Hinge: {   // SLiC
      const double gap = 1 - b * (c - r);
      return gap > 0 ? PairPoint{gap, -b, b} : PairPoint{0, 0, 0};
    }
    case PairFunction::Ipo: {   // Azar et al. 2023, eq. 17
      const double gap = c - r - 1 / (2 * b);
      return {gap * gap, 2 * gap, -2 * gap};
    }
    case PairFunction::ExoPair: {   // Ji et al. 2024: reverse KL to the smoothed labels (1 - e, e)
      const double x = b * (c - r), w = pair_sigmoid(x), l = pair_sigmoid(-x);
      const double aw = pair_log_sigmoid(x) - ::log1p(-e), al = pair_log_sigmoid(-x) - ::log(e);
      const double d = b * w * l * (aw - al);   // the slopes of the two logarithms cancel: w * l - l * w
      return {w * aw + l * al, d, -d};
    }
    case PairFunction::NcaPair: {   // Chen et al. 2024
      const PairSlope cw = pair_nls(b, c), cn = pair_nls(-b, c), rn = pair_nls(-b, r);
      return {cw.value + 0.5 * cn.value + 0.5 * rn.value, cw.d + 0.5 * cn.d, 0.5 * rn.d};
    }
    case PairFunction::BcoPair: {   // Jung et al. 2024, reward shift delta = 0
      const PairSlope p = pair_nls(b, c), n = pair_nls(-b, r);
      return {p.value + n.value, p.d, n.d};
    }
    case PairFunction::SppoHard: {   // Wu et al. 2024
      const double u = c - 0.5 / b, v = r + 0.5 / b;
      return {u * u + v * v, 2 * u, 2 * v};
    }
    case PairFunction::ApoZero: {   // D'Oosterlinck et al. 2024
      const double p = pair_sigmoid(b * c), q = pair_sigmoid(b * r);
      return {1 - p + q, -b * p * (1 - p), b * q * (1 - q)};
    }
    case PairFunction::ApoDown: {
      const double p = pair_sigmoid(b * c), q = pair_sigmoid(b * (c - r));
      return {p + 1 - q, b * p * (1 - p) - b * q * (1 - q), b * q * (1 - q)};
    }
    case PairFunction::Discopop: {   // Lu et al. 2024: blend of logistic and exponential, temperature 0.05
      constexpr double tau = 0.05;
      const double x = b * (c - r), m = pair_sigmoid(x / tau), logistic = -pair_log_sigmoid(x), exponential = ::exp(-x);
      const double d = b * (-pair_sigmoid(-x) * (1 - m) - exponential * m + (exponential - logistic) * m * (1 - m) / tau);
      return {logistic * (1 - m) + exponential * m, d, -d};
    }
  }
  return {0, 0, 0};
}

// f-DPO (Wang et al. 2023): what the log-ratio becomes under another divergence, and its slope.
ISR_ANYWHERE PairSlope pair_divergence(Divergence d, double u) {
  if (d == Divergence::ForwardKl) return {-::exp(-u), ::exp(-u)};
  if (d == Divergence::JsDivergence) return {pair_log_sigmoid(u), pair_sigmoid(-u)};
  return {u, 1};
}

ISR_ANYWHERE PairPoint pair_point(const PairLoss& o, double chosen_ratio, double rejected_ratio) {
  const PairSlope c = pair_divergence(o.divergence, chosen_ratio), r = pair_divergence(o.divergence, rejected_ratio);
  const PairPoint p = pair_point(o.function, c.value, r.value, o.beta, o.smoothing);
  return {p.loss, p.dc * c.d, p.dr * r.d};
}

// What token t of a side weighs in its log-ratio; `tokens` of this side, `other` of the other one.
ISR_ANYWHERE double token_weight(const PairLoss& o, int64_t t, int64_t tokens, int64_t other) {
  const double mean = o.token_mean && tokens > 0 ? 1 / static_cast<double>(tokens) : 1;
  return o.ld_alpha < 0 || t < other ? mean : mean * o.ld_alpha;
}

}  // namespace isr
