// The component "model" of tokenizer.json: a word into the tokens that it is made of.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "json.h"
#include "watch.h"

namespace nibble::inline NIBBLE_ABI::text {

/// Tokens as the file writes them, and their ids.
class Vocabulary {
 public:
  /// Error{corrupt_file} if the id is taken.
  void add(std::string token, std::int32_t id);
  void reserve(std::size_t tokens);
  /// The id, or −1.
  [[nodiscard]] std::int32_t find(std::string_view token) const {
    const auto it = ids_.find(token);
    return it == ids_.end() ? -1 : it->second;
  }
  /// The token, or null for an id that is not in the vocabulary.
  [[nodiscard]] const std::string* find(std::int32_t id) const {
    const auto it = tokens_.find(id);
    return it == tokens_.end() ? nullptr : &it->second;
  }
  /// The ids of <0x00> … <0xFF> for the bytes of `text`, or none if one of them is missing.
  [[nodiscard]] bool append_bytes(std::string_view text, std::vector<std::int32_t>& ids) const;

 private:
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view s) const { return std::hash<std::string_view>()(s); }
  };
  std::unordered_map<std::string, std::int32_t, Hash, std::equal_to<>> ids_;
  std::unordered_map<std::int32_t, std::string> tokens_;
};

class TokenModel {
 public:
  virtual ~TokenModel() = default;
  /// Appends the ids of a word. Error{unsupported} for a character that the vocabulary has nothing for, not even a
  /// token for the unknown.
  virtual void encode(std::string_view word, std::vector<std::int32_t>& ids, Watch& watch) const = 0;
  [[nodiscard]] const Vocabulary& vocabulary() const { return vocabulary_; }

 protected:
  [[noreturn]] static void throw_unknown(std::string_view character);
  Vocabulary vocabulary_;
};

/// Error{unsupported} names a type of model that is not known.
std::unique_ptr<TokenModel> read_token_model(const Json& description);

}  // namespace nibble::inline NIBBLE_ABI::text
