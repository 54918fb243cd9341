#include "llama/tokenizer/added_tokens.h"

#include <algorithm>

#include "llama/tokenizer/unicode.h"

namespace nibble::llama {

std::vector<AddedToken> read_added_tokens(const Json& tokens) {
  std::vector<AddedToken> out;
  if (tokens.is_null()) return out;
  if (!tokens.is_array()) throw_bad_json("\"added_tokens\" must be an array");
  for (const Json& t : tokens) {
    AddedToken token;
    token.content = text(t, "content");
    if (token.content.empty()) throw_bad_json("an added token is empty");
    token.id = token_id(member(t, "id"), token.content);
    token.single_word = flag(t, "single_word");
    token.lstrip = flag(t, "lstrip");
    token.rstrip = flag(t, "rstrip");
    token.normalized = flag(t, "normalized", !flag(t, "special"));
    out.push_back(std::move(token));
  }
  return out;
}

void AddedTokens::add(AddedToken token) {
  auto& list = by_first_byte_[token.content.front()];
  const auto place = std::find_if(list.begin(), list.end(),
                                  [&](const AddedToken& t) { return t.content.size() < token.content.size(); });
  list.insert(place, std::move(token));
}

const AddedToken* AddedTokens::find_at(std::string_view text, std::size_t place) const {
  const auto list = by_first_byte_.find(text[place]);
  if (list == by_first_byte_.end()) return nullptr;
  for (const AddedToken& token : list->second)
    if (text.substr(place).starts_with(token.content)) return &token;
  return nullptr;
}

void AddedTokens::split(std::string_view text, const std::function<void(std::string_view, std::int32_t)>& piece) const {
  std::size_t done = 0;
  for (std::size_t place = 0; place < text.size();) {
    const AddedToken* token = find_at(text, place);
    if (token == nullptr) {
      ++place;
      continue;
    }
    std::size_t begin = place, end = place + token->content.size();
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

}  // namespace nibble::llama
