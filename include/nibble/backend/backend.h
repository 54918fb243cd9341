// What a machine can do with quantized matrices, and the registry of those who can.
//
// Virtual at this coarse level only: one call does a whole matrix. The built-in backends are "scalar" (the reference),
// "avx2", "avxvnni", "avx512", "avx512vnni" and "avx512amx", on AArch64 "neon" and "neondot"; all give bit-identical
// results, whatever the thread count. "cuda" is a library of its own (cuda/device.h). An engine registers its own
// beside them, and tests it with the cases in tests/backend.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "nibble/backend/gated.h"
#include "nibble/core/matrix_view.h"
#include "nibble/core/parallel.h"
#include "nibble/matrix/block_matrix.h"
#include "nibble/matrix/packed_matrix.h"
#include "nibble/matrix/quantized_matrix.h"

namespace nibble::inline NIBBLE_ABI {

/// How activations meet weights.
enum class Activations {
  fp32,  ///< Without loss, as Backend::matmul defines it.
  int8,  ///< Rounded to 8 bits with one scale a token, where the weights can be multiplied so (Backend::matmul_int8).
  int8_group,  ///< The same with a scale for each token and group of the weights: less loss, a little slower.
};

/// One of several products with the same input: y [n, out] = x · weightsᵀ + bias.
struct Projection {
  const PackedMatrix* weights;
  MatrixView<float> y;
  std::span<const float> bias = {};  ///< [out], or empty.
};

class Backend {
 public:
  virtual ~Backend() = default;

  /// Short and unique: what NIBBLE_BACKEND and find_backend take.
  [[nodiscard]] virtual std::string_view name() const noexcept = 0;
  [[nodiscard]] virtual std::string_view description() const noexcept = 0;
  /// Whether this machine can run it. Every other call needs true.
  [[nodiscard]] virtual bool available() const noexcept = 0;
  /// What is missing, for people, where available() is false for another reason than the CPU; empty else.
  [[nodiscard]] virtual std::string why_unavailable() const { return {}; }
  [[nodiscard]] virtual bool supports(const QuantSpec& spec) const noexcept = 0;

  /// Quantizes row-major weights [rows = out, cols = in]. `name` is only for messages. Allocates the result and a few
  /// rows of scratch. Errors: invalid_argument (empty, bad spec), non_finite (names the first NaN or infinity in
  /// row-major order, and its value; also a scale that its type cannot hold).
  [[nodiscard]] virtual QuantizedMatrix quantize(FloatMatrix weights, const QuantSpec& spec, std::string_view name,
                                                 Executor& executor) const = 0;

  /// Decodes rows [first_row, first_row + out.rows) into fp32. Error{shape_mismatch} unless they exist and
  /// out.cols = q.cols.
  virtual void dequantize(const QuantizedMatrix& q, std::size_t first_row, MatrixView<float> out,
                          Executor& executor) const = 0;
  /// The same into any float type: each value rounded to it once, half to even.
  virtual void dequantize_to(const QuantizedMatrix& q, std::size_t first_row, MutableFloatMatrix out,
                             Executor& executor) const;

  /// Prepares weights for matmul, once, at load, on the executor's threads. May keep views of q's buffers.
  [[nodiscard]] virtual PackedMatrixPtr pack(QuantizedMatrix q, Executor& executor) const = 0;
  /// The canonical form that pack() was given, exactly. Error{unsupported} for unquantized weights, and for backends
  /// that cannot go back.
  [[nodiscard]] virtual QuantizedMatrix unpack(const PackedMatrix& packed) const;
  /// pack() for unquantized weights, kept in their own type.
  [[nodiscard]] virtual PackedMatrixPtr pack(FloatMatrix weights, Executor& executor) const = 0;
  /// pack() for GGUF's blocks. The CPU backends take all that are no floats to the kernels of integer codes, held in
  /// about their own size: those of an exact_spec as matrices of it. Error: as BlockMatrix::validate; unsupported from
  /// a backend that does not know blocks.
  [[nodiscard]] virtual PackedMatrixPtr pack(BlockMatrix blocks, Executor& executor) const;
  /// The same on the calling thread.
  [[nodiscard]] PackedMatrixPtr pack(QuantizedMatrix q) const { return pack(std::move(q), serial_executor()); }
  [[nodiscard]] PackedMatrixPtr pack(FloatMatrix weights) const { return pack(weights, serial_executor()); }
  [[nodiscard]] PackedMatrixPtr pack(BlockMatrix blocks) const { return pack(std::move(blocks), serial_executor()); }

