// Regular expressions of configurations, matched in time proportional to pattern × text: a hostile pattern costs no
// more.
//
// What there is: literals, \-escapes (\. \d \w \s \D \W \S), '.', classes [a-z], [^…], groups ( ), (?: ) and
// (?P<name> ), |, the repetitions * + ? {m} {m,} {m,n} (a lazy '?' after them changes nothing here), the anchors ^ and
// $, and look-aheads (?= ) and (?! ).
//
// Method: Thompson's, all states at once (Thompson 1968; Cox 2007, "Regular Expression Matching Can Be Simple And
// Fast"), but from the text's end to its start: for each position, the set of states from which the pattern accepts
// what is left. So whether a look-ahead holds at a position is known when the states before it need it, and it costs no
// more than any other piece of the pattern.
#pragma once

#include <bitset>
#include <cstddef>
#include <string_view>
#include <vector>

#include "nibble/core/abi.h"

namespace nibble::inline NIBBLE_ABI::format {

class Pattern {
 public:
  /// Error{unsupported} quotes the pattern and says what in it is not known, or that it is too long.
  explicit Pattern(std::string_view text);
  /// Whether it matches from the first letter of `text`, not necessarily to the last: Python's re.match.
  [[nodiscard]] bool matches_start(std::string_view text) const;

 private:
  friend class PatternCompiler;
  enum class Kind { letter, fork, jump, start, end, look, look_not, accept };
  struct Step {
    Kind kind = Kind::accept;
    std::bitset<256> letters;         ///< letter: those it takes.
    std::size_t next = 0, other = 0;  ///< jump and fork: where to go on; look: its own first step, and where to go on.
    int level = 0;                    ///< How many look-aheads it lies in.
  };
  /// Whether a step accepts what is left at `at`, given which steps do one letter on and, here, those it leads to.
  [[nodiscard]] bool accepts(std::size_t step, std::string_view text, std::size_t at, const std::vector<char>& here,
                             const std::vector<char>& beyond) const;
  std::vector<Step> steps_;
  int levels_ = 1;
};

}  // namespace nibble::inline NIBBLE_ABI::format
