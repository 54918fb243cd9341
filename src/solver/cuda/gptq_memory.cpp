// How much memory gptq_solve() takes: the sum of what each phase holds, as gptq_factor.cpp, gptq_rows.cpp and
// gptq_round.cpp allocate it.
#include <algorithm>

#include "kernels/cuda/gemv.h"
#include "kernels/cuda/quantize.h"
#include "nibble/core/bit_pack.h"
#include "nibble/cuda/gptq.h"
#include "nibble/solver/impl/gptq_setup.h"
#include "solver/cuda/gptq_work.h"

namespace nibble::inline NIBBLE_ABI::cuda {

namespace {

/// Bytes of cuSOLVER's scratch for a factorisation in fp32 or fp64.
std::size_t factor_scratch(const Context& context, std::size_t n, bool in_double) {
  int size = 0;
  const auto solver = context.libraries().solver(nullptr);
  if (in_double)
    check(cusolverDnDpotrf_bufferSize(solver.handle, CUBLAS_FILL_MODE_UPPER, narrow(n), nullptr, narrow(n), &size),
          "cusolverDnDpotrf_bufferSize");
  else
    check(cusolverDnSpotrf_bufferSize(solver.handle, CUBLAS_FILL_MODE_UPPER, narrow(n), nullptr, narrow(n), &size),
          "cusolverDnSpotrf_bufferSize");
  return static_cast<std::size_t>(size) * (in_double ? 8 : 4);
}

std::size_t factoring_bytes(const Context& context, std::size_t n, bool in_double, std::size_t matrices) {
  const std::size_t matrix = n * n * (in_double ? 8 : 4);
  return matrix + std::max(factor_scratch(context, n, in_double) + sizeof(int), kBlasWorkspace + matrices * matrix);
}

std::size_t solving_bytes(std::size_t rows, std::size_t n, const gptq::Options& o, std::size_t matrices) {
  const std::size_t value = o.double_precision ? 8 : 4;
  const gptq::Plan plan = gptq::make_plan(std::vector<double>(n, 1.0), o);
  std::size_t longest = 0;
  for (const gptq::Step& s : plan.steps) longest = std::max(longest, s.end - s.begin);
  return kBlasWorkspace + matrices * (n * n + longest * rows) * value + rows * n * (value + 1) +
         plan.groups * rows * 8 + rows * 8 + (2 * n + plan.groups + 1) * 4;
}

std::size_t rounding_bytes(std::size_t rows, std::size_t n, DType type, const gptq::Options& o) {
  const QuantSpec spec = gptq::spec_of(o);
  const std::size_t pitch = (packed_bytes(n, spec.bits) + kGemvPitch - 1) / kGemvPitch * kGemvPitch;
  const std::size_t group = static_cast<std::size_t>(scale_bytes(spec.scale_type)) + spec.has_zero_points();
  const std::size_t quantized = rows * pitch + spec.group_count(rows, n) * group;
  const std::size_t making = rows * n * size_of(type) + quantize_workspace(spec, rows, n) + sizeof(QuantizeStatus);
  return quantized + std::max(making, kBlasWorkspace + (2 * rows * n + n * n) * 4 + rows * 8);
}

}  // namespace

std::size_t gptq_device_bytes(const Context& context, std::size_t rows, std::size_t cols, DType type,
                              const gptq::Options& o) {
  gptq::check_options(o);
  check_for_device(o, rows, cols);
  if (rows == 0 || cols == 0) return 0;
  const DeviceScope scope(context.device().ordinal);
  const std::size_t matrices = o.alpha != 0 ? 2 : 1;  // the inverse factor, the drift
  std::size_t most = factoring_bytes(context, cols, true, matrices);
  if (!o.double_precision) most = std::max(most, factoring_bytes(context, cols, false, matrices));
  return std::max({most, solving_bytes(rows, cols, o, matrices), rounding_bytes(rows, cols, type, o)});
}

}  // namespace nibble::inline NIBBLE_ABI::cuda
