#include "normalizer.h"

#include <array>
#include <memory>
#include <utility>

#include "byte_alphabet.h"
#include "character_map.h"
#include "components.h"
#include "unicode.h"

namespace nibble::inline NIBBLE_ABI::text {

namespace {

template <Normalization form>
Normalizer read_form(const Json& /*d*/) {
  return [](const std::string& text, Watch& watch) {
    watch.ask();
    return normalize(form, text);
  };
}

Normalizer read_lowercase(const Json& /*d*/) {
  return [](const std::string& text, Watch&) { return lowercase(text); };
}

/// A function from characters to what each becomes.
template <class Becomes>
Normalizer each_character(Becomes becomes) {
  return [becomes](const std::string& text, Watch& watch) {
    std::string out;
    out.reserve(text.size());
    for (std::size_t at = 0; at < text.size();) {
      watch.tick();
      const std::size_t begin = at;
      const char32_t c = character_at(text, at);
      out += becomes(c, std::string_view(text).substr(begin, at - begin));
    }
    return out;
  };
}

Normalizer read_strip_accents(const Json& /*d*/) {
  return each_character([](char32_t c, std::string_view same) { return is_mark(c) ? std::string_view() : same; });
}

/// The rules of Google's neural machine translation: control characters vanish, and much else is a space.
Normalizer read_nmt(const Json& /*d*/) {
  return each_character([](char32_t c, std::string_view same) -> std::string_view {
    if ((c >= 0x01 && c <= 0x08) || c == 0x0B || (c >= 0x0E && c <= 0x1F) || c == 0x7F || c == 0x8F || c == 0x9F)
      return {};
    if (c == 0x09 || c == 0x0A || c == 0x0C || c == 0x0D || c == 0x1680 || (c >= 0x200B && c <= 0x200F) ||
        c == 0x2028 || c == 0x2029 || c == 0x2581 || c == 0xFEFF || c == 0xFFFD)
      return " ";
    return same;
  });
}

Normalizer read_prepend(const Json& d) {
  return [prefix = text(d, "prepend")](std::string text, Watch&) { return text.empty() ? text : prefix + text; };
}

Normalizer read_replace(const Json& d) {
  // Shared, not copied: a std::function must be copyable.
  const auto regex = std::make_shared<const Regex>(read_pattern(d));
  return [regex, content = text(d, "content")](const std::string& text, Watch& watch) {
    return regex->replace(text, content, watch);
  };
}

Normalizer read_strip(const Json& d) {
  const bool left = flag(d, "strip_left"), right = flag(d, "strip_right");
  return [left, right](const std::string& text, Watch&) {
    std::size_t begin = 0, end = text.size();
    for (std::size_t at = 0; left && at < end && is_whitespace(character_at(text, at));) begin = at;
    for (std::size_t at = end; right && at > begin && is_whitespace(character_before(text, at));) end = at;
    return text.substr(begin, end - begin);
  };
}

/// As the tokenizers library applies SentencePiece's map: to a grapheme cluster of up to five bytes, or else to each of
/// its characters; of the strings in the map the shortest counts, and the whole cluster is replaced.
Normalizer read_precompiled(const Json& d) {
  const auto map = std::make_shared<const CharacterMap>(
      decode_base64(text(d, "precompiled_charsmap"), "tokenizer.json"), "tokenizer.json");
  return [map](const std::string& text, Watch& watch) {
    std::string out;
    out.reserve(text.size());
    each_grapheme(text, [&](std::string_view cluster) {
      watch.tick();
      if (cluster.size() < 6)
        if (const auto match = map->shortest(cluster); match.length > 0) {
          out += match.replacement;
          return;
        }
      for (std::size_t at = 0; at < cluster.size();) {
        const std::size_t begin = at;
        (void)character_at(cluster, at);
        const std::string_view character = cluster.substr(begin, at - begin);
        const auto match = map->shortest(character);
        out += match.length > 0 ? match.replacement : character;
      }
    });
    return out;
  };
}

Normalizer read_byte_level(const Json& /*d*/) {
  return [](const std::string& text, Watch&) { return written_bytes(text); };
}

constexpr std::array<Component<Normalizer>, 12> kNormalizers{{
    {"NFC", read_form<Normalization::nfc>},
    {"NFD", read_form<Normalization::nfd>},
    {"NFKC", read_form<Normalization::nfkc>},
    {"NFKD", read_form<Normalization::nfkd>},
    {"Lowercase", read_lowercase},
    {"StripAccents", read_strip_accents},
    {"Strip", read_strip},
    {"Nmt", read_nmt},
    {"Prepend", read_prepend},
    {"Replace", read_replace},
    {"Precompiled", read_precompiled},
    {"ByteLevel", read_byte_level},
}};

}  // namespace

std::vector<Normalizer> read_normalizers(const Json& description) {
  std::vector<Normalizer> steps;
  read_components<Normalizer>(description, "normalizer", "normalizers", kNormalizers, steps);
  return steps;
}

}  // namespace nibble::inline NIBBLE_ABI::text
