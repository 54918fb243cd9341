// AWQ (Lin et al. 2023): before rounding to nearest, input channels that carry large activations get their weights
// scaled up, hence rounded more finely, and the operation before divides by the same scales, so that the model computes
// what it did. Then each group's range is clipped where that lowers the error of its outputs. No weight is kept in
// higher precision, and nothing is trained: both are searches over a small grid on a sample of the layer's inputs.
//
//   awq::ActivationStats stats(in_features, "model.layers.0.self_attn");        // one for linears that share an input
//   for (auto& batch : calibration) stats.add(batch);
//   const awq::LinearWeights group[] = {{"q_proj", q}, {"k_proj", k}, {"v_proj", v}};
//   auto found = awq::search_scales(group, stats, {.spec = QuantSpec::parse("int4-g128-asym")});
//   awq::fold_into_norm(norm_weight, {}, found.scales);                         // the operation before: divided
//   awq::scale_columns(q, found.scales);                                        // … and each consumer: multiplied
//   stats.divide(found.scales);
//   awq::apply_clip(v, awq::search_clip({"v_proj", v}, stats, …), group_size);  // then nibble::quantize(v, spec)
//
// What folds where in a Llama block: input norm → q, k, v; v → o; post-attention norm → gate, up; up → down. With
// grouped-query attention several channels of o come from one of v: say so with ScaleOptions::source.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "nibble/backend/backend.h"
#include "nibble/core/matrix_view.h"
#include "nibble/core/parallel.h"
#include "nibble/matrix/quant_spec.h"

namespace nibble::inline NIBBLE_ABI::awq {

/// What calibration leaves of a layer's inputs: the mean magnitude of each channel, over all tokens, and a sample of
/// tokens, evenly spaced over all that came.
class ActivationStats {
 public:
  /// Keeps at most sample_tokens tokens, at least half as many once that many came. Error{invalid_argument} for none,
  /// or no channels.
  explicit ActivationStats(std::size_t channels, std::string name = "activations", std::size_t sample_tokens = 512);
  /// A batch [tokens, channels]. Errors: shape_mismatch, unsupported; non_finite names tensor, token (of the batch),
  /// channel and value. Nothing of the batch is counted then.
  void add(FloatMatrix x);
  /// The statistics of inputs divided by these scales: what follows once the operation before has them.
  void divide(std::span<const float> scales);

  [[nodiscard]] const std::string& name() const { return name_; }
  [[nodiscard]] std::size_t channels() const { return sums_.size(); }
  [[nodiscard]] std::uint64_t tokens() const { return tokens_; }
  [[nodiscard]] std::vector<float> mean_magnitudes() const;
  [[nodiscard]] MatrixView<const float> sample() const {
    return {sample_.data(), sample_.size() / channels(), channels()};
  }

 private:
  std::string name_;
  std::size_t most_;
  std::uint64_t tokens_ = 0, every_ = 1;  ///< Tokens 0, every_, 2·every_, … are in the sample.
  std::vector<double> sums_;
  std::vector<float> sample_;
};

/// A linear layer's weights [out, in] under the name that errors shall use.
struct LinearWeights {
  std::string name;
  FloatMatrix weights;
};

/// The caller's own measure: the mean squared change of whatever module the linears are part of, when each linear's
/// weights are replaced by the view given (in the order given to search_scales).
using ModuleLoss = std::function<double(std::span<const MatrixView<const float>> weights)>;

struct ScaleOptions {
  QuantSpec spec = {.scheme = SchemeKind::asymmetric};  ///< What the weights will be rounded to; an affine scheme.
  int grid = 20;                                        ///< Ratios tried: 0, 1/grid, …, (grid−1)/grid.
  bool duo_scaling = false;  ///< AutoAWQ's: the weights' own sizes count against the activations'.
  /// The channel of the operation before that each input channel comes from; empty: the same one. Channels with one
  /// source get one scale, found from their mean. `sources` is how many there are.
  std::span<const std::size_t> source = {};
  std::size_t sources = 0;
  /// Null: the mean squared change of the linears' own outputs on the sample.
  ModuleLoss loss = {};
  const Backend* backend = nullptr;  ///< Null: default_backend(). Rounds and decodes; the result is the same.
  Executor* executor = nullptr;      ///< Null: default_executor().
};

struct Scales {
  std::vector<float> scales;         ///< One an input channel.
  std::vector<float> source_scales;  ///< One a channel of the operation before; equal to `scales` without `source`.
  double ratio = 0;                  ///< The one chosen.
  double loss = 0;                   ///< Its loss.
  std::vector<double> losses;  ///< Of every ratio; the first is that of ratio 0, plain rounding but for duo_scaling.
};

/// s = x̄^ratio (duo_scaling: x̄^ratio/(w̄^(1−ratio) + 10⁻⁴), w̄ the mean of |w|/largest of its group), at least 10⁻⁴,
/// divided by √(max·min); the ratio of least loss when each W becomes Q(W·s)/s; of equals, the first. Errors:
/// invalid_argument (no linears, no tokens, a codebook spec, bad sources), shape_mismatch, non_finite as quantize().
Scales search_scales(std::span<const LinearWeights> linears, const ActivationStats& stats, const ScaleOptions& options);

struct ClipOptions {
  QuantSpec spec = {.scheme = SchemeKind::asymmetric};
  int grid = 20;   ///< Limits tried: max|w|·(1 − i/grid) …
  int steps = 10;  ///< … for i below this.
  const Backend* backend = nullptr;
  Executor* executor = nullptr;
};

/// The limit of each group, [out][groups of a row]: of those tried, the one with the least squared change of the
/// group's share of the output, summed over the sample; of equals, the largest. Not for queries and keys, which the
/// reference leaves alone: their products meet a softmax. Errors as search_scales.
std::vector<float> search_clip(const LinearWeights& linear, const ActivationStats& stats, const ClipOptions& options);

/// Clamps each group of `group_size` columns (0: each row) to ± its limit.
void apply_clip(MatrixView<float> weights, std::span<const float> limits, std::size_t group_size);

/// A consumer: column c times scales[c]. Error{shape_mismatch}, here and below.
void scale_columns(MatrixView<float> weights, std::span<const float> scales);
/// The operation before, a norm: weight and bias (or empty) divided. `plus_one`: a norm that multiplies by 1 + weight
/// (Gemma).
void fold_into_norm(std::span<float> weight, std::span<float> bias, std::span<const float> scales,
                    bool plus_one = false);
/// The operation before, a linear: its last |scales| rows divided, and of its bias (or empty).
void fold_into_linear(MatrixView<float> weights, std::span<float> bias, std::span<const float> scales);

/// ScaleOptions::source for v → o under grouped-query attention: channel d of head h comes from channel d of key-value
/// head h·kv_heads/heads. Error{invalid_argument} unless kv_heads divides heads.
std::vector<std::size_t> value_sources(std::size_t heads, std::size_t kv_heads, std::size_t head_dim);

}  // namespace nibble::inline NIBBLE_ABI::awq

#if defined(NIBBLE_HEADER_ONLY)
#include "nibble/solver/impl/awq_clip_inl.h"
#include "nibble/solver/impl/awq_scales_inl.h"
#include "nibble/solver/impl/awq_stats_inl.h"
#endif
