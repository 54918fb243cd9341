#include "token_model.h"

#include <array>
#include <cstdio>
#include <utility>

#include "bpe.h"
#include "unigram.h"

namespace nibble::inline NIBBLE_ABI::text {

void Vocabulary::reserve(std::size_t tokens) {
  ids_.reserve(tokens);
  tokens_.reserve(tokens);
}

void Vocabulary::add(std::string token, std::int32_t id) {
  if (!tokens_.emplace(id, token).second)
    throw_bad_json("the id " + std::to_string(id) + " stands for two tokens, one is \"" + token + "\"");
  ids_.insert_or_assign(std::move(token), id);
}

bool Vocabulary::append_bytes(std::string_view text, std::vector<std::int32_t>& ids) const {
  const std::size_t before = ids.size();
  for (const char c : text) {
    char token[8];
    std::snprintf(token, sizeof token, "<0x%02X>", static_cast<unsigned>(static_cast<unsigned char>(c)));
    ids.push_back(find(token));
    if (ids.back() >= 0) continue;
    ids.resize(before);
    return false;
  }
  return true;
}

void TokenModel::throw_unknown(std::string_view character) {
  throw Error(ErrorCode::unsupported, "tokenizer.json: the vocabulary has no token for \"" + std::string(character) +
                                          "\" and none for what is unknown");
}

std::unique_ptr<TokenModel> read_token_model(const Json& description) {
  using Read = std::unique_ptr<TokenModel> (*)(const Json&);
  static constexpr std::array<std::pair<std::string_view, Read>, 2> kModels{{
      {"BPE", [](const Json& d) -> std::unique_ptr<TokenModel> { return std::make_unique<BytePairEncoding>(d); }},
      {"Unigram", [](const Json& d) -> std::unique_ptr<TokenModel> { return std::make_unique<Unigram>(d); }},
  }};
  // Files from before models had a type hold BPE.
  const std::string type = member(description, "type").is_null() ? std::string("BPE") : text(description, "type");
  for (const auto& [name, read] : kModels)
    if (name == type) return read(description);
  throw_unsupported("model", type, "BPE, Unigram");
}

}  // namespace nibble::inline NIBBLE_ABI::text
