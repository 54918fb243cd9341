// Everything beside the weights goes along unless it speaks of them, and what stays behind is said.
#include "model/side_files.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <fstream>
#include <set>

#include "nibble/engine/calibrate.h"
#include "nibble/model/convert.h"
#include "nibble/model/quantize.h"
#include "tests/support/temporary_folder.h"

namespace nibble::inline NIBBLE_ABI::model {
namespace {

namespace fs = std::filesystem;
using testing_support::TemporaryFolder;
using Names = std::set<std::string>;

const fs::path kModel = NIBBLE_EXAMPLE_DATA "/austen-5m";

void put(const fs::path& path, const std::string& text = "text") {
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << text;
}

std::string text_of(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

Names names_in(const fs::path& folder) {
  Names out;
  for (const auto& entry : fs::recursive_directory_iterator(folder))
    out.insert(fs::relative(entry.path(), folder).string());
  return out;
}

TEST(SideFiles, WhatIsNotAboutWeightsIsCopied) {
  const TemporaryFolder folder;
  const Names wanted{"LICENSE",
                     "README.md",
                     "additional_chat_templates",
                     "additional_chat_templates/rag.jinja",
                     "chat_template.jinja",
                     "chat_template.json",
                     "generation_config.json",
                     "modeling_own.py",
                     "preprocessor_config.json",
                     "special_tokens_map.json",
                     "tekken.json",
                     "tokenizer.json",
                     "tokenizer.model",
                     "tokenizer_config.json",
                     "vocab.txt",
                     "1_Pooling",
                     "1_Pooling/config.json"};
  for (const std::string& name : wanted)
    if (name.find('.') != std::string::npos || name == "LICENSE") put(folder / "in" / name, "of " + name);
  for (const char* name : {"config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
                           "model.safetensors.index.json", "quantize_config.json"})
    put(folder / "in" / name);
  fs::create_directory(folder / "out");
  EXPECT_TRUE(copy_side_files(folder / "in", folder / "out").empty());
  EXPECT_EQ(names_in(folder / "out"), wanted);
  EXPECT_EQ(text_of(folder / "out/additional_chat_templates/rag.jinja"), "of additional_chat_templates/rag.jinja");
}

TEST(SideFiles, WeightsOfEveryFormatStayAndAreSaid) {
  const TemporaryFolder folder;
  put(folder / "in/model.safetensors");
  const Names left{"pytorch_model.bin (weights)",
                   "pytorch_model.bin.index.json (describes weights)",
                   "consolidated.safetensors (weights)",
                   "consolidated.00.pth (weights)",
                   "model.Q4_K_M.GGUF (weights)",
                   "tf_model.h5 (weights)",
                   "model.ckpt.data-00000-of-00001 (weights)",
                   "adapter_config.json (describes weights)",
                   "hf_quant_config.json (describes weights)",
                   "original (holds weights)",
                   "onnx (holds weights)",
                   ".cache (no part of the model)"};
  for (const std::string& name : left) {
    const std::string file = name.substr(0, name.find(" ("));
    if (file == "original") put(folder / "in/original/consolidated.00.pth");
    else if (file == "onnx") put(folder / "in/onnx/deep/model.onnx");
    else if (file == ".cache") put(folder / "in/.cache/huggingface/download");
    else put(folder / "in" / file);
  }
  fs::create_directory(folder / "out");
  const auto said = copy_side_files(folder / "in", folder / "out");
  EXPECT_EQ(Names(said.begin(), said.end()), left);
  EXPECT_TRUE(fs::is_empty(folder / "out"));
}

// A snapshot of a Hugging Face cache is a folder of links to blobs.
TEST(SideFiles, LinksToFilesAreCopiedAsFiles) {
  const TemporaryFolder folder;
  put(folder / "blobs/abc", "{}");
  fs::create_directories(folder / "snapshots/1");
  fs::create_symlink("../../blobs/abc", folder / "snapshots/1/tokenizer.json");
  fs::create_directory(folder / "out");
  EXPECT_TRUE(copy_side_files(folder / "snapshots/1", folder / "out").empty());
  EXPECT_EQ(text_of(folder / "out/tokenizer.json"), "{}");
  EXPECT_FALSE(fs::is_symlink(folder / "out/tokenizer.json"));
}

TEST(SideFiles, WhatIsNoFileIsPassedOverAndSaid) {
  const TemporaryFolder folder;
  fs::create_directories(folder / "in");
  ASSERT_EQ(::mkfifo((folder / "in/pipe").c_str(), 0600), 0);
  fs::create_symlink("/dev/zero", folder / "in/zeros");
  fs::create_symlink("nothing", folder / "in/dangling");
  fs::create_directory_symlink("..", folder / "in/up");
  fs::create_directory(folder / "out");
  const auto said = copy_side_files(folder / "in", folder / "out");
  EXPECT_EQ(Names(said.begin(), said.end()),
            (Names{"pipe (a pipe)", "zeros (a device)", "dangling (a link to nothing)", "up (a link to a folder)"}));
  EXPECT_TRUE(fs::is_empty(folder / "out"));
}

TEST(SideFiles, EveryWriterOfAModelTakesThemAlong) {
  const TemporaryFolder folder;
  fs::create_directory(folder / "in");
  for (const auto& entry : fs::directory_iterator(kModel))
    fs::copy_file(entry.path(), folder / "in" / entry.path().filename());
  put(folder / "in/chat_template.jinja", "{{ messages }}");
  put(folder / "in/modeling_own.py");
  put(folder / "in/model.gguf");
  const std::vector<std::string> left{"model.gguf (weights)"};
  const auto check = [&](const fs::path& out, const std::vector<std::string>& left_out) {
    EXPECT_EQ(text_of(out / "chat_template.jinja"), "{{ messages }}") << out;
    EXPECT_TRUE(fs::exists(out / "modeling_own.py")) << out;
    EXPECT_FALSE(fs::exists(out / "model.gguf")) << out;
    EXPECT_EQ(left_out, left) << out;
  };
  QuantizeModelOptions quantize;
  quantize.spec = QuantSpec::parse("int4-g128-sym");
  check(folder / "int4", quantize_model(folder / "in", folder / "int4", quantize).left_out);
  put(folder / "int4/model.gguf");
  ConvertModelOptions convert;
  convert.to = CheckpointLayout::compressed_tensors;
  check(folder / "converted", convert_model(folder / "int4", folder / "converted", convert).left_out);
  std::vector<std::int32_t> ids(256);
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::int32_t>(i * 7 % 256);
  CalibrateOptions calibrate;
  calibrate.method = CalibratedMethod::parse("gptq-4-g128");
  check(folder / "gptq", engine::quantize_calibrated(folder / "in", folder / "gptq", ids, calibrate).left_out);
}

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI::model
