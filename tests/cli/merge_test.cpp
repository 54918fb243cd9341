// nibble merge as a person runs it.
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "nibble/model/adapter.h"
#include "tests/support/adapters.h"
#include "tests/support/run_tool.h"
#include "tests/support/temporary_folder.h"

namespace nibble::cli {
namespace {

namespace fs = std::filesystem;
using testing_support::has;
using testing_support::run;
using testing_support::TemporaryFolder;

const std::string kModel = NIBBLE_TEST_DATA "/golden/gqa_tied";

class MergeCommand : public testing::Test {
 protected:
  MergeCommand() {
    model::Adapter adapter = testing_support::filled({.rank = 2, .alpha = 0.02});
    adapter.save(folder_ / "adapter");
    adapter.save_gguf(folder_ / "adapter.gguf", testing_support::tiny());
  }
  testing_support::Outcome merge(const std::string& model, const std::string& options) {
    fs::remove_all(out_);
    return run("merge " + model + " --adapter " + (folder_ / "adapter").string() + " -o " + out_.string() + " " +
               options);
  }
  TemporaryFolder folder_;
  const fs::path out_ = folder_ / "out";
};

TEST_F(MergeCommand, EveryWaySaysWhatItCosts) {
  const auto original = merge(kModel, "--into original --base nf4");
  EXPECT_EQ(original.status, 0) << original.text;
  for (const char* says : {"mean of 14", "most changed: model.layers.", "off training", "14 layers merged", "MB"})
    EXPECT_TRUE(has(original.text, says)) << says << original.text;
  const auto plain = merge(kModel, "--into dequantized --base nf4 --type fp32 --layers");
  EXPECT_EQ(plain.status, 0) << plain.text;
  EXPECT_TRUE(has(plain.text, "\nmodel.layers.1.mlp.up_proj ")) << plain.text;
  EXPECT_TRUE(has(plain.text, "rounded to F32")) << plain.text;
  const auto codes = merge(kModel, "--into quantized --base nf4 --lossy");
  EXPECT_EQ(codes.status, 0) << codes.text;
  EXPECT_TRUE(has(codes.text, "survives its rounding")) << codes.text;
  EXPECT_TRUE(has(codes.text, "gptq-4-g128")) << codes.text;
  EXPECT_EQ(merge(kModel, "--into original --quiet").text, "");
}

TEST_F(MergeCommand, TakesAdaptersOfLlamaCpp) {
  const auto merged = run("merge " + kModel + " --adapter " + (folder_ / "adapter.gguf").string() + " -o " +
                          out_.string() + " --into original");
  EXPECT_EQ(merged.status, 0) << merged.text;
}

TEST_F(MergeCommand, RefusesWhatWouldBeLostUnseen) {
  const auto refused = [&](const std::string& options, const std::string& says) {
    const auto outcome = merge(kModel, options);
    EXPECT_NE(outcome.status, 0) << options;
    EXPECT_TRUE(has(outcome.text, says)) << outcome.text;
    EXPECT_FALSE(fs::exists(out_)) << options;
  };
  refused("--into quantized --base nf4", "% of what the adapter changes would survive");
  refused("--into quantized --base nf4", "--lossy");
  refused("--base nf4", "--into");
  refused("--into 4bit", "'original', 'dequantized' or 'quantized'");
  refused("--into dequantized", "--base");
  refused("--into dequantized --base gptq-4-g128", "calibration");
  refused("--into dequantized --base bf16", "no quantization");
  refused("--into original --type fp32", "--type");
  refused("--into original --lossy", "--lossy");
}

}  // namespace
}  // namespace nibble::cli
