// What solver/hqq.h declares.
#pragma once

#include "nibble/solver/hqq.h"

#include <algorithm>
#include <cstddef>
#include <vector>

#include "nibble/core/bit_pack.h"
#include "nibble/core/error.h"
#include "nibble/core/visit_float.h"
#include "nibble/matrix/group_params.h"
#include "nibble/matrix/impl/importance.h"
#include "nibble/solver/impl/hqq_group.h"

namespace nibble::inline NIBBLE_ABI::hqq {

namespace detail {

[[noreturn]] inline void refuse(const Options& o, const std::string& why) {
  throw Error(ErrorCode::invalid_argument, "hqq of '" + o.name + "': " + why);
}

/// What is wrong whatever the weights are.
inline void check_options(const Options& o) {
  const auto need = [&](bool ok, const std::string& why) {
    if (!ok) refuse(o, why);
  };
  const QuantSpec& s = o.spec;
  s.validate();
  need(
      s.has_real_zeros() || s.is_affine(),
      "it fits the scales and zero points of integers (int4-g64-asymreal, -asym, -sym), not those of " + s.to_string());
  need(!s.has_zero_points() || s.preserve_zero,
       "the integer zero points of " + s.to_string() + " are of a range that it moves; take -asymreal or -asym");
  need(o.lp_norm > 0 && o.lp_norm <= 1, "lp_norm is " + std::to_string(o.lp_norm) + "; it must be in (0, 1]");
  need(o.beta > 0 && is_finite(o.beta), "beta is " + std::to_string(o.beta) + "; it must be above 0");
  need(o.kappa >= 1 && is_finite(o.kappa), "kappa is " + std::to_string(o.kappa) + "; it must be at least 1");
  need(o.iterations >= 1, "iterations is " + std::to_string(o.iterations) + "; it must be at least 1");
  need(!o.round_zero || s.has_real_zeros(), "round_zero is of real zero points (-asymreal), not of " + s.to_string());
  need(o.fit_scale || s.has_real_zeros(),
       "without fit_scale only real zero points (-asymreal) can be fitted, not what " + s.to_string() + " stores");
}

inline void check(FloatMatrix weights, const Options& o) {
  check_options(o);
  weights.validate(o.name);
  if (!o.spec.grouping().within_rows(weights.cols))
    refuse(o, "the groups of " + o.spec.to_string() + " cross rows of " + std::to_string(weights.cols) +
                  "; take -gN or -channel");
  nibble::detail::check_importance(o.name, o.importance, weights.cols);
}

/// One row at a time: what a thread works with.
class RowSolver {
 public:
  RowSolver(FloatMatrix weights, const Options& o, std::span<const float> counts, QuantizedMatrix& q)
      : weights_(weights), o_(o), counts_(counts), q_(q), solver_(o), values_(weights.cols), codes_(weights.cols) {}

  Report solve(std::size_t row) {
    upcast_floats(weights_.type, weights_.row(row), weights_.cols, values_.data());
    Report sum;
    o_.spec.grouping().for_each_run(weights_.cols, row, 0, weights_.cols,
                                    [&](std::size_t begin, std::size_t end, std::size_t group) {
                                      const GroupSolver::Solution s = solve_group(row, begin, end, group);
                                      sum.error += s.error;
                                      sum.rounding_error += s.rounding_error;
                                    });
    pack_codes(codes_.data(), codes_.size(), o_.spec.bits, q_.codes.writable<std::uint8_t>() + row * q_.row_bytes());
    return sum;
  }

