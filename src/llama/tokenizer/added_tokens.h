// Tokens that are found in the text before anything else is done to it: "<|im_start|>", "<tool_call>".
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "llama/tokenizer/json.h"

namespace nibble::llama {

struct AddedToken {
  std::string content;
  std::int32_t id = 0;
  bool single_word = false;  ///< Only where no word character touches it.
  bool lstrip = false;       ///< Takes the white space before it, too.
  bool rstrip = false;       ///< And after it.
  bool normalized = true;    ///< Looked for in the normalized text, after the others.
};

/// The array "added_tokens" of tokenizer.json.
std::vector<AddedToken> read_added_tokens(const Json& tokens);

/// Splits text at a set of added tokens: at each place the longest.
class AddedTokens {
 public:
  void add(AddedToken token);
  /// Calls `piece(text, id)` in order; id is −1 for text between tokens. Empty text is left out.
  void split(std::string_view text, const std::function<void(std::string_view, std::int32_t)>& piece) const;

 private:
  [[nodiscard]] const AddedToken* find_at(std::string_view text, std::size_t place) const;
  std::unordered_map<char, std::vector<AddedToken>> by_first_byte_;  ///< Longest first.
};

}  // namespace nibble::llama
