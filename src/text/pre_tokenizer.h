// The component "pre_tokenizer" of tokenizer.json: text into the words that the model works on.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "json.h"
#include "watch.h"

namespace nibble::inline NIBBLE_ABI::text {

struct Piece {
  std::string text;
  bool at_start = false;  ///< Of the whole text: some put a space before that only.
};
using PieceSink = std::function<void(Piece)>;

/// One step: a piece into smaller ones, in order. None is empty.
using PreTokenizer = std::function<void(Piece piece, const PieceSink& out, Watch& watch)>;

/// In the order in which they apply; empty for null. Error{unsupported} names one that is not known.
std::vector<PreTokenizer> read_pre_tokenizers(const Json& description);

/// All steps, one after another.
void pre_tokenize(const std::vector<PreTokenizer>& steps, Piece piece, const std::function<void(std::string)>& word,
                  Watch& watch);

}  // namespace nibble::inline NIBBLE_ABI::text
