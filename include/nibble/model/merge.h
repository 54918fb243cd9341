// An adapter merged into the weights it was trained beside: one model, which needs no adapter any more.
//
//   nibble::model::MergeOptions options;
//   options.into = nibble::model::MergeInto::dequantized;
//   options.base = nibble::QuantSpec::parse("nf4-dq");                 // what the adapter was trained over
//   auto report = nibble::model::merge_adapter("model", adapter, "merged", options);
//
// W is a layer's own weight, Ŵ what its quantization decodes to, Δ = scale·B·A the adapter's change; with a magnitude
// (DoRA) the merged row is magnitude_o/‖(W + Δ)_o‖·(W + Δ)_o, and Δ stands for all that it differs from W by. An
// adapter that was trained over a quantized model learned to answer for Ŵ + Δ. That is what merging should give, and
// each way costs something else (512 × 512, σ 0.02, NF4 with double quantization; errors as shares of ‖W‖):
//
//   ‖Δ‖/‖W‖   dequantized, 16 bits      original: W + Δ         quantized again: of Δ survives
//   0.010      0 but for rounding        0.092                   1.6 %
//   0.030      0                         0.092                   3.5 %
//   0.102      0                         0.092                   84 %
//   0.307      0                         0.092                   99 %
//
// The last column is why `quantized` must be asked for twice: Ŵ lies on codes, the steps between them are far wider
// than the change of an ordinary adapter, and rounding to the nearest code goes back to where it came from. On another
// grid that does not happen: of a change of 1.3 % over NF4, all survives GPTQ's 4 bits of the dequantized merge, on
// average; over 4-bit integers 99 % survives int8, but 5 % GPTQ with the same groups (examples/data/austen-5m). Keeping
// the adapter as a file beside the model loses nothing.
//
// Source: peft 0.21.2, tuners/lora/bnb.py (merge into 4 bits) and tuners/lora/dora.py (the norm of DoRA's rows).
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "nibble/backend/backend.h"
#include "nibble/core/progress.h"
#include "nibble/model/adapter.h"

namespace nibble::inline NIBBLE_ABI::model {

enum class MergeInto : std::uint8_t {
  original,     ///< W + Δ in the type of W. The model is one of floats; with a base its error is measured.
  dequantized,  ///< Ŵ + Δ in `type`: what was trained, at the size of an unquantized model.
  quantized,    ///< Ŵ + Δ rounded to the nearest codes again. Needs `lossy`.
};

/// "original", "dequantized", "quantized".
std::string_view name_of(MergeInto into);
/// Error{invalid_argument} lists the names there are.
MergeInto parse_merge_into(std::string_view name);

struct MergeOptions {
  MergeInto into = MergeInto::original;
  /// What a model of floats was quantized as, while it was loaded, when the adapter was trained. A checkpoint that is
  /// quantized says it itself.
  std::optional<QuantSpec> base;
  /// dequantized only: F32, F16 or BF16 for the linear layers of the blocks. F16 rounds a weight 8 times finer than
  /// BF16, and F32 keeps Ŵ + Δ as it was computed with. Other tensors keep their types.
  DType type = DType::f16;
  bool lossy = false;                ///< quantized: yes, though most of a small change is lost.
  const Backend* backend = nullptr;  ///< Null: default_backend().
  Executor* executor = nullptr;      ///< Null: default_executor().
  Progress progress;
};

/// What merging did to one layer. Norms are Frobenius norms, summed in double.
struct MergedLayer {
  std::string layer;
  std::size_t rows = 0, cols = 0, rank = 0;
  double weight = 0;    ///< Of what was merged into: ‖W‖ or ‖Ŵ‖.
  double change = 0;    ///< ‖Δ‖/weight.
  double rounding = 0;  ///< ‖what was stored − (W + Δ)‖/weight: the error of the type or the codes.
  double kept = 1;  ///< The share of Δ that survives: ⟨what was stored − W, Δ⟩/⟨Δ, Δ⟩; 1 where Δ is 0.
  /// original with a base: ‖what was merged − the same over Ŵ‖/weight, the error against what was trained.
  std::optional<double> untrained;
};

struct MergeReport {
  std::vector<MergedLayer> layers;    ///< Those of the adapter, in the order of the file.
  double kept = 1;                    ///< The share of Δ that survives, over all layers at once.
  std::size_t rounded = 0;            ///< Other linear layers that were decoded, or quantized by `base`.
  std::size_t file_bytes = 0;         ///< Of model.safetensors.
  std::vector<std::string> left_out;  ///< As QuantizeModelReport's.
  std::vector<std::string> notes;     ///< For the user.

  /// The mean over the layers of one of their figures: mean(&MergedLayer::change).
  [[nodiscard]] double mean(double MergedLayer::*figure) const;
  [[nodiscard]] const MergedLayer& largest_change() const;  ///< There is a layer.
  [[nodiscard]] const MergedLayer& least_kept() const;
};

/// Reads the model `from`, a directory or a GGUF file, and writes the model `to`, which must not exist, as
/// quantize_model does: about one layer in memory at a time, files beside the weights copied, nothing under the name
/// before all is written. Each value is computed in double and rounded once; the result does not depend on the backend
/// or the number of threads.
///
/// original: of dense linear layers those of the adapter change, all else is copied. dequantized: every linear layer
/// of the blocks that is quantized, by the file or by `base` (as loading does: Backend::quantize), is written decoded,
/// so that the model's logits are those of the base with the adapter. quantized: the adapter's layers are quantized
/// anew in the spec and the layout they had, one without a change keeps its codes; with `base` the others are
/// quantized, too. A layer of the adapter that a quantized model holds in floats is merged in floats.
///
/// Errors, all before anything is written: invalid_argument (`original` of a quantized model, which has no such
/// weights; `dequantized` or `quantized` where nothing is quantized and no base is given; a base for a model that is
/// quantized itself; `quantized` without `lossy`, which says of a few layers what share of their change would be kept;
/// a type that is none of the three; `to` as in quantize_model; an adapter without layers); not_found or
/// shape_mismatch for a layer of the adapter that the model lacks or has in another shape; unsupported for a quantized
/// GGUF file into `quantized`, for a weight that is stored as inputs × outputs, for a layout that is only read;
/// non_finite names the weight that `type` cannot hold; those of quantize_model.
MergeReport merge_adapter(const std::filesystem::path& from, const Adapter& adapter, const std::filesystem::path& to,
                          const MergeOptions& options);

}  // namespace nibble::inline NIBBLE_ABI::model
