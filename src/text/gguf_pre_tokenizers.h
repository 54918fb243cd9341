// The pre-tokenizers that GGUF names, and what tokenizer.json says in their place.
#pragma once

#include <string>
#include <string_view>

#include "json.h"

namespace nibble::inline NIBBLE_ABI::text {

/// A pre-tokenizer that llama.cpp knows, as tokenizer.json describes it.
struct KnownPreTokenizer {
  const char* name;
  const char* description;  ///< JSON.
  const char* normalizer;   ///< JSON.
  bool ignore_merges;
};

/// That whose name this is; null if there is none.
const KnownPreTokenizer* find_pre_tokenizer(std::string_view name);
/// That which tokenizer.json describes. Error{unsupported} if llama.cpp has no name for it.
const KnownPreTokenizer& known_pre_tokenizer(const Json& description, const Json& normalizer);
/// "gpt-2, llama-bpe, …", for messages.
std::string pre_tokenizer_names();

}  // namespace nibble::inline NIBBLE_ABI::text
