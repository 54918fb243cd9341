// What solver/awq.h declares.
#pragma once

#include <algorithm>
#include <cmath>

#include "nibble/backend/backend.h"
#include "nibble/core/error.h"
#include "nibble/scheme/rounding.h"
#include "nibble/solver/awq.h"
#include "nibble/solver/impl/upcast.h"

namespace nibble::inline NIBBLE_ABI::awq {

namespace detail {

[[noreturn]] inline void mismatch(const std::string& what, std::size_t have, std::size_t want) {
  throw Error(ErrorCode::shape_mismatch,
              what + ": " + std::to_string(have) + " values, but " + std::to_string(want) + " are needed");
}

inline void check_scales(const char* what, std::span<const float> scales, std::size_t want) {
  if (scales.size() != want) mismatch(what, scales.size(), want);
  for (std::size_t c = 0; c < scales.size(); ++c)
    if (!(scales[c] > 0) || !is_finite(scales[c]))
      throw Error(ErrorCode::invalid_argument, std::string(what) + ": scale " + std::to_string(c) + " is " +
                                                   std::to_string(scales[c]) + "; it must be positive");
}

}  // namespace detail

NIBBLE_INLINE ActivationStats::ActivationStats(std::size_t channels, std::string name, std::size_t sample_tokens)
    : name_(std::move(name)), most_(sample_tokens), sums_(channels) {
  if (channels == 0 || sample_tokens == 0)
    throw Error(ErrorCode::invalid_argument, "statistics of '" + name_ + "': " + std::to_string(channels) +
                                                 " channels and a sample of " + std::to_string(sample_tokens) +
                                                 " tokens; both must be positive");
}

NIBBLE_INLINE void ActivationStats::add(FloatMatrix x) {
  if (!is_matrix_type(x.type))
    throw Error(ErrorCode::unsupported, "activations '" + name_ + "' are " + std::string(name_of(x.type)) +
                                            "; only F32, F16 and BF16 can be observed");
  if (x.cols != channels() || x.stride < x.cols)
    throw Error(ErrorCode::shape_mismatch, "activations '" + name_ + "' have " + std::to_string(x.cols) +
                                               " channels with rows " + std::to_string(x.stride) +
                                               " apart; the statistics have " + std::to_string(channels()));
  x.validate(name_);
  std::vector<float> values(x.rows * x.cols);
  solver::upcast(x, name_, values.data());
  for (std::size_t i = 0; i < values.size(); ++i)
    if (!is_finite(values[i]))
      throw Error(ErrorCode::non_finite, "activations '" + name_ + "': token " + std::to_string(i / x.cols) +
                                             ", channel " + std::to_string(i % x.cols) + " is " +
                                             std::to_string(values[i]));
  for (std::size_t t = 0; t < x.rows; ++t, ++tokens_) {
    const float* row = values.data() + t * x.cols;
    for (std::size_t c = 0; c < x.cols; ++c) sums_[c] += static_cast<double>(std::abs(row[c]));
    if (tokens_ % every_ != 0) continue;
    if (sample_.size() == most_ * x.cols) {  // every other one goes, and of those to come too
      const std::size_t kept = (most_ + 1) / 2;
      for (std::size_t i = 1; i < kept; ++i)
        std::copy_n(sample_.data() + 2 * i * x.cols, x.cols, sample_.data() + i * x.cols);
      sample_.resize(kept * x.cols);
      every_ *= 2;
      if (tokens_ % every_ != 0) continue;
    }
    sample_.insert(sample_.end(), row, row + x.cols);
  }
}

NIBBLE_INLINE void ActivationStats::divide(std::span<const float> scales) {
  detail::check_scales("scales of a sample", scales, channels());
  for (std::size_t c = 0; c < channels(); ++c) sums_[c] /= static_cast<double>(scales[c]);
  for (std::size_t i = 0; i < sample_.size(); ++i) sample_[i] /= scales[i % channels()];
}

NIBBLE_INLINE std::vector<float> ActivationStats::mean_magnitudes() const {
  std::vector<float> out;
  const double count = static_cast<double>(std::max<std::uint64_t>(1, tokens_));
  for (double sum : sums_) out.push_back(static_cast<float>(sum / count));
  return out;
}

NIBBLE_INLINE void scale_columns(MatrixView<float> weights, std::span<const float> scales) {
  detail::check_scales("scales of columns", scales, weights.cols);
  weights.validate("weights");
  for (std::size_t r = 0; r < weights.rows; ++r)
    for (std::size_t c = 0; c < weights.cols; ++c) weights(r, c) *= scales[c];
}

NIBBLE_INLINE void fold_into_norm(std::span<float> weight, std::span<float> bias, std::span<const float> scales,
                                  bool plus_one) {
  detail::check_scales("scales of a norm", scales, weight.size());
  if (!bias.empty() && bias.size() != weight.size()) detail::mismatch("bias of a norm", bias.size(), weight.size());
  for (std::size_t c = 0; c < weight.size(); ++c)
    weight[c] = plus_one ? (weight[c] + 1) / scales[c] - 1 : weight[c] / scales[c];
  for (std::size_t c = 0; c < bias.size(); ++c) bias[c] /= scales[c];
}

NIBBLE_INLINE void fold_into_linear(MatrixView<float> weights, std::span<float> bias, std::span<const float> scales) {
  if (scales.size() > weights.rows) detail::mismatch("rows of the operation before", weights.rows, scales.size());
  detail::check_scales("scales of rows", scales, scales.size());
  weights.validate("weights of the operation before");
  if (!bias.empty() && bias.size() != weights.rows) detail::mismatch("bias of a linear", bias.size(), weights.rows);
  const std::size_t first = weights.rows - scales.size();
  for (std::size_t i = 0; i < scales.size(); ++i) {
    for (float& w : weights.row(first + i)) w /= scales[i];
    if (!bias.empty()) bias[first + i] /= scales[i];
  }
}

NIBBLE_INLINE std::vector<std::size_t> value_sources(std::size_t heads, std::size_t kv_heads, std::size_t head_dim) {
  if (kv_heads == 0 || heads % kv_heads != 0)
    throw Error(ErrorCode::invalid_argument,
                std::to_string(heads) + " heads cannot share " + std::to_string(kv_heads) + " key-value heads evenly");
  std::vector<std::size_t> out;
  for (std::size_t h = 0; h < heads; ++h)
    for (std::size_t d = 0; d < head_dim; ++d) out.push_back(h / (heads / kv_heads) * head_dim + d);
  return out;
}

}  // namespace nibble::inline NIBBLE_ABI::awq
