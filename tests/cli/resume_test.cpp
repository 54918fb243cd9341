// `nibble quantize --method gptq-… | awq-…` killed at any moment and resumed gives the bytes of an undisturbed run, and
// nothing incomplete is ever seen under the output's name.
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>

#include "nibble/format/checkpoint.h"
#include "tests/support/run_tool.h"
#include "tests/support/temporary_folder.h"

extern char** environ;

namespace nibble::cli {
namespace {

namespace fs = std::filesystem;
using testing_support::bytes_of;
using testing_support::contents;
using testing_support::has;
using testing_support::run;
using testing_support::TemporaryFolder;
using testing_support::wait_for;

const std::string kModel = NIBBLE_EXAMPLE_DATA "/austen-5m";

pid_t start(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "nibble");
  std::vector<char*> argv;
  for (auto& a : arguments) argv.push_back(a.data());
  argv.push_back(nullptr);
  pid_t child = 0;
  EXPECT_EQ(posix_spawn(&child, NIBBLE_TOOL, nullptr, nullptr, argv.data(), environ), 0);
  return child;
}

std::vector<std::string> quantize(const fs::path& out, const std::string& method, bool resume) {
  std::vector<std::string> arguments{"quantize",        kModel, "-o",     out, "--method", method, "--samples", "24",
                                     "--sample-tokens", "256",  "--quiet"};
  if (resume) arguments.emplace_back("--resume");
  return arguments;
}

class Resume : public testing::TestWithParam<const char*> {};

TEST_P(Resume, KilledAtAnyMomentGivesTheSameBytes) {
  const char* wanted = std::getenv("NIBBLE_KILLS");
  const int kills = wanted != nullptr ? std::atoi(wanted) : 3;
  const TemporaryFolder folder;
  const auto begin = std::chrono::steady_clock::now();
  ASSERT_EQ(wait_for(start(quantize(folder / "whole", GetParam(), false))), 0);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  const auto whole = contents(folder / "whole");
  ASSERT_TRUE(whole.contains("model.safetensors"));

  std::mt19937 random(12);
  std::uniform_real_distribution<double> moment(0, 1);
  const fs::path out = folder / "killed";
  int killed = 0;
  // Each run is killed somewhere in what an undisturbed one takes; one that got through is begun again.
  while (killed < kills) {
    const pid_t child = start(quantize(out, GetParam(), true));
    std::this_thread::sleep_for(std::chrono::duration<double>(moment(random) * seconds));
    ::kill(child, SIGKILL);
    const int status = wait_for(child);
    ASSERT_TRUE(status == 0 || status == -SIGKILL) << status;
    if (fs::exists(out)) {
      EXPECT_EQ(contents(out), whole) << "after " << killed << " kills";
      fs::remove_all(out);
    }
    killed += status == -SIGKILL ? 1 : 0;
  }
  ASSERT_EQ(wait_for(start(quantize(out, GetParam(), true))), 0);
  EXPECT_EQ(contents(out), whole);
  EXPECT_FALSE(fs::exists(folder / "killed.partial"));
}

INSTANTIATE_TEST_SUITE_P(Methods, Resume, testing::Values("gptq-4-g128-act", "awq-4-g128"),
                         [](const auto& p) { return std::string(p.param).substr(0, 4) == "gptq" ? "gptq" : "awq"; });

TEST(CalibratedQuantize, PrintsAndWritesTheReport) {
  const TemporaryFolder folder;
  const auto json = folder / "report.json";
  const auto outcome = run("quantize " + kModel + " -o " + (folder / "out").string() +
                           " --method gptq-4-g128-sym --samples 4 --sample-tokens 64 --skip 'layers\\.0\\.' "
                           "--modules down_proj=gptq-8-g128-sym --format compressed-tensors --lm-head --report " +
                           json.string());
  ASSERT_EQ(outcome.status, 0) << outcome.text;
  for (const char* part : {"model.layers.5.mlp.down_proj", "gptq-8-g128-sym", "rounding's", "compressed-tensors",
                           "4 × 64 tokens", "lm_head"})
    EXPECT_TRUE(has(outcome.text, part)) << part << "\n" << outcome.text;
  EXPECT_FALSE(has(outcome.text, "layers.0."));
  const auto report = nlohmann::json::parse(bytes_of(json));
  ASSERT_EQ(report["layers"].size(), 36u);
  EXPECT_EQ(report["format"], "compressed-tensors");
  for (const auto& layer : report["layers"]) EXPECT_GT(layer["rounding_loss"].get<double>(), 0);
  EXPECT_TRUE(decode_quantized(Checkpoint::open(folder / "out"), "lm_head"));
}

TEST(CalibratedQuantize, RefusesWhatMakesNoSense) {
  const TemporaryFolder folder;
  const std::string out = " -o " + (folder / "out").string();
  const auto refused = [&](const std::string& arguments, const char* says) {
    const auto outcome = run("quantize " + kModel + out + " " + arguments);
    EXPECT_EQ(outcome.status, 1) << arguments;
    EXPECT_TRUE(has(outcome.text, says)) << outcome.text;
    EXPECT_FALSE(fs::exists(folder / "out"));
    EXPECT_FALSE(fs::exists(folder / "out.partial"));
  };
  std::ofstream(folder / "empty.txt").flush();
  refused("--method gptq-4", "known methods");
  refused("--method awq-4-g128-act", "there is no option 'act'");
  refused("--method gptq-4-g128+a8", "+a8 says how to multiply");
  refused("--method int4-g128-sym --damp 0.1", "--damp-percent goes with GPTQ and AWQ");
  refused("--method gptq-4-g128 --calibration /nowhere.txt", "/nowhere.txt");
  refused("--method gptq-4-g128 --calibration " + (folder / "empty.txt").string(), "is an empty file");
  refused("--method gptq-4-g128 --format nowhere", "there is no layout 'nowhere'");
  refused("--method gptq-3-g128 --format awq", "awq");
  refused("--method gptq-4-g128 --modules down_proj", "pattern=method");
  refused("--method gptq-4-g128 --modules 'down_proj=nf4'", "only integer methods");
  EXPECT_TRUE(has(run("eval " + kModel + " --method gptq-4-g128").text, "needs a calibration run"));
}

TEST(CalibratedQuantize, CtrlCKeepsTheFinishedBlocks) {
  const TemporaryFolder folder;
  const fs::path out = folder / "out", partial = folder / "out.partial";
  const pid_t child = start(quantize(out, "gptq-4-g128", false));
  while (!fs::exists(partial / "block-00000.safetensors")) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  ::kill(child, SIGINT);
  EXPECT_EQ(wait_for(child), 130);
  EXPECT_FALSE(fs::exists(out));
  EXPECT_TRUE(fs::exists(partial / "block-00000.safetensors"));
  EXPECT_TRUE(has(run("quantize " + kModel + " -o " + out.string() + " --method gptq-4-g128").text, "--resume"));
}

TEST(Compare, SavesTheModelsOfItsRows) {
  const TemporaryFolder folder;
  const auto json = folder / "rows.json";
  const auto outcome = run("compare --methods int3-g128-asym,gptq-3-g128,gptq-3-g128+a8 --tokens 4096 --save " +
                           (folder / "saved").string() + " --json " + json.string());
  ASSERT_EQ(outcome.status, 0) << outcome.text;
  const auto rows = nlohmann::json::parse(bytes_of(json))["rows"];
  const auto get = [&](std::size_t i, const char* key) { return rows[i][key].get<double>(); };
  EXPECT_LT(get(1, "perplexity"), get(0, "perplexity"));
  EXPECT_EQ(get(1, "bits_per_weight"), get(0, "bits_per_weight"));
  EXPECT_NEAR(get(2, "perplexity") / get(1, "perplexity"), 1, 0.01);
  for (const char* name : {"fp32", "int3-g128-asym", "gptq-3-g128"})
    EXPECT_TRUE(fs::exists(folder / "saved" / name / "model.safetensors")) << name;
}

}  // namespace
}  // namespace nibble::cli
