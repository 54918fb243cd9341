// Files that wait, or that speak to the terminal, do neither.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "nibble/core/printable.h"
#include "nibble/format/safetensors.h"
#include "tests/support/run_tool.h"
#include "tests/support/temporary_folder.h"

namespace nibble::cli {
namespace {

namespace fs = std::filesystem;
using namespace std::string_literals;
using Json = nlohmann::json;
using testing_support::has;
using testing_support::run;
using testing_support::TemporaryFolder;

const fs::path kModel = NIBBLE_EXAMPLE_DATA "/austen-5m";

void copy_model(const fs::path& to) {
  fs::create_directory(to);
  for (const auto& entry : fs::directory_iterator(kModel)) fs::copy_file(entry.path(), to / entry.path().filename());
}

class Pipe : public testing::TestWithParam<const char*> {};

TEST_P(Pipe, InPlaceOfAModelsFileIsRefusedAtOnce) {
  const TemporaryFolder folder;
  const std::string in = folder / "in", name = GetParam();
  copy_model(in);
  if (name == "tokenizer.json" || name == "tokenizer.model") fs::remove(folder / "in/tokenizer_config.json");
  if (name == "model.safetensors.index.json") fs::remove(folder / "in/model.safetensors");
  fs::remove(folder / "in" / name);
  ASSERT_EQ(::mkfifo((folder / "in" / name).c_str(), 0600), 0);
  const std::string out = folder / "out";
  for (const std::string& command : {"generate " + in + " --tokens 2", "quantize " + in + " --method bf16 -o " + out,
                                     "inspect " + in, "memory " + in}) {
    const auto outcome = run(command, "timeout 20");
    EXPECT_NE(outcome.status, 124) << command << " waits";
    if (outcome.status != 0) EXPECT_TRUE(has(outcome.text, "nibble: ")) << command << ": " << outcome.text;
    fs::remove_all(out);
  }
  const auto outcome = run("export-gguf " + in + " " + out, "timeout 20");
  EXPECT_EQ(outcome.status, 1);
  EXPECT_TRUE(has(outcome.text, name + "' is a pipe, not a regular file")) << outcome.text;
}

INSTANTIATE_TEST_SUITE_P(As, Pipe,
                         testing::Values("config.json", "model.safetensors", "model.safetensors.index.json",
                                         "tokenizer.json", "tokenizer.model", "tokenizer_config.json",
                                         "chat_template.jinja"),
                         [](const auto& instance) {
                           std::string name = instance.param;
                           for (char& c : name) c = c == '.' ? '_' : c;
                           return name;
                         });

TEST(Pipes, AsAnyOtherInputAreRefusedAtOnce) {
  const TemporaryFolder folder;
  const std::string pipe = folder / "pipe", gguf = folder / "pipe.gguf", out = folder / "out", model = kModel;
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  ASSERT_EQ(::mkfifo(gguf.c_str(), 0600), 0);
  for (const std::string& command :
       {"eval " + model + " --text " + pipe, "eval " + model + " --tokens 16 --reference " + pipe, "eval " + gguf,
        "generate " + gguf, "inspect " + pipe, "inspect " + kModel.string() + " --reference " + pipe,
        "quantize " + model + " -o " + out + " --method gptq-4-g128 --calibration " + pipe,
        "compare --methods fp32 --tokens 16 --text " + pipe}) {
    const auto outcome = run(command, "timeout 20");
    EXPECT_EQ(outcome.status, 1) << command;
    EXPECT_TRUE(has(outcome.text, "is a pipe, not a regular file")) << command << ": " << outcome.text;
  }
}

TEST(Pipes, ATextThatTheShellRedirectsIsRead) {
  EXPECT_EQ(
      run("eval " + kModel.string() + " --tokens 16 --quiet --text /dev/stdin < " + (kModel / "config.json").string())
          .status,
      0);
}

/// Nothing in it moves a cursor or hides a letter.
void expect_harmless(const std::string& text) {
  for (std::size_t at = 0; at < text.size();) {
    const auto [length, code] = first_character(std::string_view(text).substr(at));
    ASSERT_GT(length, 0u) << printable(text);
    ASSERT_TRUE(code == '\n' || !acts_on_terminal(code)) << printable(text);
    at += length;
  }
}

TEST(Terminal, NamesOfTensorsCannotSpeakToIt) {
  const TemporaryFolder folder;
  const std::string evil = "a\x1b]0;owned\a\0b\u202e\u009b31m\r"s;
  copy_model(folder / "in");
  const std::vector<float> values(4);
  SafetensorsWriter writer(folder / "in/model.safetensors", {{evil, DType::f32, {2, 2}, 0, 0}}, {});
  writer.write(evil, std::as_bytes(std::span(values)));
  writer.finish();
  const auto listed = run("inspect " + (folder / "in").string());
  EXPECT_EQ(listed.status, 0);
  EXPECT_TRUE(has(listed.text, "a\\x1b]0;owned\\x07\\x00b\\u202e")) << listed.text;
  expect_harmless(listed.text);
  for (const std::string command : {"eval ", "generate ", "inspect --reference "}) {
    const auto outcome =
        run(command + (folder / "in").string() + (has(command, "inspect") ? " " + kModel.string() : ""));
    expect_harmless(outcome.text);
  }
}

TEST(Terminal, ConfigurationsTokenizersAndIndexesCannotSpeakToIt) {
  const TemporaryFolder folder;
  const std::string evil = "x\x1b[2J\0\u2066"s, in = folder / "in";
  copy_model(in);
  const auto put = [&](const char* name, const Json& json) { std::ofstream(folder / "in" / name) << json.dump(); };
  Json config = Json::parse(std::ifstream(kModel / "config.json"));
  config["model_type"] = evil;
  put("config.json", config);
  const auto type = run("eval " + in);
  EXPECT_EQ(type.status, 1);
  EXPECT_TRUE(has(type.text, "x\\x1b[2J\\x00\\u2066")) << type.text;
  expect_harmless(type.text);
  fs::copy_file(kModel / "config.json", folder / "in/config.json", fs::copy_options::overwrite_existing);
  put("tokenizer_config.json", Json::object());
  put("tokenizer.json", {{"model", {{"type", evil}}}});
  const auto tokenizer = run("generate " + in);
  EXPECT_EQ(tokenizer.status, 1);
  expect_harmless(tokenizer.text);
  put("config.json", {{"quantization_config", {{"quant_method", evil}}}});
  expect_harmless(run("inspect " + in).text);
}

TEST(Terminal, AShardsNameWithANulOpensNoOtherFile) {
  const TemporaryFolder folder;
  copy_model(folder / "in");
  fs::rename(folder / "in/model.safetensors", folder / "in/secret");
  for (const std::string& name : {"secret\0.safetensors"s, "secret\x1b.safetensors"s, "secret\u202e.safetensors"s}) {
    std::ofstream(folder / "in/model.safetensors.index.json")
        << Json{{"weight_map", {{"model.norm.weight", name}}}}.dump();
    const auto outcome = run("inspect " + (folder / "in").string());
    EXPECT_EQ(outcome.status, 1);
    EXPECT_TRUE(has(outcome.text, "is not a plain file name")) << outcome.text;
    expect_harmless(outcome.text);
  }
}

/// What a command shows on a terminal of its own.
std::string on_a_terminal(const std::string& arguments) {
  const int master = ::posix_openpt(O_RDWR | O_NOCTTY);
  EXPECT_EQ(::grantpt(master) | ::unlockpt(master), 0);
  const std::string name = ::ptsname(master);
  const int slave = ::open(name.c_str(), O_RDWR | O_NOCTTY);
  termios raw{};
  ::tcgetattr(slave, &raw);
  ::cfmakeraw(&raw);
  ::tcsetattr(slave, TCSANOW, &raw);
  std::string text;
  std::thread reader([&] {
    char bytes[4096];
    for (ssize_t n; (n = ::read(master, bytes, sizeof bytes)) > 0;) text.append(bytes, static_cast<std::size_t>(n));
  });
  EXPECT_EQ(std::system((NIBBLE_TOOL " " + arguments + " > " + name + " 2>/dev/null").c_str()), 0);
  ::close(slave);
  reader.join();  // the terminal ends with its last holder
  ::close(master);
  return text;
}

// The embedded model speaks bytes; as hot as this it speaks all of them.
TEST(Terminal, AModelsTextCannotSpeakToIt) {
  const std::string arguments = "generate --temperature 50 --top-k 0 --top-p 1 --tokens 300 --seed 1 --prompt x";
  const auto piped = run(arguments);
  ASSERT_NE(printable(piped.text, TextKind::prose), piped.text);
  const std::string shown = on_a_terminal(arguments);
  EXPECT_TRUE(has(shown, "\\x"));
  EXPECT_EQ(printable(shown, TextKind::prose), shown);
}

}  // namespace
}  // namespace nibble::cli
