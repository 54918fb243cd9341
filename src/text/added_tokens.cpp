#include "added_tokens.h"

#include <algorithm>
#include <unordered_map>

#include "unicode.h"

namespace nibble::inline NIBBLE_ABI::text {

std::vector<AddedToken> read_added_tokens(const Json& tokens) {
  std::vector<AddedToken> out;
  std::unordered_map<std::string, std::int32_t> ids;
  if (tokens.is_null()) return out;
  if (!tokens.is_array()) throw_bad_json("\"added_tokens\" must be an array");
  for (const Json& t : tokens) {
    AddedToken token;
    token.content = text(t, "content");
    if (token.content.empty()) throw_bad_json("an added token is empty");
    token.id = token_id(member(t, "id"), token.content);
    if (const auto [known, is_new] = ids.emplace(token.content, token.id); !is_new && known->second != token.id)
      throw_bad_json("the added token \"" + token.content + "\" has the ids " + std::to_string(known->second) +
                     " and " + std::to_string(token.id));
    token.single_word = flag(t, "single_word");
    token.lstrip = flag(t, "lstrip");
    token.rstrip = flag(t, "rstrip");
    token.special = flag(t, "special");
    token.normalized = flag(t, "normalized", !token.special);
    out.push_back(std::move(token));
  }
  return out;
}

AddedTokens::AddedTokens(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  std::vector<std::pair<std::string_view, std::uint32_t>> entries;
  entries.reserve(tokens_.size());
  for (const AddedToken& t : tokens_) entries.emplace_back(t.content, static_cast<std::uint32_t>(entries.size()));
  index_ = PrefixIndex(std::move(entries));
}

void AddedTokens::split(std::string_view text, const std::function<void(std::string_view, std::int32_t)>& piece,
                        Watch& watch) const {
  std::size_t done = 0;
  for (std::size_t place = 0; place < text.size() && !index_.empty();) {
    watch.tick();
    const auto [length, found] = index_.longest_prefix(text.substr(place));
    if (length == 0) {
      ++place;
      continue;
    }
    const AddedToken* token = &tokens_[found];
    std::size_t begin = place, end = place + length;
    place = end;
    if (token->single_word) {
      std::size_t before = begin, after = end;
      if (begin > 0 && is_word(character_before(text, before))) continue;
      if (end < text.size() && is_word(character_at(text, after))) continue;
    }
    for (std::size_t at = begin; token->lstrip && at > done && is_whitespace(character_before(text, at));) begin = at;
    for (std::size_t at = end; token->rstrip && at < text.size() && is_whitespace(character_at(text, at));) end = at;
    begin = std::max(begin, done);
    if (done < begin) piece(text.substr(done, begin - done), -1);
    piece(text.substr(begin, end - begin), token->id);
    done = place = end;
  }
  if (done < text.size()) piece(text.substr(done), -1);
}

}  // namespace nibble::inline NIBBLE_ABI::text
