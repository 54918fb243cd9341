#include "layer_selection.h"

#include <algorithm>
#include <numeric>
#include <set>

#include "nibble/core/error.h"

namespace nibble::inline NIBBLE_ABI::model {

namespace {

constexpr std::string_view kRegexMark = "re:";

/// The regular expression of a glob; letters that mean something there are made plain.
std::string of_glob(std::string_view glob) {
  std::string out;
  for (std::size_t i = 0; i < glob.size(); ++i) {
    const char c = glob[i];
    const std::size_t end = c == '[' ? glob.find(']', i + 1) : std::string_view::npos;
    if (end != std::string_view::npos) {
      const bool negated = glob[i + 1] == '!';
      out += (negated ? "[^" : "[") + std::string(glob.substr(i + 1 + (negated ? 1 : 0), end - i - (negated ? 1 : 0)));
      i = end;
    } else if (c == '*') {
      out += ".*";
    } else if (c == '?') {
      out += '.';
    } else {
      if (c == '.' || c == '[' || c == ']') out += '\\';
      out += c;
    }
  }
  return out;
}

format::Pattern compile(const std::string& pattern) {
  if (pattern.starts_with(kRegexMark)) return format::Pattern(".*(?:" + pattern.substr(kRegexMark.size()) + ")");
  if (pattern.find_first_of("\\^$()|+{}") != std::string::npos) return format::Pattern(".*(?:" + pattern + ")");
  return format::Pattern("(?:.*\\.)?" + of_glob(pattern) + "(?:\\..*)?$");
}

/// Letters to insert, drop or change (Levenshtein 1966).
std::size_t distance(const std::string& a, const std::string& b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 0; i < a.size(); ++i) {
    std::size_t corner = row[0]++;
    for (std::size_t j = 0; j < b.size(); ++j) {
      const std::size_t above = row[j + 1];
      row[j + 1] = std::min({above + 1, row[j] + 1, corner + (a[i] == b[j] ? 0 : 1)});
      corner = above;
    }
  }
  return row.back();
}

/// The three names, or parts of names, that are most like the pattern.
std::string nearest(const std::string& pattern, const std::vector<std::string>& layers) {
  const std::string wanted = pattern.starts_with(kRegexMark) ? pattern.substr(kRegexMark.size()) : pattern;
  std::set<std::string> names;
  for (const std::string& layer : layers) {
    names.insert(layer);
    for (std::size_t from = 0; from < layer.size();) {
      const std::size_t dot = std::min(layer.find('.', from), layer.size());
      if (dot - from > 2) names.insert(layer.substr(from, dot - from));
      from = dot + 1;
    }
  }
  std::vector<std::pair<std::size_t, std::string>> ranked;
  for (const std::string& name : names) ranked.emplace_back(distance(wanted.substr(0, 200), name), name);
  std::sort(ranked.begin(), ranked.end());
  std::string out;
  for (std::size_t i = 0; i < std::min<std::size_t>(3, ranked.size()); ++i)
    out += (i == 0 ? "'" : ", '") + ranked[i].second + "'";
  return out;
}

}  // namespace

LayerSelection::LayerSelection(const std::vector<std::string>& skip, const std::vector<std::string>& only,
                               const std::vector<std::string>& layers, std::vector<std::string> heads)
    : heads_(std::move(heads)) {
  const auto add = [&](const char* option, const std::string& pattern, std::vector<format::Pattern>& to) {
    const format::Pattern& p = to.emplace_back(compile(pattern));
    const auto matches = [&](const std::string& layer) { return p.matches_start(layer); };
    if (std::any_of(layers.begin(), layers.end(), matches)) return;
    if (option == std::string_view("skip") && std::any_of(heads_.begin(), heads_.end(), matches)) return;
    throw Error(ErrorCode::invalid_argument,
                std::string("the ") + option + " pattern '" + pattern +
                    "' matches no linear layer of the model; nearest: " + nearest(pattern, layers));
  };
  for (const std::string& pattern : skip) add("skip", pattern, skip_);
  for (const std::string& pattern : only) add("only", pattern, only_);
}

bool LayerSelection::contains(const std::string& layer) const {
  const auto matches = [&](const format::Pattern& p) { return p.matches_start(layer); };
  if (std::any_of(skip_.begin(), skip_.end(), matches)) return false;
  const bool head = std::find(heads_.begin(), heads_.end(), layer) != heads_.end();
  return only_.empty() || head || std::any_of(only_.begin(), only_.end(), matches);
}

}  // namespace nibble::inline NIBBLE_ABI::model
