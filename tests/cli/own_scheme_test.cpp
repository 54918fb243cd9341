// A scheme from outside the library in the whole tool: `compare` quantizes a model to it, writes it, reads it and runs
// it. Such a tool is a program of one's own that registers the scheme and calls the tool; this test is one.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "cli/tool.h"
#include "nibble/format/checkpoint.h"
#include "nibble/format/quantized_tensors.h"
#include "tests/support/own_schemes.h"
#include "tests/support/temporary_folder.h"

namespace nibble {
namespace {

using namespace testing_support;

int run_tool(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "nibble");
  std::vector<char*> argv;
  for (std::string& a : arguments) argv.push_back(a.data());
  argv.push_back(nullptr);
  return cli::run_tool(static_cast<int>(arguments.size()), argv.data());
}

TEST(OwnScheme, IsComparedWithTheBuiltInOnes) {
  const TemporaryFolder folder;
  const std::string figures = (folder.path() / "figures.json").string(), saved = (folder.path() / "models").string();
  ASSERT_EQ(run_tool({"compare", "--methods", "fp32,nf3-b64,int3-g128-asym,int2-g32-asym", "--tokens", "2048", "--json",
                      figures, "--save", saved}),
            0);
  const auto rows = nlohmann::json::parse(std::ifstream(figures)).at("rows");
  ASSERT_EQ(rows.size(), 4u);
  const auto kl = [&](std::size_t i) { return rows[i].at("kl_mean").get<double>(); };
  EXPECT_NEAR(rows[1].at("bits_per_weight").get<double>(), 3.5, 0.01);
  EXPECT_LT(kl(1), kl(2));  // a normal's quantiles suit weights better than equal steps
  EXPECT_LT(kl(2), kl(3));

  const Checkpoint written = Checkpoint::open(folder.path() / "models" / "nf3-b64");
  const auto q = decode_quantized(written, "model.layers.0.mlp.up_proj");
  ASSERT_TRUE(q);
  EXPECT_EQ(q->spec.to_string(), "nf3-b64");
  EXPECT_TRUE(std::isfinite(q->value(0, 0)));
}

}  // namespace
}  // namespace nibble

int main(int argc, char** argv) {
  nibble::testing_support::register_own_schemes();
  // `compare` starts this program again for each of its steps.
  if (argc > 1 && argv[1][0] != '-') {
    nibble::cli::prepare_process();
    return nibble::cli::run_tool(argc, argv);
  }
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
