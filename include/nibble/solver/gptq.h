// GPTQ (Frantar et al. 2022): quantizes a linear layer column by column and lets the columns still to come make up for
// the error of those done, as the Hessian of the layer's output error says they best can.
//
//   auto [q, report] = nibble::gptq::solve(weights, hessian, {.bits = 4, .group_size = 128, .act_order = true});
//
// With H = (2/tokens)·Σ x·xᵀ + λI in the order of solving, and H⁻¹ = Uᵀ·U, U upper triangular, each row of W does
//
//   q_i = round(w_i),  e_i = (w_i − q_i)/U_ii,  w_j −= e_i·U_ij for j > i
//
// and ½Σe² = ½·tr(ΔW·H·ΔWᵀ) is the loss. Neither H⁻¹ nor all of U is ever formed here. H = R·Rᵀ, R upper triangular,
// is one Cholesky factorisation of the reversed H; U is R⁻¹, of which a block G of columns needs only its own diagonal
// block (R_GG)⁻¹; and what all columns before G have left for it to make up, after their changes Δ = W − Q, is
// Δ·R_{<G,G}·(R_GG)⁻¹. So a layer costs rows·columns²/2 + columns³/6 fused multiply-adds and little else.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "nibble/backend/backend.h"
#include "nibble/core/matrix_view.h"
#include "nibble/core/parallel.h"
#include "nibble/core/progress.h"
#include "nibble/matrix/block_matrix.h"
#include "nibble/matrix/quantized_matrix.h"
#include "nibble/solver/hessian.h"

namespace nibble::inline NIBBLE_ABI::gptq {

/// The share of GPTAQ's authors: Options::alpha.
inline constexpr double kPublishedAlpha = 0.25;

struct Options {
  int bits = 4;                           ///< 2 … 8.
  std::int64_t group_size = 128;          ///< Columns that share a scale, any number; −1: one scale a row.
  bool symmetric = true;                  ///< Zero point 2^(bits−1), the full range; else a zero point a group.
  ScaleType scale_type = ScaleType::f16;  ///< Errors are taken against what the stored scale decodes to.

  /// desc_act: columns in order of falling H_ii. Groups are then of columns that are neighbours in that order, and the
  /// result has a g_idx; see the next two for act-order without one.
  bool act_order = false;
  /// Grids are fitted to the original weights, and groups are of neighbouring columns, whatever the order of solving.
  bool static_groups = false;
  /// Group-aware act-order (GPTQModel's act_group_aware): columns in order of falling H_ii inside their group, groups
  /// in order of their largest H_ii. Groups stay those of neighbouring columns. Excludes act_order.
  bool act_group_aware = false;
  /// Once a row's codes are chosen, its scales by least squares, one group after another: s + (u·H·Δᵀ)/(u·H·uᵀ) with
  /// Δ = W − Q, u = code − zero_point of the group, and zero points kept. Never raises Report::loss. Excludes compat;
  /// with qronos Δ is the distance from the corrected weights. Takes one in × in matrix and rows·columns² more work.
  bool refit_scales = false;
  /// Chooses each group's clipping by least Σ|q − w|^2.4 over 80 shrinkings of the range (the reference's "mse").
  bool grid_search = false;

  double damp_percent = 0.01;    ///< percdamp: λ is this share of the mean of H's diagonal. In [0, 1].
  double damp_increment = 0.01;  ///< What is added to it for as long as the factorisation fails; 0.001 … 1.

  /// GPTAQ (Li et al. 2025): the share, 0.25 in their work, of the difference between the layer's inputs in full
  /// precision and its actual ones that the solution makes up for. Above 0 it needs an asymmetric() Hessian.
  double alpha = 0;
  /// Qronos (Zhang et al. 2025, arXiv 2505.11695): the solution makes up for all of that difference. With H as above
  /// and D = (2/tokens)·Σ (x̂ − x)·xᵀ, x̂ the input in full precision, the first column is rounded from what is best
  /// beside the others as they are, w_1 + (W·D)_1/H_11, and all columns after it are then brought to the least-squares
  /// solution for the input as it is, (W·(D + H)_R − q_1·H_1R)·H_RR⁻¹, from where GPTQ goes on
  /// (solver/impl/gptq_correction.h). Where x̂ = x, D is 0 and the result is GPTQ's, bit for bit. λ is damp_percent's;
  /// the authors' is 10⁻⁶ of H's largest eigenvalue, and the larger it is, the nearer to W the correction stays. Grids
  /// that are fitted before solving (static_groups, group_size −1) are fitted to the corrected weights. Needs an
  /// asymmetric() Hessian; excludes alpha. Beside what solve() holds it takes one in × in matrix and one out × in.
  bool qronos = false;

