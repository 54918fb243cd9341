// A model to another that computes the same and is easier to quantize: its norms folded into the layers behind them,
// and random Hadamard rotations (core/hadamard.h) folded into its weights. Nothing is added when it runs.
//
//   nibble::model::RotateOptions options;
//   options.seed = 1;
//   auto report = nibble::model::rotate_model("model", "rotated", options);
//
// A weight far larger than those around it costs its whole group its precision. In the coordinates of a random rotation
// no channel is special, and the outliers are spread over all. With y = W·x, and rows as vectors:
//
//   norms   γ of a norm goes into the columns of what reads it, γ becomes 1: without γ, RMSNorm commutes with a
//   rotation R1      of the residual stream, [hidden]: embedding·R1; W·R1 of what reads it (query, key, value, gate,
//   up, router,
//           head); R1ᵀ·W and R1ᵀ·b of what adds to it (attention_output, down)
//   R2      of each value head, [head_dim], another one for each block: R2ᵀ·W and R2ᵀ·b of each head of value, W·R2 of
//           what attention_output takes from each; heads that share a value share its rotation
//
// It pays before GPTQ, on models with outliers; before rounding it can cost much, and folding norms alone can, since it
// changes which columns are large (bench/README.md, "What rotations are worth"). So measure it: `nibble compare
// --methods gptq-3-g128,gptq-3-g128+fold,gptq-3-g128+rot`.
//
// Source: Ashkboos et al. 2024, "QuaRot", section 4 (stages 1a, 1c); Liu et al. 2024, "SpinQuant", section 3.1 (R1,
// R2).
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "nibble/core/dtype.h"
#include "nibble/core/parallel.h"
#include "nibble/core/progress.h"

namespace nibble::inline NIBBLE_ABI::model {

struct RotateOptions {
  bool fold_norms = true;  ///< R1 needs it.
  bool r1 = true, r2 = true;
  std::uint64_t seed = 0;  ///< Of the signs: R1 is stream 0 of RandomRotation, R2 of block i stream 1 + i.
  /// Where hidden or head_dim is no order that is constructible: blocks of the largest power of two that divides it, in
  /// place of an error.
  bool block = false;
  DType type = DType::f32;       ///< F32, F16 or BF16, of all tensors of floats. The last two round what is computed.
  Executor* executor = nullptr;  ///< Null: default_executor().
  Progress progress;
};

struct RotateReport {
  std::size_t norms = 0;    ///< That were folded, the final one included.
  std::size_t rotated = 0;  ///< Matrices that a rotation changed.
  /// The orders of the Hadamard matrices; 0 where there is no such rotation.
  std::size_t r1_order = 0, r2_order = 0;
  bool untied = false;                ///< The head was the embedding, and is a matrix of its own now.
  std::size_t file_bytes = 0;         ///< Of model.safetensors.
  std::vector<std::string> left_out;  ///< As QuantizeModelReport's.
  std::vector<std::string> notes;     ///< For the user.
};

/// Reads the model `from`, a directory or a GGUF file of floats, and writes the model `to`, which must not exist, as
/// quantize_model does: one tensor in memory at a time, the files beside the weights copied, nothing under the name
/// before all is written. Each value is computed in double and rounded once; the result is a function of the model, the
/// options and no number of threads. A tied head becomes a matrix of its own, and config.json says so
/// (tie_word_embeddings): γ of the final norm is in one of the two only. Nothing else of config.json changes but the
/// type; no key that others read speaks of rotations that are in the weights.
///
/// What would change what the model computes is refused before anything is written. Errors: unsupported names the
/// architecture and the part that stands in the way (R1 where a norm lies between a layer's output and the residual
/// stream: its γ stays in the old coordinates), an architecture without a table, a tensor that no module of the
/// architecture has, or a size without a constructible order; invalid_argument (nothing to do; R1 without folding; a
/// type that is none of the three; layers that are quantized already; `to` as in quantize_model); shape_mismatch names
/// a tensor whose shape is not what the configuration says; non_finite the place of a value that is not finite, or that
/// `type` cannot hold; not_found and others as quantize_model.
RotateReport rotate_model(const std::filesystem::path& from, const std::filesystem::path& to,
                          const RotateOptions& options);

}  // namespace nibble::inline NIBBLE_ABI::model
