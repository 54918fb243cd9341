// JSON nested as deep as a file is long, wherever a model has JSON: an error that names the file, in little memory.
#include <gtest/gtest.h>

#include <fstream>

#include "nibble/format/checkpoint.h"
#include "nibble/model/config.h"
#include "nibble/model/convert.h"
#include "nibble/model/quantize.h"
#include "nibble/text/tokenizer.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_model.h"

namespace nibble::inline NIBBLE_ABI::model {
namespace {

using testing_support::expect_error;
using testing_support::TemporaryFolder;
using testing_support::write_tiny_model;

std::string deep() { return std::string(66000, '[') + std::string(66000, ']'); }

class HostileJson : public testing::Test {
 protected:
  HostileJson() { write_tiny_model(folder_ / "in"); }
  void write(const std::string& file, const std::string& text) { std::ofstream(folder_ / "in" / file) << text; }
  template <class Action>
  void refuses(const std::string& file, const Action& action) {
    expect_error(ErrorCode::corrupt_file, "'" + (folder_ / "in" / file).string() + "' nests objects and arrays",
                 action);
  }
  TemporaryFolder folder_;
};

TEST_F(HostileJson, OfTheConfigurationIsRefusedByEveryCommand) {
  const std::string start = R"({"model_type": "llama", "hidden_size": )";
  for (const std::string& text : {start + deep() + "}", start + "64, \"unknown\": " + deep() + "}",
                                  start + "64, \"quantization_config\": {\"x\": " + deep() + "}}"}) {
    write("config.json", text);
    refuses("config.json", [&] { (void)Config::load(folder_ / "in"); });
    refuses("config.json", [&] { (void)Checkpoint::open(folder_ / "in"); });
    QuantizeModelOptions options;
    options.spec = QuantSpec::parse("nf4");
    refuses("config.json", [&] { (void)quantize_model(folder_ / "in", folder_ / "out", options); });
    refuses("config.json", [&] { (void)convert_model(folder_ / "in", folder_ / "out", {}); });
  }
}

TEST_F(HostileJson, OfTheTokenizerIsRefused) {
  const auto load = [&] { (void)text::load_tokenizer(folder_ / "in"); };
  for (const char* key : {"tokenizer_class", "add_bos_token", "unknown"}) {
    write("tokenizer_config.json", "{\"" + std::string(key) + "\": " + deep() + "}");
    refuses("tokenizer_config.json", load);
  }
  write("tokenizer_config.json", "{}");
  write("tokenizer.json", R"({"model": {"type": "BPE", "vocab": {"a": )" + deep() + R"(}, "merges": []}})");
  refuses("tokenizer.json", load);
}

TEST_F(HostileJson, OfAnIndexIsRefused) {
  std::filesystem::remove(folder_ / "in/model.safetensors");
  write("model.safetensors.index.json", R"({"weight_map": {"a": )" + deep() + "}}");
  refuses("model.safetensors.index.json", [&] { (void)Checkpoint::open(folder_ / "in"); });
  write("model.safetensors.index.json", R"({"weight_map": {"a": "1.safetensors", "a": "2.safetensors"}})");
  expect_error(ErrorCode::corrupt_file, "the key \"a\" twice", [&] { (void)Checkpoint::open(folder_ / "in"); });
}

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI::model