  /// Tokens of the whole calibration run; a layer (of an expert, say) that saw less than min_coverage of them is
  /// rounded to nearest. 0: not known, and only a layer that saw none is.
  std::uint64_t calibration_tokens = 0;
  double min_coverage = 0.005;

  /// The codes of the reference implementation (IST-DASLab's, AutoGPTQ's), its two quirks included: a group that begins
  /// inside a block of 128 columns gets its grid from weights that the block has not updated yet, and a symmetric group
  /// without a negative value has its grid between 0 and its maximum though half the codes are below 0. Grids are then
  /// fp32 while solving and rounded when stored, and a dead channel counts 1 on the diagonal instead of the mean.
  bool compat = false;
  /// Solves in fp64: for checking, some ten times slower.
  bool double_precision = false;

  std::string name = "matrix";       ///< Named in errors and in the report.
  const Backend* backend = nullptr;  ///< Null: default_backend(). Whose kernels are used; the result is the same.
  Executor* executor = nullptr;      ///< Null: default_executor().
  Progress progress = {};
};

/// What happened to the layer.
struct Report {
  std::string name;
  /// ½Σe² = ½·tr(ΔW·(H + λI)·ΔWᵀ): but for λ's share, the squared error of the outputs, summed over them, of a mean
  /// token. After a fallback: layer_loss(). With alpha or qronos: against the weights that it made the target.
  double loss = 0;
  double error = 0;         ///< loss / rows: the mean squared error of one output.
  double damp_percent = 0;  ///< The one that served.
  std::uint64_t tokens = 0;
  double coverage = 1;                     ///< tokens / calibration_tokens, or 1 where that is not known.
  std::vector<std::size_t> dead_channels;  ///< Never active in calibration: their weights are made 0.
  std::vector<std::string> recovery;       ///< What it took to factor H beyond the first attempt, in order.
  /// Not empty: the layer was rounded to nearest, and why. Worth showing to the user.
  std::string fallback;
};

struct Result {
  QuantizedMatrix matrix;
  Report report;
};

/// Quantizes weights [out, in]. A Hessian that cannot be factored as it is gets, in this order: fp64; more damping, by
/// damp_increment up to 1; a diagonal that dominates its rows; and failing all, the layer is rounded to nearest. Holds
/// three to four in × in matrices of fp32 beside the Hessian. The result does not depend on the number of threads.
/// Errors: invalid_argument (an option out of range, said with its value), shape_mismatch (weights and Hessian),
/// unsupported (another type of weights), non_finite (names tensor, row, column and value; also a scale that its type
/// cannot hold), cancelled.
Result solve(FloatMatrix weights, const Hessian& hessian, const Options& options = {});

struct BlockResult {
  BlockMatrix matrix;
  Report report;
};

/// The same into GGUF's blocks, of any type that encode_block() fits to weights: a block's scales are fitted to the
/// weights that make up for all columns before it, each column's squared error counting as it does in the loss, and its
/// codes are chosen column by column. Of the options bits, group_size, symmetric, scale_type and grid_search are
/// settled by the type. Errors beside those: invalid_argument for rows that are no whole blocks, and for options that
/// blocks have no place for (act_order, static_groups, refit_scales, compat, double_precision); unsupported names
/// another type.
BlockResult solve(FloatMatrix weights, const Hessian& hessian, BlockType type, const Options& options = {});

/// ½·tr(ΔW·H·ΔWᵀ), H = (2/tokens)·Σ x·xᵀ, of any quantization of `weights`: what solve() makes small. Dead channels
/// count nothing. `backend` decodes it (null: default_backend()). Error{shape_mismatch}.
double layer_loss(FloatMatrix weights, const QuantizedMatrix& quantized, const Hessian& hessian,
                  Executor& executor = default_executor(), const Backend* backend = nullptr);
double layer_loss(FloatMatrix weights, const BlockMatrix& quantized, const Hessian& hessian,
                  Executor& executor = default_executor(), const Backend* backend = nullptr);

}  // namespace nibble::inline NIBBLE_ABI::gptq

#if defined(NIBBLE_HEADER_ONLY)
#include "nibble/solver/impl/gptq_inl.h"
#include "nibble/solver/impl/layer_loss_inl.h"
#endif
