#include "bpe.h"

#include <algorithm>
#include <queue>
#include <utility>

#include "unicode.h"

namespace nibble::inline NIBBLE_ABI::text {

namespace {

constexpr std::uint64_t pair_key(std::int32_t left, std::int32_t right) {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 | static_cast<std::uint32_t>(right);
}

}  // namespace

std::pair<std::string, std::string> read_merge(const Json& merge, const std::string& place) {
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string())
    return {merge[0].get<std::string>(), merge[1].get<std::string>()};
  if (!merge.is_string()) throw_bad_json(place + " must be two tokens");
  // "a b": the tokens of files that write merges so hold no space.
  const auto both = merge.get<std::string>();
  const std::size_t space = both.find(' ');
  if (space == std::string::npos || both.find(' ', space + 1) != std::string::npos)
    throw_bad_json(place + ", \"" + both + "\", must be two tokens with a space between");
  return {both.substr(0, space), both.substr(space + 1)};
}

BytePairEncoding::BytePairEncoding(const Json& model)
    : whole_words_first_(flag(model, "ignore_merges")),
      byte_fallback_(flag(model, "byte_fallback")),
      fuse_unknown_(flag(model, "fuse_unk")) {
  for (const char* option : {"continuing_subword_prefix", "end_of_word_suffix"})
    if (const Json& v = member(model, option); !v.is_null() && v != Json(std::string()))
      throw_unsupported("option of BPE", option, "byte_fallback, fuse_unk, ignore_merges, unk_token");
  if (const Json& v = member(model, "dropout"); !v.is_null() && v != 0)
    throw_unsupported("option of BPE", "dropout", "byte_fallback, fuse_unk, ignore_merges, unk_token");
  read_vocabulary(member(model, "vocab"));
  read_merges(array(model, "merges"));
  if (member(model, "unk_token").is_null()) return;
  has_unknown_ = true;
  unknown_ = vocabulary_.find(text(model, "unk_token"));  // whether it is there matters only when it is needed
}

void BytePairEncoding::read_vocabulary(const Json& vocabulary) {
  if (!vocabulary.is_object()) throw_bad_json("\"vocab\" must be an object");
  vocabulary_.reserve(vocabulary.size());
  for (const auto& [written, value] : vocabulary.items()) vocabulary_.add(written, token_id(value, written));
  for (std::size_t c = 0; c < ascii_.size(); ++c) ascii_[c] = vocabulary_.find(std::string(1, static_cast<char>(c)));
}

void BytePairEncoding::read_merges(const Json& merges) {
  std::int32_t rank = 0;
  merges_.reserve(merges.size());
  for (const Json& merge : merges) {
    const std::string place = "merge " + std::to_string(rank);
    const auto [left, right] = read_merge(merge, place);
    const std::string both = left + right;
    const std::int32_t l = vocabulary_.find(left), r = vocabulary_.find(right), merged = vocabulary_.find(both);
    if (l < 0 || r < 0 || merged < 0)
      throw_bad_json(place + ": the token \"" + (l < 0 ? left : r < 0 ? right : both) + "\" is not in the vocabulary");
    merges_.insert_or_assign(pair_key(l, r), Merge{rank++, merged});  // of a repeated pair the last counts
  }
}

const BytePairEncoding::Merge* BytePairEncoding::find_merge(std::int32_t left, std::int32_t right) const {
  const auto it = merges_.find(pair_key(left, right));
  return it == merges_.end() ? nullptr : &it->second;
}

std::vector<std::int32_t> BytePairEncoding::characters(std::string_view word) const {
  std::vector<std::int32_t> symbols;
  symbols.reserve(word.size());
  bool unknown_waits = false;
  for (std::size_t at = 0; at < word.size();) {
    const std::size_t length = std::min(character_length(word[at]), word.size() - at);
    const std::string_view character = word.substr(at, length);
    at += length;
    const std::int32_t id = length == 1 && (character[0] & 0x80) == 0 ? ascii_[static_cast<unsigned char>(character[0])]
                                                                      : vocabulary_.find(character);
    if (id >= 0) {
      if (std::exchange(unknown_waits, false)) symbols.push_back(unknown_);
      symbols.push_back(id);
      continue;
    }
    // An unknown character that waits to be joined by the next stands behind bytes that come between, as in the
    // library.
    if (byte_fallback_ && vocabulary_.append_bytes(character, symbols)) continue;
    if (!has_unknown_ || unknown_ < 0) throw_unknown(character);
    if (unknown_waits && !fuse_unknown_) symbols.push_back(unknown_);
    unknown_waits = true;
  }
  if (unknown_waits) symbols.push_back(unknown_);
  return symbols;
}

void BytePairEncoding::merge(std::vector<std::int32_t>& symbols, Watch& watch) const {
  // A doubly linked list of symbols, and the possible merges in a heap. A removed symbol's id is −1.
  const auto n = static_cast<std::int64_t>(symbols.size());
  std::vector<std::int64_t> previous(symbols.size()), next(symbols.size());
  const auto at = [](auto& list, std::int64_t i) -> auto& { return list[static_cast<std::size_t>(i)]; };
  struct Candidate {
    Merge merge;
    std::int64_t left;
    bool operator<(const Candidate& o) const {
      return merge.rank != o.merge.rank ? merge.rank > o.merge.rank : left > o.left;
    }
  };
  std::priority_queue<Candidate> candidates;
  const auto propose = [&](std::int64_t left) {
    if (left < 0 || at(next, left) >= n) return;
    if (const Merge* m = find_merge(at(symbols, left), at(symbols, at(next, left)))) candidates.push({*m, left});
  };
  for (std::int64_t i = 0; i < n; ++i) at(previous, i) = i - 1, at(next, i) = i + 1;
  for (std::int64_t i = 0; i < n; ++i) propose(i);
  while (!candidates.empty()) {
    watch.tick();
    const Candidate c = candidates.top();
    candidates.pop();
    if (at(symbols, c.left) < 0 || at(next, c.left) >= n) continue;
    const std::int64_t right = at(next, c.left);
    // Stale, unless the symbols of now become the same token: so the library has it, too.
    const Merge* now = find_merge(at(symbols, c.left), at(symbols, right));
    if (now == nullptr || now->id != c.merge.id) continue;
    at(symbols, c.left) = c.merge.id;
    at(symbols, right) = -1;
    at(next, c.left) = at(next, right);
    if (at(next, right) < n) at(previous, at(next, right)) = c.left;
    propose(at(previous, c.left));
    propose(c.left);
  }
  std::erase(symbols, -1);
}

void BytePairEncoding::encode(std::string_view word, std::vector<std::int32_t>& ids, Watch& watch) const {
  if (whole_words_first_)
    if (const std::int32_t id = vocabulary_.find(word); id >= 0) return ids.push_back(id);
  std::vector<std::int32_t> symbols = characters(word);
  merge(symbols, watch);
  ids.insert(ids.end(), symbols.begin(), symbols.end());
}

}  // namespace nibble::inline NIBBLE_ABI::text
