// What calibration leaves behind of a linear layer's inputs: the sum of x·xᵀ over tokens, the Hessian of the layer's
// squared output error (Hassibi & Stork 1993, Optimal Brain Surgeon; Frantar et al. 2022, GPTQ, section 3).
//
//   nibble::Hessian h(in_features, "model.layers.0.self_attn.q_proj");
//   for (auto& batch : calibration) h.add(batch);          // [tokens, in_features], fp32, fp16 or bf16
//   auto [q, report] = nibble::gptq::solve(weights, h, {.bits = 4, .group_size = 128});
//
// Products are fp32, 256 tokens at a time; those sums are added up in fp64, so that any number of batches does not
// drift. Linears that share their input (query, key and value) share a Hessian.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "nibble/backend/backend.h"
#include "nibble/core/matrix_view.h"
#include "nibble/core/parallel.h"

namespace nibble::inline NIBBLE_ABI {

class Hessian {
 public:
  /// All zero, of no tokens. `name` is that of the tensor that errors shall name. With `asymmetric` it also gathers the
  /// cross statistic of GPTAQ (see add). Holds channels·(channels+1)/2 doubles, and channels² more for the cross
  /// statistic. Error{invalid_argument} for no channels.
  explicit Hessian(std::size_t channels, std::string name = "activations", bool asymmetric = false);

  /// A sum made elsewhere: Σ x·xᵀ over `tokens` tokens, of which the lower triangle is read. Error{shape_mismatch}
  /// unless square, Error{non_finite} names the element, Error{invalid_argument} for a negative diagonal.
  static Hessian from_sum(MatrixView<const double> sum, std::uint64_t tokens, std::string name = "activations");
  /// The same with GPTAQ's cross statistic, Σ (full − x)·xᵀ: asymmetric(). Error{shape_mismatch} where it is of another
  /// size.
  static Hessian from_sum(MatrixView<const double> sum, MatrixView<const double> cross, std::uint64_t tokens,
                          std::string name = "activations");

  /// Adds a batch [tokens, channels]; the more tokens a call brings (1024 are plenty), the nearer to the peak it runs.
  /// Errors: shape_mismatch; unsupported for other types; non_finite names the tensor, token, channel and value, also
  /// where |x| ≥ 2^59, whose squares fp32 cannot sum; nothing of the batch is counted then. The result does not depend
  /// on the number of threads, nor on whose kernels sum: `backend`'s (null: default_backend()).
  void add(FloatMatrix x, Executor& executor = default_executor(), const Backend* backend = nullptr);

  /// Adds a batch of what the layer sees in the partly quantized model, and beside it what it would see in the model
  /// that was never quantized (Li et al. 2025, GPTAQ): Σ (full − x)·xᵀ is gathered too. Error{invalid_argument} unless
  /// made with `asymmetric`.
  void add(FloatMatrix x, FloatMatrix full, Executor& executor = default_executor(), const Backend* backend = nullptr);

  /// Adds what another one gathered. Error{shape_mismatch} where their channels differ, or only one is asymmetric.
  void merge(const Hessian& other);

  [[nodiscard]] const std::string& name() const { return name_; }
  [[nodiscard]] std::size_t channels() const { return channels_; }
  [[nodiscard]] std::uint64_t tokens() const { return tokens_; }
  [[nodiscard]] bool asymmetric() const { return !cross_.empty(); }
  /// Σ x_i·x_j, unnormalised.
  [[nodiscard]] double sum(std::size_t i, std::size_t j) const { return i < j ? row(j)[i] : row(i)[j]; }
  /// Σ (full − x)_i·x_j; only where asymmetric().
  [[nodiscard]] double cross(std::size_t i, std::size_t j) const { return cross_[i * channels_ + j]; }
  /// Row i of the lower triangle: i + 1 values.
  [[nodiscard]] const double* row(std::size_t i) const { return sums_.data() + i * (i + 1) / 2; }
  /// Channels that were zero in every token, ascending.
  [[nodiscard]] std::vector<std::size_t> dead_channels() const;

#if !defined(NIBBLE_HEADER_ONLY)
  /// Writes a file that a crash leaves whole or absent: the magic "NIBHESS1"; u64 channels, tokens, asymmetric (0 or 1)
  /// and length of the name; the name; the lower triangle row by row and then the cross statistic, fp64; all
  /// little-endian. Error{io} with the system's reason.
  void save(const std::filesystem::path& path) const;
  /// Reads it back exactly. Error{not_found | io}; Error{corrupt_file} names what is wrong with the file.
  static Hessian load(const std::filesystem::path& path);
#endif

 private:
  void check(FloatMatrix x, const char* which, Executor& executor, const Backend* backend) const;

  std::string name_;
  std::size_t channels_ = 0;
  std::uint64_t tokens_ = 0;
  std::vector<double> sums_;   ///< Lower triangle.
  std::vector<double> cross_;  ///< channels², or empty.
};

}  // namespace nibble::inline NIBBLE_ABI

#if defined(NIBBLE_HEADER_ONLY)
#include "nibble/solver/impl/hessian_inl.h"
#endif
