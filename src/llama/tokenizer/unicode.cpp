#include "llama/tokenizer/unicode.h"

#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/regex.h>
#include <unicode/uchar.h>
#include <unicode/utf8.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <limits>

#include "nibble/core/error.h"

// ICU's macros expand here, and their byte arithmetic goes through int.
#pragma GCC diagnostic ignored "-Wconversion"

namespace nibble::llama {

namespace {

icu::StringPiece piece_of(std::string_view text) {
  // ICU counts in int32; a text this long would not fit a model's context by far.
  if (text.size() > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max()) / 2)
    throw Error(ErrorCode::unsupported, "a text of " + std::to_string(text.size()) + " bytes; split it below 1 GiB");
  return {text.data(), static_cast<std::int32_t>(text.size())};
}

void check(UErrorCode status, const char* what) {
  if (U_FAILURE(status))
    throw Error(ErrorCode::unsupported, std::string(what) + ": the Unicode library says " + u_errorName(status));
}

const icu::Normalizer2& normalizer(Normalization form) {
  UErrorCode status = U_ZERO_ERROR;
  const icu::Normalizer2* n = form == Normalization::nfc    ? icu::Normalizer2::getNFCInstance(status)
                              : form == Normalization::nfd  ? icu::Normalizer2::getNFDInstance(status)
                              : form == Normalization::nfkc ? icu::Normalizer2::getNFKCInstance(status)
                                                            : icu::Normalizer2::getNFKDInstance(status);
  check(status, "normalizing");
  return *n;
}

}  // namespace

void require_utf8(std::string_view text) {
  const auto size = static_cast<std::int64_t>(text.size());
  for (std::int64_t i = 0; i < size;) {
    const std::int64_t at = i;
    UChar32 c = 0;
    U8_NEXT(text.data(), i, size, c);
    if (c >= 0) continue;
    char value[8];
    std::snprintf(value, sizeof value, "0x%02x", static_cast<unsigned char>(text[static_cast<std::size_t>(at)]));
    throw Error(ErrorCode::invalid_argument,
                "the text is not UTF-8: byte " + std::string(value) + " at offset " + std::to_string(at));
  }
}

std::size_t cut_character(std::string_view text) {
  for (std::size_t back = 1; back <= std::min<std::size_t>(3, text.size()); ++back) {
    const auto byte = static_cast<unsigned char>(text[text.size() - back]);
    if (byte < 0x80) return 0;
    if (byte >= 0xC0) {
      const std::size_t length = byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : byte < 0xF8 ? 4 : 1;
      return length > back ? back : 0;
    }
  }
  return 0;
}

std::string normalize(Normalization form, std::string_view text) {
  std::string out;
  icu::StringByteSink<std::string> sink(&out);
  UErrorCode status = U_ZERO_ERROR;
  normalizer(form).normalizeUTF8(0, piece_of(text), sink, nullptr, status);
  check(status, "normalizing");
  return out;
}

bool is_number(char32_t c) { return (U_GET_GC_MASK(static_cast<UChar32>(c)) & U_GC_N_MASK) != 0; }

bool is_word(char32_t c) {
  const auto u = static_cast<UChar32>(c);
  return u_hasBinaryProperty(u, UCHAR_ALPHABETIC) || u_hasBinaryProperty(u, UCHAR_JOIN_CONTROL) ||
         (U_GET_GC_MASK(u) & (U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK)) != 0;
}

bool is_whitespace(char32_t c) { return u_isUWhiteSpace(static_cast<UChar32>(c)) != 0; }

char32_t character_at(std::string_view text, std::size_t& place) {
  UChar32 c = 0;
  auto i = static_cast<std::int64_t>(place);
  U8_NEXT_OR_FFFD(text.data(), i, static_cast<std::int64_t>(text.size()), c);
  place = static_cast<std::size_t>(i);
  return static_cast<char32_t>(c);
}

char32_t character_before(std::string_view text, std::size_t& place) {
  UChar32 c = 0;
  auto i = static_cast<std::int32_t>(place);
  U8_PREV_OR_FFFD(text.data(), 0, i, c);
  place = static_cast<std::size_t>(i);
  return static_cast<char32_t>(c);
}

struct Regex::Impl {
  std::unique_ptr<icu::RegexPattern> pattern;
};

Regex::Regex(const std::string& pattern) : impl_(std::make_unique<Impl>()) {
  UErrorCode status = U_ZERO_ERROR;
  UParseError where{};
  impl_->pattern.reset(icu::RegexPattern::compile(icu::UnicodeString::fromUTF8(pattern), 0, where, status));
  if (U_FAILURE(status))
    throw Error(ErrorCode::corrupt_file, "the regular expression \"" + pattern + "\" is wrong at character " +
                                             std::to_string(where.offset) + ": " + u_errorName(status));
}
Regex::~Regex() = default;
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;

void Regex::split(std::string_view text, const std::function<void(std::string, bool)>& piece) const {
  const auto give = [&](const icu::UnicodeString& all, std::int32_t begin, std::int32_t end, bool is_match) {
    if (begin == end) return;
    std::string s;
    all.tempSubStringBetween(begin, end).toUTF8String(s);
    piece(std::move(s), is_match);
  };
  const auto wide = icu::UnicodeString::fromUTF8(piece_of(text));
  UErrorCode status = U_ZERO_ERROR;
  const std::unique_ptr<icu::RegexMatcher> matcher(impl_->pattern->matcher(wide, status));
  check(status, "matching a regular expression");
  std::int32_t done = 0;
  while (matcher->find(status)) {
    const std::int32_t begin = matcher->start(status), end = matcher->end(status);
    give(wide, done, begin, false);
    give(wide, begin, end, true);
    done = end;
  }
  check(status, "matching a regular expression");
  give(wide, done, wide.length(), false);
}

}  // namespace nibble::llama
