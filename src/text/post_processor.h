// The component "post_processor" of tokenizer.json: special tokens before and after a text.
#pragma once

#include <cstdint>
#include <vector>

#include "json.h"

namespace nibble::inline NIBBLE_ABI::text {

struct TokensAround {
  std::vector<std::int32_t> before, after;
};

/// Of one text alone, not of a pair. Error{unsupported} names a post-processor that is not known.
TokensAround read_post_processor(const Json& description);

}  // namespace nibble::inline NIBBLE_ABI::text