 private:
  GroupSolver::Solution solve_group(std::size_t row, std::size_t begin, std::size_t end, std::size_t group) {
    const std::span<const float> x(values_.data() + begin, end - begin);
    for (std::size_t i = 0; i < x.size(); ++i)
      if (!is_finite(x[i])) refuse_value(row, begin + i, x[i]);
    const Range range = range_of(x);
    group_.assign(x, counts_.empty() ? counts_ : counts_.subspan(begin, x.size()));
    const GroupSolver::Solution s = solver_.solve(group_, range);
    if (!is_finite(s.grid.scale))
      throw Error(ErrorCode::non_finite, place(row, begin) +
                                             ": the scale of the group that begins here does not fit its type (largest "
                                             "magnitude " +
                                             std::to_string(range.absmax()) + "); choose fp32 or bf16 scales");
    void* const scales = q_.scales.writable<std::byte>();
    void* const zeros = q_.zero_points.writable<std::byte>();
    if (o_.spec.has_real_zeros()) {
      const RealZeroParams p{s.grid.scale, s.grid.zero};
      store_params(o_.spec, scales, zeros, group, p);
      for (std::size_t i = 0; i < x.size(); ++i) codes_[begin + i] = real_zero_encode(x[i], p, (1 << o_.spec.bits) - 1);
    } else {
      const AffineRule rule = affine_rule(o_.spec);
      const AffineParams p{s.grid.scale, static_cast<std::int32_t>(s.grid.zero)};
      store_params(o_.spec, scales, zeros, group, p);
      for (std::size_t i = 0; i < x.size(); ++i)
        codes_[begin + i] = affine_encode(x[i], p, rule.lowest_code(), rule.highest_code());
    }
    return s;
  }

  [[nodiscard]] std::string place(std::size_t row, std::size_t col) const {
    return "tensor '" + o_.name + "', row " + std::to_string(row) + ", column " + std::to_string(col);
  }
  [[noreturn]] void refuse_value(std::size_t row, std::size_t col, float x) const {
    throw Error(ErrorCode::non_finite,
                place(row, col) + ": the value is " + std::to_string(x) + "; only finite values can be quantized");
  }

  FloatMatrix weights_;
  const Options& o_;
  std::span<const float> counts_;
  QuantizedMatrix& q_;
  GroupSolver solver_;
  Group group_;
  std::vector<float> values_;
  std::vector<std::uint8_t> codes_;
};

/// The importance of columns over the largest; empty where all count alike.
inline std::vector<float> shares(std::span<const float> importance) {
  std::vector<float> out(importance.begin(), importance.end());
  if (out.empty()) return out;
  const float most = *std::max_element(out.begin(), out.end());
  for (float& x : out) x = most > 0 ? x / most : 1.0f;
  return out;
}

}  // namespace detail

NIBBLE_INLINE bool Options::is_hqq(std::string_view text) { return text == "hqq" || text.starts_with("hqq-"); }

NIBBLE_INLINE Options Options::parse(std::string_view text) {
  Options out;
  try {
    if (!is_hqq(text) || text.size() < 5) throw Error(ErrorCode::invalid_argument, "the bits, 2 to 8, come first");
    std::string rest(text.substr(4));
    const auto ends_in = [&](std::string_view word) {
      const bool said = rest.ends_with(word);
      if (said) rest.resize(rest.size() - word.size());
      return said;
    };
    out.round_zero = ends_in("-round");
    const bool says_scale = ends_in("-scale");
    const bool says_zeros = rest.find("-sym") != std::string::npos || rest.find("-asym") != std::string::npos;
    out.spec = QuantSpec::parse("int" + rest + (says_zeros ? "" : "-asymreal"));
    out.fit_scale = says_scale || !out.spec.has_real_zeros();
    detail::check_options(out);
  } catch (const Error& e) {
    throw Error(ErrorCode::invalid_argument, "'" + std::string(text) + "': " + e.what() +
                                                 " (hqq-<bits>-g<size>|channel[-asymreal|-asym|-sym][-scale][-round])");
  }
  return out;
}

NIBBLE_INLINE Result solve(FloatMatrix weights, const Options& o) {
  detail::check(weights, o);
  Result out{QuantizedMatrix::allocate(o.spec, weights.rows, weights.cols), {o.name}};
  const std::vector<float> counts = detail::shares(o.importance);
  std::vector<Report> of_row(weights.rows);
  Executor& executor = o.executor ? *o.executor : default_executor();
  parallel_for(executor, weights.rows, std::max<std::size_t>(1, 16384 / weights.cols),
               [&](std::size_t begin, std::size_t end) {
                 detail::RowSolver solver(weights, o, counts, out.matrix);
                 for (std::size_t r = begin; r < end; ++r) of_row[r] = solver.solve(r);
               });
  for (const Report& r : of_row) {
    out.report.error += r.error;
    out.report.rounding_error += r.rounding_error;
  }
  return out;
}

}  // namespace nibble::inline NIBBLE_ABI::hqq
