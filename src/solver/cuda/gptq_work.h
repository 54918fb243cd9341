// GPTQ on a device, in three parts: the factor of a Hessian, the rows that are solved with it, and rounding to nearest
// where there is no factor. Everything on the device is in reverse order of solving (kernels/cuda/gptq_update.h).
#pragma once

#include <span>
#include <string>
#include <vector>

#include "backend/cuda/libraries.h"
#include "backend/cuda/matrix.h"
#include "nibble/solver/impl/gptq_factor.h"

namespace nibble::inline NIBBLE_ABI::cuda {

/// What the parts share.
struct GptqWork {
  const Context& context;
  FloatMatrix weights;
  const Hessian& hessian;
  const gptq::Options& options;
  cudaStream_t stream;

  [[nodiscard]] DeviceBuffer buffer(std::size_t bytes) const { return {bytes, context.allocator(), stream}; }
  [[nodiscard]] Executor& executor() const { return options.executor ? *options.executor : default_executor(); }
  /// Copies to the device; `from` must live until the stream is waited for.
  template <class T>
  void upload(const DeviceBuffer& to, std::span<const T> from, std::string_view purpose) const {
    check(cudaMemcpyAsync(to.as<>(), from.data(), from.size_bytes(), cudaMemcpyHostToDevice, stream), "cudaMemcpyAsync",
          purpose);
  }
  template <class T>
  [[nodiscard]] std::vector<T> download(const DeviceBuffer& from, std::string_view purpose) const {
    std::vector<T> out(from.size() / sizeof(T));
    WaitOnError work(stream);
    check(cudaMemcpyAsync(out.data(), from.as<>(), from.size(), cudaMemcpyDeviceToHost, stream), "cudaMemcpyAsync",
          purpose);
    work.wait(purpose);
    return out;
  }
};

/// Error{unsupported} for what the device does not solve, and for a matrix that its libraries cannot count.
void check_for_device(const gptq::Options& o, std::size_t rows, std::size_t cols);

/// U and GPTAQ's P, n × n of float or double, where gptq_update() looks for them.
struct GptqFactor {
  DeviceBuffer inverse, drift;
};

/// Of H + lambda·I in the precision T; false where it is not positive definite in that, or keeps no significance
/// (gptq_factor.h). Waits for the stream.
template <class T>
bool gptq_factor(const GptqWork& work, const gptq::FactorInput& input, double lambda, bool dominant, GptqFactor& out);
/// The fp64 factor, rounded.
GptqFactor gptq_in_float(const GptqWork& work, std::size_t n, GptqFactor&& factor);

/// Solves all rows with a factor of type T; fills the matrix, and returns ½Σe². Waits for the stream.
template <class T>
double gptq_solve_rows(const GptqWork& work, const gptq::Plan& plan, const GptqFactor& factor,
                       const std::vector<std::size_t>& dead, QuantizedMatrix& out);

/// Rounds to nearest on the device: the codes of gptq::solve()'s fallback, and its loss. Waits for the stream.
QuantizedMatrix gptq_round(const GptqWork& work, double& loss);

}  // namespace nibble::inline NIBBLE_ABI::cuda
