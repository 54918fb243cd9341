#include "merge_checks.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

#include "adapter_files.h"
#include "nibble/core/error.h"
#include "nibble/core/visit_float.h"

namespace nibble::inline NIBBLE_ABI::model {

namespace {

constexpr std::array<std::string_view, 3> kNames{"original", "dequantized", "quantized"};

[[noreturn]] void invalid(const std::string& why) { throw Error(ErrorCode::invalid_argument, why); }

std::string percent(double share) {
  char out[32];
  std::snprintf(out, sizeof out, "%.3g %%", 100 * share);
  return out;
}

std::string quoted(const AdapterLayer& l) { return "the adapter's layer '" + l.name + "'"; }

/// By the names and shapes of tensors: those of an architecture that is known are checked by its table before.
void check_tensor(const AdapterLayer& l, const Checkpoint& model, const Outline& outline, const LinearLayers& layers) {
  const std::string tensor = l.name + ".weight";
  if (!model.contains(tensor))
    throw Error(ErrorCode::not_found, quoted(l) + " is none of the model's, which has no tensor '" + tensor +
                                          "'; is it an adapter of another model?");
  const TensorInfo& t = model.info(tensor);
  if (left_as(t, outline.model_type) == LeftAs::transposed)
    throw Error(ErrorCode::unsupported, quoted(l) +
                                            ": the model stores this weight as inputs × outputs (Conv1D), and "
                                            "merging into such a weight is not supported");
  const bool head = std::any_of(layers.heads.begin(), layers.heads.end(), [&](auto& h) { return h.layer == l.name; });
  if (head && outline.tied_embeddings)
    throw Error(ErrorCode::unsupported, quoted(l) +
                                            " is a head that is tied to the embedding, which the merged model "
                                            "would change, too");
  if (t.shape.size() != 2 || !is_matrix_type(t.type))
    throw Error(ErrorCode::shape_mismatch,
                quoted(l) + ": the model's tensor '" + tensor +
                    "' is no matrix of F32, F16 or BF16; is it an adapter of another model?");
  check_shape(l, t.shape[0], t.shape[1]);
}

}  // namespace

std::string_view name_of(MergeInto into) { return kNames[static_cast<std::size_t>(into)]; }

MergeInto parse_merge_into(std::string_view name) {
  for (std::size_t i = 0; i < kNames.size(); ++i)
    if (kNames[i] == name) return static_cast<MergeInto>(i);
  invalid("an adapter is merged into 'original', 'dequantized' or 'quantized' weights, not into '" + std::string(name) +
          "'");
}

void check_way(const MergeOptions& o, const MergeInput& in) {
  const std::string model = "'" + in.name + "'";
  if (!is_matrix_type(o.type))
    invalid("weights of " + std::string(name_of(o.type)) + " cannot be written; F32, F16 and BF16 can");
  if (o.base && (in.quantized || in.quantized_gguf))
    invalid(model + " is quantized itself, so that it is the base; a base (" + o.base->to_string() +
            ") is for a model of floats that was quantized as it was loaded");
  if (o.into == MergeInto::original && (in.quantized || in.quantized_gguf))
    invalid(model +
            " is quantized: it has no original weights to merge into; merge into the model it was made from, "
            "or --into dequantized, which gives what was trained over it");
  if (o.into == MergeInto::original) return;
  if (!o.base && !in.quantized && !in.quantized_gguf)
    invalid(model +
            " is a model of floats: say what it was quantized as while the adapter was trained (--base nf4), or "
            "merge --into original");
  if (o.into == MergeInto::quantized && in.quantized_gguf)
    throw Error(ErrorCode::unsupported,
                model + " is a quantized GGUF file, whose types are not written here anew; " +
                    "merge --into dequantized, which gives what was trained; `nibble export-gguf` makes a GGUF file "
                    "of that, of another type than before if it is quantized");
}

void check_adapter(const Adapter& adapter, const Checkpoint& model, const Outline& outline,
                   const LinearLayers& layers) {
  if (adapter.layers.empty()) invalid("the adapter has no layers; there is nothing to merge");
  validate(adapter, DType::f32);
  if (outline.config) adapter.check(*outline.config);
  for (const AdapterLayer& l : adapter.layers)
    if (std::find(layers.quantized.begin(), layers.quantized.end(), l.name) == layers.quantized.end())
      check_tensor(l, model, outline, layers);
}

void check_shape(const AdapterLayer& l, std::size_t rows, std::size_t cols) {
  if (l.out == rows && l.in == cols) return;
  throw Error(ErrorCode::shape_mismatch, quoted(l) + " is " + std::to_string(l.out) + " × " + std::to_string(l.in) +
                                             ", the model's " + std::to_string(rows) + " × " + std::to_string(cols) +
                                             "; is it an adapter of another model?");
}

void check_layout(CheckpointLayout layout, CheckpointLayout first, const std::string& layer) {
  if (layout == CheckpointLayout::awq_gemv_fast)
    throw Error(ErrorCode::unsupported, "layer '" + layer + "' is in the layout " + std::string(name_of(layout)) +
                                            ", which is only read; `nibble convert --to awq` first");
  if (layout != first)
    throw Error(ErrorCode::unsupported, "layer '" + layer + "' is in the layout " + std::string(name_of(layout)) +
                                            ", others are in " + std::string(name_of(first)) +
                                            "; `nibble convert --to nibble` brings them into one first");
}

std::string better_than_codes(const QuantSpec& spec) {
  const std::string trained = "`nibble merge --into dequantized` gives what was trained";
  if (spec.bits == 8) return trained + ", at twice the size";
  if (spec.is_codebook())
    return trained +
           ", and `nibble quantize --method gptq-4-g128` then makes 4 bits of it, between whose steps the "
           "change is not lost";
  return trained +
         ", and `nibble quantize --method int8` then makes 8 bits of it, whose steps are small enough; "
         "integer codes of " +
         std::to_string(spec.bits) + " bits would lose the change again, GPTQ's, too";
}

void refuse_lossy(const LossySample& s) {
  invalid("rounded to the codes of " + s.spec.to_string() + " again, " + percent(share_kept(s.sums)) +
          " of what the adapter changes would survive (" + std::to_string(s.layers) + " of " + std::to_string(s.all) +
          " layers looked at, whose change is " + percent(std::sqrt(s.sums.change / s.sums.weight)) +
          " of their weights); --lossy does it all the same. " + better_than_codes(s.spec));
}

double share_kept(const MergeSums& sums) { return sums.change > 0 ? sums.kept / sums.change : 1; }

double MergeReport::mean(double MergedLayer::*figure) const {
  double sum = 0;
  for (const MergedLayer& l : layers) sum += l.*figure;
  return layers.empty() ? 0 : sum / static_cast<double>(layers.size());
}

const MergedLayer& MergeReport::largest_change() const {
  return *std::max_element(layers.begin(), layers.end(), [](auto& a, auto& b) { return a.change < b.change; });
}

const MergedLayer& MergeReport::least_kept() const {
  return *std::min_element(layers.begin(), layers.end(), [](auto& a, auto& b) { return a.kept < b.kept; });
}

}  // namespace nibble::inline NIBBLE_ABI::model
