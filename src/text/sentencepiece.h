// SentencePiece (Kudo and Richardson 2018): the steps between text and ids, token for token those of the original.
//
//   text → SentencePieceNormalizer → best pieces by BPE or by unigram → ids, unknown characters as bytes or as one
//   token
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "character_map.h"
#include "prefix_index.h"
#include "sentencepiece_model.h"
#include "watch.h"

namespace nibble::inline NIBBLE_ABI::text {

/// The character that stands for a space, U+2581.
inline constexpr std::string_view kSpaceSymbol = "\xE2\x96\x81";

/// A stretch of the normalized text and its token.
struct Segment {
  std::string_view text;
  std::int32_t id;
};

/// The vocabulary, looked up in each way that encoding needs.
class SentencePieceVocabulary {
 public:
  /// Error{corrupt_file} for what SentencePiece refuses, too: empty or repeated pieces, no or two unknown pieces, byte
  /// pieces that are not all 256 or not wanted; and for scores that are not finite. `model` must outlive this.
  SentencePieceVocabulary(const SentencePieceModel& model, const std::string& name);

  [[nodiscard]] const SentencePieceModel& model() const { return model_; }
  [[nodiscard]] const SentencePieceModel::Piece& piece(std::int32_t id) const {
    return model_.pieces[static_cast<std::size_t>(id)];
  }
  [[nodiscard]] TokenType type(std::int32_t id) const { return piece(id).type; }
  [[nodiscard]] std::int32_t unk() const { return unk_; }
  /// The token of a byte, where the model falls back to bytes.
  [[nodiscard]] std::int32_t byte(unsigned char b) const { return bytes_[b]; }
  /// A piece that text can become (normal, user-defined or unused), or −1.
  [[nodiscard]] std::int32_t find(std::string_view text) const;
  /// Any piece, or unk().
  [[nodiscard]] std::int32_t id_of(std::string_view text) const;
  /// How long the user-defined symbol is that `text` begins with, or 0.
  [[nodiscard]] std::size_t user_defined(std::string_view text) const;
  /// The pieces that unigram chooses from: normal and user-defined.
  [[nodiscard]] const PrefixIndex& choices() const { return choices_; }
  [[nodiscard]] float lowest_score() const { return lowest_; }
  [[nodiscard]] float highest_score() const { return highest_; }

 private:
  void add(std::int32_t id, const std::string& name);

  const SentencePieceModel& model_;
  std::unordered_map<std::string_view, std::int32_t> pieces_, reserved_;
  PrefixIndex user_defined_, choices_;
  std::array<std::int32_t, 256> bytes_{};
  std::int32_t unk_ = -1;
  std::size_t longest_ = 0;
  float lowest_, highest_;
};

class SentencePieceNormalizer {
 public:
  SentencePieceNormalizer(const SentencePieceModel::Normalizer& spec, bool whitespace_as_suffix,
                          const std::string& name);
  /// `vocabulary`: its user-defined symbols stay as they are; may be null.
  [[nodiscard]] std::string normalize(std::string_view text, const SentencePieceVocabulary* vocabulary,
                                      Watch& watch) const;

 private:
  /// What the text begins with: its length, and what it becomes.
  [[nodiscard]] CharacterMap::Match step(std::string_view text, const SentencePieceVocabulary* vocabulary) const;

  CharacterMap map_;
  bool dummy_prefix_, remove_extra_, escape_, suffix_;
};

/// Merges the two neighbours whose union has the best score, the leftmost of equals, until none is left; a merged piece
/// that is marked unused is taken apart again. O(n log n).
std::vector<Segment> best_pieces_by_bpe(const SentencePieceVocabulary& vocabulary, std::string_view text, Watch& watch);

/// The pieces with the largest sum of scores (Kudo 2018). O(n · longest piece).
std::vector<Segment> best_pieces_by_unigram(const SentencePieceVocabulary& vocabulary, std::string_view text,
                                            Watch& watch);

}  // namespace nibble::inline NIBBLE_ABI::text
