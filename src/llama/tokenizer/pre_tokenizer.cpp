#include "llama/tokenizer/pre_tokenizer.h"

#include <utility>

#include "llama/tokenizer/unicode.h"

namespace nibble::llama {

namespace {

/// Radford et al. 2019: English contractions, then words, numbers and other signs with the space before them; of
/// several spaces the last belongs to what follows.
constexpr const char* kGpt2Pattern = R"('(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

PreTokenizer read_byte_level(const Json& d) {
  const bool prefix = flag(d, "add_prefix_space", true);
  // The regex is shared, not copied: a std::function must be copyable.
  const auto regex = flag(d, "use_regex", true) ? std::make_shared<const Regex>(kGpt2Pattern) : nullptr;
  return [prefix, regex](const std::string& piece, const std::function<void(std::string)>& out) {
    std::string text = prefix && !piece.starts_with(' ') ? " " + piece : piece;
    if (!regex) return out(std::move(text));
    regex->split(text, [&](std::string part, bool) { out(std::move(part)); });
  };
}

/// A literal string as a pattern that matches it.
std::string quoted(const std::string& literal) {
  std::string pattern;
  for (const char c : literal) {
    if (c != '\0' && std::string_view(R"(\^$.|?*+()[]{}#-&~ )").find(c) != std::string_view::npos) pattern += '\\';
    pattern += c;
  }
  return pattern;
}

PreTokenizer read_split(const Json& d) {
  const Json& pattern = member(d, "pattern");
  const auto regex = std::make_shared<const Regex>(
      pattern.is_object() && pattern.contains("Regex") ? text(pattern, "Regex") : quoted(text(pattern, "String")));
  const bool invert = flag(d, "invert");
  const std::string behavior = text(d, "behavior");
  if (behavior != "Isolated" && behavior != "Removed") throw_unsupported("behavior of Split", behavior);
  const bool keep_delimiters = behavior == "Isolated";
  return [regex, invert, keep_delimiters](const std::string& piece, const std::function<void(std::string)>& out) {
    regex->split(piece, [&](std::string part, bool is_match) {
      if (keep_delimiters || is_match == invert) out(std::move(part));
    });
  };
}

PreTokenizer read_digits(const Json& d) {
  const bool individual = flag(d, "individual_digits");
  return [individual](const std::string& piece, const std::function<void(std::string)>& out) {
    std::size_t begin = 0;
    bool in_number = false;
    for (std::size_t at = 0; at < piece.size();) {
      const std::size_t here = at;
      const bool number = is_number(character_at(piece, at));
      if (here > begin && (number != in_number || (number && individual))) {
        out(piece.substr(begin, here - begin));
        begin = here;
      }
      in_number = number;
    }
    if (begin < piece.size()) out(piece.substr(begin));
  };
}

bool read_steps(const Json& d, std::vector<PreTokenizer>& steps, int depth) {
  if (depth > 8) throw_bad_json("pre-tokenizers nest more than 8 deep");
  const std::string type = text(d, "type");
  bool to_bytes = false;
  if (type == "Sequence") {
    for (const Json& step : array(d, "pretokenizers")) {
      if (to_bytes) throw_unsupported("order of pre-tokenizers: a step after", "ByteLevel");
      to_bytes = read_steps(step, steps, depth + 1);
    }
  } else if (type == "ByteLevel") {
    steps.push_back(read_byte_level(d));
    to_bytes = true;
  } else if (type == "Split") {
    steps.push_back(read_split(d));
  } else if (type == "Digits") {
    steps.push_back(read_digits(d));
  } else {
    throw_unsupported("pre-tokenizer", type);
  }
  return to_bytes;
}

void run_from(const std::vector<PreTokenizer>& steps, std::size_t step, std::string text,
              const std::function<void(std::string)>& word) {
  if (step == steps.size()) return word(std::move(text));
  steps[step](text, [&](std::string part) { run_from(steps, step + 1, std::move(part), word); });
}

}  // namespace

std::vector<PreTokenizer> read_pre_tokenizer(const Json& description) {
  if (description.is_null()) throw_unsupported("pre-tokenizer", "null");
  std::vector<PreTokenizer> steps;
  if (!read_steps(description, steps, 0))
    throw_unsupported("pre-tokenizer without ByteLevel:", text(description, "type"));
  return steps;
}

void pre_tokenize(const std::vector<PreTokenizer>& steps, std::string text,
                  const std::function<void(std::string)>& word) {
  run_from(steps, 0, std::move(text), word);
}

}  // namespace nibble::llama
