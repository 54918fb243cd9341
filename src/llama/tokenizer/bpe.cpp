#include "llama/tokenizer/bpe.h"

#include <queue>

#include "llama/tokenizer/unicode.h"

namespace nibble::llama {

namespace {

/// tokenizer.json writes bytes as visible characters: those of Latin-1 that print stand for themselves, the other 68
/// bytes follow from U+0100 on, in order (Radford et al. 2019, the released encoder).
constexpr std::array<char32_t, 256> make_byte_alphabet() {
  std::array<char32_t, 256> alphabet{};
  char32_t next = 0x100;
  for (char32_t b = 0; b < 256; ++b) {
    const bool prints = (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
    alphabet[b] = prints ? b : next++;
  }
  return alphabet;
}
constexpr auto kByteAlphabet = make_byte_alphabet();

/// The bytes that a written token stands for; the token itself if a character is not of the alphabet, as in the added
/// tokens of some vocabularies.
std::string bytes_of(const std::string& written) {
  static const auto byte_of = [] {
    std::array<int, 0x144> table{};
    table.fill(-1);
    for (int b = 0; b < 256; ++b) table[kByteAlphabet[static_cast<std::size_t>(b)]] = b;
    return table;
  }();
  std::string bytes;
  for (std::size_t i = 0; i < written.size();) {
    const char32_t c = character_at(written, i);
    if (c >= byte_of.size() || byte_of[c] < 0) return written;
    bytes.push_back(static_cast<char>(byte_of[c]));
  }
  return bytes;
}

constexpr std::uint64_t pair_key(std::int32_t left, std::int32_t right) {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 | static_cast<std::uint32_t>(right);
}

}  // namespace

std::string written_byte(unsigned char byte) {
  const char32_t c = kByteAlphabet[byte];  // below U+0800
  if (c < 0x80) return {static_cast<char>(c)};
  return {static_cast<char>(0xC0 | c >> 6), static_cast<char>(0x80 | (c & 0x3F))};
}

BytePairEncoding::BytePairEncoding(const Json& model) {
  if (const Json& type = member(model, "type"); !type.is_null() && type != "BPE")
    throw_unsupported("model", text(model, "type"));
  for (const char* option : {"continuing_subword_prefix", "end_of_word_suffix"})
    if (const Json& v = member(model, option); !v.is_null() && v != Json(std::string()))
      throw_unsupported("option of BPE", option);
  if (flag(model, "byte_fallback")) throw_unsupported("option of BPE", "byte_fallback");
  whole_words_first_ = flag(model, "ignore_merges");
  read_vocabulary(member(model, "vocab"));
  read_merges(array(model, "merges"));
}

void BytePairEncoding::read_vocabulary(const Json& vocabulary) {
  if (!vocabulary.is_object()) throw_bad_json("\"vocab\" must be an object");
  for (const auto& [written, value] : vocabulary.items()) {
    const std::int32_t id = token_id(value, written);
    std::string bytes = bytes_of(written);
    if (!tokens_.emplace(id, bytes).second)
      throw_bad_json("the id " + std::to_string(id) + " stands for two tokens, one is \"" + written + "\"");
    ids_.emplace(std::move(bytes), id);
  }
  for (int b = 0; b < 256; ++b) {
    const auto it = ids_.find(std::string(1, static_cast<char>(b)));
    byte_ids_[static_cast<std::size_t>(b)] = it == ids_.end() ? -1 : it->second;
  }
}

void BytePairEncoding::read_merges(const Json& merges) {
  std::int32_t rank = 0;
  for (const Json& merge : merges) {
    const std::string place = "merge " + std::to_string(rank);
    std::string left, right;
    if (merge.is_string()) {  // "a b": tokens hold no space, which their alphabet writes as another character
      const auto both = merge.get<std::string>();
      const std::size_t space = both.find(' ');
      if (space == std::string::npos || both.find(' ', space + 1) != std::string::npos)
        throw_bad_json(place + ", \"" + both + "\", must be two tokens with a space between");
      left = both.substr(0, space), right = both.substr(space + 1);
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      left = merge[0].get<std::string>(), right = merge[1].get<std::string>();
    } else {
      throw_bad_json(place + " must be two tokens");
    }
    const std::int32_t l = find_written(left), r = find_written(right), merged = find_written(left + right);
    if (l < 0 || r < 0 || merged < 0)
      throw_bad_json(place + ": the token \"" +
                     (l < 0   ? left
                      : r < 0 ? right
                              : left + right) +
                     "\" is not in the vocabulary");
    merges_.try_emplace(pair_key(l, r), Merge{rank++, merged});
  }
}

std::int32_t BytePairEncoding::find_written(const std::string& token) const {
  const auto it = ids_.find(bytes_of(token));
  return it == ids_.end() ? -1 : it->second;
}

const std::string* BytePairEncoding::find(std::int32_t id) const {
  const auto it = tokens_.find(id);
  return it == tokens_.end() ? nullptr : &it->second;
}

void BytePairEncoding::encode(std::string_view word, std::vector<std::int32_t>& ids) const {
  if (whole_words_first_)
    if (const auto it = ids_.find(std::string(word)); it != ids_.end()) return ids.push_back(it->second);

  // A doubly linked list of symbols, and the possible merges in a heap. A merge is stale once either symbol changed.
  struct Symbol {
    std::int32_t id;
    std::int64_t previous, next;
  };
  struct Candidate {
    std::int32_t rank;
    std::int64_t left;
    std::int32_t left_id, right_id, id;
    bool operator<(const Candidate& o) const { return rank != o.rank ? rank > o.rank : left > o.left; }
  };
  std::vector<Symbol> symbols(word.size());
  const auto n = static_cast<std::int64_t>(word.size());
  const auto at = [&](std::int64_t i) -> Symbol& { return symbols[static_cast<std::size_t>(i)]; };
  std::priority_queue<Candidate> candidates;
  const auto propose = [&](std::int64_t left) {
    if (left < 0 || at(left).next >= n) return;
    const std::int32_t l = at(left).id, r = at(at(left).next).id;
    if (const auto it = merges_.find(pair_key(l, r)); it != merges_.end())
      candidates.push({it->second.rank, left, l, r, it->second.id});
  };
  for (std::int64_t i = 0; i < n; ++i) {
    const auto byte = static_cast<unsigned char>(word[static_cast<std::size_t>(i)]);
    if (byte_ids_[byte] < 0)
      throw Error(ErrorCode::unsupported, "the vocabulary has no token for the byte " + std::to_string(byte));
    at(i) = {byte_ids_[byte], i - 1, i + 1};
  }
  for (std::int64_t i = 0; i < n; ++i) propose(i);
  while (!candidates.empty()) {
    const Candidate c = candidates.top();
    candidates.pop();
    if (at(c.left).id != c.left_id || at(c.left).next >= n || at(at(c.left).next).id != c.right_id) continue;
    const std::int64_t right = at(c.left).next, beyond = at(right).next;
    at(c.left).id = c.id;
    at(c.left).next = beyond;
    at(right).id = -1;
    if (beyond < n) at(beyond).previous = c.left;
    propose(at(c.left).previous);
    propose(c.left);
  }
  for (std::int64_t i = 0; i < n; i = at(i).next) ids.push_back(at(i).id);
}

}  // namespace nibble::llama
