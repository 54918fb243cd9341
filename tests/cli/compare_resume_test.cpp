// Rows of `compare` that are measured beside one another, and those that an earlier run left.
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>

#include "tests/support/run_tool.h"
#include "tests/support/temporary_folder.h"

namespace nibble::cli {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using testing_support::bytes_of;
using testing_support::has;
using testing_support::run;
using testing_support::TemporaryFolder;

Json read_json(const fs::path& path) { return Json::parse(std::ifstream(path)); }
void write(const fs::path& path, const std::string& text) { std::ofstream(path) << text; }

/// What does not depend on the machine.
Json quality(const Json& rows) {
  Json out = rows;
  for (auto& row : out)
    for (const char* key : {"prefill_tokens_per_s", "decode_tokens_per_s", "peak_rss_bytes"}) row.erase(key);
  return out;
}

TEST(CompareJobs, GiveTheRowsThatOneAfterTheOtherGives) {
  const TemporaryFolder folder;
  const auto json = (folder / "rows.json").string(), page = (folder / "page.html").string();
  const std::string methods = "compare --methods int8,fp32,nf4,int8+a8,bogus,q4_0 --tokens 300 --json " + json;
  EXPECT_EQ(run(methods).status, 1) << "no such method";
  std::string common = methods;
  common.erase(common.find("bogus,"), 6);
  common += " --report " + page;
  ASSERT_EQ(run(common + " --jobs 1").status, 0);
  const Json alone = read_json(json)["rows"];
  fs::remove(json);
  const auto beside = run(common + " --jobs 3");
  ASSERT_EQ(beside.status, 0) << beside.text;
  const Json rows = read_json(json)["rows"];
  ASSERT_EQ(rows.size(), 5u);
  EXPECT_EQ(quality(rows), quality(alone));
  for (const auto& row : rows) EXPECT_GT(row["decode_tokens_per_s"].get<double>(), 0) << row;
  EXPECT_EQ(rows[0]["layer_losses"].size(), 42u);
  EXPECT_FALSE(rows[1].contains("layer_losses")) << "fp32 loses nothing";
  EXPECT_EQ(run(common + " --jobs 0").status == 0, false);
}

TEST(CompareJobs, SamplesReachTheMethodsThatCalibrate) {
  const TemporaryFolder folder;
  const auto json = (folder / "rows.json").string();
  const auto kl = [&](const std::string& samples) {
    EXPECT_EQ(
        run("compare --methods gptq-3-g128,q3_k-imatrix --tokens 300 --samples " + samples + " --json " + json).status,
        0);
    const Json rows = read_json(json)["rows"];
    return std::pair(rows[0]["kl_mean"].get<double>(), rows[1]["kl_mean"].get<double>());
  };
  const auto one = kl("1"), two = kl("2");
  EXPECT_NE(one.first, two.first);
  EXPECT_NE(one.second, two.second);
}

class CompareResume : public ::testing::Test {
 protected:
  [[nodiscard]] testing_support::Outcome compare(const std::string& more) const {
    return run("compare --tokens 200 --json " + json_.string() + " " + more);
  }
  TemporaryFolder folder_;
  fs::path json_ = folder_ / "rows.json";
};

TEST_F(CompareResume, MeasuresOnlyWhatIsMissing) {
  ASSERT_EQ(compare("--methods nf4,int8").status, 0);
  Json document = read_json(json_);
  EXPECT_TRUE(document["finished"].get<bool>());
  document["rows"][0]["file_bytes"] = 12345;  // so that the row is known again
  document["rows"].erase(1);
  write(json_, document.dump());
  const auto outcome = compare("--methods int8,nf4,fp32 --resume");
  ASSERT_EQ(outcome.status, 0) << outcome.text;
  const Json rows = read_json(json_)["rows"];
  ASSERT_EQ(rows.size(), 3u);
  EXPECT_EQ(rows[0]["method"], "int8");
  EXPECT_NE(rows[0]["file_bytes"], 12345);
  EXPECT_EQ(rows[1]["file_bytes"], 12345);
  EXPECT_EQ(rows[2]["kl_mean"], 0);
  EXPECT_EQ(quality(rows)[2], quality(Json::array({document["reference"]}))[0]) << "not measured without need";
}

TEST_F(CompareResume, MeasuresAgainWhatFailed) {
  ASSERT_EQ(compare("--methods nf4").status, 0);
  Json document = read_json(json_);
  document["rows"][0] = {{"method", "nf4"}, {"error", "no memory"}};
  write(json_, document.dump());
  ASSERT_EQ(compare("--methods nf4 --resume").status, 0);
  EXPECT_GT(read_json(json_)["rows"][0]["perplexity"].get<double>(), 1);
}

TEST_F(CompareResume, RefusesRowsOfOtherSettings) {
  ASSERT_EQ(compare("--methods nf4").status, 0);
  const std::string before = bytes_of(json_);
  const auto refused = [&](const std::string& more, const std::string& says) {
    const auto outcome = run("compare --methods nf4 --resume --json " + json_.string() + " " + more);
    EXPECT_EQ(outcome.status, 1) << more;
    EXPECT_TRUE(has(outcome.text, says)) << outcome.text;
    EXPECT_EQ(bytes_of(json_), before);
  };
  refused("--tokens 201", "tokens was 200 and is 201");
  refused("--tokens 200 --window 100", "window was 512 and is 100");
  refused("--tokens 200 --samples 3", "samples was default and is 3");
  refused("--tokens 200 --skip layers.0", "skip was  and is layers.0");
  refused("--tokens 200 --report " + (folder_ / "page.html").string(), "report was false and is true");
  write(folder_ / "text.txt", std::string(3000, 'x'));
  refused("--tokens 200 --text " + (folder_ / "text.txt").string(), "text was ");
  EXPECT_EQ(run("compare --methods nf4 --resume").status, 1);
}

TEST_F(CompareResume, RefusesRowsOfAnotherBuild) {
  ASSERT_EQ(compare("--methods nf4").status, 0);
  Json document = read_json(json_);
  document["reference"]["perplexity"] = 2.5;
  write(json_, document.dump());
  const auto outcome = compare("--methods nf4,int8 --resume");
  EXPECT_EQ(outcome.status, 1);
  EXPECT_TRUE(has(outcome.text, "made by another build: fp32's perplexity was 2.5 and is ")) << outcome.text;
  EXPECT_EQ(read_json(json_), document);
}

TEST_F(CompareResume, RefusesFilesOfAnythingElse) {
  for (const char* text : {"", "[1, 2]", "{}", "{\"settings\": 7, \"rows\": []}", "{\"rows\": [{\"method\": 3}]}",
                           "\xff\xfe not JSON", "{\"rows\": [[[[[[["}) {
    write(json_, text);
    const auto outcome = compare("--methods nf4 --resume");
    EXPECT_EQ(outcome.status, 1) << text;
    EXPECT_TRUE(has(outcome.text, json_.string())) << outcome.text;
    EXPECT_EQ(bytes_of(json_), text);
  }
  ASSERT_EQ(compare("--methods nf4").status, 0) << "without --resume it is an output like any";
  Json document = read_json(json_);
  document["rows"][0]["kl_mean"] = "many";
  write(json_, document.dump());
  EXPECT_EQ(compare("--methods nf4 --resume").status, 1);
}

TEST_F(CompareResume, GoesOnAfterAKill) {
  ASSERT_EQ(compare("--methods int8,nf4,fp4").status, 0);
  const Json whole = read_json(json_)["rows"];
  fs::remove(json_);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const std::string json = json_.string();
    ::execl(NIBBLE_TOOL, NIBBLE_TOOL, "compare", "--tokens", "200", "--jobs", "1", "--methods", "int8,nf4,fp4",
            "--json", json.c_str(), nullptr);
    ::_exit(127);
  }
  const auto rows = [&] { return fs::exists(json_) ? read_json(json_)["rows"].size() : 0; };
  for (int i = 0; i < 6000 && rows() == 0; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  ::kill(child, SIGKILL);
  (void)testing_support::wait_for(child);
  ASSERT_GE(rows(), 1u);
  if (!read_json(json_)["finished"].get<bool>()) {
    const auto outcome = compare("--methods int8");
    EXPECT_EQ(outcome.status, 1) << "an hour's rows are not lost for a forgotten word";
    EXPECT_TRUE(has(outcome.text, "of a run that did not end: --resume goes on with it")) << outcome.text;
  }
  ASSERT_EQ(compare("--methods int8,nf4,fp4 --resume").status, 0);
  EXPECT_EQ(quality(read_json(json_)["rows"]), quality(whole));
  EXPECT_TRUE(read_json(json_)["finished"].get<bool>());
}

}  // namespace
}  // namespace nibble::cli
