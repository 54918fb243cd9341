#include "pre_tokenizer.h"

#include <array>
#include <memory>
#include <utility>

#include "byte_alphabet.h"
#include "components.h"
#include "unicode.h"

namespace nibble::inline NIBBLE_ABI::text {

namespace {

/// Radford et al. 2019: English contractions, then words, numbers and other signs with the space before them; of
/// several spaces the last belongs to what follows.
constexpr const char* kGpt2Pattern = R"('(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

/// What becomes of the matches that a text is cut at.
enum class Behavior { isolated, removed, merged_with_previous, merged_with_next, contiguous };

Behavior read_behavior(const Json& d, const char* otherwise) {
  static constexpr std::array<std::pair<std::string_view, Behavior>, 5> kBehaviors{
      {{"Isolated", Behavior::isolated},
       {"Removed", Behavior::removed},
       {"MergedWithPrevious", Behavior::merged_with_previous},
       {"MergedWithNext", Behavior::merged_with_next},
       {"Contiguous", Behavior::contiguous}}};
  const std::string name = otherwise != nullptr && member(d, "behavior").is_null() ? otherwise : text(d, "behavior");
  std::string known;
  for (const auto& [key, behavior] : kBehaviors) {
    if (key == name) return behavior;
    known += (known.empty() ? "" : ", ") + std::string(key);
  }
  throw_unsupported("behavior of a pre-tokenizer,", name, known);
}

/// Takes the matches and gaps of a piece in order, and gives out what the behaviour makes of them.
class Cutter {
 public:
  Cutter(Behavior behavior, bool at_start, const PieceSink& out)
      : behavior_(behavior), at_start_(at_start), out_(out) {}

  void add(std::string part, bool is_match) {
    if (part.empty()) return;
    switch (behavior_) {
      case Behavior::isolated: give(std::move(part)); break;
      case Behavior::removed:
        if (is_match) at_start_ = false;
        else give(std::move(part));
        break;
      case Behavior::contiguous: hold(std::move(part), is_match == previous_); break;
      case Behavior::merged_with_previous: hold(std::move(part), is_match && !previous_); break;
      case Behavior::merged_with_next: hold(std::move(part), !is_match && previous_); break;
    }
    previous_ = is_match;
  }
  void finish() {
    if (!held_.empty()) give(std::exchange(held_, {}));
  }

 private:
  void give(std::string part) { out_({std::move(part), std::exchange(at_start_, false)}); }
  /// Keeps a part that the next one may join.
  void hold(std::string part, bool joins) {
    if (!joins) finish();
    held_ += part;
  }

