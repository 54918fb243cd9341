// What the tests of checkpoint layouts share.
#pragma once

#include <gtest/gtest.h>

#include "tests/support/memory_checkpoint.h"

namespace nibble::testing_support {

using Words = std::vector<std::uint32_t>;

inline Words words_of(const NamedTensor& t) {
  const auto* w = t.bytes.as<std::uint32_t>();
  return {w, w + t.bytes.size() / 4};
}

/// A specification whose symmetric codes use the lowest one, too, as GPTQ's and compressed-tensors' do.
inline QuantSpec full_range(const std::string& text) {
  QuantSpec spec = QuantSpec::parse(text);
  spec.narrow_range = false;
  return spec;
}

inline void expect_same(const QuantizedMatrix& a, const QuantizedMatrix& b, const std::string& what) {
  EXPECT_EQ(a.spec, b.spec) << what << ": " << a.spec.to_string() << " and " << b.spec.to_string();
  EXPECT_EQ(a.rows, b.rows) << what;
  EXPECT_EQ(a.cols, b.cols) << what;
  EXPECT_TRUE(same_bytes(a.codes, b.codes)) << what;
  EXPECT_TRUE(same_bytes(a.scales, b.scales)) << what;
  EXPECT_TRUE(same_bytes(a.zero_points, b.zero_points)) << what;
  EXPECT_EQ(a.g_idx, b.g_idx) << what;
}

}  // namespace nibble::testing_support
