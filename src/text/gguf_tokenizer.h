// Tokenizers as GGUF's metadata (tokenizer.ggml.*) hold them.
//
// Byte-level BPE is the model "gpt2": tokens in the byte alphabet of tokenizer.json, merges as "left right", and the
// name of the pre-tokenizer. SentencePiece's BPE is "llama": pieces, scores, types. A model over plain bytes (the
// embedded one) is a "gpt2" vocabulary of the 256 bytes in order and no merges: llama.cpp cuts text into words, finds
// nothing to merge, and gives each byte its token, which is the byte's value.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "nibble/format/gguf.h"

namespace nibble::inline NIBBLE_ABI::text {

/// What a model's configuration says of its tokens.
struct ModelTokens {
  std::size_t vocab = 0;
  std::optional<std::int32_t> bos = {};
  std::vector<std::int32_t> eos = {};
};

/// The keys for the tokenizer of a model directory, its tokens padded with unused ones to tokens.vocab.
/// Error{not_found} if it has none; Error{unsupported} for a tokenizer that llama.cpp has no name for.
GgufMetadata tokenizer_metadata(const std::filesystem::path& model, const ModelTokens& tokens);

/// The other way: names and contents of the files that say in a model directory what a GGUF file's metadata does:
/// tokenizer.json or tokenizer.model, and tokenizer_config.json. Errors as load_tokenizer.
std::vector<std::pair<std::string, std::string>> tokenizer_files(const std::filesystem::path& gguf);

}  // namespace nibble::inline NIBBLE_ABI::text
