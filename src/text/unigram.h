// The unigram model of tokenizer.json (Kudo 2018), as the tokenizers library does it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "prefix_index.h"
#include "token_model.h"

namespace nibble::inline NIBBLE_ABI::text {

class Unigram final : public TokenModel {
 public:
  /// `model`: the member "model" of tokenizer.json, of type Unigram; a token's id is its place in the list.
  explicit Unigram(const Json& model);

  /// The tokens with the largest sum of scores; what is unknown, in one token for a run of it or in bytes.
  /// O(n · longest token).
  void encode(std::string_view word, std::vector<std::int32_t>& ids, Watch& watch) const override;

 private:
  void append_unknown(std::string_view run, std::vector<std::int32_t>& ids) const;

  std::vector<double> scores_;
  PrefixIndex tokens_;
  std::int32_t unknown_ = -1;
  double lowest_ = 0;
  bool byte_fallback_;
};

}  // namespace nibble::inline NIBBLE_ABI::text
