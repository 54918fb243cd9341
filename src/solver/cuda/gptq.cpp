#include <algorithm>
#include <climits>

#include "nibble/cuda/gptq.h"
#include "nibble/solver/impl/gptq_setup.h"
#include "solver/cuda/gptq_work.h"

namespace nibble::inline NIBBLE_ABI::cuda {

namespace {

using gptq::Options;
using gptq::Plan;
using gptq::Report;

gptq::Result fall_back(const GptqWork& work, Report report, const std::string& why) {
  double loss = 0;
  gptq::Result out{gptq_round(work, loss), std::move(report)};
  out.report.fallback = gptq::fallback_text(work.options, why);
  out.report.loss = loss;
  out.report.error = loss / static_cast<double>(work.weights.rows);
  return out;
}

/// With whatever it takes; what it took is in the report. False: nothing works.
bool factor(const GptqWork& work, const gptq::FactorInput& input, Report& report, GptqFactor& out) {
  const double mean = gptq::mean_of(input.diagonal);
  return gptq::recover(work.options, report, [&](const gptq::FactorAttempt& a) {
    if (!a.in_double) return gptq_factor<float>(work, input, a.damp_percent * mean, a.dominant, out);
    if (!gptq_factor<double>(work, input, a.damp_percent * mean, a.dominant, out)) return false;
    if (!work.options.double_precision) out = gptq_in_float(work, input.plan.cols(), std::move(out));
    return true;
  });
}

}  // namespace

void check_for_device(const Options& o, std::size_t rows, std::size_t cols) {
  if (o.qronos || o.refit_scales)
    throw Error(ErrorCode::unsupported, "gptq of '" + o.name +
                                            "' on the device: " + (o.qronos ? "qronos" : "refit_scales") +
                                            " is solved on a CPU alone, by gptq::solve()");
  if (rows > INT_MAX || cols > INT_MAX)
    throw Error(ErrorCode::unsupported, "gptq of '" + o.name + "' on the device: it is " + std::to_string(rows) +
                                            " × " + std::to_string(cols) +
                                            "; cuBLAS takes at most 2147483647 rows and columns");
}

gptq::Result gptq_solve(const Context& context, FloatMatrix weights, const Hessian& hessian, const Options& o,
                        cudaStream_t stream) {
  gptq::check_arguments(weights, hessian, o);
  check_for_device(o, weights.rows, weights.cols);
  const DeviceScope scope(context.device().ordinal);
  const GptqWork work{context, weights, hessian, o, stream};
  Report report = gptq::begin_report(hessian, o);
  if (const std::string why = gptq::uncovered(hessian, o, report); !why.empty())
    return fall_back(work, std::move(report), why);

  nibble::report(o.progress, 0, o.name + ": factoring the Hessian");
  const std::vector<double> diagonal = gptq::diagonal_of(hessian, report.dead_channels, o.compat);
  const Plan plan = gptq::make_plan(diagonal, o);
  GptqFactor factored;
  if (!factor(work, {hessian, plan, gptq::scale_of(hessian), diagonal, o.alpha}, report, factored))
    return fall_back(work, std::move(report), gptq::kNotFactored);

  nibble::report(o.progress, 0.4, o.name + ": solving");
  gptq::Result out{QuantizedMatrix::allocate(gptq::spec_of(o), weights.rows, weights.cols), std::move(report)};
  const auto& dead = out.report.dead_channels;
  out.report.loss = o.double_precision ? gptq_solve_rows<double>(work, plan, factored, dead, out.matrix)
                                       : gptq_solve_rows<float>(work, plan, factored, dead, out.matrix);
  out.report.error = out.report.loss / static_cast<double>(weights.rows);
  gptq::set_g_idx(out.matrix, plan, o);
  nibble::report(o.progress, 1, o.name + ": done");
  return out;
}

}  // namespace nibble::inline NIBBLE_ABI::cuda
