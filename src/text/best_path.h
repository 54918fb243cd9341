// The segmentation of a text with the largest sum of scores: Viterbi's algorithm over positions.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string_view>
#include <vector>

#include "unicode.h"
#include "watch.h"

namespace nibble::inline NIBBLE_ABI::text {

struct PathStep {
  std::size_t begin, end;
  std::int32_t id;
};

/// The best segmentation that ends at some place: its sum, and its last piece.
template <class Score>
struct BestEnd {
  static constexpr std::size_t kUnreached = static_cast<std::size_t>(-1);
  Score score{};
  std::int32_t id = -1;
  std::size_t begin = kUnreached;
};

/// `Score`: in what sums are kept, which decides ties: float in SentencePiece, double in the tokenizers library.
/// `each_piece(rest, found)` calls found(length, id, score) for the pieces that `rest` begins with, shortest first, the
/// score in double. A character that is no piece by itself is `unknown`, with the score `unknown_score`.
/// Of equal sums the one found first stays, as in both libraries.
template <class Score, class EachPiece>
std::vector<PathStep> best_path(std::string_view text, std::int32_t unknown, Score unknown_score,
                                EachPiece&& each_piece, Watch& watch) {
  std::vector<BestEnd<Score>> best(text.size() + 1);  // of what ends at each byte
  for (std::size_t begin = 0; begin < text.size();) {
    watch.tick();
    const Score here = best[begin].score;
    const std::size_t character = std::min(character_length(text[begin]), text.size() - begin);
    bool is_piece = false;
    // Sums are compared in the type that they are computed in, and kept in Score.
    const auto offer = [&best, begin](std::size_t length, std::int32_t id, auto sum) {
      BestEnd<Score>& there = best[begin + length];
      if (there.begin != BestEnd<Score>::kUnreached && !(sum > there.score)) return;
      there.score = static_cast<Score>(sum);
      there.id = id;
      there.begin = begin;
    };
    each_piece(text.substr(begin), [&](std::size_t length, std::int32_t id, double score) {
      offer(length, id, score + static_cast<double>(here));
      is_piece = is_piece || length == character;
    });
    if (!is_piece) offer(character, unknown, static_cast<Score>(unknown_score + here));
    begin += character;
  }
  std::vector<PathStep> path;
  for (std::size_t end = text.size(); end > 0; end = best[end].begin)
    path.push_back({best[end].begin, end, best[end].id});
  std::reverse(path.begin(), path.end());
  return path;
}

}  // namespace nibble::inline NIBBLE_ABI::text
