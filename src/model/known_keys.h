// Keys that change what a model computes elsewhere and that this engine does not honour, or only in some architectures:
// a file may hold them, but otherwise only with the value that changes nothing. The keys that are honoured are those
// that Config::parse and the GGUF reader take.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "nibble/model/architecture.h"

namespace nibble::inline NIBBLE_ABI::model {

/// A value of either file: null, a flag, a number, or text. Lists and objects are false where they are empty, and
/// else text that no row of the table takes for neutral.
using PlainValue = std::variant<std::monostate, bool, double, std::string>;

/// What the keys of a file are called, in the order of the table's columns.
enum class KeyStyle { config_json, rope_parameters, gguf };

/// Calls `refuse` with the key and why, for the first key whose value is not neutral and which this architecture does
/// not honour either. `find` gives nothing for a key that is not there; a GGUF key is asked for without its
/// architecture.
void check_known_keys(KeyStyle style, const Architecture& architecture,
                      const std::function<std::optional<PlainValue>(std::string_view key)>& find,
                      const std::function<void(std::string_view key, const std::string& why)>& refuse);

}  // namespace nibble::inline NIBBLE_ABI::model
