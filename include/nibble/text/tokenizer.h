// Text to token ids and back, from the files that a Hugging Face model directory holds.
//
//   auto tokenizer = nibble::text::load_tokenizer("path/to/model");
//   auto ids = tokenizer->encode("Hello");
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "nibble/core/progress.h"

namespace nibble::inline NIBBLE_ABI::text {

/// Immutable: several threads may use one.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  /// The ids of `text`. `special` adds those that the model expects around it, such as a begin-of-sequence token.
  /// Error{invalid_argument} names the place where the text is not UTF-8 (a ByteTokenizer takes any bytes).
  /// `progress` is asked now and then whether to go on, also within a regular expression; Error{cancelled} if not.
  /// Error{unsupported} for an expression of the file's that would backtrack without end.
  [[nodiscard]] virtual std::vector<std::int32_t> encode(std::string_view text, bool special = true,
                                                         const Progress& progress = {}) const = 0;
  /// The text of `ids`, special tokens written out. A character cut in two stays cut: bytes are joined, not checked.
  /// Error{invalid_argument} for an id that the vocabulary does not hold.
  [[nodiscard]] virtual std::string decode(std::span<const std::int32_t> ids) const = 0;
};

/// The tokenizer of a model directory or .gguf file. Of a directory the first of:
///   tokenizer_config.json with the class "ByteTokenizer"   ids are the text's bytes (the embedded model)
///   tokenizer.json with a BPE or unigram model             GPT-2, Llama 2 and 3, Mistral, Gemma, Qwen2, SmolLM2, T5
///   tokenizer.model                                        SentencePiece, BPE or unigram
/// A tokenizer.json with a part that is not known gives way to a tokenizer.model beside it.
/// Of a file, by its metadata: "gpt2" (byte-level BPE with one of the pre-tokenizers gpt-2, llama-bpe, qwen2, smollm)
/// and "llama" (SentencePiece). Error{not_found} if there is none, Error{unsupported} naming the part of a
/// tokenizer.json that this library does not know, Error{corrupt_file} for a file that breaks its rules.
std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& model);

/// Text as it grows token by token: gives out whole characters only.
class TextStream {
 public:
  /// `prompt`: the tokens that the text continues, for whether a space stands between.
  explicit TextStream(const Tokenizer& tokenizer, std::span<const std::int32_t> prompt = {});
  /// What `id` adds to the text; empty while a character is still cut.
  std::string next(std::int32_t id);

 private:
  const Tokenizer& tokenizer_;
  std::vector<std::int32_t> ids_;  ///< The last tokens given out, for their effect on spaces, then those not yet.
  std::size_t given_ = 0;          ///< How many of ids_ have been given out.
};

}  // namespace nibble::inline NIBBLE_ABI::text
