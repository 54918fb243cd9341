// rank_pattern and alpha_pattern of adapter_config.json: numbers by regular expressions on the layers' names.
//
// A key K holds for the names that `(.*\.)?(K)$` matches from their start, and of several the first in the file's order
// counts (peft 0.21.2, get_pattern_key of utils/other.py). Most files have plain names for keys, hundreds of them:
// those are compared without an automaton.
#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "format/pattern.h"

namespace nibble::inline NIBBLE_ABI::model {

class AdapterPatterns {
 public:
  /// `object` is checked by the caller: an object of numbers. Error{unsupported} quotes a key that Pattern does not
  /// know; `place` says which file and object it is in.
  AdapterPatterns(const nlohmann::ordered_json& object, const std::string& place);
  /// Error{unsupported} where to match so many names would take unreasonably long.
  void check_work(std::size_t names, std::size_t bytes, const std::string& place) const;
  [[nodiscard]] std::optional<double> find(std::string_view layer) const;

 private:
  struct Rule {
    std::string letters;                     ///< Of a plain name; kAny for any letter.
    bool whole = false;                      ///< It began with '^': nothing may stand before it.
    std::optional<format::Pattern> pattern;  ///< Of any other.
    double value = 0;
  };
  static std::optional<Rule> plain(std::string_view key);

  std::vector<Rule> rules_;
  double steps_ = 0;  ///< Of all automata together.
};

}  // namespace nibble::inline NIBBLE_ABI::model
