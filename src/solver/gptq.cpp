#include "nibble/solver/gptq.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <optional>

#include "gptq_factor.h"
#include "gptq_rows.h"
#include "nibble/core/error.h"
#include "nibble/quantize/quantize.h"

namespace nibble::gptq {

namespace {

std::string text_of(double x) {
  char out[32];
  std::snprintf(out, sizeof out, "%.6g", x);
  return out;
}

void check(FloatMatrix weights, const Hessian& hessian, const Options& o) {
  const auto need = [&](bool ok, const std::string& why) {
    if (!ok) throw Error(ErrorCode::invalid_argument, "gptq of '" + o.name + "': " + why);
  };
  need(o.bits >= 2 && o.bits <= 8, "bits is " + std::to_string(o.bits) + "; it must be 2 to 8");
  need(o.group_size >= 1 || o.group_size == -1,
       "group_size is " + std::to_string(o.group_size) + "; it must be positive, or -1 for one scale a row");
  need(o.damp >= 0 && o.damp <= 1, "damp is " + text_of(o.damp) + "; it must be 0 to 1");
  need(o.damp_increment >= 0.001 && o.damp_increment <= 1,
       "damp_increment is " + text_of(o.damp_increment) + "; it must be 0.001 to 1");
  need(o.asymmetric_share >= 0 && o.asymmetric_share <= 1,
       "asymmetric_share is " + text_of(o.asymmetric_share) + "; it must be 0 to 1");
  need(o.asymmetric_share == 0 || hessian.asymmetric(),
       "asymmetric_share needs a Hessian that gathered full-precision activations too");
  need(o.min_coverage >= 0 && o.min_coverage <= 1,
       "min_coverage is " + text_of(o.min_coverage) + "; it must be 0 to 1");
  need(!(o.act_order && o.act_group_aware), "act_order and act_group_aware are two orders; choose one");
  need(weights.rows > 0 && weights.cols > 0, "the matrix is empty");
  if (weights.type != DType::f32 && weights.type != DType::f16 && weights.type != DType::bf16)
    throw Error(ErrorCode::unsupported, "tensor '" + o.name + "' is " + std::string(name_of(weights.type)) +
                                            "; only F32, F16 and BF16 can be quantized");
  if (weights.cols != hessian.channels() || weights.stride < weights.cols)
    throw Error(ErrorCode::shape_mismatch,
                "tensor '" + o.name + "' is " + std::to_string(weights.rows) + " × " + std::to_string(weights.cols) +
                    " with rows " + std::to_string(weights.stride) + " apart; the Hessian '" + hessian.name() +
                    "' has " + std::to_string(hessian.channels()) + " channels");
}

QuantSpec spec_of(const Options& o) {
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

/// H as the reference scales it.
double scale_of(const Hessian& h) { return h.tokens() == 0 ? 1.0 : 2.0 / static_cast<double>(h.tokens()); }

/// Of H, with something in the place of dead channels' zeros.
std::vector<double> diagonal_of(const Hessian& h, const std::vector<std::size_t>& dead, bool compat) {
  std::vector<double> out(h.channels());
  double sum = 0;
  for (std::size_t c = 0; c < out.size(); ++c) sum += out[c] = scale_of(h) * h.row(c)[c];
  const double live = static_cast<double>(out.size() - dead.size());
  for (std::size_t c : dead) out[c] = compat ? 1.0 : sum / live;
  return out;
}

/// Factors H, with whatever it takes, and notes that in the report.
class Factoring {
 public:
  Factoring(const FactorInput& input, const Options& o, Executor& executor, Report& report)
      : input_(input), options_(o), executor_(executor), report_(report) {
    for (double d : input.diagonal) mean_ += d;
    mean_ /= static_cast<double>(input.diagonal.size());
  }

  /// Fills one of the two. False: nothing works.
  bool run(std::optional<Factor<float>>& single, std::optional<Factor<double>>& twice) {
    report_.damp = options_.damp;
    const auto in_double = [&](bool dominant) {
      auto f = factor<double>(input_, report_.damp * mean_, dominant, executor_);
      if (!f) return false;
      if (options_.double_precision) twice = std::move(f);
      else single = rounded(*f);
      return true;
    };
    if (!options_.double_precision && try_single(single)) return true;
    if (in_double(false)) {
      if (!options_.double_precision) note("fp32 failed at damp " + text_of(report_.damp) + ": factored in fp64");
      return true;
    }
    for (int step = 1;; ++step) {
      const double damp = options_.damp + step * options_.damp_increment;
      if (damp > 1) break;
      report_.damp = damp;
      if (options_.double_precision ? in_double(false) : try_single(single)) {
        note("fp64 failed at damp " + text_of(options_.damp) + ": damp raised to " + text_of(damp));
        return true;
      }
    }
    note("no damp up to 1 served: each diagonal element raised to the sum of its row's magnitudes");
    report_.damp = options_.damp;
    return in_double(true);
  }

 private:
  bool try_single(std::optional<Factor<float>>& single) {
    single = factor<float>(input_, report_.damp * mean_, false, executor_);
    return single.has_value();
  }
  void note(std::string what) { report_.recovery.push_back(std::move(what)); }

  const FactorInput& input_;
  const Options& options_;
  Executor& executor_;
  Report& report_;
  double mean_ = 0;
};

Result fall_back(FloatMatrix weights, const Hessian& hessian, const Options& o, Executor& executor, Report report,
                 std::string why) {
  Result out{quantize(weights, spec_of(o), {.name = o.name, .executor = &executor}), std::move(report)};
  out.report.fallback = "'" + o.name + "' was rounded to nearest: " + std::move(why);
  out.report.loss = layer_loss(weights, out.matrix, hessian, executor);
  out.report.error = out.report.loss / static_cast<double>(weights.rows);
  return out;
}

/// Why the Hessian says nothing about this layer; empty if it does.
std::string uncovered(const Hessian& h, const Options& o, const Report& report) {
  if (h.tokens() == 0) return "it saw no calibration tokens";
  if (report.dead_channels.size() == h.channels()) return "all its inputs were zero in calibration";
  if (report.coverage < o.min_coverage)
    return "it saw " + std::to_string(h.tokens()) + " of " + std::to_string(o.calibration_tokens) +
           " calibration tokens, less than " + text_of(100 * o.min_coverage) + " %";
  return {};
}

}  // namespace

Result solve(FloatMatrix weights, const Hessian& hessian, const Options& o) {
  check(weights, hessian, o);
  Executor& executor = o.executor ? *o.executor : default_executor();
  Report report;
  report.name = o.name;
  report.tokens = hessian.tokens();
  if (o.calibration_tokens != 0)
    report.coverage = static_cast<double>(hessian.tokens()) / static_cast<double>(o.calibration_tokens);
  report.dead_channels = hessian.dead_channels();
  if (const std::string why = uncovered(hessian, o, report); !why.empty())
    return fall_back(weights, hessian, o, executor, std::move(report), why);

  nibble::report(o.progress, 0, o.name + ": factoring the Hessian");
  const std::vector<double> diagonal = diagonal_of(hessian, report.dead_channels, o.compat);
  const Plan plan = make_plan(diagonal, o);
  const FactorInput input{hessian, plan, scale_of(hessian), diagonal, o.asymmetric_share};
  std::optional<Factor<float>> single;
  std::optional<Factor<double>> twice;
  if (!Factoring(input, o, executor, report).run(single, twice))
    return fall_back(weights, hessian, o, executor, std::move(report), "its Hessian cannot be factored");

  nibble::report(o.progress, 0.4, o.name + ": solving");
  Result out{QuantizedMatrix::allocate(spec_of(o), weights.rows, weights.cols), std::move(report)};
  std::vector<bool> dead(weights.cols);
  for (std::size_t c : out.report.dead_channels) dead[c] = true;
  out.report.loss = twice ? solve_rows<double>({weights, plan, *twice, o, dead}, out.matrix, executor)
                          : solve_rows<float>({weights, plan, *single, o, dead}, out.matrix, executor);
  out.report.error = out.report.loss / static_cast<double>(weights.rows);
  if (o.act_order && !plan.grids_first) {
    out.matrix.g_idx.resize(weights.cols);
    for (std::size_t i = 0; i < plan.cols(); ++i)
      out.matrix.g_idx[plan.order[i]] = static_cast<std::int32_t>(plan.group[i]);
  }
  nibble::report(o.progress, 1, o.name + ": done");
  return out;
}

}  // namespace nibble::gptq