  Behavior behavior_;
  bool at_start_, previous_ = false;
  const PieceSink& out_;
  std::string held_;
};

PreTokenizer split_by(std::shared_ptr<const Regex> regex, Behavior behavior, bool invert) {
  return [regex = std::move(regex), behavior, invert](const Piece& piece, const PieceSink& out, Watch& watch) {
    Cutter cutter(behavior, piece.at_start, out);
    regex->split(
        piece.text, [&](std::string part, bool is_match) { cutter.add(std::move(part), is_match != invert); }, watch);
    cutter.finish();
  };
}

/// Each character of a kind is a match.
template <class IsMatch>
void cut_at_characters(const Piece& piece, Behavior behavior, const PieceSink& out, IsMatch is_match) {
  Cutter cutter(behavior, piece.at_start, out);
  std::size_t begin = 0;
  for (std::size_t at = 0; at < piece.text.size();) {
    const std::size_t here = at;
    if (!is_match(character_at(piece.text, at))) continue;
    cutter.add(piece.text.substr(begin, here - begin), false);
    cutter.add(piece.text.substr(here, at - here), true);
    begin = at;
  }
  cutter.add(piece.text.substr(begin), false);
  cutter.finish();
}

template <class IsMatch>
PreTokenizer split_at(IsMatch is_match, Behavior behavior) {
  return [is_match, behavior](const Piece& piece, const PieceSink& out, Watch&) {
    cut_at_characters(piece, behavior, out, is_match);
  };
}

PreTokenizer read_byte_level(const Json& d) {
  const bool prefix = flag(d, "add_prefix_space", true);
  const auto regex = flag(d, "use_regex", true) ? std::make_shared<const Regex>(kGpt2Pattern) : nullptr;
  return [prefix, regex](const Piece& piece, const PieceSink& out, Watch& watch) {
    const bool add_space = prefix && !piece.text.empty() && piece.text.front() != ' ';
    const std::string text = (add_space ? " " : "") + piece.text;
    Cutter cutter(Behavior::isolated, piece.at_start, out);
    if (!regex) cutter.add(written_bytes(text), false);
    else
      regex->split(
          text, [&](const std::string& part, bool) { cutter.add(written_bytes(part), true); }, watch);
  };
}

PreTokenizer read_split(const Json& d) {
  return split_by(std::make_shared<const Regex>(read_pattern(d)), read_behavior(d, nullptr), flag(d, "invert"));
}

PreTokenizer read_digits(const Json& d) {
  return split_at(is_number, flag(d, "individual_digits") ? Behavior::isolated : Behavior::contiguous);
}

PreTokenizer read_punctuation(const Json& d) { return split_at(is_punctuation, read_behavior(d, "Isolated")); }

PreTokenizer read_whitespace(const Json& /*d*/) {
  return split_by(std::make_shared<const Regex>(R"(\w+|[^\w\s]+)"), Behavior::removed, true);
}

PreTokenizer read_whitespace_split(const Json& /*d*/) { return split_at(is_whitespace, Behavior::removed); }

/// One character that a component names.
std::string read_character(const Json& d, const char* key) {
  std::string s = text(d, key);
  std::size_t length = 0;
  if (!is_character(s, length) || length != s.size())
    throw_bad_json(std::string("\"") + key + "\" must be one character, not \"" + s + "\"");
  return s;
}

PreTokenizer read_delimiter(const Json& d) {
  const std::string s = read_character(d, "delimiter");
  std::size_t at = 0;
  const char32_t delimiter = character_at(s, at);
  return split_at([delimiter](char32_t c) { return c == delimiter; }, Behavior::removed);
}

enum class Prefix { always, first, never };

Prefix read_prefix(const Json& d) {
  const std::string scheme = member(d, "prepend_scheme").is_null() ? std::string("always") : text(d, "prepend_scheme");
  const bool add = flag(d, "add_prefix_space", true);
  if (scheme != "always" && scheme != "first" && scheme != "never")
    throw_unsupported("prepend_scheme of Metaspace,", scheme, "always, first, never");
  // Files from before prepend_scheme say only whether.
  if (!add && scheme != "never" && !member(d, "prepend_scheme").is_null())
    throw_bad_json("Metaspace has \"add_prefix_space\": false and \"prepend_scheme\": \"" + scheme + "\"");
  if (!add || scheme == "never") return Prefix::never;
  return scheme == "first" ? Prefix::first : Prefix::always;
}

/// A visible character for each space, and one before the text.
PreTokenizer read_metaspace(const Json& d) {
  const std::string symbol = read_character(d, "replacement");
  const Prefix prefix = read_prefix(d);
  const bool split = flag(d, "split", true);
  std::size_t at = 0;
  const char32_t character = character_at(symbol, at);
  return [symbol, prefix, split, character](const Piece& piece, const PieceSink& out, Watch& watch) {
    Piece replaced;
    replaced.at_start = piece.at_start;
    for (const char c : piece.text) {
      watch.tick();
      if (c == ' ') replaced.text += symbol;
      else replaced.text += c;
    }
    if (!replaced.text.starts_with(symbol) && (prefix == Prefix::always || (prefix == Prefix::first && piece.at_start)))
      replaced.text.insert(0, symbol);
    if (!split) return out(std::move(replaced));
    cut_at_characters(replaced, Behavior::merged_with_next, out, [&](char32_t c) { return c == character; });
  };
}

constexpr std::array<Component<PreTokenizer>, 8> kPreTokenizers{{
    {"ByteLevel", read_byte_level},
    {"Split", read_split},
    {"Digits", read_digits},
    {"Punctuation", read_punctuation},
    {"Whitespace", read_whitespace},
    {"WhitespaceSplit", read_whitespace_split},
    {"CharDelimiterSplit", read_delimiter},
    {"Metaspace", read_metaspace},
}};

void run_from(const std::vector<PreTokenizer>& steps, std::size_t step, Piece piece,
              const std::function<void(std::string)>& word, Watch& watch) {
  if (step == steps.size()) return word(std::move(piece.text));
  steps[step](
      std::move(piece), [&](Piece part) { run_from(steps, step + 1, std::move(part), word, watch); }, watch);
}

}  // namespace

std::vector<PreTokenizer> read_pre_tokenizers(const Json& description) {
  std::vector<PreTokenizer> steps;
  read_components<PreTokenizer>(description, "pre-tokenizer", "pretokenizers", kPreTokenizers, steps);
  return steps;
}

void pre_tokenize(const std::vector<PreTokenizer>& steps, Piece piece, const std::function<void(std::string)>& word,
                  Watch& watch) {
  run_from(steps, 0, std::move(piece), word, watch);
}

std::string read_pattern(const Json& d) {
  const Json& pattern = member(d, "pattern");
  if (pattern.is_object() && pattern.contains("Regex")) return text(pattern, "Regex");
  // A literal string as a pattern that matches it.
  std::string out;
  for (const char c : text(pattern, "String")) {
    if (c != '\0' && std::string_view(R"(\^$.|?*+()[]{}#-&~ )").find(c) != std::string_view::npos) out += '\\';
    out += c;
  }
  return out;
}

}  // namespace nibble::inline NIBBLE_ABI::text
