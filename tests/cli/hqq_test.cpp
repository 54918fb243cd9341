// HQQ as a person runs it.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "nibble/format/checkpoint.h"
#include "tests/support/run_tool.h"
#include "tests/support/temporary_folder.h"

namespace nibble::cli {
namespace {

using testing_support::has;
using testing_support::run;
using testing_support::TemporaryFolder;

const std::string kModel = NIBBLE_EXAMPLE_DATA "/austen-5m";

TEST(Hqq, StoresWhatItsNameSaysAndOtherLayoutsTakeIntegerZeroPoints) {
  const TemporaryFolder folder;
  const auto at = [&](const char* name) { return (folder / name).string(); };
  const auto real = run("quantize " + kModel + " -o " + at("real") + " --method hqq-4-g64 --only layers.0");
  ASSERT_EQ(real.status, 0) << real.text;
  EXPECT_TRUE(has(real.text, "as hqq-4-g64 at 4.500 bits")) << real.text;
  EXPECT_EQ(run("quantize " + kModel + " -o " + at("asym") + " --method hqq-4-g32-asym --quiet").text, "");
  EXPECT_EQ(run("convert " + at("asym") + " " + at("gptq") + " --to gptq-v2 --quiet").status, 0);
  const std::string layer = "model.layers.0.mlp.down_proj";
  const auto q = decode_quantized(Checkpoint::open(folder / "real"), layer);
  ASSERT_TRUE(q);
  EXPECT_EQ(q->spec, QuantSpec::parse("int4-g64-asymreal"));
  const auto a = decode_quantized(Checkpoint::open(folder / "asym"), layer),
             b = decode_quantized(Checkpoint::open(folder / "gptq"), layer);
  ASSERT_TRUE(a && b);
  for (std::size_t r = 0; r < a->rows; r += 7)
    for (std::size_t c = 0; c < a->cols; ++c) ASSERT_EQ(a->value(r, c), b->value(r, c)) << r << ", " << c;
}

TEST(Hqq, IsARowOfCompareAndNearerThanRounding) {
  const TemporaryFolder folder;
  const auto json = folder / "rows.json";
  const auto outcome =
      run("compare --methods int3-g64-asymreal,hqq-3-g64,hqq-3-g64+a8 --tokens 8192 --json " + json.string());
  ASSERT_EQ(outcome.status, 0) << outcome.text;
  const auto rows = nlohmann::json::parse(std::ifstream(json))["rows"];
  ASSERT_EQ(rows.size(), 3u);
  const auto kl = [&](std::size_t i) { return rows[i]["kl_mean"].get<double>(); };
  EXPECT_LT(kl(1), kl(0));
  EXPECT_NEAR(kl(2), kl(1), 0.2 * kl(1));
  EXPECT_EQ(rows[1]["bits_per_weight"], rows[0]["bits_per_weight"]);
}

TEST(Hqq, RefusesWhatWouldMeanNothing) {
  const TemporaryFolder folder;
  const auto refused = [&](const std::string& arguments, const char* says) {
    const auto outcome = run(arguments);
    EXPECT_EQ(outcome.status, 1) << outcome.text;
    EXPECT_TRUE(has(outcome.text, says)) << outcome.text;
  };
  const std::string quantize = "quantize " + kModel + " -o " + (folder / "out").string() + " --method ";
  refused(quantize + "hqq-9-g64", "'hqq-9-g64'");
  refused(quantize + "hqq-4-g64-act", "hqq-<bits>-g<size>");
  refused(quantize + "hqq-4-g64 --samples 3", "--samples goes with GPTQ and AWQ");
  refused(quantize + "hqq-4-g64+a8", "+a8 says how to multiply");
  refused("eval " + kModel + " --method hqq-4-g64 --tokens 100", "make the model first");
  refused("compare --methods hqq-8-g64+a8 --tokens 100", "5 bits at most where zero points are real");
}

}  // namespace
}  // namespace nibble::cli
