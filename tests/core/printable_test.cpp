// Text from files cannot act on a terminal.
#include "nibble/core/printable.h"

#include <gtest/gtest.h>

#include "nibble/core/error.h"

namespace nibble {
namespace {

using namespace std::string_literals;

TEST(Printable, LeavesTextOfAllScriptsAsItIs) {
  for (const char* text : {"", "model.layers.0.weight", "3 × 4 … „Größe“", "日本語", "עברית", "🙂", "back\\slash"})
    EXPECT_EQ(printable(text), text);
}

TEST(Printable, ControlsAreShownByNumber) {
  EXPECT_EQ(printable("a\x1b[2Jb"), "a\\x1b[2Jb");
  EXPECT_EQ(printable("a\0b\n\r\t\x7f"s), "a\\x00b\\x0a\\x0d\\x09\\x7f");
  EXPECT_EQ(printable("\xc2\x9b"), "\\u009b");  // C1's own way to begin an escape sequence
}

TEST(Printable, DirectionsOfWritingAreShownByNumber) {
  EXPECT_EQ(printable("\u202egpj.exe"), "\\u202egpj.exe");
  EXPECT_EQ(printable("\u200e\u200f\u061c\u2028\u2066\u2069"), "\\u200e\\u200f\\u061c\\u2028\\u2066\\u2069");
}

TEST(Printable, BytesThatAreNoUtf8AreShownByNumber) {
  EXPECT_EQ(printable("a\xff\x80z"), "a\\xff\\x80z");
  EXPECT_EQ(printable("\xc0\x9b"), "\\xc0\\x9b");                    // an overlong escape
  EXPECT_EQ(printable("\xed\xa0\x80"), "\\xed\\xa0\\x80");           // a surrogate
  EXPECT_EQ(printable("\xf5\x80\x80\x80"), "\\xf5\\x80\\x80\\x80");  // beyond Unicode
  EXPECT_EQ(printable("\xe2\x80"), "\\xe2\\x80");                    // cut
}

TEST(Printable, ProseKeepsItsLinesAndItsMarks) {
  EXPECT_EQ(printable("a\n\tb\u200f\x1b[0m\r", TextKind::prose), "a\n\tb\u200f\\x1b[0m\\x0d");
  EXPECT_EQ(printable("\u202e", TextKind::prose), "\\u202e");
}

TEST(Printable, EveryByteAndEveryCodePointGivesWhatASecondPassLeavesAlone) {
  const auto check = [](const std::string& text) {
    const std::string once = printable(text);
    ASSERT_TRUE(is_utf8(once));
    ASSERT_EQ(printable(once), once);
    for (const char c : once) ASSERT_FALSE(static_cast<unsigned char>(c) < 0x20 || c == 0x7f);
  };
  for (int a = 0; a < 256; ++a)
    for (int b = 0; b < 256; ++b) check({static_cast<char>(a), static_cast<char>(b)});
}

TEST(Printable, AnErrorsMessageIsIt) {
  const Error e(ErrorCode::not_found, "there is no tensor 'a\x1b]0;owned\a\0b'"s);
  EXPECT_STREQ(e.what(), "there is no tensor 'a\\x1b]0;owned\\x07\\x00b'");
}

}  // namespace
}  // namespace nibble
