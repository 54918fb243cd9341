// The component "normalizer" of tokenizer.json: text into text, before it is cut into words.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "json.h"
#include "watch.h"

namespace nibble::inline NIBBLE_ABI::text {

using Normalizer = std::function<std::string(std::string text, Watch& watch)>;

/// In the order in which they apply; empty for null. Error{unsupported} names one that is not known.
std::vector<Normalizer> read_normalizers(const Json& description);

}  // namespace nibble::inline NIBBLE_ABI::text
