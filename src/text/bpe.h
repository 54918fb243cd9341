// Byte-pair encoding of one word (Sennrich et al. 2016), as the tokenizers library does it.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "token_model.h"

namespace nibble::inline NIBBLE_ABI::text {

class BytePairEncoding final : public TokenModel {
 public:
  /// `model`: the member "model" of tokenizer.json, of type BPE.
  explicit BytePairEncoding(const Json& model);

  /// Cuts the word into characters, those that are no token into bytes or the unknown token, and merges the pair of
  /// lowest rank, the leftmost of equals, until none is left. O(n log n) in the word's characters.
  void encode(std::string_view word, std::vector<std::int32_t>& ids, Watch& watch) const override;

 private:
  struct Merge {
    std::int32_t rank, id;
  };
  void read_vocabulary(const Json& vocabulary);
  void read_merges(const Json& merges);
  [[nodiscard]] std::vector<std::int32_t> characters(std::string_view word) const;
  void merge(std::vector<std::int32_t>& symbols, Watch& watch) const;
  [[nodiscard]] const Merge* find_merge(std::int32_t left, std::int32_t right) const;

  bool whole_words_first_;  ///< "ignore_merges": a word of the vocabulary is one token, whatever the merges say.
  bool byte_fallback_, fuse_unknown_;
  bool has_unknown_ = false;
  std::int32_t unknown_ = -1;
  std::array<std::int32_t, 128> ascii_{};            ///< The tokens of these characters, looked up at once.
  std::unordered_map<std::uint64_t, Merge> merges_;  ///< By left id << 32 | right id.
};

/// The two tokens of one of BPE's merges: "a b" or ["a", "b"]. `place` is for the error.
std::pair<std::string, std::string> read_merge(const Json& merge, const std::string& place);

}  // namespace nibble::inline NIBBLE_ABI::text
