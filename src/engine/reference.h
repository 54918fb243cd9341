// The log-probabilities of a model over a text, kept in a file for the divergence of other models from it.
//
//   header   56 bytes: "nibblrf2", then vocab, tokens, window, stride, hash of the text, predictions kept (u64 each)
//   rows     one a prediction: top (f32), step (f32), code[vocab] (u16): log p̂(i) = top − step·code[i]
//
// 16 bits are enough, because each row is a distribution again: top is chosen so that the p̂ add up to 1. With every
// log-probability within δ ≤ step of its own (half a step by rounding, half by what is added to top), the divergence
// of q from p̂ instead of p differs by at most δ·Σ p|log p − log q| + δ², and step is the row's range / 65535: about
// 3e-4.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <vector>

#include "core/pending.h"

namespace nibble::inline NIBBLE_ABI::engine {

/// What a reference must agree on with an evaluation before its numbers mean anything.
struct ReferenceHeader {
  char magic[8] = {'n', 'i', 'b', 'b', 'l', 'r', 'f', '2'};
  std::uint64_t vocab = 0, tokens = 0, window = 0, stride = 0, text_hash = 0;
  std::uint64_t rows = 0;  ///< Predictions kept, the first of the text; not compared.
};

/// Bytes of one prediction.
constexpr std::size_t reference_row_bytes(std::size_t vocab) {
  return 2 * sizeof(float) + vocab * sizeof(std::uint16_t);
}

class ReferenceWriter {
 public:
  /// Takes at most header.rows rows. Errors: io. A file of that name is replaced by finish(), and kept until then.
  ReferenceWriter(const std::filesystem::path& path, const ReferenceHeader& header);
  /// Log-probabilities of the next prediction, ignored once all rows are there.
  void add(std::span<const float> log_probabilities);
  void finish();

 private:
  files::PendingFile file_;
  ReferenceHeader header_;
  std::size_t written_ = 0;
  std::vector<std::uint16_t> codes_;
  std::vector<std::byte> row_;
};

class ReferenceReader {
 public:
  /// Error{corrupt_file} unless the file is a whole reference that agrees with `wanted`.
  ReferenceReader(const std::filesystem::path& path, const ReferenceHeader& wanted);
  struct Prediction {
    double kl = 0;               ///< KL(reference ‖ other), in nats.
    double log_probability = 0;  ///< The reference's, of the token asked for.
  };
  /// Of the next prediction; nothing once its rows are used up.
  std::optional<Prediction> compare(std::span<const float> log_probabilities, std::size_t token);

 private:
  // Read row by row: a map's pages would count for the memory that the model is said to take.
  std::filesystem::path path_;
  files::Descriptor file_;
  std::vector<std::byte> row_;
  std::uint64_t rows_ = 0, next_ = 0;
};

}  // namespace nibble::inline NIBBLE_ABI::engine
