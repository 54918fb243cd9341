// What load_tokenizer() chooses from. Each throws Error{unsupported} for a file that is another kind's.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "llama/tokenizer/json.h"
#include "nibble/llama/tokenizer.h"

namespace nibble::llama {

/// Ids are the text's bytes.
std::unique_ptr<Tokenizer> make_byte_tokenizer();
/// tokenizer.json.
std::unique_ptr<Tokenizer> load_bpe_tokenizer(const std::filesystem::path& file);
/// The same as a document.
std::unique_ptr<Tokenizer> make_bpe_tokenizer(const Json& description);
/// tokenizer.model. `add_bos`: encode() puts the begin-of-sequence token before the text when asked for special tokens.
std::unique_ptr<Tokenizer> load_sentencepiece_tokenizer(const std::filesystem::path& file, bool add_bos);
/// The bytes of a tokenizer.model; `name` is for messages.
std::unique_ptr<Tokenizer> make_sentencepiece_tokenizer(const std::string& model, const std::string& name,
                                                        bool add_bos);
/// The tokenizer in a .gguf file's metadata (tokenizer.ggml.*).
std::unique_ptr<Tokenizer> load_gguf_tokenizer(const std::filesystem::path& file);

}  // namespace nibble::llama
