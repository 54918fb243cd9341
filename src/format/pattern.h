// Regular expressions of configurations, matched in time proportional to pattern × text: a hostile pattern costs no
// more.
//
// What there is: literals, \-escapes (\. \d \w \s \D \W \S), '.', classes [a-z], [^…], groups ( ) and (?: ), |, the
// repetitions * + ? {m} {m,} {m,n} (a lazy '?' after them changes nothing here), and the anchors ^ and $.
// Method: Thompson's, all states at once (Thompson 1968; Cox 2007, "Regular Expression Matching Can Be Simple And
// Fast").
#pragma once

#include <bitset>
#include <cstddef>
#include <string_view>
#include <vector>

namespace nibble::format {

class Pattern {
 public:
  /// Error{unsupported} quotes the pattern and says what in it is not known, or that it is too long.
  explicit Pattern(std::string_view text);
  /// Whether it matches from the first letter of `text`, not necessarily to the last: Python's re.match.
  [[nodiscard]] bool matches_start(std::string_view text) const;

 private:
  friend class PatternCompiler;
  enum class Kind { letter, fork, jump, start, end, accept };
  struct Step {
    Kind kind = Kind::accept;
    std::bitset<256> letters;         ///< letter: those it takes.
    std::size_t next = 0, other = 0;  ///< jump and fork: where to go on.
  };
  std::vector<Step> steps_;
};

}  // namespace nibble::format
