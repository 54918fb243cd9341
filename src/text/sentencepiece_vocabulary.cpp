#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdio>

#include "best_path.h"
#include "nibble/core/error.h"
#include "sentencepiece.h"

namespace nibble::inline NIBBLE_ABI::text {

namespace {

std::string byte_piece(std::size_t byte) {
  char piece[8];
  std::snprintf(piece, sizeof piece, "<0x%02X>", static_cast<unsigned>(byte));
  return piece;
}

[[noreturn]] void refuse(const std::string& name, const std::string& what) {
  throw Error(ErrorCode::corrupt_file, "'" + name + "' is no SentencePiece model: " + what);
}

}  // namespace

SentencePieceVocabulary::SentencePieceVocabulary(const SentencePieceModel& model, const std::string& name)
    // Those of SentencePiece: FLT_MIN is the smallest positive number, so of log-probabilities it is the highest.
    : model_(model), lowest_(FLT_MAX), highest_(FLT_MIN) {
  bytes_.fill(-1);
  pieces_.reserve(model.pieces.size());
  std::vector<std::pair<std::string_view, std::uint32_t>> user_defined, choices;
  for (std::size_t i = 0; i < model.pieces.size(); ++i) {
    const auto& piece = model.pieces[i];
    add(static_cast<std::int32_t>(i), name);
    const std::pair<std::string_view, std::uint32_t> entry{piece.text, static_cast<std::uint32_t>(i)};
    if (piece.type == TokenType::user_defined) user_defined.push_back(entry);
    if (piece.type == TokenType::user_defined || piece.type == TokenType::normal) choices.push_back(entry);
    if (piece.type != TokenType::normal) continue;
    lowest_ = std::min(lowest_, piece.score);
    highest_ = std::max(highest_, piece.score);
  }
  if (unk_ < 0) refuse(name, "it has no unknown piece");
  for (std::size_t b = 0; b < 256; ++b) {
    const std::string text = byte_piece(b);
    const auto it = reserved_.find(text);
    if (it != reserved_.end() && type(it->second) == TokenType::byte) bytes_[b] = it->second;
    if (model.byte_fallback && bytes_[b] < 0) refuse(name, "it falls back to bytes and has no piece " + text);
  }
  user_defined_ = PrefixIndex(std::move(user_defined));
  choices_ = PrefixIndex(std::move(choices));
}

void SentencePieceVocabulary::add(std::int32_t id, const std::string& name) {
  const auto& piece = this->piece(id);
  const std::string place = "piece " + std::to_string(id);
  if (piece.text.empty()) refuse(name, place + " is empty");
  if (!std::isfinite(piece.score)) refuse(name, place + " has the score " + std::to_string(piece.score));
  const bool is_text =
      piece.type == TokenType::normal || piece.type == TokenType::user_defined || piece.type == TokenType::unused;
  if (!(is_text ? pieces_ : reserved_).emplace(piece.text, id).second)
    refuse(name, place + " repeats \"" + piece.text + "\"");
  if (is_text) longest_ = std::max(longest_, piece.text.size());
  if (piece.type == TokenType::unknown) {
    if (unk_ >= 0) refuse(name, place + " is a second unknown piece");
    unk_ = id;
  }
  if (piece.type != TokenType::byte) return;
  if (!model_.byte_fallback) refuse(name, place + " is a byte, and the model does not fall back to bytes");
  unsigned byte = 0;
  char end = 0;
  if (piece.text.size() != 6 || std::sscanf(piece.text.c_str(), "<0x%2X%c", &byte, &end) != 2 ||
      piece.text != byte_piece(byte))
    refuse(name, place + " stands for a byte, but is \"" + piece.text + "\"");
}

std::int32_t SentencePieceVocabulary::find(std::string_view text) const {
  if (text.size() > longest_) return -1;
  const auto it = pieces_.find(text);
  return it == pieces_.end() ? -1 : it->second;
}

std::int32_t SentencePieceVocabulary::id_of(std::string_view text) const {
  if (const auto it = reserved_.find(text); it != reserved_.end()) return it->second;
  const std::int32_t id = find(text);
  return id < 0 ? unk_ : id;
}

std::size_t SentencePieceVocabulary::user_defined(std::string_view text) const {
  std::size_t longest = 0;
  int found = 0;
  user_defined_.each_prefix(text, [&](std::size_t length, std::uint32_t) {
    if (++found <= 64) longest = length;  // as many as SentencePiece looks at
  });
  return longest;
}

std::vector<Segment> best_pieces_by_unigram(const SentencePieceVocabulary& vocabulary, std::string_view text,
                                            Watch& watch) {
  constexpr float kUnknownPenalty = 10;
  const auto each_piece = [&](std::string_view rest, auto&& found) {
    vocabulary.choices().each_prefix(rest, [&](std::size_t length, std::uint32_t value) {
      const auto id = static_cast<std::int32_t>(value);
      // A user-defined symbol is worth more than any other cut of its text.
      const double score = vocabulary.type(id) == TokenType::user_defined
                               ? static_cast<double>(static_cast<float>(length) * vocabulary.highest_score()) - 0.1
                               : static_cast<double>(vocabulary.piece(id).score);
      found(length, id, score);
    });
  };
  std::vector<Segment> segments;
  for (const PathStep& step :
       best_path<float>(text, vocabulary.unk(), vocabulary.lowest_score() - kUnknownPenalty, each_piece, watch))
    segments.push_back({text.substr(step.begin, step.end - step.begin), step.id});
  return segments;
}

}  // namespace nibble::inline NIBBLE_ABI::text
