// tokenizer.model: the fields of SentencePiece's protobuf that decide what text becomes.
//
//   ModelProto       1: pieces (repeated)   2: trainer   3: normalizer   5: denormalizer
//   SentencePiece    1: piece   2: score (float)   3: type
//   TrainerSpec      3: model type (1 unigram, 2 BPE)   24: white space as suffix   35: byte fallback
//                    40–43: ids of unk, bos, eos, pad   44: text of unk   46, 47: pieces of bos, eos
//   NormalizerSpec   1: name   2: character map   3: add dummy prefix   4: remove extra whitespace   5: escape
//   whitespace
// Source: sentencepiece_model.proto of SentencePiece.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "nibble/core/abi.h"

namespace nibble::inline NIBBLE_ABI::text {

/// Types of pieces, numbered alike in SentencePiece and in GGUF's tokenizer.ggml.token_type.
enum class TokenType : std::int32_t { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };

struct SentencePieceModel {
  struct Piece {
    std::string text;
    float score = 0;
    TokenType type = TokenType::normal;
  };
  struct Normalizer {
    std::string character_map;
    bool add_dummy_prefix = true, remove_extra_whitespace = true, escape_whitespace = true;
  };
  std::vector<Piece> pieces;
  bool is_bpe = false;
  std::int32_t unk = 0, bos = 1, eos = 2, pad = -1;
  std::string bos_piece = "<s>", eos_piece = "</s>", unk_surface = " \u2047 ";
  bool byte_fallback = false, whitespace_as_suffix = false;
  Normalizer normalizer, denormalizer;

  /// Error{corrupt_file} with the place where the bytes are no such message; Error{unsupported} for a model of whole
  /// words or of characters.
  static SentencePieceModel parse(std::string_view bytes, const std::string& name);
  /// Bytes that SentencePiece loads, and parse() takes back.
  [[nodiscard]] std::string serialize() const;
};

}  // namespace nibble::inline NIBBLE_ABI::text
