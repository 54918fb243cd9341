// tokenizer.json is built of components named by their "type". A kind of component is a table, one row for each type
// that is known; "Sequence" is a list of components of the same kind.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "json.h"

namespace nibble::inline NIBBLE_ABI::text {

template <class Step>
struct Component {
  std::string_view type;
  Step (*read)(const Json& description);
};

/// The steps that a description stands for, appended to `steps`; none for null. `list`: the member that holds a
/// Sequence's components. Error{unsupported} names the type that is not in the table.
template <class Step>
void read_components(const Json& description, const char* kind, const char* list,
                     std::span<const Component<Step>> table, std::vector<Step>& steps, int depth = 0) {
  if (description.is_null()) return;
  if (depth > 8) throw_bad_json(std::string(kind) + "s nest more than 8 deep");
  const std::string type = text(description, "type");
  if (type == "Sequence") {
    for (const Json& step : array(description, list)) read_components(step, kind, list, table, steps, depth + 1);
    return;
  }
  std::string known;
  for (const Component<Step>& c : table) {
    if (c.type == type) return steps.push_back(c.read(description));
    known += (known.empty() ? "" : ", ") + std::string(c.type);
  }
  throw_unsupported(kind, type, known);
}

/// Whether a description is, or holds, a component of this type.
inline bool has_component(const Json& description, const char* list, std::string_view type, int depth = 0) {
  if (!description.is_object() || depth > 8) return false;
  if (member(description, "type") == type) return true;
  const Json& steps = member(description, list);
  if (!steps.is_array()) return false;
  for (const Json& step : steps)
    if (has_component(step, list, type, depth + 1)) return true;
  return false;
}

/// A "pattern": {"String": …} or {"Regex": …}, as a regular expression.
std::string read_pattern(const Json& description);

}  // namespace nibble::inline NIBBLE_ABI::text
