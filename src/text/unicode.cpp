#include "unicode.h"

#include <unicode/brkiter.h>
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

namespace nibble::inline NIBBLE_ABI::text {

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

bool is_character(std::string_view text, std::size_t& length) {
  std::int64_t i = 0;
  UChar32 c = 0;
  U8_NEXT(text.data(), i, static_cast<std::int64_t>(text.size()), c);
  length = c < 0 ? 1 : static_cast<std::size_t>(i);
  return c >= 0;
}

std::string lowercase(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  const auto append = [&](char32_t c) {
    char bytes[4];
    std::int32_t n = 0;
    U8_APPEND_UNSAFE(bytes, n, c);
    out.append(bytes, static_cast<std::size_t>(n));
  };
  for (std::size_t at = 0; at < text.size();) {
    const char32_t c = character_at(text, at);
    append(static_cast<char32_t>(u_tolower(static_cast<UChar32>(c))));
    if (c == 0x130) append(0x307);  // the one character whose lower case is two
  }
  return out;
}

void each_grapheme(std::string_view text, const std::function<void(std::string_view)>& cluster) {
  UErrorCode status = U_ZERO_ERROR;
  const std::unique_ptr<icu::BreakIterator> breaks(
      icu::BreakIterator::createCharacterInstance(icu::Locale::getRoot(), status));
  check(status, "finding characters");
  UText bytes = UTEXT_INITIALIZER;
  utext_openUTF8(&bytes, text.data(), static_cast<std::int64_t>(piece_of(text).size()), &status);
  breaks->setText(&bytes, status);
  std::size_t begin = 0;
  if (U_SUCCESS(status))
    for (std::int32_t end = (void(breaks->first()), breaks->next()); end != icu::BreakIterator::DONE;
         end = breaks->next()) {
      cluster(text.substr(begin, static_cast<std::size_t>(end) - begin));
      begin = static_cast<std::size_t>(end);
    }
  utext_close(&bytes);
  check(status, "finding characters");
}

bool is_number(char32_t c) { return (U_GET_GC_MASK(static_cast<UChar32>(c)) & U_GC_N_MASK) != 0; }

bool is_word(char32_t c) {
  const auto u = static_cast<UChar32>(c);
  return u_hasBinaryProperty(u, UCHAR_ALPHABETIC) || u_hasBinaryProperty(u, UCHAR_JOIN_CONTROL) ||
         (U_GET_GC_MASK(u) & (U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK)) != 0;
}

bool is_whitespace(char32_t c) { return u_isUWhiteSpace(static_cast<UChar32>(c)) != 0; }

bool is_mark(char32_t c) { return (U_GET_GC_MASK(static_cast<UChar32>(c)) & U_GC_M_MASK) != 0; }

bool is_punctuation(char32_t c) {
  constexpr std::u32string_view kSigns = U"$+<=>^`|~";
  return (U_GET_GC_MASK(static_cast<UChar32>(c)) & U_GC_P_MASK) != 0 || kSigns.find(c) != kSigns.npos;
}

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
  std::string text;
  std::unique_ptr<icu::RegexPattern> pattern;
};

namespace {

/// A pattern for a message: on one line, and not longer than a reader wants.
std::string shown(const std::string& pattern) {
  std::string out = pattern.substr(0, 120);
  out.erase(out.size() - cut_character(out));
  return "\"" + out + (out.size() < pattern.size() ? "…\"" : "\"");
}

/// What a match may take. ICU calls back every ten thousand states that it saves to backtrack to (see
/// setMatchCallback); a sound pattern saves a few for each character, of the text at most once a match.
class MatchBudget {
 public:
  MatchBudget(Watch& watch, std::int32_t characters) : watch_(watch), most_(2000 + characters / 100) {}
  void start_match() { used_ = 0; }
  [[nodiscard]] bool is_spent() const { return used_ > most_; }
  /// For icu::RegexMatcher::setMatchCallback.
  static UBool go_on(const void* budget, std::int32_t /*steps*/) {
    auto& b = *static_cast<MatchBudget*>(const_cast<void*>(budget));
    return ++b.used_ <= b.most_ && b.watch_.goes_on();
  }

