// What solver/gptq.h declares.
#pragma once

#include "nibble/solver/gptq.h"

#include <optional>

#include "nibble/backend/impl/cpu_kernels.h"
#include "nibble/core/rounded_product.h"
#include "nibble/quantize/quantize.h"
#include "nibble/solver/impl/gptq_factor.h"
#include "nibble/solver/impl/gptq_rows.h"
#include "nibble/solver/impl/gptq_setup.h"

namespace nibble::inline NIBBLE_ABI::gptq {

namespace detail {

inline Result fall_back(FloatMatrix weights, const Hessian& hessian, const Options& o, Executor& executor,
                        Report report, const std::string& why) {
  Result out{quantize(weights, spec_of(o), {.name = o.name, .backend = o.backend, .executor = &executor}),
             std::move(report)};
  out.report.fallback = fallback_text(o, why);
  out.report.loss = layer_loss(weights, out.matrix, hessian, executor, o.backend);
  out.report.error = out.report.loss / static_cast<double>(weights.rows);
  return out;
}

}  // namespace detail

NIBBLE_INLINE Result solve(FloatMatrix weights, const Hessian& hessian, const Options& o) {
  check_arguments(weights, hessian, o);
  Executor& executor = o.executor ? *o.executor : default_executor();
  Report report = begin_report(hessian, o);
  if (const std::string why = uncovered(hessian, o, report); !why.empty())
    return detail::fall_back(weights, hessian, o, executor, std::move(report), why);

  nibble::report(o.progress, 0, o.name + ": factoring the Hessian");
  const std::vector<double> diagonal = diagonal_of(hessian, report.dead_channels, o.compat);
  const Plan plan = make_plan(diagonal, o);
  const FactorInput input{hessian, plan, scale_of(hessian), diagonal, o.alpha};
  std::optional<Factor<float>> single;
  std::optional<Factor<double>> twice;
  const kernels::KernelTable& isa = kernels_of(o.backend);
  const auto attempt = [&](const FactorAttempt& a) {
    const double lambda = RoundedProduct<double>()(a.damp_percent, mean_of(diagonal));
    if (!a.in_double) return (single = factor<float>(input, lambda, a.dominant, isa, executor)).has_value();
    auto f = factor<double>(input, lambda, a.dominant, isa, executor);
    if (!f) return false;
    if (o.double_precision) twice = std::move(f);
    else single = rounded(*f);
    return true;
  };
  if (!recover(o, report, attempt))
    return detail::fall_back(weights, hessian, o, executor, std::move(report), kNotFactored);

  nibble::report(o.progress, 0.4, o.name + ": solving");
  Result out{QuantizedMatrix::allocate(spec_of(o), weights.rows, weights.cols), std::move(report)};
  std::vector<bool> dead(weights.cols);
  for (std::size_t c : out.report.dead_channels) dead[c] = true;
  out.report.loss = twice ? solve_rows<double>({weights, plan, *twice, o, dead}, out.matrix, executor)
                          : solve_rows<float>({weights, plan, *single, o, dead}, out.matrix, executor);
  out.report.error = out.report.loss / static_cast<double>(weights.rows);
  set_g_idx(out.matrix, plan, o);
  nibble::report(o.progress, 1, o.name + ": done");
  return out;
}

}  // namespace nibble::inline NIBBLE_ABI::gptq
