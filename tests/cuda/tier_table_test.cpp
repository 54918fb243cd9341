// The tier table is what its command prints, and how it is read.
#include "backend/cuda/tier_table.h"

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "bench/cuda/tier_model.h"

namespace nibble {
namespace {

using cuda::TierFamily;
using cuda::TierLimits;

/// Lines of the file that were measured on some device cannot be made here; all others can.
TEST(CudaTierTable, IsWhatTheCommandPrints) {
  std::ifstream file(NIBBLE_TIER_TABLE);
  std::istringstream modelled(bench::table_text(bench::modelled_table()));
  std::string expected;
  bool more = static_cast<bool>(std::getline(modelled, expected));
  for (std::string line; std::getline(file, line);) {
    const bool same_row = line.substr(0, line.find(", {")) == expected.substr(0, expected.find(", {"));
    if (line.find("// measured on ") == std::string::npos)
      EXPECT_EQ(line, expected) << "make it anew: cuda_tier_table > " << NIBBLE_TIER_TABLE;
    else if (!same_row) continue;  // of a device that the model does not know
    more = static_cast<bool>(std::getline(modelled, expected));
    if (!more) expected.clear();
  }
  EXPECT_FALSE(more) << "the file has no line " << expected;
}

TEST(CudaTierTable, ServesEveryDevice) {
  ASSERT_FALSE(cuda::tier_table().empty());
  for (const cuda::TierRow& row : cuda::tier_table()) {
    const TierLimits found = cuda::tier_limits(row.compute_capability, row.family);
    EXPECT_EQ(found.gemv, row.limits.gemv);
    EXPECT_EQ(found.tensor_core, row.limits.tensor_core);
    EXPECT_GE(row.limits.tensor_core, row.limits.gemv);
  }
  EXPECT_EQ(cuda::tier_limits(87, TierFamily::affine4).tensor_core,
            cuda::tier_limits(86, TierFamily::affine4).tensor_core);
  EXPECT_EQ(cuda::tier_limits(120, TierFamily::codebook4).tensor_core,
            cuda::tier_limits(90, TierFamily::codebook4).tensor_core);
  EXPECT_EQ(cuda::tier_limits(90, TierFamily::other).tensor_core, 0u);
  EXPECT_EQ(cuda::tier_limits(70, TierFamily::affine4).tensor_core, 0u);
}

TEST(CudaTierTable, SaysWhichRowsWereMeasured) {
  const cuda::TierRow rows[] = {{80, TierFamily::affine4, {2, 256}}, {90, TierFamily::codebook4, {1, 640}}};
  const std::string text = bench::table_text(rows, {90, "a device"});
  EXPECT_NE(text.find("{80, TierFamily::affine4, {2, 256}},\n"), std::string::npos) << text;
  EXPECT_NE(text.find("{90, TierFamily::codebook4, {1, 640}},  // measured on a device\n"), std::string::npos) << text;
}

/// Limits of costs that are known: gemv n, tensor cores 4 + n/16, cuBLAS 20.
TEST(CudaTierTable, FindsWhereTiersChange) {
  const std::size_t tokens[] = {1, 2, 4, 5, 8, 16, 64, 256, 288, 512};
  const auto limits = bench::find_limits(
      [](bench::ModelTier tier, std::size_t n) {
        const auto cost = static_cast<double>(n);
        return tier == bench::ModelTier::gemv ? cost : tier == bench::ModelTier::tensor_core ? 4 + cost / 16 : 20.0;
      },
      tokens);
  EXPECT_EQ(limits.gemv, 4u);  // 5 > 1.1·(4 + 5/16)
  EXPECT_EQ(limits.tensor_core, 288u);
}

}  // namespace
}  // namespace nibble
