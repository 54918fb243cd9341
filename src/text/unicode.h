// The few Unicode services that tokenizers need, by ICU, over UTF-8 strings.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "watch.h"

namespace nibble::inline NIBBLE_ABI::text {

/// Error{invalid_argument} with the offset and value of the first byte that is not UTF-8.
void require_utf8(std::string_view text);

/// How many bytes at the end begin a character that the text does not finish: 0 … 3.
std::size_t cut_character(std::string_view text);

enum class Normalization { nfc, nfd, nfkc, nfkd };
std::string normalize(Normalization form, std::string_view text);

/// The length of a UTF-8 character by its first byte; 1 for a byte that begins none.
constexpr std::size_t character_length(char first) {
  const auto byte = static_cast<unsigned char>(first);
  return byte < 0xC0 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}
/// Whether `text` begins with a whole UTF-8 character, and its length (1 where not).
bool is_character(std::string_view text, std::size_t& length);

/// Each character's own lower case, without regard to its neighbours.
std::string lowercase(std::string_view text);
/// Calls `cluster` for each grapheme cluster (UAX #29).
void each_grapheme(std::string_view text, const std::function<void(std::string_view)>& cluster);

bool is_number(char32_t c);       ///< General category N: Nd, Nl, No.
bool is_word(char32_t c);         ///< A regular expression's \w.
bool is_whitespace(char32_t c);   ///< The property White_Space.
bool is_mark(char32_t c);         ///< General category M: accents and the like.
bool is_punctuation(char32_t c);  ///< General category P, and ASCII's other signs.

/// The character before or after a place in valid UTF-8, and the place beyond it.
char32_t character_at(std::string_view text, std::size_t& place);
char32_t character_before(std::string_view text, std::size_t& place);

/// A compiled regular expression.
class Regex {
 public:
  /// Error{corrupt_file} with the place where the pattern is wrong.
  explicit Regex(const std::string& pattern);
  ~Regex();
  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;

  /// Calls `piece(text, is_match)` for each match and each gap between, in order; empty ones are left out.
  /// Error{unsupported} with the pattern if one match takes more steps than any sound pattern needs: a pattern that
  /// backtracks exponentially would run for years. Error{cancelled} by `watch`, also from within a match.
  void split(std::string_view text, const std::function<void(std::string, bool)>& piece, Watch& watch) const;
  /// The text with `content` in place of each match, empty ones too. Errors as for split().
  std::string replace(std::string_view text, const std::string& content, Watch& watch) const;

 private:
  /// Calls `found(all, begin, end)` for each match, in UTF-16 units of `all`; then `rest(all)`.
  template <class Found, class Rest>
  void each_match(std::string_view text, Watch& watch, Found&& found, Rest&& rest) const;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace nibble::inline NIBBLE_ABI::text
