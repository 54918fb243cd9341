// What GPTQ does before and beside the solving, wherever that runs: checking, the plan's ingredients, the ways out when
// a Hessian cannot be factored, and the words for all of it.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "nibble/core/error.h"
#include "nibble/scheme/affine.h"
#include "nibble/solver/impl/gptq_plan.h"

namespace nibble::inline NIBBLE_ABI::gptq {

/// Short text for a number in a message.
std::string text_of(double x);

namespace detail {

/// Error{invalid_argument} says of the layer why not.
inline void need(const Options& o, bool ok, const std::string& why) {
  if (!ok) throw Error(ErrorCode::invalid_argument, "gptq of '" + o.name + "': " + why);
}

}  // namespace detail

/// Error{invalid_argument} names the option that is out of range, and its value.
void check_options(const Options& o);
/// That, and what gptq::solve() says of its errors but non_finite and cancelled.
void check_arguments(FloatMatrix weights, const Hessian& hessian, const Options& o);

/// Of the solution.
QuantSpec spec_of(const Options& o);

/// H = scale·sum, as the reference scales it.
double scale_of(const Hessian& h);

/// Of H, with something in the place of dead channels' zeros.
std::vector<double> diagonal_of(const Hessian& h, const std::vector<std::size_t>& dead, bool compat);
/// What damp_percent is a share of.
double mean_of(const std::vector<double>& diagonal);

/// All of a report that is known before solving.
Report begin_report(const Hessian& hessian, const Options& o);

/// Why the Hessian says nothing about this layer; empty if it does.
std::string uncovered(const Hessian& h, const Options& o, const Report& report);

/// What Report::fallback says.
std::string fallback_text(const Options& o, const std::string& why);
/// The `why` where recover() is false.
inline constexpr const char* kNotFactored = "its Hessian cannot be factored";

/// One try to factor H + damp_percent·mean·I.
struct FactorAttempt {
  bool in_double;
  double damp_percent;
  bool dominant;  ///< Each diagonal element is raised to the sum of its row's magnitudes first.
};

/// Makes attempts, each of which says whether it worked, until one did: as it is, in fp64, with more damping, with a
/// dominant diagonal. Notes in the report what it took. False: nothing works.
bool recover(const Options& o, Report& report, const std::function<bool(const FactorAttempt&)>& attempt);

/// The g_idx of a solution whose groups are of neighbours in the order of solving.
void set_g_idx(QuantizedMatrix& q, const Plan& plan, const Options& o);

/// Scale and zero point of one of a row's `groups` groups, to their place and in their type.
void store_group(QuantizedMatrix& q, const Options& o, std::size_t row, std::size_t group, std::size_t groups,
                 AffineParams params);

/// Error{non_finite} unless the type of scales can hold this one.
void check_scale(const Options& o, std::size_t row, std::size_t group, float scale);
/// Error{non_finite}, which names the weight.
[[noreturn]] void refuse_weight(const Options& o, std::size_t row, std::size_t col, float value);

}  // namespace nibble::inline NIBBLE_ABI::gptq

#if defined(NIBBLE_HEADER_ONLY)
#include "nibble/solver/impl/gptq_setup_inl.h"
#endif
