// --skip and --only: which linear layers a run is about, by patterns as the field writes them.
//
//   down_proj, mlp, layers.0     a name: all layers that have it in theirs, from one dot to another
//   layers.[0-3].*_proj          a glob, with * ? and [ ], placed like a name
//   re:layers\.[0-9]\.           a regular expression, found anywhere; one without "re:" is known by its \ ^ $ ( ) | +
//   { }
#pragma once

#include <string>
#include <vector>

#include "format/pattern.h"

namespace nibble::inline NIBBLE_ABI::model {

class LayerSelection {
 public:
  /// `layers` are the model's. Error{invalid_argument} for a pattern that holds for none of them shows the nearest
  /// names; Error{unsupported} for an expression that Pattern does not know. Heads may always be skipped.
  LayerSelection(const std::vector<std::string>& skip, const std::vector<std::string>& only,
                 const std::vector<std::string>& layers, std::vector<std::string> heads = {"lm_head"});
  /// Not skipped, and one of `only` if there are any. A head, which is asked for by itself, need not be one of them.
  [[nodiscard]] bool contains(const std::string& layer) const;

 private:
  std::vector<format::Pattern> skip_, only_;
  std::vector<std::string> heads_;
};

}  // namespace nibble::inline NIBBLE_ABI::model
