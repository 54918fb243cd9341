// What merge_adapter refuses before its work, and the figures of its report.
#pragma once

#include <cstddef>
#include <string>

#include "linear_layers.h"
#include "merged_rows.h"
#include "nibble/model/merge.h"

namespace nibble::inline NIBBLE_ABI::model {

/// The model, as far as the ways of merging differ in what they take.
struct MergeInput {
  std::string name;
  bool quantized = false;       ///< A checkpoint with layers that are.
  bool quantized_gguf = false;  ///< A GGUF file with such tensors.
};

/// Error{invalid_argument | unsupported} for options that do not go together, or with this model.
void check_way(const MergeOptions& options, const MergeInput& input);
/// Error{not_found | shape_mismatch | unsupported | invalid_argument} unless each of its layers is a linear layer of
/// the model. The shapes of quantized ones show when they are decoded: check_shape.
void check_adapter(const Adapter& adapter, const Checkpoint& model, const Outline& outline, const LinearLayers& layers);
void check_shape(const AdapterLayer& layer, std::size_t rows, std::size_t cols);
/// A quantized model is written in one layout, the `first` of its layers'; Error{unsupported}.
void check_layout(CheckpointLayout layout, CheckpointLayout first, const std::string& layer);
/// For the user, who merges into codes of this spec: what keeps the change instead. Codes of another grid do, since
/// what was rounded to one lies anywhere between those of the other; the same ones, GPTQ's too, do not.
std::string better_than_codes(const QuantSpec& spec);
/// Of a few of `all` layers that are quantized: what merging would keep of them.
struct LossySample {
  MergeSums sums;
  std::size_t layers = 0, all = 0;
  QuantSpec spec;  ///< Of one of them.
};
/// Error{invalid_argument} that says so.
[[noreturn]] void refuse_lossy(const LossySample& sample);

/// Of the change; 1 where there is none.
double share_kept(const MergeSums& sums);

}  // namespace nibble::inline NIBBLE_ABI::model
