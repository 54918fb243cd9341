// Text from files, made harmless to show. A tensor's name can hold the sequences that move a terminal's cursor, rename
// its window or turn the reading direction around; shown as they are, a hostile file writes what it likes on the
// screen and into logs. Error's constructor passes every message through printable().
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "nibble/core/abi.h"

namespace nibble::inline NIBBLE_ABI {

/// A code point and its length in bytes: length 0 where the text does not begin with valid UTF-8.
struct Utf8Character {
  std::size_t length = 0;
  std::uint32_t code = 0;
};

inline Utf8Character first_character(std::string_view text) {
  if (text.empty()) return {};
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const std::size_t length = byte(0) < 0x80             ? 1
                             : (byte(0) & 0xe0) == 0xc0 ? 2
                             : (byte(0) & 0xf0) == 0xe0 ? 3
                             : (byte(0) & 0xf8) == 0xf0 ? 4
                                                        : 0;
  if (length == 0 || length > text.size()) return {};
  std::uint32_t code = length == 1 ? byte(0) : byte(0) & (0xffu >> (length + 1));
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return {};
    code = code << 6 | (byte(i) & 0x3fu);
  }
  constexpr std::uint32_t least[] = {0, 0, 0x80, 0x800,
                                     0x10000};  // shorter forms say it, too: those are the valid ones
  if (code < least[length] || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) return {};
  return {length, code};
}

inline bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    const std::size_t length = first_character(text).length;
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

enum class TextKind {
  line,   ///< Part of a message: one line, nothing that acts.
  prose,  ///< What a model wrote: line ends, tabs and the marks of right-to-left scripts stay.
};

/// Whether showing this code point does something other than to show a character: controls (C0, DEL, C1), line and
/// paragraph separators, and what sets the direction of writing.
constexpr bool acts_on_terminal(std::uint32_t code, TextKind kind = TextKind::line) {
  if (kind == TextKind::prose && (code == '\n' || code == '\t' || code == 0x200e || code == 0x200f || code == 0x061c))
    return false;
  return code < 0x20 || (code >= 0x7f && code <= 0x9f) || code == 0x061c || code == 0x200e || code == 0x200f ||
         (code >= 0x2028 && code <= 0x202e) || (code >= 0x2066 && code <= 0x2069);
}

/// `text` with all of those written as \x1b or \u202e, and bytes that are no UTF-8 as \xff. A second pass changes
/// nothing.
inline std::string printable(std::string_view text, TextKind kind = TextKind::line) {
  constexpr const char* digits = "0123456789abcdef";
  std::string out;
  out.reserve(text.size());
  const auto escape = [&](char letter, std::uint32_t code, int nibbles) {
    out += '\\';
    out += letter;
    for (int shift = 4 * (nibbles - 1); shift >= 0; shift -= 4) out += digits[code >> shift & 15];
  };
  while (!text.empty()) {
    const auto [length, code] = first_character(text);
    if (length == 0) escape('x', static_cast<unsigned char>(text[0]), 2);
    else if (!acts_on_terminal(code, kind)) out += text.substr(0, length);
    else if (code < 0x80) escape('x', code, 2);
    else escape('u', code, 4);
    text.remove_prefix(length == 0 ? 1 : length);
  }
  return out;
}

}  // namespace nibble::inline NIBBLE_ABI
