// Perplexity over a text with a sliding window, and the divergence from a reference model.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>

#include "nibble/core/progress.h"
#include "nibble/engine/model.h"

namespace nibble::inline NIBBLE_ABI::engine {

struct EvaluateOptions {
  std::size_t window = 512;
  std::size_t stride = 512;    ///< From one window to the next; smaller gives each prediction more context.
  std::size_t max_tokens = 0;  ///< Use only that many tokens of the text; 0: all.
  Progress progress;
  /// Write the log-probabilities of the predictions there, or read them to measure KL against: 2·vocab + 8 bytes each,
  /// for the first predictions of the text that fit `reference_limit` bytes. In 16 bits, so that the divergence is off
  /// by at most some 3e-4 of the mean |log p − log q| (the range of a row's log-probabilities / 65535).
  std::filesystem::path save_reference, compare_reference;
  std::size_t reference_limit = std::size_t{1} << 30;
};

struct Evaluation {
  double nll = 0;             ///< Sum of −ln p(token) over the predicted tokens.
  std::size_t predicted = 0;  ///< Tokens predicted: never the first of a window, and each token once.
  double kl = 0;              ///< Sum of KL(reference ‖ this) over kl_predictions, in nats; 0 without a reference.
  std::size_t kl_predictions = 0;  ///< The first predictions, as many as the reference holds; 0 without one.
  /// Of the mean loss over kl_predictions, less the reference's over the same; 0 without a reference.
  double loss_change = 0;

  // Standard errors of those means: by how much another text of the kind and length would move them. A window's
  // predictions are alike and count as one draw (Cochran 1977, on ratios of clusters); 0 of fewer than two windows.
  double loss_error = 0, kl_error = 0, loss_change_error = 0;

  [[nodiscard]] double perplexity() const;
  [[nodiscard]] double perplexity_error() const { return perplexity() * loss_error; }
  /// Of the reference's perplexity, over the predictions that it holds: 0.01 is one per cent more. What the texts have
  /// in common cancels, so that its error is far below that of either perplexity.
  [[nodiscard]] double perplexity_change() const;
  [[nodiscard]] double perplexity_change_error() const { return (1 + perplexity_change()) * loss_change_error; }
  [[nodiscard]] double kl_mean() const { return kl_predictions == 0 ? 0 : kl / static_cast<double>(kl_predictions); }
};

/// Error{invalid_argument} for fewer than two tokens or a stride outside 1 … window; Error{corrupt_file} for a
/// reference made from another text, vocabulary or window; Error{non_finite} where logits, the divergence or the
/// perplexity are no finite numbers: names the token, and the first layer whose inputs are none.
Evaluation evaluate(const Model& model, std::span<const std::int32_t> ids, const EvaluateOptions& options = {});

}  // namespace nibble::inline NIBBLE_ABI::engine
