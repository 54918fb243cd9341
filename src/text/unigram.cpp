#include "unigram.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "best_path.h"

namespace nibble::inline NIBBLE_ABI::text {

Unigram::Unigram(const Json& model)
    : lowest_(std::numeric_limits<double>::infinity()), byte_fallback_(flag(model, "byte_fallback")) {
  const Json& list = array(model, "vocab");
  vocabulary_.reserve(list.size());
  for (const Json& entry : list) {
    const std::string place = "token " + std::to_string(scores_.size());
    if (!entry.is_array() || entry.size() != 2 || !entry[0].is_string() || !entry[1].is_number())
      throw_bad_json(place + " of a unigram model must be [text, score]");
    const auto score = entry[1].get<double>();
    if (!std::isfinite(score)) throw_bad_json(place + " has the score " + entry[1].dump());
    vocabulary_.add(entry[0].get<std::string>(), static_cast<std::int32_t>(scores_.size()));
    scores_.push_back(score);
    lowest_ = std::min(lowest_, score);
  }
  std::vector<std::pair<std::string_view, std::uint32_t>> entries;
  entries.reserve(scores_.size());
  for (std::size_t i = 0; i < scores_.size(); ++i) {
    const std::string& token = *vocabulary_.find(static_cast<std::int32_t>(i));
    // Of a repeated token the last counts.
    entries.emplace_back(token, static_cast<std::uint32_t>(vocabulary_.find(token)));
  }
  tokens_ = PrefixIndex(std::move(entries));
  if (member(model, "unk_id").is_null()) return;
  if (const std::size_t id = count(model, "unk_id"); id < scores_.size()) unknown_ = static_cast<std::int32_t>(id);
  else throw_bad_json("\"unk_id\" is " + std::to_string(id) + " of " + std::to_string(scores_.size()) + " tokens");
}

void Unigram::append_unknown(std::string_view run, std::vector<std::int32_t>& ids) const {
  if (const std::int32_t id = vocabulary_.find(run); id >= 0) return ids.push_back(id);
  if (byte_fallback_ && vocabulary_.append_bytes(run, ids)) return;
  ids.push_back(unknown_);
}

void Unigram::encode(std::string_view word, std::vector<std::int32_t>& ids, Watch& watch) const {
  constexpr double kUnknownPenalty = 10;
  const auto each_piece = [&](std::string_view rest, auto&& found) {
    tokens_.each_prefix(
        rest, [&](std::size_t length, std::uint32_t id) { found(length, static_cast<std::int32_t>(id), scores_[id]); });
  };
  std::size_t run = word.size();  // where the unknown characters began that have not been given out
  for (const PathStep& step : best_path<double>(word, unknown_, lowest_ - kUnknownPenalty, each_piece, watch)) {
    if (step.id < 0) throw_unknown(word.substr(step.begin, step.end - step.begin));
    if (step.id == unknown_) {
      run = std::min(run, step.begin);
      continue;
    }
    if (run < step.begin) append_unknown(word.substr(run, step.begin - run), ids);
    run = word.size();
    ids.push_back(step.id);
  }
  if (run < word.size()) append_unknown(word.substr(run), ids);
}

}  // namespace nibble::inline NIBBLE_ABI::text
