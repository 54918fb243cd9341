#include "model/layer_selection.h"

#include <gtest/gtest.h>

#include "tests/support/expect_error.h"

namespace nibble::inline NIBBLE_ABI::model {
namespace {

using Names = std::vector<std::string>;
using testing_support::expect_error;

Names layers() {
  Names out;
  for (int i = 0; i < 12; ++i)
    for (const char* kind : {"self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj"})
      out.push_back("model.layers." + std::to_string(i) + "." + kind);
  return out;
}

Names chosen(const Names& skip, const Names& only) {
  const LayerSelection selection(skip, only, layers());
  Names out;
  for (const std::string& layer : layers())
    if (selection.contains(layer)) out.push_back(layer);
  return out;
}

TEST(LayerSelection, NamesHoldFromOneDotToAnother) {
  EXPECT_EQ(chosen({}, {"down_proj"}).size(), 12u);
  EXPECT_EQ(chosen({}, {"mlp"}).size(), 24u);
  EXPECT_EQ(chosen({}, {"layers.1"}).size(), 4u);  // not 10 and 11
  EXPECT_EQ(chosen({"self_attn", "layers.0"}, {}).size(), 22u);
  EXPECT_EQ(chosen({}, {"model.layers.3.mlp.up_proj"}), Names{"model.layers.3.mlp.up_proj"});
  EXPECT_EQ(chosen({"down_proj"}, {"mlp"}).size(), 12u);  // skip comes first
  EXPECT_EQ(chosen({}, {}).size(), 48u);
}

TEST(LayerSelection, GlobsAndExpressions) {
  EXPECT_EQ(chosen({}, {"layers.[0-3].*"}).size(), 16u);
  EXPECT_EQ(chosen({}, {"layers.?.mlp"}).size(), 20u);
  EXPECT_EQ(chosen({}, {"layers.[!0-8].mlp"}).size(), 2u);
  EXPECT_EQ(chosen({}, {"*_proj"}).size(), 48u);
  EXPECT_EQ(chosen({}, {"re:layers\\.(0|11)\\."}).size(), 8u);
  EXPECT_EQ(chosen({}, {"layers\\.0\\."}).size(), 4u);  // known by its backslash
  EXPECT_EQ(chosen({}, {"re:^model\\.layers\\.2\\..*up"}).size(), 1u);
}

TEST(LayerSelection, APatternThatMatchesNothingShowsNearNames) {
  expect_error(ErrorCode::invalid_argument, "the only pattern 'donw_proj' matches no linear layer",
               [] { (void)chosen({}, {"donw_proj"}); });
  expect_error(ErrorCode::invalid_argument, "nearest: 'down_proj'", [] { (void)chosen({}, {"donw_proj"}); });
  expect_error(ErrorCode::invalid_argument, "'model.layers.1.mlp.up_proj'",
               [] { (void)chosen({"model.layers.1.mlp.upproj"}, {}); });
  expect_error(ErrorCode::invalid_argument, "skip pattern 'layers.12'", [] { (void)chosen({"layers.12"}, {}); });
  expect_error(ErrorCode::invalid_argument, "only pattern 'down'", [] { (void)chosen({}, {"down"}); });
}

TEST(LayerSelection, TheHeadMayAlwaysBeSkipped) {
  EXPECT_EQ(chosen({"lm_head"}, {}).size(), 48u);
  Names with_head = layers();
  with_head.emplace_back("lm_head");
  EXPECT_TRUE(LayerSelection({}, {"down_proj"}, with_head).contains("lm_head"));  // it is asked for by itself
  EXPECT_FALSE(LayerSelection({"lm_head"}, {}, with_head).contains("lm_head"));
  expect_error(ErrorCode::invalid_argument, "lm_head", [] { (void)chosen({}, {"lm_head"}); });
}

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI::model
