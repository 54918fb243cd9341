// What load_tokenizer() chooses from. Each throws Error{unsupported} for a file that is another kind's.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "json.h"
#include "nibble/text/tokenizer.h"
#include "sentencepiece_model.h"

namespace nibble::inline NIBBLE_ABI::text {

/// Ids are the text's bytes.
std::unique_ptr<Tokenizer> make_byte_tokenizer();
/// tokenizer.json.
std::unique_ptr<Tokenizer> load_json_tokenizer(const std::filesystem::path& file);
/// The same as a document.
std::unique_ptr<Tokenizer> make_json_tokenizer(const Json& description);
/// Whether encode() puts the begin-of-sequence token before a text, and the end-of-sequence token behind it, when asked
/// for special tokens.
struct AddedAround {
  bool bos = true, eos = false;
};
/// What tokenizer_config.json says about that: "add_bos_token", "add_eos_token".
AddedAround read_added_around(const Json& tokenizer_config);
/// tokenizer.model.
std::unique_ptr<Tokenizer> load_sentencepiece_tokenizer(const std::filesystem::path& file, AddedAround around);
/// The same, parsed; `name` is for messages.
std::unique_ptr<Tokenizer> make_sentencepiece_tokenizer(SentencePieceModel model, const std::string& name,
                                                        AddedAround around);
/// The tokenizer in a .gguf file's metadata (tokenizer.ggml.*).
std::unique_ptr<Tokenizer> load_gguf_tokenizer(const std::filesystem::path& file);

}  // namespace nibble::inline NIBBLE_ABI::text
