#include "nibble/scheme/scale.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

namespace nibble {
namespace {

TEST(Scale, EveryTypeHasANameAndASize) {
  std::set<std::string_view> names;
  for (const ScaleType type : kScaleTypes) {
    names.insert(name_of(type));
    EXPECT_EQ(static_cast<std::size_t>(scale_bytes(type)), size_of(dtype_of(type)));
  }
  EXPECT_EQ(names.size(), kScaleTypes.size());
}

// Codes are computed with the scale as it reads back, so storing that again must lose nothing.
TEST(Scale, StoredScalesReadBackAsTheyAre) {
  for (const ScaleType type : kScaleTypes)
    for (const float scale : {0.0f, 1e-30f, 3e-8f, 0.001f, 0.1f, 1.0f, 123.456f}) {
      const float stored = stored_scale(scale, type);
      EXPECT_GT(stored, 0) << name_of(type);
      EXPECT_TRUE(std::isfinite(1 / stored)) << name_of(type) << " " << scale;
      EXPECT_EQ(stored_scale(stored, type), stored);
      float memory[2] = {};
      store_scale(type, memory, 1, stored);
      EXPECT_EQ(load_scale(type, memory, 1), stored);
      EXPECT_EQ(load_scale(type, memory, 0), type == ScaleType::e8m0 ? 0x1p-127f : 0.0f);  // no power of two is 0
    }
}

TEST(Scale, WhatATypeCannotHoldIsInfinite) {
  EXPECT_TRUE(std::isinf(stored_scale(1e6f, ScaleType::f16)));
  EXPECT_TRUE(std::isfinite(stored_scale(1e6f, ScaleType::bf16)));
}

}  // namespace
}  // namespace nibble
