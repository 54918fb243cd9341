// Whatever writes refuses, before its work, an output that is an input or cannot be written: all commands, all their
// outputs, one table.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>
#include <map>
#include <regex>

#include "tests/support/run_tool.h"
#include "tests/support/temporary_folder.h"

namespace nibble::cli {
namespace {

namespace fs = std::filesystem;
using testing_support::has;
using testing_support::run;
using testing_support::TemporaryFolder;

const fs::path kModel = NIBBLE_EXAMPLE_DATA "/austen-5m";

struct Writer {
  const char* name;
  const char* arguments;  ///< IN is the model, TEXT a text, REFERENCE saved log-probabilities, OUT the output.
  bool folder;            ///< It writes a folder, not a file.
};

constexpr Writer kWriters[] = {
    {"quantize", "quantize IN -o OUT --method nf4 --quiet", true},
    {"quantize_dense", "quantize IN -o OUT --method bf16 --quiet", true},
    {"gptq", "quantize IN -o OUT --method gptq-4-g128 --calibration TEXT --quiet", true},
    {"gptq_resumed", "quantize IN -o OUT --method gptq-4-g128 --calibration TEXT --quiet --resume", true},
    {"awq", "quantize IN -o OUT --method awq-4-g128 --calibration TEXT --quiet", true},
    {"report", "quantize IN -o ELSEWHERE --method gptq-4-g128 --calibration TEXT --quiet --report OUT", false},
    {"qat", "qat IN -o OUT --data TEXT --max-length 16 --max-steps 1 --quiet", true},
    {"convert", "convert IN OUT --to gptq --quiet", true},
    {"export_gguf", "export-gguf IN OUT --force --quiet", false},
    {"imatrix", "imatrix IN -o OUT --calibration TEXT --force --quiet", false},
    {"eval_json", "eval IN --text TEXT --tokens 16 --quiet --json OUT", false},
    {"save_reference", "eval IN --text TEXT --tokens 16 --quiet --save-reference OUT", false},
    {"compare_json", "compare IN --text TEXT --methods fp32 --tokens 16 --json OUT", false},
    {"compare_plot", "compare IN --text TEXT --methods fp32 --tokens 16 --plot OUT", false},
    {"compare_save", "compare IN --text TEXT --methods fp32 --tokens 16 --save OUT", true},
    {"memory_json", "memory IN --json OUT", false}};

/// What lies in a folder: names, sizes, and when each was written.
std::map<std::string, std::string> contents(const fs::path& folder) {
  std::map<std::string, std::string> out;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    const bool file = entry.is_regular_file();
    out[entry.path()] = file ? std::to_string(entry.file_size()) + " " +
                                   std::to_string(entry.last_write_time().time_since_epoch().count())
                             : "";
  }
  return out;
}

class Outputs : public testing::TestWithParam<Writer> {
 protected:
  Outputs() {
    fs::create_directory(folder_ / "in");
    for (const auto& entry : fs::directory_iterator(kModel))
      fs::copy_file(entry.path(), folder_ / "in" / entry.path().filename());
    std::ofstream(folder_ / "text") << std::string(300, 'a');
    std::ofstream(folder_ / "plain") << "text";
    fs::create_symlink(folder_ / "in/model.safetensors", folder_ / "link");
    fs::create_hard_link(folder_ / "in/model.safetensors", folder_ / "hard");
    fs::create_directory_symlink(folder_ / "in", folder_ / "in2");
  }

