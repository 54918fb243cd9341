// Byte-pair encoding of one word over bytes (Sennrich et al. 2016; byte-level: Radford et al. 2019, §2.2).
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "llama/tokenizer/json.h"

namespace nibble::llama {

/// How tokenizer.json and GGUF write a byte: as a visible character, UTF-8.
std::string written_byte(unsigned char byte);

class BytePairEncoding {
 public:
  /// `model`: the member "model" of tokenizer.json, of type BPE.
  explicit BytePairEncoding(const Json& model);

  /// Appends the ids of a word to `ids`: merges the pair of lowest rank, the leftmost of equals, until none is left.
  /// O(n log n) in the word's bytes.
  void encode(std::string_view word, std::vector<std::int32_t>& ids) const;
  /// The bytes of a token, or null for an id that is not in the vocabulary.
  [[nodiscard]] const std::string* find(std::int32_t id) const;
  /// The token that stands for a string as tokenizer.json writes it (its byte alphabet), or −1.
  [[nodiscard]] std::int32_t find_written(const std::string& token) const;

 private:
  struct Merge {
    std::int32_t rank, id;
  };
  void read_vocabulary(const Json& vocabulary);
  void read_merges(const Json& merges);

  bool whole_words_first_ =
      false;  ///< "ignore_merges": a word of the vocabulary is one token, whatever the merges say.
  std::array<std::int32_t, 256> byte_ids_{};
  std::unordered_map<std::string, std::int32_t> ids_;     ///< By the token's bytes.
  std::unordered_map<std::int32_t, std::string> tokens_;  ///< The bytes by id.
  std::unordered_map<std::uint64_t, Merge> merges_;       ///< By left id << 32 | right id.
};

}  // namespace nibble::llama
