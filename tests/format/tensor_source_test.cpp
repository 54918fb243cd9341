#include "nibble/format/tensor_source.h"

#include <gtest/gtest.h>

#include "tests/support/memory_checkpoint.h"

namespace nibble {
namespace {

/// No more than a source must do.
class Least final : public TensorSource {
 public:
  std::optional<NamedTensor> find(const std::string& name) const override {
    if (name != "a.weight") return std::nullopt;
    return NamedTensor{name, DType::u8, {2}, testing_support::buffer_of(std::vector<std::uint8_t>{1, 2})};
  }
  std::optional<std::string> find_metadata(const std::string&) const override { return std::nullopt; }
};

TEST(TensorSource, TheRestFollowsFromFind) {
  const Least source;
  EXPECT_TRUE(source.contains("a.weight"));
  EXPECT_FALSE(source.contains("a"));
  EXPECT_EQ(source.describe("a.weight")->shape, std::vector<std::size_t>{2});
  EXPECT_FALSE(source.names_under("a"));  // it cannot list, which is not the same as having none
  EXPECT_EQ(source.quantization(), nullptr);
}

TEST(TensorSource, ALayerIsReadFromAnySource) {
  const auto q = testing_support::random_quantized(QuantSpec::parse("int4-g16-asym"), 8, 32, 1);
  const testing_support::MemoryCheckpoint checkpoint(CheckpointLayout::nibble, q);
  const auto back = decode_quantized(checkpoint, "L");
  ASSERT_TRUE(back);
  EXPECT_TRUE(testing_support::same_bytes(back->codes, q.codes));
  EXPECT_FALSE(decode_quantized(checkpoint, "M"));
}

}  // namespace
}  // namespace nibble
