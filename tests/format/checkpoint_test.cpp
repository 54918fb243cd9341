#include "nibble/format/checkpoint.h"

#include <gtest/gtest.h>

#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_model.h"

namespace nibble {
namespace {

using namespace testing_support;

/// A byte first, so that nothing behind it is aligned.
std::vector<NamedTensor> odd_tensors() {
  std::vector<NamedTensor> out;
  out.push_back({"flag", DType::u8, {1}, buffer_of(std::vector<std::uint8_t>{7})});
  out.push_back(random_tensor("w.weight", DType::f32, {4, 6}, 1));
  out.push_back(random_tensor("experts", DType::bf16, {2, 3, 6}, 2));
  out.push_back(random_tensor("norm.weight", DType::f16, {6}, 3));
  return out;
}

class CheckpointOf : public testing::TestWithParam<std::size_t> {
 protected:
  void SetUp() override {
    tensors_ = odd_tensors();
    checkpoint_ = Checkpoint::open(write_model(folder_.path() / "m", {{"model_type", "x"}}, tensors_, {GetParam(), 3}));
  }
  TemporaryFolder folder_;
  std::vector<NamedTensor> tensors_;
  Checkpoint checkpoint_;
};

TEST_P(CheckpointOf, ReadsWhatLiesAtAnyAddress) {
  EXPECT_EQ(checkpoint_.tensors().size(), 4u);
  const FloatMatrix w = checkpoint_.matrix("w.weight");
  EXPECT_EQ(w.rows, 4u);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(w.data) % alignof(float), 0u);
  EXPECT_EQ(w(3, 5), tensors_[1].bytes.as<float>()[23]);
  const FloatMatrix stack = checkpoint_.stack("experts");
  EXPECT_EQ(stack.rows, 6u);
  EXPECT_EQ(stack(5, 5), static_cast<float>(tensors_[2].bytes.as<bf16>()[35]));
  EXPECT_EQ(checkpoint_.read_f32("norm.weight")[2], static_cast<float>(tensors_[3].bytes.as<f16>()[2]));
  checkpoint_.release("w.weight");
  EXPECT_EQ(checkpoint_.matrix("w.weight")(0, 0), tensors_[1].bytes.as<float>()[0]);
  EXPECT_NO_THROW(checkpoint_.require_intact());
}

TEST_P(CheckpointOf, SaysWhatIsNotThereOrNotAMatrix) {
  expect_error(ErrorCode::not_found, "v.weight", [&] { (void)checkpoint_.info("v.weight"); });
  expect_error(ErrorCode::shape_mismatch, "norm.weight", [&] { (void)checkpoint_.matrix("norm.weight"); });
  expect_error(ErrorCode::shape_mismatch, "w.weight", [&] { (void)checkpoint_.stack("w.weight"); });
  expect_error(ErrorCode::unsupported, "flag", [&] { (void)checkpoint_.read_f32("flag"); });
}

INSTANTIATE_TEST_SUITE_P(Shards, CheckpointOf, testing::Values(1, 2, 4));

TEST(Checkpoint, SaysWhatItLookedFor) {
  const TemporaryFolder folder;
  expect_error(ErrorCode::not_found, "*.safetensors", [&] { (void)Checkpoint::open(folder.path()); });
  expect_error(ErrorCode::not_found, "nowhere", [&] { (void)Checkpoint::open(folder.path() / "nowhere"); });
}

}  // namespace
}  // namespace nibble
