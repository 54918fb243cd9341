// `nibble finetune` as a user runs it, on the embedded model: what it prints and writes, and that a run which is killed
// or interrupted at any moment goes on to the same bytes.
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>

#include "nibble/format/checkpoint.h"
#include "nibble/format/gguf.h"
#include "nibble/model/adapter.h"
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
/// Steps of a few milliseconds.
const std::string kSmall = " --max-length 128 --batch 1 --accumulation 2 --rank 2 --target q_proj --target down_proj";

pid_t start(const std::string& arguments) {
  const std::string command = "exec " NIBBLE_TOOL " " + arguments + " >/dev/null 2>&1";
  const char* argv[] = {"sh", "-c", command.c_str(), nullptr};
  pid_t child = 0;
  EXPECT_EQ(posix_spawn(&child, "/bin/sh", nullptr, nullptr, const_cast<char**>(argv), environ), 0);
  return child;
}

std::vector<nlohmann::json> lines_of(const fs::path& path) {
  std::vector<nlohmann::json> out;
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) out.push_back(nlohmann::json::parse(line));
  return out;
}

TEST(Finetune, WritesAnAdapterALogAndACurve) {
  const TemporaryFolder folder;
  const std::string out = folder / "adapter", log = folder / "log", plot = folder / "curve.svg";
  const auto outcome = run("finetune " + kModel + kSmall + " --max-steps 6 --evaluate-every 3 -o " + out + " --log " +
                           log + " --plot " + plot);
  ASSERT_EQ(outcome.status, 0) << outcome.text;
  for (const char* part : {"trainable params: ", "all params: ", "trainable%: ", "held out", "steps: 6 of 1 × 2",
                           "4.127 bits", "held-out loss", "at the peak"})
    EXPECT_TRUE(has(outcome.text, part)) << part << "\n" << outcome.text;
  const std::vector<nlohmann::json> lines = lines_of(log);
  ASSERT_EQ(lines.size(), 6u);
  for (std::size_t i = 0; i < 6; ++i) {
    EXPECT_EQ(lines[i]["step"], i + 1);
    EXPECT_GT(lines[i]["loss"].get<double>(), 0);
    EXPECT_EQ(lines[i].contains("evaluation_loss"), i == 2 || i == 5);
  }
  EXPECT_FALSE(fs::exists(out + ".checkpoints")) << "a finished run leaves them";
  EXPECT_TRUE(has(bytes_of(plot), "running mean"));

  const model::Adapter adapter = model::Adapter::load(out);
  EXPECT_EQ(adapter.layers.size(), 12u);
  EXPECT_EQ(adapter.layers.front().rank, 2u);
  EXPECT_TRUE(std::ranges::any_of(adapter.layers.front().b, [](float v) { return v != 0; }));
  const std::string with = " --adapter " + out;
  EXPECT_EQ(run("generate " + kModel + with + " --tokens 4").status, 0);
  const auto asked = run("generate " + kModel + with + " --instruction 'Add the numbers.' --input '1 + 2' --tokens 1");
  EXPECT_TRUE(has(asked.text, "### Instruction:\nAdd the numbers.\n\n### Input:\n1 + 2")) << asked.text;
  const auto plain = run("eval " + kModel + " --tokens 600"), adapted = run("eval " + kModel + with + " --tokens 600");
  EXPECT_EQ(adapted.status, 0) << adapted.text;
  EXPECT_NE(plain.text.substr(0, 40), adapted.text.substr(0, 40));
  const std::string gguf = folder / "adapter.gguf";
  EXPECT_EQ(run("export-gguf " + kModel + " " + gguf + with + " --type f32").status, 0);
  EXPECT_EQ(GgufFile(gguf).tensors().size(), 24u);
  const auto through = run("eval " + kModel + " --adapter " + gguf + " --tokens 600");
  EXPECT_EQ(through.text.substr(0, 40), adapted.text.substr(0, 40));
}

TEST(Finetune, TakesEveryKindOfBaseAndAdapter) {
  const TemporaryFolder folder;
  ASSERT_EQ(run("quantize " + kModel + " -o " + (folder / "int4").string() + " --method int4-g128-asym --quiet").status,
            0);
  int n = 0;
  for (const std::string& arguments :
       {kModel + " --base fp32 --dora", kModel + " --base int8 --rslora --optimizer lion --state-bits 32",
        (folder / "int4").string() + " --no-gradient-checkpointing --decay cosine",
        kModel + " --data " NIBBLE_EXAMPLE_DATA "/calibration.txt --evaluation-share 0"}) {
    const std::string out = folder / std::to_string(n++);
    const auto outcome = run("finetune " + arguments + kSmall + " --max-steps 2 --quiet -o " + out);
    EXPECT_EQ(outcome.status, 0) << arguments << "\n" << outcome.text;
    EXPECT_EQ(outcome.text, "") << arguments;
    EXPECT_FALSE(model::Adapter::load(out).layers.empty());
  }
}

TEST(Finetune, WritesAdaptersInBf16AndGoesOnWithThemAlone) {
  const TemporaryFolder folder;
  const std::string out = folder / "adapter", checkpoints = folder / "checkpoints",
                    call = "finetune " + kModel + kSmall + " --max-steps 2 --quiet --resume --checkpoints " +
                           checkpoints + " -o " + out;
  const auto outcome = run(call + " --adapter-type bf16 --activation-type bf16");
  ASSERT_EQ(outcome.status, 0) << outcome.text;
  const Checkpoint written = Checkpoint::open(out + "/adapter_model.safetensors");
  for (const TensorInfo& t : written.tensors()) EXPECT_EQ(t.type, DType::bf16) << t.name;
  fs::remove_all(out);
  const auto other = run(call);
  EXPECT_NE(other.status, 0);
  EXPECT_TRUE(has(other.text, "activation type")) << other.text;
}

