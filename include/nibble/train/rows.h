// What a language model is trained on, as tokens: samples, and rows that several of them are packed into.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "nibble/core/abi.h"

namespace nibble::inline NIBBLE_ABI::train {

/// One document: its tokens, and which of them are to be predicted. The first is predicted from nothing, so its mark
/// does not matter.
struct Sample {
  std::vector<std::int32_t> ids;
  std::vector<std::uint8_t> trained;  ///< As many; 1: its loss counts, 0: a prompt's, that is only read.

  /// Tokens that have a loss: those marked, but for the first.
  [[nodiscard]] std::size_t targets() const;
};

/// Samples side by side. Positions begin anew in each, and no token sees, or is predicted from, another sample's.
struct Row {
  std::vector<std::int32_t> ids;
  std::vector<std::uint8_t> trained;
  std::vector<std::size_t> starts;  ///< Of each sample, ascending; the first is 0 unless the row is empty.

  /// Puts a sample, or all those of a row, behind what is there; an empty one changes nothing. Error{shape_mismatch}
  /// where there are not as many marks as tokens.
  void append(const Sample& sample);
  void append(const Row& row);
  /// Tokens that have a loss: those marked, but for the first of each sample.
  [[nodiscard]] std::size_t targets() const;
};

/// The target of a token that nothing is predicted from.
inline constexpr std::size_t kNoTarget = static_cast<std::size_t>(-1);
/// For each token what it shall predict: the next one's id where that is marked and of the same sample, or kNoTarget.
/// Error{shape_mismatch} for a row without a mark for each token, or with a start behind its end.
std::vector<std::size_t> targets_of(const Row& row);

enum class Packing : std::uint8_t {
  none,  ///< A row for each sample.
  /// Best fit of samples by falling length: each goes into the row whose room it fills best, of several the one that
  /// has had this room for longest, or into a new one. That is TRL's "bfd", but for samples of equal length, which stay
  /// in their order here and are in no order there; and TRL packs each thousand samples by themselves.
  best_fit,
  /// All samples one behind the other, cut every max_length tokens: for plain text. The token behind a cut is predicted
  /// from nothing, and so has no loss.
  wrapped,
};
/// "none", "best-fit" or "wrapped". Error{invalid_argument} lists them.
Packing parse_packing(std::string_view name);
std::string_view name_of(Packing packing);

/// Rows of at most max_length tokens, of which each has a target; the same arguments give the same rows. A longer
/// sample is cut at its end (`wrapped` goes on with the rest in the next row), and one that has no targets then is left
/// out. Error{invalid_argument} for a max_length below 2, Error{shape_mismatch} for a sample without a mark for each
/// token.
std::vector<Row> pack_rows(const std::vector<Sample>& samples, std::size_t max_length, Packing packing);

}  // namespace nibble::inline NIBBLE_ABI::train
