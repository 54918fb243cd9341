// SentencePiece's precompiled_charsmap: which strings a normalizer replaces, and by what.
//
//   uint32 (little-endian)   size of the trie in bytes
//   the trie                 a double array of uint32 units (darts-clone)
//   the replacements         UTF-8, each ended by a zero byte; the trie's values are offsets into them
//
// A unit holds its label in bits 0–7, whether a value follows in bit 8, and the offset of its children in the rest; a
// unit with bit 31 set is a value. Node n's child for byte c is at (n ^ offset(n)) ^ c, and is real if its label is c.
// Source: normalizer.cc of SentencePiece, darts.h of darts-clone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "nibble/core/abi.h"

namespace nibble::inline NIBBLE_ABI::text {

class CharacterMap {
 public:
  /// What a text begins with. `length` 0: nothing that is replaced.
  struct Match {
    std::size_t length = 0;
    std::string_view replacement;
  };

  CharacterMap() = default;
  /// All of the trie is walked once, so that no later step can leave it. Error{corrupt_file} saying what is wrong;
  /// `name` says whose map it is. An empty map replaces nothing.
  CharacterMap(std::string_view bytes, const std::string& name);

  [[nodiscard]] bool empty() const { return units_.empty(); }
  /// The longest string of the map that `text` begins with.
  [[nodiscard]] Match longest(std::string_view text) const;
  /// The shortest. The text ends at a zero byte.
  [[nodiscard]] Match shortest(std::string_view text) const;

 private:
  template <class Found>
  void each_match(std::string_view text, Found&& found) const;
  [[nodiscard]] std::string_view replacement(std::uint32_t offset) const { return replacements_.data() + offset; }
  void check(const std::string& name) const;

  std::vector<std::uint32_t> units_;
  std::string replacements_;
};

/// The bytes that base64 (RFC 4648, padded) stands for. Error{corrupt_file} with the place where it is not.
std::string decode_base64(std::string_view text, const std::string& name);

}  // namespace nibble::inline NIBBLE_ABI::text