TEST(Finetune, RefusesBeforeTheWork) {
  const TemporaryFolder folder;
  const auto refused = [&](const std::string& arguments, const char* says) {
    const auto outcome = run("finetune " + kModel + kSmall + " -o " + (folder / "out").string() + " " + arguments);
    EXPECT_NE(outcome.status, 0) << arguments;
    EXPECT_TRUE(has(outcome.text, says)) << outcome.text;
    EXPECT_TRUE(fs::is_empty(folder.path()) || !fs::exists(folder / "out")) << arguments;
  };
  std::ofstream(folder / "bad.jsonl") << "{\"text\": \"one\"}\n{\"instruction\": 3}\n";
  refused("--data " + (folder / "bad.jsonl").string(), "line 2");
  refused("--data /nowhere.jsonl", "/nowhere.jsonl");
  refused("--target nothing", "nothing");
  refused("--base gptq-4-g128", "needs a calibration run");
  refused("--base int8+a8", "activations stay in fp32");
  refused("--decay slowly", "constant, linear, cosine");
  refused("--packing somehow", "best-fit");
  refused("--template somehow", "alpaca");
  refused("--state-bits 4", "8");
  refused("--adapter-type f16", "bf16");
  const auto short_rows = run("finetune " + kModel + " --max-length 1 -o " + (folder / "out").string());
  EXPECT_TRUE(has(short_rows.text, "max_length")) << short_rows.text;
  fs::create_directory(folder / "there");
  EXPECT_TRUE(has(run("finetune " + kModel + " -o " + (folder / "there").string()).text, "exists"));
  EXPECT_EQ(run("finetune " + kModel + kSmall + " --skip-bad --plan -o " + (folder / "out").string() + " --data " +
                (folder / "bad.jsonl").string())
                .status,
            0);
}

std::string command(const fs::path& out, int checkpoint_every = 2) {
  return "finetune " + kModel + kSmall + " --max-steps 9 --checkpoint-every " + std::to_string(checkpoint_every) +
         " --resume --quiet -o " + out.string() + " --log " + out.string() + ".log";
}

TEST(Finetune, KilledAtAnyMomentGoesOnToTheSameBytes) {
  const char* wanted = std::getenv("NIBBLE_KILLS");
  const int kills = wanted != nullptr ? std::atoi(wanted) : 3;
  const TemporaryFolder folder;
  const auto begin = std::chrono::steady_clock::now();
  ASSERT_EQ(wait_for(start(command(folder / "whole"))), 0);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  const auto whole = contents(folder / "whole");
  std::mt19937 random(5);
  std::uniform_real_distribution<double> moment(0, 1);
  const fs::path out = folder / "killed";
  int killed = 0;
  while (killed < kills) {
    const pid_t child = start(command(out));
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
  ASSERT_EQ(wait_for(start(command(out))), 0);
  EXPECT_EQ(contents(out), whole);
  const std::vector<nlohmann::json> lines = lines_of(out.string() + ".log"),
                                    wanted_lines = lines_of(folder / "whole.log");
  ASSERT_EQ(lines.size(), wanted_lines.size());
  for (std::size_t i = 0; i < lines.size(); ++i)
    for (const char* key : {"step", "loss", "learning_rate", "gradient_norm", "tokens"})
      EXPECT_EQ(lines[i][key], wanted_lines[i][key]) << key << " of line " << i;
}

TEST(Finetune, CtrlCSavesAndSaysHowToGoOn) {
  const TemporaryFolder folder;
  ASSERT_EQ(wait_for(start(command(folder / "whole"))), 0);
  const fs::path out = folder / "out", said = folder / "said";
  const std::string line = command(out, 1000);
  const std::string shell = "exec " NIBBLE_TOOL " " + line + " 2>" + said.string();
  const char* argv[] = {"sh", "-c", shell.c_str(), nullptr};
  pid_t child = 0;
  ASSERT_EQ(posix_spawn(&child, "/bin/sh", nullptr, nullptr, const_cast<char**>(argv), environ), 0);
  // In the midst of training, which begins when the first step is logged; loading has nothing to save.
  const fs::path log = out.string() + ".log";
  for (int i = 0; i < 6000 && !(fs::exists(log) && fs::file_size(log) > 0); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  ::kill(child, SIGINT);
  const int status = wait_for(child);
  if (status != 0) {  // it may have got through
    EXPECT_EQ(status, 130);
    EXPECT_TRUE(has(bytes_of(said), "--resume goes on")) << bytes_of(said);
    EXPECT_FALSE(fs::exists(out));
    EXPECT_FALSE(fs::is_empty(out.string() + ".checkpoints"));
    ASSERT_EQ(wait_for(start(line)), 0);
  }
  EXPECT_EQ(contents(out), contents(folder / "whole"));
}

TEST(Finetune, ThreadsAndCheckpointingChangeNoByte) {
  const TemporaryFolder folder;
  const std::string arguments = "finetune " + kModel + kSmall + " --max-steps 3 --quiet -o ";
  ASSERT_EQ(run(arguments + (folder / "a").string(), "NIBBLE_THREADS=1").status, 0);
  ASSERT_EQ(run(arguments + (folder / "b").string(), "NIBBLE_THREADS=3").status, 0);
  ASSERT_EQ(run(arguments + (folder / "c").string() + " --no-gradient-checkpointing").status, 0);
  const auto a = contents(folder / "a");
  EXPECT_EQ(contents(folder / "b"), a);
  EXPECT_EQ(contents(folder / "c"), a);
}

}  // namespace
}  // namespace nibble::cli