  /// The command must fail within moments, say why, and change nothing.
  void refused(const std::string& output, const std::string& why) const {
    const auto before = contents(folder_.path());
    std::string arguments = GetParam().arguments;
    const std::pair<const char*, fs::path> places[] = {
        {"ELSEWHERE", folder_ / "elsewhere"}, {"OUT", output}, {"IN", folder_ / "in"}, {"TEXT", folder_ / "text"}};
    for (const auto& [name, value] : places)
      arguments =
          std::regex_replace(arguments, std::regex("\\b" + std::string(name) + "\\b"), "'" + value.string() + "'");
    const auto outcome = run(arguments);
    EXPECT_NE(outcome.status, 0) << arguments;
    EXPECT_TRUE(std::regex_search(outcome.text, std::regex(why))) << arguments << "\n" << outcome.text;
    EXPECT_FALSE(has(outcome.text, "unexpected failure")) << outcome.text;
    EXPECT_TRUE(contents(folder_.path()) == before) << arguments << "\n" << outcome.text;
  }
  TemporaryFolder folder_;
};

TEST_P(Outputs, MayNotBeNorReachAnInput) {
  const std::string in = folder_ / "in";
  std::vector<std::string> reaching{in + "/model.safetensors", in + "/../in/config.json", in + "2/model.safetensors",
                                    folder_ / "link", folder_ / "hard"};
  if (has(GetParam().arguments, "TEXT")) reaching.push_back(folder_ / "text");
  for (const std::string& name : reaching)
    refused(name, GetParam().folder ? "exists already|is no folder|the input" : "is the input");
  for (const std::string& name : {in + "/new", in + "/./x/../new", in + "2/new"})
    refused(name, "lies inside the input");
}

TEST_P(Outputs, MustHaveANameThatCanBeWritten) {
  refused("", "is empty");
  refused((folder_ / std::string(256, 'n')).string(), "name of 256 bytes");
  refused((folder_ / "plain/out").string(), "is no folder");
  if (GetParam().folder) return;
  refused((folder_ / "nothing/out").string(), "there is no folder");
  refused("/dev/null", "pipe or a device");
  refused(folder_.path().string(), "is a folder|holds the input");
}

INSTANTIATE_TEST_SUITE_P(Of, Outputs, testing::ValuesIn(kWriters),
                         [](const auto& instance) { return std::string(instance.param.name); });

TEST(Outputs, AFolderOfFinishedBlocksIsNoModelOfSomebodyElse) {
  const TemporaryFolder folder;
  fs::create_directory(folder / "out.partial");
  for (const auto& entry : fs::directory_iterator(kModel))
    fs::copy_file(entry.path(), folder / "out.partial" / entry.path().filename());
  const auto before = contents(folder.path());
  const std::string options = " --method gptq-4-g128 --quiet --samples 2 -o " + (folder / "out").string();
  for (const std::string resume : {"", " --resume"}) {
    const auto itself = run("quantize " + (folder / "out.partial").string() + options + resume);
    EXPECT_EQ(itself.status, 1);
    EXPECT_TRUE(has(itself.text, "is the input")) << itself.text;
    const auto another = run("quantize " + kModel.string() + options + resume);
    EXPECT_EQ(another.status, 1);
    EXPECT_TRUE(has(another.text, "is no folder of finished blocks")) << another.text;
  }
  EXPECT_TRUE(contents(folder.path()) == before);
}

TEST(Outputs, AReportMayLieInTheOutputUnderANameOfItsOwn) {
  const TemporaryFolder folder;
  const std::string options = "quantize " + kModel.string() + " --method gptq-8-g128 --quiet --samples 1 -o " +
                              (folder / "out").string() + " --report ";
  for (const char* taken : {"config.json", "model.safetensors", "tokenizer_config.json"}) {
    const auto outcome = run(options + (folder / "out" / taken).string());
    EXPECT_EQ(outcome.status, 1);
    EXPECT_TRUE(has(outcome.text, "is the name of a file of the quantized model")) << outcome.text;
  }
  EXPECT_TRUE(fs::is_empty(folder.path()));
  const auto outcome = run(options + (folder / "out/report.json").string());
  EXPECT_EQ(outcome.status, 0) << outcome.text;
  EXPECT_TRUE(fs::exists(folder / "out/report.json"));
}

}  // namespace
}  // namespace nibble::cli
