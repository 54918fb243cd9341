#include "nibble/core/error_code.h"

#include <gtest/gtest.h>

namespace nibble {
namespace {

// Programs keep the numbers (as exit codes, in logs, over a C interface): a new code goes to the end.
TEST(ErrorCode, KeepsItsNumber) {
  const ErrorCode codes[] = {
      ErrorCode::invalid_argument, ErrorCode::shape_mismatch, ErrorCode::non_finite, ErrorCode::unsupported,
      ErrorCode::not_found,        ErrorCode::corrupt_file,   ErrorCode::io,         ErrorCode::cancelled,
      ErrorCode::out_of_memory,    ErrorCode::device};
  int number = 0;
  for (const ErrorCode code : codes) EXPECT_EQ(static_cast<int>(code), number++);
}

}  // namespace
}  // namespace nibble
