// What solver/impl/gptq_setup.h declares.
#pragma once

#include "nibble/solver/impl/gptq_setup.h"

#include <cmath>
#include <cstdio>

#include "nibble/core/error.h"
#include "nibble/core/rounded_product.h"
#include "nibble/matrix/group_params.h"

namespace nibble::inline NIBBLE_ABI::gptq {

NIBBLE_INLINE std::string text_of(double x) {
  char out[32];
  std::snprintf(out, sizeof out, "%.6g", x);
  return out;
}

NIBBLE_INLINE void check_options(const Options& o) {
  detail::need(o, o.bits >= 2 && o.bits <= 8, "bits is " + std::to_string(o.bits) + "; it must be 2 to 8");
  detail::need(o, o.group_size >= 1 || o.group_size == -1,
               "group_size is " + std::to_string(o.group_size) + "; it must be positive, or -1 for one scale a row");
  detail::need(o, o.damp_percent >= 0 && o.damp_percent <= 1,
               "damp_percent is " + text_of(o.damp_percent) + "; it must be 0 to 1");
  detail::need(o, o.damp_increment >= 0.001 && o.damp_increment <= 1,
               "damp_increment is " + text_of(o.damp_increment) + "; it must be 0.001 to 1");
  detail::need(o, o.alpha >= 0 && o.alpha <= 1, "alpha is " + text_of(o.alpha) + "; it must be 0 to 1");
  detail::need(o, o.alpha == 0 || !o.qronos, "alpha (GPTAQ's) and qronos are two corrections; choose one");
  detail::need(o, !(o.refit_scales && o.compat), "the reference does not refit scales: compat excludes refit_scales");
  detail::need(o, o.min_coverage >= 0 && o.min_coverage <= 1,
               "min_coverage is " + text_of(o.min_coverage) + "; it must be 0 to 1");
  detail::need(o, !(o.act_order && o.act_group_aware), "act_order and act_group_aware are two orders; choose one");
}

NIBBLE_INLINE void check_arguments(FloatMatrix weights, const Hessian& hessian, const Options& o) {
  check_options(o);
  detail::need(
      o, (o.alpha == 0 && !o.qronos) || hessian.asymmetric(),
      std::string(o.qronos ? "qronos" : "alpha") + " needs a Hessian that gathered full-precision activations too");
  detail::need(o, weights.rows > 0 && weights.cols > 0, "the matrix is empty");
  if (!is_matrix_type(weights.type))
    throw Error(ErrorCode::unsupported, "tensor '" + o.name + "' is " + std::string(name_of(weights.type)) +
                                            "; only F32, F16 and BF16 can be quantized");
  if (weights.cols != hessian.channels() || weights.stride < weights.cols)
    throw Error(ErrorCode::shape_mismatch,
                "tensor '" + o.name + "' is " + std::to_string(weights.rows) + " × " + std::to_string(weights.cols) +
                    " with rows " + std::to_string(weights.stride) + " apart; the Hessian '" + hessian.name() +
                    "' has " + std::to_string(hessian.channels()) + " channels");
  weights.validate(o.name);
}

NIBBLE_INLINE QuantSpec spec_of(const Options& o) {
  QuantSpec s;
  s.scheme = o.symmetric ? SchemeKind::symmetric : SchemeKind::asymmetric;
  s.bits = o.bits;
  const bool channel = o.group_size < 0;
  s.granularity = channel ? Granularity::channel : Granularity::group;
  s.group_size = channel ? 0 : static_cast<std::size_t>(o.group_size);
  s.scale_type = o.scale_type;
  s.validate();
  return s;
}

NIBBLE_INLINE double scale_of(const Hessian& h) {
  return h.tokens() == 0 ? 1.0 : 2.0 / static_cast<double>(h.tokens());
}

NIBBLE_INLINE std::vector<double> diagonal_of(const Hessian& h, const std::vector<std::size_t>& dead, bool compat) {
  std::vector<double> out(h.channels());
  const RoundedProduct<double> times;
  double sum = 0;
  for (std::size_t c = 0; c < out.size(); ++c) sum += out[c] = times(scale_of(h), h.row(c)[c]);
  const double live = static_cast<double>(out.size() - dead.size());
  for (std::size_t c : dead) out[c] = compat ? 1.0 : sum / live;
  return out;
}

NIBBLE_INLINE double mean_of(const std::vector<double>& diagonal) {
  double sum = 0;
  for (const double d : diagonal) sum += d;
  return sum / static_cast<double>(diagonal.size());
}

NIBBLE_INLINE Report begin_report(const Hessian& hessian, const Options& o) {
  Report report;
  report.name = o.name;
  report.tokens = hessian.tokens();
  if (o.calibration_tokens != 0)
    report.coverage = static_cast<double>(hessian.tokens()) / static_cast<double>(o.calibration_tokens);
  report.dead_channels = hessian.dead_channels();
  return report;
}

NIBBLE_INLINE std::string uncovered(const Hessian& h, const Options& o, const Report& report) {
  if (h.tokens() == 0) return "it saw no calibration tokens";
  if (report.dead_channels.size() == h.channels()) return "all its inputs were zero in calibration";
  if (report.coverage < o.min_coverage)
    return "it saw " + std::to_string(h.tokens()) + " of " + std::to_string(o.calibration_tokens) +
           " calibration tokens, less than " + text_of(100 * o.min_coverage) + " %";
  return {};
}

NIBBLE_INLINE std::string fallback_text(const Options& o, const std::string& why) {
  return "'" + o.name + "' was rounded to nearest: " + why;
}

NIBBLE_INLINE bool recover(const Options& o, Report& report, const std::function<bool(const FactorAttempt&)>& attempt) {
  const auto note = [&](std::string what) { report.recovery.push_back(std::move(what)); };
  report.damp_percent = o.damp_percent;
  if (!o.double_precision && attempt({false, o.damp_percent, false})) return true;
  if (attempt({true, o.damp_percent, false})) {
    if (!o.double_precision) note("fp32 failed at damp " + text_of(o.damp_percent) + ": factored in fp64");
    return true;
  }
  for (int step = 1;; ++step) {
    const double damp = o.damp_percent + RoundedProduct<double>()(step, o.damp_increment);
    if (damp > 1) break;
    report.damp_percent = damp;
    if (attempt({o.double_precision, damp, false})) {
      note("fp64 failed at damp " + text_of(o.damp_percent) + ": damp raised to " + text_of(damp));
      return true;
    }
  }
  note("no damp up to 1 served: each diagonal element raised to the sum of its row's magnitudes");
  report.damp_percent = o.damp_percent;
  return attempt({true, o.damp_percent, true});
}

NIBBLE_INLINE void set_g_idx(QuantizedMatrix& q, const Plan& plan, const Options& o) {
  if (!o.act_order || plan.grids_first) return;
  q.g_idx.resize(plan.cols());
  for (std::size_t i = 0; i < plan.cols(); ++i) q.g_idx[plan.order[i]] = static_cast<std::int32_t>(plan.group[i]);
}

NIBBLE_INLINE void check_scale(const Options& o, std::size_t row, std::size_t group, float scale) {
  if (std::isfinite(stored_scale(scale, o.scale_type))) return;
  throw Error(ErrorCode::non_finite, "tensor '" + o.name + "': the scale of row " + std::to_string(row) + ", group " +
                                         std::to_string(group) + " does not fit its type");
}

NIBBLE_INLINE void refuse_weight(const Options& o, std::size_t row, std::size_t col, float value) {
  throw Error(ErrorCode::non_finite, "tensor '" + o.name + "': row " + std::to_string(row) + ", column " +
                                         std::to_string(col) + " is " + std::to_string(value));
}

NIBBLE_INLINE void store_group(QuantizedMatrix& q, const Options& o, std::size_t row, std::size_t group,
                               std::size_t groups, AffineParams params) {
  params.scale = stored_scale(params.scale, o.scale_type);
  store_params(q.spec, q.scales.writable<std::byte>(), q.zero_points.writable<std::byte>(), row * groups + group,
               params);
}

}  // namespace nibble::inline NIBBLE_ABI::gptq
