#include "gguf_sentencepiece.h"

#include <array>
#include <cctype>
#include <cstdint>
#include <set>
#include <utility>

#include "added_tokens.h"
#include "bpe.h"
#include "unicode.h"

namespace nibble::inline NIBBLE_ABI::text {

namespace {

[[noreturn]] void refuse(const std::string& what) {
  throw Error(ErrorCode::unsupported,
              "tokenizer.json: " + what +
                  "; GGUF's tokenizer \"llama\" has scores in place of merges, and would cut text differently. Put the "
                  "model's tokenizer.model beside it, if there is one");
}

/// Each cut of each token into two tokens must be among the merges. Added tokens are found before anything is merged.
void require_all_cuts(const Json& vocab, const std::set<std::string>& added,
                      const std::set<std::pair<std::string, std::string>>& merges) {
  for (const auto& [token, id] : vocab.items()) {
    if (is_byte_token(token) || added.contains(token)) continue;
    for (std::size_t at = 0; at < token.size();) {
      (void)character_at(token, at);
      if (at >= token.size()) break;
      const std::pair<std::string, std::string> cut{token.substr(0, at), token.substr(at)};
      if (vocab.contains(cut.first) && vocab.contains(cut.second) && !merges.contains(cut))
        refuse("no merge makes \"" + token + "\" of \"" + cut.first + "\" and \"" + cut.second + "\"");
    }
  }
}

struct KnownSpaces {
  const char* normalizer;
  const char* pre_tokenizer;
  bool prefix;
};
constexpr const char* kReplace = R"({"type": "Replace", "pattern": {"String": " "}, "content": "▁"})";
constexpr std::array kKnownSpaces{
    // Llama 2, Mistral
    KnownSpaces{R"({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
                    {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]})",
                "null", true},
    KnownSpaces{"null", R"({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false})",
                true},
    KnownSpaces{"null", R"({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": false})",
                true},
    KnownSpaces{"null", R"({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": false})",
                false},
    // Gemma; its pre-tokenizer finds no space that is left
    KnownSpaces{kReplace, "null", false},
    KnownSpaces{kReplace,
                R"({"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false})",
                false},
};

}  // namespace

bool is_byte_token(std::string_view token) {
  return token.size() == 6 && token.starts_with("<0x") && token[5] == '>' &&
         std::isxdigit(static_cast<unsigned char>(token[3])) && std::isxdigit(static_cast<unsigned char>(token[4]));
}

std::unordered_map<std::string, float> scores_of_merges(const Json& description) {
  const Json& model = member(description, "model");
  std::set<std::string> added;
  for (AddedToken& t : read_added_tokens(member(description, "added_tokens"))) added.insert(std::move(t.content));
  std::unordered_map<std::string, float> scores;
  std::set<std::pair<std::string, std::string>> merges;
  std::string last;
  std::int32_t rank = 0;
  for (const Json& m : array(model, "merges")) {
    auto pair = read_merge(m, "merge " + std::to_string(rank));
    std::string merged = pair.first + pair.second;
    if (!scores.emplace(merged, -static_cast<float>(rank)).second && merged != last)
      refuse("the merges that make \"" + merged + "\" do not stand together");
    last = std::move(merged);
    merges.insert(std::move(pair));
    // Beyond, neighbouring places would be one float.
    if (++rank > (1 << 24)) refuse("it has more than 2^24 merges");
  }
  require_all_cuts(member(model, "vocab"), added, merges);
  return scores;
}

bool adds_space_prefix(const Json& d) {
  Json pre = member(d, "pre_tokenizer");
  if (pre.is_object())
    for (const char* redundant : {"str_rep", "add_prefix_space"}) pre.erase(redundant);
  for (const KnownSpaces& known : kKnownSpaces)
    if (member(d, "normalizer") == Json::parse(known.normalizer) && pre == Json::parse(known.pre_tokenizer))
      return known.prefix;
  refuse("its normalizer and pre-tokenizer are not those that SentencePiece's BPE is written with");
}

}  // namespace nibble::inline NIBBLE_ABI::text
