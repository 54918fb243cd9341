#include "decoder.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <memory>
#include <utility>

#include "byte_alphabet.h"
#include "components.h"
#include "unicode.h"

namespace nibble::inline NIBBLE_ABI::text {

namespace {

using Tokens = std::vector<std::string>;

std::string joined(const Tokens& tokens) {
  std::string out;
  for (const std::string& t : tokens) out += t;
  return out;
}

/// Bytes are joined, not checked: a character cut in two stays cut.
Decoder read_byte_level(const Json& /*d*/) {
  return [](Tokens tokens) {
    for (std::string& t : tokens) t = bytes_of_written(t);
    return Tokens{joined(tokens)};
  };
}

Decoder read_fuse(const Json& /*d*/) {
  return [](const Tokens& tokens) { return Tokens{joined(tokens)}; };
}

Decoder read_replace(const Json& d) {
  const auto regex = std::make_shared<const Regex>(read_pattern(d));
  return [regex, content = text(d, "content")](Tokens tokens) {
    const Progress none;
    Watch watch(none);
    for (std::string& t : tokens) t = regex->replace(t, content, watch);
    return tokens;
  };
}

/// The byte of "<0x4F>", or −1 for another token.
int byte_of(const std::string& token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return -1;
  int byte = 0;
  const auto [end, error] = std::from_chars(token.data() + 3, token.data() + 5, byte, 16);
  return error == std::errc() && end == token.data() + 5 && byte >= 0 ? byte : -1;
}

/// A run of byte tokens is the text of its bytes if that is UTF-8, and a U+FFFD for each byte if not.
Decoder read_byte_fallback(const Json& /*d*/) {
  return [](Tokens tokens) {
    Tokens out;
    std::string bytes;
    const auto flush = [&] {
      if (bytes.empty()) return;
      bool is_text = true;
      for (std::size_t at = 0, length = 0; at < bytes.size() && is_text; at += length)
        is_text = is_character(std::string_view(bytes).substr(at), length);
      if (is_text) out.push_back(bytes);
      else out.insert(out.end(), bytes.size(), "\xEF\xBF\xBD");
      bytes.clear();
    };
    for (std::string& t : tokens) {
      if (const int byte = byte_of(t); byte >= 0) {
        bytes.push_back(static_cast<char>(byte));
        continue;
      }
      flush();
      out.push_back(std::move(t));
    }
    flush();
    return out;
  };
}

/// Up to `start` times a character from each token's beginning, up to `stop` times from its end.
Decoder read_strip(const Json& d) {
  const std::string character = text(d, "content");
  if (character.empty()) throw_bad_json("the decoder Strip has an empty \"content\"");
  const std::size_t start = count(d, "start"), stop = count(d, "stop");
  return [character, start, stop](Tokens tokens) {
    for (std::string& t : tokens) {
      std::size_t from = 0;
      for (std::size_t i = 0; i < start && t.compare(from, character.size(), character) == 0; ++i)
        from += character.size();
      t.erase(0, from);
      for (std::size_t i = 0; i < stop && t.ends_with(character); ++i) t.erase(t.size() - character.size());
    }
    return tokens;
  };
}

Decoder read_metaspace(const Json& d) {
  const std::string symbol = text(d, "replacement");
  if (symbol.empty()) throw_bad_json("the decoder Metaspace has an empty \"replacement\"");
  const bool prefixed = flag(d, "add_prefix_space", true) && member(d, "prepend_scheme") != "never";
  return [symbol, prefixed](Tokens tokens) {
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      std::string out;
      const std::string& t = tokens[i];
      for (std::size_t at = 0; at < t.size();) {
        const bool is_space = t.compare(at, symbol.size(), symbol) == 0;
        if (!is_space) out += t[at];
        else if (i > 0 || !prefixed) out += ' ';
        at += is_space ? symbol.size() : 1;
      }
      tokens[i] = std::move(out);
    }
    return tokens;
  };
}

constexpr std::array<Component<Decoder>, 6> kDecoders{{
    {"ByteLevel", read_byte_level},
    {"ByteFallback", read_byte_fallback},
    {"Fuse", read_fuse},
    {"Metaspace", read_metaspace},
    {"Replace", read_replace},
    {"Strip", read_strip},
}};

}  // namespace

std::vector<Decoder> read_decoders(const Json& description) {
  std::vector<Decoder> steps;
  read_components<Decoder>(description, "decoder", "decoders", kDecoders, steps);
  return steps;
}

}  // namespace nibble::inline NIBBLE_ABI::text