 private:
  Watch& watch_;
  std::int32_t most_, used_ = 0;
};

[[noreturn]] void throw_no_match(const std::string& pattern, UErrorCode status, const MatchBudget& budget,
                                 const Watch& watch) {
  if (status == U_REGEX_STOPPED_BY_CALLER && !budget.is_spent())
    throw Error(ErrorCode::cancelled, "cancelled during: turning text into tokens");
  watch.ask();
  const std::string why = budget.is_spent() || status == U_REGEX_STOPPED_BY_CALLER
                              ? "backtracks without end on this text"
                          : status == U_REGEX_STACK_OVERFLOW ? "needs more memory to backtrack than ICU's limit"
                                                             : std::string("fails: ") + u_errorName(status);
  throw Error(ErrorCode::unsupported,
              "tokenizer.json: the regular expression " + shown(pattern) + " " + why +
                  "; take the tokenizer.json of the model's first publisher, or rewrite the pattern there so that no "
                  "repetition stands inside another");
}

}  // namespace

Regex::Regex(const std::string& pattern) : impl_(std::make_unique<Impl>()) {
  UErrorCode status = U_ZERO_ERROR;
  UParseError where{};
  impl_->text = pattern;
  // As in the tokenizers library, whose syntax is Ruby's: ^ and $ stand at each line, and a line ends at \n alone.
  constexpr std::uint32_t kSyntax = UREGEX_MULTILINE | UREGEX_UNIX_LINES;
  const auto wide = icu::UnicodeString::fromUTF8(piece_of(pattern));
  impl_->pattern.reset(icu::RegexPattern::compile(wide, kSyntax, where, status));
  if (U_FAILURE(status))
    throw Error(ErrorCode::corrupt_file, "tokenizer.json: the regular expression " + shown(pattern) +
                                             " is wrong at character " + std::to_string(where.offset) + ": " +
                                             u_errorName(status));
}
Regex::~Regex() = default;
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;

template <class Found, class Rest>
void Regex::each_match(std::string_view text, Watch& watch, Found&& found, Rest&& rest) const {
  const auto wide = icu::UnicodeString::fromUTF8(piece_of(text));
  UErrorCode status = U_ZERO_ERROR;
  const std::unique_ptr<icu::RegexMatcher> matcher(impl_->pattern->matcher(wide, status));
  check(status, "matching a regular expression");
  MatchBudget budget(watch, wide.length());
  matcher->setMatchCallback(&MatchBudget::go_on, &budget, status);
  std::int32_t done = -1;
  while (budget.start_match(), matcher->find(status)) {
    watch.tick();
    const std::int32_t begin = matcher->start(status), end = matcher->end(status);
    // ICU finds an empty match where the one before ended; the tokenizers library does not.
    if (begin < end || begin != done) found(wide, begin, end);
    done = end;
  }
  if (U_FAILURE(status)) throw_no_match(impl_->text, status, budget, watch);
  rest(wide);
}

void Regex::split(std::string_view text, const std::function<void(std::string, bool)>& piece, Watch& watch) const {
  std::int32_t done = 0;
  const auto give = [&](const icu::UnicodeString& all, std::int32_t begin, std::int32_t end, bool is_match) {
    if (begin == end) return;
    std::string s;
    all.tempSubStringBetween(begin, end).toUTF8String(s);
    piece(std::move(s), is_match);
  };
  each_match(
      text, watch,
      [&](const icu::UnicodeString& all, std::int32_t begin, std::int32_t end) {
        give(all, done, begin, false);
        give(all, begin, end, true);
        done = end;
      },
      [&](const icu::UnicodeString& all) { give(all, done, all.length(), false); });
}

std::string Regex::replace(std::string_view text, const std::string& content, Watch& watch) const {
  std::string out;
  std::int32_t done = 0;
  each_match(
      text, watch,
      [&](const icu::UnicodeString& all, std::int32_t begin, std::int32_t end) {
        all.tempSubStringBetween(done, begin).toUTF8String(out);
        out += content;
        done = end;
      },
      [&](const icu::UnicodeString& all) { all.tempSubStringBetween(done).toUTF8String(out); });
  return out;
}

}  // namespace nibble::inline NIBBLE_ABI::text
