// The component "decoder" of tokenizer.json: tokens, as the vocabulary writes them, back into text.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "json.h"

namespace nibble::inline NIBBLE_ABI::text {

using Decoder = std::function<std::vector<std::string>(std::vector<std::string> tokens)>;

/// In the order in which they apply; what the last gives is joined. Empty for null, which the tokenizers library joins
/// with spaces. Error{unsupported} names one that is not known.
std::vector<Decoder> read_decoders(const Json& description);

}  // namespace nibble::inline NIBBLE_ABI::text
