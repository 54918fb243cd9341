#include <algorithm>
#include <queue>
#include <unordered_map>

#include "sentencepiece.h"
#include "unicode.h"

namespace nibble::inline NIBBLE_ABI::text {

namespace {

/// The symbols of one text as a doubly linked list, and the merges that are possible in a heap.
class Merger {
 public:
  Merger(const SentencePieceVocabulary& vocabulary, std::string_view text, Watch& watch)
      : vocabulary_(vocabulary), text_(text), watch_(watch) {
    for (std::size_t at = 0; at < text.size();) {
      std::size_t length = vocabulary.user_defined(text.substr(at));
      const bool is_whole = length > 0;
      if (!is_whole) length = std::min(character_length(text[at]), text.size() - at);
      symbols_.push_back({at, length, index(symbols_.size()) - 1, index(symbols_.size()) + 1, is_whole});
      at += length;
    }
    for (std::int64_t i = 1; i < index(symbols_.size()); ++i) propose(i - 1, i);
  }

  std::vector<Segment> run() {
    while (!candidates_.empty()) {
      watch_.tick();
      const Candidate c = candidates_.top();
      candidates_.pop();
      Symbol &left = at(c.left), &right = at(c.right);
      // Stale once either symbol has been merged into another.
      if (left.length == 0 || right.length == 0 || left.length + right.length != c.length) continue;
      left.length = c.length;
      left.next = right.next;
      right.length = 0;
      if (left.next < index(symbols_.size())) at(left.next).previous = c.left;
      propose(left.previous, c.left);
      propose(c.left, left.next);
    }
    std::vector<Segment> out;
    for (std::int64_t i = 0; i < index(symbols_.size()); i = at(i).next) append(text_of(at(i)), out);
    return out;
  }

 private:
  struct Symbol {
    std::size_t begin, length;
    std::int64_t previous, next;
    bool is_whole;  ///< A user-defined symbol, never merged.
  };
  struct Candidate {
    float score;
    std::int64_t left, right;
    std::size_t length;
    bool operator<(const Candidate& o) const { return score != o.score ? score < o.score : left > o.left; }
  };
  static std::int64_t index(std::size_t i) { return static_cast<std::int64_t>(i); }
  Symbol& at(std::int64_t i) { return symbols_[static_cast<std::size_t>(i)]; }
  std::string_view text_of(const Symbol& s) const { return text_.substr(s.begin, s.length); }

  void propose(std::int64_t left, std::int64_t right) {
    if (left < 0 || right >= index(symbols_.size()) || at(left).is_whole || at(right).is_whole) return;
    const std::string_view merged = text_.substr(at(left).begin, at(left).length + at(right).length);
    const std::int32_t id = vocabulary_.find(merged);
    if (id < 0) return;
    candidates_.push({vocabulary_.piece(id).score, left, right, merged.size()});
    if (vocabulary_.type(id) == TokenType::unused) parts_[merged] = at(left).length;
  }
  /// A piece, or the parts that an unused one was last made of. A stack, not calls: an unused piece may be long.
  void append(std::string_view whole, std::vector<Segment>& out) const {
    std::vector<std::string_view> pending{whole};
    while (!pending.empty()) {
      const std::string_view text = pending.back();
      pending.pop_back();
      const std::int32_t id = vocabulary_.id_of(text);
      const auto parts = parts_.find(text);
      if (vocabulary_.type(id) != TokenType::unused || parts == parts_.end()) {
        out.push_back({text, id});
        continue;
      }
      pending.push_back(text.substr(parts->second));
      pending.push_back(text.substr(0, parts->second));
    }
  }

  const SentencePieceVocabulary& vocabulary_;
  std::string_view text_;
  Watch& watch_;
  std::vector<Symbol> symbols_;
  std::priority_queue<Candidate> candidates_;
  std::unordered_map<std::string_view, std::size_t> parts_;  ///< Unused pieces, and how long their left part was.
};

}  // namespace

std::vector<Segment> best_pieces_by_bpe(const SentencePieceVocabulary& vocabulary, std::string_view text,
                                        Watch& watch) {
  return Merger(vocabulary, text, watch).run();
}

}  // namespace nibble::inline NIBBLE_ABI::text
