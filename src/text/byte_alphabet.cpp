#include "byte_alphabet.h"

#include <array>

#include "unicode.h"

namespace nibble::inline NIBBLE_ABI::text {

namespace {

/// The bytes of Latin-1 that print stand for themselves, the other 68 follow from U+0100 on, in order.
constexpr std::array<char32_t, 256> make_byte_alphabet() {
  std::array<char32_t, 256> alphabet{};
  char32_t next = 0x100;
  for (char32_t b = 0; b < 256; ++b) {
    const bool prints = (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
    alphabet[b] = prints ? b : next++;
  }
  return alphabet;
}
constexpr auto kByteAlphabet = make_byte_alphabet();

void append_written(char byte, std::string& out) {
  const char32_t c = kByteAlphabet[static_cast<unsigned char>(byte)];  // below U+0800
  if (c < 0x80) {
    out.push_back(static_cast<char>(c));
  } else {
    out.push_back(static_cast<char>(0xC0 | c >> 6));
    out.push_back(static_cast<char>(0x80 | (c & 0x3F)));
  }
}

}  // namespace

std::string written_byte(unsigned char byte) {
  std::string out;
  append_written(static_cast<char>(byte), out);
  return out;
}

std::string written_bytes(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size() + bytes.size() / 4);
  for (const char b : bytes) append_written(b, out);
  return out;
}

std::string bytes_of_written(std::string_view written) {
  static constexpr auto byte_of = [] {
    std::array<int, 0x144> table{};
    table.fill(-1);
    for (int b = 0; b < 256; ++b) table[kByteAlphabet[static_cast<std::size_t>(b)]] = b;
    return table;
  }();
  std::string bytes;
  for (std::size_t i = 0; i < written.size();) {
    const char32_t c = character_at(written, i);
    if (c >= byte_of.size() || byte_of[c] < 0) return std::string(written);
    bytes.push_back(static_cast<char>(byte_of[c]));
  }
  return bytes;
}

}  // namespace nibble::inline NIBBLE_ABI::text
