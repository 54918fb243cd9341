#include "nibble/core/error.h"

#include <gtest/gtest.h>

#include <exception>
#include <string>

namespace nibble {
namespace {

TEST(Error, IsAStandardExceptionWithACode) {
  try {
    throw Error(ErrorCode::shape_mismatch, "2 × 3 and 3 × 2");
  } catch (const std::exception& e) {
    EXPECT_STREQ(e.what(), "2 × 3 and 3 × 2");
    EXPECT_EQ(dynamic_cast<const Error&>(e).code(), ErrorCode::shape_mismatch);
  }
}

// A tensor's name may hold anything.
TEST(Error, CannotSpeakToATerminal) {
  const std::string message = Error(ErrorCode::corrupt_file, std::string("'a\x1b[2Jb\0c'", 10)).what();
  EXPECT_EQ(message.find('\x1b'), std::string::npos);
  EXPECT_EQ(message.find('\0'), std::string::npos);
  EXPECT_NE(message.find("'a"), std::string::npos);
}

}  // namespace
}  // namespace nibble
