// Tokens that are found in the text before anything else is done to it: "<|im_start|>", "<tool_call>".
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "json.h"
#include "prefix_index.h"
#include "watch.h"

namespace nibble::inline NIBBLE_ABI::text {

struct AddedToken {
  std::string content;
  std::int32_t id = 0;
  bool single_word = false;  ///< Only where no word character touches it.
  bool lstrip = false;       ///< Takes the white space before it, too.
  bool rstrip = false;       ///< And after it.
  bool special = false;      ///< Means something to the model, and is not text.
  bool normalized = true;    ///< Looked for in the normalized text, after the others.
};

/// The array "added_tokens" of tokenizer.json. Error{corrupt_file} for one that is empty or has two ids.
std::vector<AddedToken> read_added_tokens(const Json& tokens);

/// Splits text at a set of added tokens: at each place the longest. Building it takes O(n log n) of their number, and
/// splitting time that does not depend on it but for a logarithm.
class AddedTokens {
 public:
  AddedTokens() = default;
  /// Those whose content is empty are never found; of equal ones the first counts.
  explicit AddedTokens(std::vector<AddedToken> tokens);
  AddedTokens(AddedTokens&&) = default;
  AddedTokens& operator=(AddedTokens&&) = default;
  /// Calls `piece(text, id)` in order; id is −1 for text between tokens. Empty text is left out.
  void split(std::string_view text, const std::function<void(std::string_view, std::int32_t)>& piece,
             Watch& watch) const;

 private:
  std::vector<AddedToken> tokens_;
  PrefixIndex index_;  ///< Into tokens_, whose strings it refers to: moving a vector does not move them.
};

}  // namespace nibble::inline NIBBLE_ABI::text
