// The few Unicode services that tokenizers need, by ICU, over UTF-8 strings.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace nibble::llama {

/// Error{invalid_argument} with the offset and value of the first byte that is not UTF-8.
void require_utf8(std::string_view text);

/// How many bytes at the end begin a character that the text does not finish: 0 … 3.
std::size_t cut_character(std::string_view text);

enum class Normalization { nfc, nfd, nfkc, nfkd };
std::string normalize(Normalization form, std::string_view text);

bool is_number(char32_t c);      ///< General category N: Nd, Nl, No.
bool is_word(char32_t c);        ///< A regular expression's \w.
bool is_whitespace(char32_t c);  ///< The property White_Space.

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
  void split(std::string_view text, const std::function<void(std::string, bool)>& piece) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace nibble::llama
