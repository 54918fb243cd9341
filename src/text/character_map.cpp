#include "character_map.h"

#include <array>
#include <utility>

#include "nibble/core/error.h"
#include "unicode.h"

namespace nibble::inline NIBBLE_ABI::text {

namespace {

constexpr bool has_value(std::uint32_t unit) { return (unit >> 8 & 1) != 0; }
constexpr std::uint32_t value_of(std::uint32_t unit) { return unit & 0x7fffffff; }
/// Compares unequal to every byte for a unit that is a value.
constexpr std::uint32_t label_of(std::uint32_t unit) { return unit & 0x800000ff; }
constexpr std::uint32_t offset_of(std::uint32_t unit) { return (unit >> 10) << ((unit >> 9 & 1) * 8); }

[[noreturn]] void refuse(const std::string& name, const std::string& what) {
  throw Error(ErrorCode::corrupt_file, name + ": its precompiled_charsmap " + what);
}

}  // namespace

CharacterMap::CharacterMap(std::string_view bytes, const std::string& name) {
  if (bytes.empty()) return;
  if (bytes.size() <= 4) refuse(name, "of " + std::to_string(bytes.size()) + " bytes is cut off");
  const auto word = [&](std::size_t at) {
    std::uint32_t value = 0;
    for (std::size_t i = 4; i-- > 0;) value = value << 8 | static_cast<unsigned char>(bytes[at + i]);
    return value;
  };
  const std::size_t size = word(0);
  if (size == 0 || size % 4 != 0 || size > bytes.size() - 4)
    refuse(name, "has a trie of " + std::to_string(size) + " bytes in " + std::to_string(bytes.size()));
  units_.resize(size / 4);
  for (std::size_t i = 0; i < units_.size(); ++i) units_[i] = word(4 + 4 * i);
  replacements_ = bytes.substr(4 + size);
  check(name);
}

void CharacterMap::check(const std::string& name) const {
  try {
    require_utf8(replacements_);
  } catch (const Error& e) {
    refuse(name, std::string("has replacements that are no text: ") + e.what());
  }
  if (!replacements_.empty() && replacements_.back() != '\0') refuse(name, "is cut off within a replacement");
  std::vector<bool> seen(units_.size());
  std::vector<std::size_t> pending{0};
  seen[0] = true;
  while (!pending.empty()) {
    const std::size_t node = pending.back();
    pending.pop_back();
    const std::size_t children = node ^ offset_of(units_[node]);
    const auto place = [&] { return " at unit " + std::to_string(node); };
    // A child's index differs in its low eight bits only, so all lie in one block.
    if ((children | 0xff) >= units_.size()) refuse(name, "points beyond its trie" + place());
    if (has_value(units_[node])) {
      const std::uint32_t value = value_of(units_[children]);
      if (value >= replacements_.size()) refuse(name, "points beyond its replacements" + place());
      if ((replacements_[value] & 0xC0) == 0x80) refuse(name, "points into a character" + place());
    }
    for (std::size_t byte = 1; byte < 256; ++byte) {
      const std::size_t child = children ^ byte;
      if (label_of(units_[child]) != byte || seen[child]) continue;
      seen[child] = true;
      pending.push_back(child);
    }
  }
}

template <class Found>
void CharacterMap::each_match(std::string_view text, Found&& found) const {
  if (units_.empty()) return;
  std::size_t node = offset_of(units_[0]);
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    node ^= byte;
    // A zero byte leads to a value, not to a child. The other bound holds by check().
    if (byte == 0 || node >= units_.size() || label_of(units_[node]) != byte) return;
    const bool value_follows = has_value(units_[node]);
    node ^= offset_of(units_[node]);
    if (value_follows && !found(i + 1, value_of(units_[node]))) return;
  }
}

CharacterMap::Match CharacterMap::longest(std::string_view text) const {
  Match out;
  int found = 0;
  each_match(text, [&](std::size_t length, std::uint32_t value) {
    out = {length, replacement(value)};
    return ++found < 32;  // as many as SentencePiece looks at
  });
  return out;
}

CharacterMap::Match CharacterMap::shortest(std::string_view text) const {
  Match out;
  each_match(text, [&](std::size_t length, std::uint32_t value) {
    out = {length, replacement(value)};
    return false;
  });
  return out;
}

std::string decode_base64(std::string_view text, const std::string& name) {
  static constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  static constexpr auto value_of_digit = [] {
    std::array<int, 256> table{};
    table.fill(-1);
    for (std::size_t i = 0; i < kDigits.size(); ++i)
      table[static_cast<unsigned char>(kDigits[i])] = static_cast<int>(i);
    return table;
  }();
  std::string out;
  std::size_t digits = text.size();
  while (digits > 0 && text.size() - digits < 2 && text[digits - 1] == '=') --digits;
  if (text.size() % 4 != 0) refuse(name, "is no base64: its length is " + std::to_string(text.size()));
  out.reserve(digits / 4 * 3 + 2);
  std::uint32_t bits = 0;
  for (std::size_t i = 0; i < digits; ++i) {
    const int value = value_of_digit[static_cast<unsigned char>(text[i])];
    if (value < 0) refuse(name, "is no base64 at character " + std::to_string(i));
    bits = bits << 6 | static_cast<std::uint32_t>(value);
    // Each digit but the first of four completes a byte.
    if (i % 4 != 0) out.push_back(static_cast<char>(bits >> (6 - 2 * (i % 4)) & 0xff));
  }
  return out;
}

}  // namespace nibble::inline NIBBLE_ABI::text
