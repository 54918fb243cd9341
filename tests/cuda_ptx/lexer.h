// PTX as words and punctuation.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace nibble::cuda_ptx {

/// One word (opcodes and registers with their dots: "ld.global.u32", "%tid.x", "$L__BB0_1", "0f3F800000") or one
/// character of punctuation.
struct Token {
  std::string text;
  [[nodiscard]] bool is(std::string_view what) const { return text == what; }
  [[nodiscard]] bool is_word() const;
};

/// Without comments and strings' contents.
std::vector<Token> tokenize(std::string_view text);

}  // namespace nibble::cuda_ptx
