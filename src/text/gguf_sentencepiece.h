// SentencePiece's BPE as tokenizer.json writes it (Llama 2, Mistral, Gemma), turned back into the scores that GGUF
// wants.
//
// SentencePiece merges any two neighbours whose union is a token, the best score first. tokenizer.json lists the
// merges, the best first. The two say the same if the list holds every way to make each token, and all ways to make one
// token stand together: then the score is minus the place of the first of them.
#pragma once

#include <string>
#include <string_view>
#include <unordered_map>

#include "json.h"

namespace nibble::inline NIBBLE_ABI::text {

/// Of tokens that nothing is merged into, as llama.cpp's converter has it for padding.
inline constexpr float kUnmergedScore = -1000000;

/// Whether a token is "<0x4F>" or the like.
bool is_byte_token(std::string_view token);

/// Scores of the tokens that merges make. Error{unsupported} names the token for which no score says the same as the
/// merges. `description`: tokenizer.json.
std::unordered_map<std::string, float> scores_of_merges(const Json& description);

/// Whether a space is put before a text: in GGUF before every one, where Metaspace leaves out the one before a text
/// that begins with a space itself (llama.cpp's converter takes the same step). Error{unsupported} if normalizer and
/// pre-tokenizer are none of those that SentencePiece's BPE is written as.
bool adds_space_prefix(const Json& description);

}  // namespace nibble::inline NIBBLE_ABI::text
