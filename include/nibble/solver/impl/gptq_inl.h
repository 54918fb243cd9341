// What solver/gptq.h declares.
#pragma once

#include "nibble/solver/gptq.h"

#include <optional>
#include <type_traits>

#include "nibble/backend/impl/cpu_kernels.h"
#include "nibble/core/rounded_product.h"
#include "nibble/quantize/quantize.h"
#include "nibble/solver/impl/gptq_blocks.h"
#include "nibble/solver/impl/gptq_correction.h"
#include "nibble/solver/impl/gptq_factor.h"
#include "nibble/solver/impl/gptq_refit.h"
#include "nibble/solver/impl/gptq_rows.h"
#include "nibble/solver/impl/gptq_setup.h"

namespace nibble::inline NIBBLE_ABI::gptq {

namespace detail {

/// What the rows are solved with.
template <class T>
struct Prepared {
  Factor<T> factor;
  Correction<T> correction;
  RefitHessian<T> refit;
};

/// Nothing where the Hessian cannot be factored so.
template <class T>
std::optional<Prepared<T>> prepare(FloatMatrix weights, const FactorInput& input, const Options& o, double lambda,
                                   bool dominant, Executor& executor) {
  const kernels::KernelTable& isa = kernels_of(o.backend);
  const auto l = reversed_factor<T>(input, lambda, dominant, isa, executor);
  if (!l) return std::nullopt;
  Prepared<T> out{factor_of(input, *l, isa, executor), {}, {}};
  if (o.qronos) out.correction = correction_of(weights, input, *l, o, executor);
  if (o.refit_scales) out.refit = refit_hessian<T>(input, lambda, dominant, executor);
  return out;
}

/// Factors the Hessian and gives the plan, the factor and the dead columns to `solve`, which returns the loss for the
/// report. Not empty: why that could not be.
template <class Solve>
std::string factor_and_solve(FloatMatrix weights, const Hessian& hessian, const Options& o, Executor& executor,
                             Report& report, const Solve& solve) {
  if (std::string why = uncovered(hessian, o, report); !why.empty()) return why;
  nibble::report(o.progress, 0, o.name + ": factoring the Hessian");
  const std::vector<double> diagonal = diagonal_of(hessian, report.dead_channels, o.compat);
  const Plan plan = make_plan(diagonal, o);
  const FactorInput input{hessian, plan, scale_of(hessian), diagonal, o.alpha};
  std::optional<Prepared<float>> single;
  std::optional<Prepared<double>> twice;
  const auto attempt = [&](const FactorAttempt& a) {
    const double lambda = RoundedProduct<double>()(a.damp_percent, mean_of(diagonal));
    if (!a.in_double) return (single = prepare<float>(weights, input, o, lambda, a.dominant, executor)).has_value();
    auto f = prepare<double>(weights, input, o, lambda, a.dominant, executor);
    if (!f) return false;
    if (o.double_precision) twice = std::move(f);
    else single = {rounded(f->factor), rounded(f->correction), rounded(f->refit)};
    return true;
  };
  if (!recover(o, report, attempt)) return kNotFactored;
  nibble::report(o.progress, 0.4, o.name + ": solving");
  std::vector<bool> dead(weights.cols);
  for (std::size_t c : report.dead_channels) dead[c] = true;
  if (twice)
    report.loss = solve(RowsInput<double>{weights, plan, twice->factor, twice->correction, twice->refit, o, dead});
  else report.loss = solve(RowsInput<float>{weights, plan, single->factor, single->correction, single->refit, o, dead});
  report.error = report.loss / static_cast<double>(weights.rows);
  nibble::report(o.progress, 1, o.name + ": done");
  return {};
}

/// What a report says where the layer was rounded to nearest.
template <class Matrix>
void note_fallback(FloatMatrix weights, const Matrix& matrix, const Hessian& hessian, const Options& o,
                   Executor& executor, const std::string& why, Report& report) {
  report.fallback = fallback_text(o, why);
  report.loss = layer_loss(weights, matrix, hessian, executor, o.backend);
  report.error = report.loss / static_cast<double>(weights.rows);
}

/// Error{unsupported} for a type that is not fitted to weights, invalid_argument for what blocks have no place for.
inline void check_for_blocks(const Options& o, BlockType type) {
  if (is_float(type) || !can_encode(type))
    throw Error(ErrorCode::unsupported,
                "gptq of '" + o.name + "': " + std::string(name_of(type)) + " blocks are not fitted to weights");
  const std::string what = " has no place in " + std::string(name_of(type)) + " blocks";
  need(o, !o.act_order && !o.static_groups, "an order across groups, or a grid before it" + what);
  need(o, !o.compat, "the reference's codes are of groups, not of blocks");
  need(o, !o.refit_scales, "a refit of scales" + what);
  need(o, !o.double_precision, "fp64" + what);
}

/// The mean square of each channel, for rounding where the Hessian cannot be factored; empty where it saw nothing.
inline std::vector<float> importance_of(const Hessian& h) {
  std::vector<float> out;
  for (std::size_t c = 0; h.tokens() > 0 && c < h.channels(); ++c)
    out.push_back(static_cast<float>(h.row(c)[c] / static_cast<double>(h.tokens())));
  return out;
}

}  // namespace detail

NIBBLE_INLINE Result solve(FloatMatrix weights, const Hessian& hessian, const Options& o) {
  check_arguments(weights, hessian, o);
  Executor& executor = o.executor ? *o.executor : default_executor();
  Result out{QuantizedMatrix::allocate(spec_of(o), weights.rows, weights.cols), begin_report(hessian, o)};
  const std::string why = detail::factor_and_solve(weights, hessian, o, executor, out.report, [&](const auto& rows) {
    const double loss = solve_rows(rows, out.matrix, executor);
    set_g_idx(out.matrix, rows.plan, o);
    return loss;
  });
  if (why.empty()) return out;
  out.matrix = quantize(weights, spec_of(o), {.name = o.name, .backend = o.backend, .executor = &executor});
  detail::note_fallback(weights, out.matrix, hessian, o, executor, why, out.report);
  return out;
}

NIBBLE_INLINE BlockResult solve(FloatMatrix weights, const Hessian& hessian, BlockType type, const Options& options) {
  Options o = options;
  o.group_size = static_cast<std::int64_t>(block_size(type));
  detail::check_for_blocks(o, type);
  check_arguments(weights, hessian, o);
  Executor& executor = o.executor ? *o.executor : default_executor();
  BlockResult out{BlockMatrix::allocate(type, weights.rows, weights.cols), begin_report(hessian, o)};
  const std::string why =
      detail::factor_and_solve(weights, hessian, o, executor, out.report, [&](const auto& rows) -> double {
        if constexpr (std::is_same_v<decltype(rows), const RowsInput<float>&>)
          return solve_block_rows(rows, out.matrix, executor);
        else return 0;  // not asked for: check_for_blocks
      });
  if (why.empty()) return out;
  out.matrix = BlockMatrix::encode(weights, type, o.name, executor, detail::importance_of(hessian));
  detail::note_fallback(weights, out.matrix, hessian, o, executor, why, out.report);
  return out;
}

}  // namespace nibble::inline NIBBLE_ABI::gptq
