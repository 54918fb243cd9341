// What load_tokenizer() chooses from. Each throws Error{unsupported} for a file that is another kind's.
#pragma once

#include <filesystem>
#include <memory>

#include "nibble/llama/tokenizer.h"

namespace nibble::llama {

/// tokenizer.json.
std::unique_ptr<Tokenizer> load_bpe_tokenizer(const std::filesystem::path& file);
/// tokenizer.model. `add_bos`: encode() puts the begin-of-sequence token before the text when asked for special tokens.
std::unique_ptr<Tokenizer> load_sentencepiece_tokenizer(const std::filesystem::path& file, bool add_bos);

}  // namespace nibble::llama
