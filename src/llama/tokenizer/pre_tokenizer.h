// Cutting text into the words that byte-pair encoding works on.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "llama/tokenizer/json.h"

namespace nibble::llama {

/// One step: a piece of text into smaller pieces, in order.
using PreTokenizer = std::function<void(const std::string& piece, const std::function<void(std::string)>& out)>;

/// The steps of "pre_tokenizer": ByteLevel, Split, Digits, and sequences of them. Error{unsupported} for others, and
/// for a chain without ByteLevel, whose words are not bytes.
std::vector<PreTokenizer> read_pre_tokenizer(const Json& description);

/// All steps, one after another.
void pre_tokenize(const std::vector<PreTokenizer>& steps, std::string text,
                  const std::function<void(std::string)>& word);

}  // namespace nibble::llama
