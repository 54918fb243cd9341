#include "adapter_patterns.h"

#include "nibble/core/error.h"

namespace nibble::inline NIBBLE_ABI::model {

namespace {

constexpr char kAny = '\0';  // is_name_letter() is false for it

bool is_name_letter(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == '-';
}

}  // namespace

std::optional<AdapterPatterns::Rule> AdapterPatterns::plain(std::string_view key) {
  Rule out;
  if (key.starts_with('^')) {
    out.whole = true;
    key.remove_prefix(1);
  }
  for (std::size_t i = 0; i < key.size(); ++i) {
    if (is_name_letter(key[i])) {
      out.letters += key[i];
    } else if (key[i] == '.') {
      out.letters += kAny;
    } else if (key[i] == '\\' && i + 1 < key.size() && key[i + 1] == '.') {
      out.letters += '.';
      ++i;
    } else {
      return std::nullopt;
    }
  }
  return out;
}

AdapterPatterns::AdapterPatterns(const nlohmann::ordered_json& object, const std::string& place) {
  for (const auto& [key, value] : object.items()) {
    auto rule = plain(key);
    if (!rule) {
      rule.emplace();
      try {
        rule->pattern.emplace("(.*\\.)?(" + key + ")$");
      } catch (const Error& e) {
        throw Error(e.code(), place + ": " + e.what());
      }
      // A repetition {m,n} may make far more steps than it has letters; 20000 are the most that a Pattern has.
      steps_ += key.find('{') == std::string::npos ? static_cast<double>(key.size()) + 8 : 20000;
    }
    rule->value = value.get<double>();
    rules_.push_back(*std::move(rule));
  }
}

void AdapterPatterns::check_work(std::size_t names, std::size_t bytes, const std::string& place) const {
  constexpr double most = 5e8;  // a second
  if (steps_ * static_cast<double>(bytes) + 8 * static_cast<double>(names) * static_cast<double>(rules_.size()) > most)
    throw Error(ErrorCode::unsupported, place + " has " + std::to_string(rules_.size()) +
                                            " patterns, and the adapter " + std::to_string(names) +
                                            " layers: too much to match; patterns that are names are matched faster");
}

std::optional<double> AdapterPatterns::find(std::string_view layer) const {
  const auto matches = [&](const Rule& rule) {
    if (rule.pattern) return rule.pattern->matches_start(layer);
    if (rule.letters.size() > layer.size()) return false;
    const std::size_t start = layer.size() - rule.letters.size();
    if (start > 0 && (rule.whole || layer[start - 1] != '.')) return false;
    for (std::size_t i = layer.size() - start; i-- > 0;) {
      const char c = layer[start + i];
      if (rule.letters[i] == kAny ? c == '\n' : rule.letters[i] != c) return false;
    }
    return layer.substr(0, start).find('\n') == std::string_view::npos;
  };
  for (const Rule& rule : rules_)
    if (matches(rule)) return rule.value;
  return std::nullopt;
}

}  // namespace nibble::inline NIBBLE_ABI::model