  /// y [n, out] = x [n, in] · Wᵀ, without loss of activations: bit-identical on every built-in backend, for any batch
  /// and number of threads. How a row is summed depends on what its codes are (`chunk`s begin at each group; with
  /// g_idx, columns are first sorted by group; ε = 2⁻²⁴):
  ///
  /// - integer codes: x in 24-bit fixed point per chunk of 256 columns (128 for 5 to 8 bits; backend/fixed_point.h),
  ///   the chunk's integer sum S exact, y = Σ RN(S)·(scale·2^−k) by fused multiply-add:
  ///   |error| ≤ Σ_chunks (absmax/0x7F7F7F·Σ|w| + (chunks + 1)·ε·|chunk's sum|). A chunk with NaN or infinity makes
  ///   its token's results NaN;
  ///   GGUF's blocks with a minimum: after each chunk's sum y += RN(Σ q)·(−min·2^−k), Σ q exact, by another one;
  /// - 4-bit codebooks: y = Σ scale·(Σ x·codebook[code]), chunks of 256, fused multiply-adds in order, in fp32:
  ///   |error| ≤ (257 + chunks)·ε·Σ|x·w|;
  /// - LLM.int8: x is quantized per row and multiplied exactly in integers, its outlier columns in fp32;
  /// - all else (unquantized weights, groups or blocks that fit no whole words, raw zero points): sums of 256 products
  ///   by fused multiply-add in column order, then those sums in order: |error| ≤ (256 + in/256)·ε·Σ|x·w|.
  ///
  /// Error{shape_mismatch} names both shapes.
  virtual void matmul(MatrixView<const float> x, const PackedMatrix& w, MatrixView<float> y,
                      Executor& executor) const = 0;

  /// The same for activations of 16 bits, which are upcast, exactly, to scratch that the calling thread keeps.
  void matmul(MatrixView<const f16> x, const PackedMatrix& w, MatrixView<float> y, Executor& executor) const;
  void matmul(MatrixView<const bf16> x, const PackedMatrix& w, MatrixView<float> y, Executor& executor) const;
  /// x as fp32, exactly. `out` has x's shape.
  virtual void upcast(FloatMatrix x, MatrixView<float> out) const;

  /// Whether matmul_int8 takes this matrix: integer codes, or codebooks of 16 values on a CPU, whose groups lie within
  /// rows.
  [[nodiscard]] virtual bool has_int8_matmul(const PackedMatrix&) const noexcept { return false; }

  /// matmul with activations in 8 bits (W8A8, W4A8): each row of x is rounded to q = x·127/absmax, half to even, and
  ///   y[t][o] = (Σ over groups of scale·S, by fused multiply-add in their order) · absmax[t]/127,
  /// where S = Σ (code − zero_point)·q is exact (GGUF's blocks with a minimum: after each group's −min·Σ q, by another
  /// fused multiply-add). Codebooks (NF4, FP4) are rounded to 8 bits as well (scheme/int8_codebook.h), S = Σ (code of
  /// the entry)·q, and y is multiplied by the unit: that alone changes it by at most Σ over groups of
  /// absmax·unit/2·Σ|x|. Much faster, at a loss that `nibble compare` measures. Errors: shape_mismatch; unsupported
  /// where has_int8_matmul is false; non_finite names the place in x.
  virtual void matmul_int8(MatrixView<const float> x, const PackedMatrix& w, MatrixView<float> y,
                           Executor& executor) const;

  /// Several products with the same input (query, key and value; gate and up), bit for bit those of matmul, or of
  /// matmul_int8 where has_int8_matmul: one pass over the threads, and x is read and rounded once. With
  /// int8_group: y = Σ over groups of (scale·scale of x)·S. Errors as matmul's; nothing is written then.
  virtual void matmul_fused(MatrixView<const float> x, std::span<const Projection> projections, Activations activations,
                            Executor& executor) const;

  /// y [n, out] = activation(x·gateᵀ) · (x·upᵀ), the gated half of a feed-forward layer: the products are those of
  /// matmul_fused, bit for bit, and then apply_gate's. Errors as matmul_fused's.
  virtual void matmul_gated(MatrixView<const float> x, const PackedMatrix& gate, const PackedMatrix& up,
                            GatedActivation activation, MatrixView<float> y, Activations activations,
                            Executor& executor) const;

  /// Whether gather_rows takes this matrix.
  [[nodiscard]] virtual bool has_gather_rows(const PackedMatrix&) const noexcept { return false; }

  /// out[i] = row rows[i] of W, decoded to fp32: what dequantize gives of the matrix that was packed, or the
  /// unquantized values themselves. An embedding that is tied to the output head is thus held once. Errors:
  /// shape_mismatch unless out is [rows.size(), in]; invalid_argument names a row that W has not; unsupported where
  /// has_gather_rows is false.
  virtual void gather_rows(const PackedMatrix& w, std::span<const std::int32_t> rows, MatrixView<float> out,
                           Executor& executor) const;

  /// y [n, in] = x [n, out] · W: the gradient of matmul with respect to its input.
  virtual void matmul_transposed(MatrixView<const float> x, const PackedMatrix& w, MatrixView<float> y,
                                 Executor& executor) const = 0;
};

/// Makes a backend findable by its name. Error{invalid_argument} if the name is taken. Thread safe.
void register_backend(std::unique_ptr<Backend> backend);

/// Every registered backend, available or not, fastest first; behind "scalar" those that only their name chooses.
std::vector<const Backend*> backends();

/// Error{not_found} lists the names there are; Error{unsupported} if this machine cannot run it, with what is missing.
/// "cuda" is there after nibble::cuda::register_backend() (cuda/device.h).
const Backend& find_backend(std::string_view name);

/// The one named by the environment variable NIBBLE_BACKEND, else the first available built-in. Error as
/// find_backend's if the variable names none: a misspelt override is never ignored.
const Backend& default_backend();

}  // namespace nibble::inline NIBBLE_ABI

#if defined(NIBBLE_HEADER_ONLY)
#include "nibble/backend/impl/backend_inl.h"
#include "nibble/backend/impl/gated_inl.h"
#include "nibble/backend/impl/registry_inl.h"
#endif
