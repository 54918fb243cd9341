// What users hand over in place of a model is named for what it is, with what to do.
#include "format/recognise.h"

#include <gtest/gtest.h>

#include <fstream>

#include "nibble/format/checkpoint.h"
#include "nibble/format/gguf.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using testing_support::expect_error;
using testing_support::TemporaryFolder;

void put(const fs::path& path, const std::string& bytes) {
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << bytes;
}

class Recognise : public testing::Test {
 protected:
  void expect(ErrorCode code, const std::string& path, const std::string& what, const std::string& advice) {
    for (const std::string& says : {what, advice})
      expect_error(code, says, [&] { (void)Checkpoint::open(folder_ / path); });
  }
  TemporaryFolder folder_;
};

TEST_F(Recognise, FilesInPlaceOfTensors) {
  const struct {
    const char *name, *what, *advice;
    std::string bytes;
    ErrorCode code = ErrorCode::corrupt_file;
  } cases[] = {
      {"lfs.safetensors", "is a pointer of Git LFS", "git lfs pull",
       "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"},
      {"empty.safetensors", "is an empty file", "Fetch it again", ""},
      {"page.safetensors", "is a web page", "'resolve' in place of 'blob'", "<!DOCTYPE html><html></html>"},
      {"model.pt", "is a PyTorch checkpoint", "safe_serialization=True",
       std::string("PK\x03\x04") + std::string(60, 'x'), ErrorCode::unsupported},
      {"old.bin", "is a Python pickle", "safe_serialization=True", std::string("\x80\x02}q\0.", 6),
       ErrorCode::unsupported},
      {"model.onnx", "is an ONNX model", "safetensors or GGUF", "\x08\x07", ErrorCode::unsupported},
      {"model.tar.gz", "is an archive", "unpack it", "\x1f\x8b\x08", ErrorCode::unsupported},
      {"ggml.bin", "from before GGUF", "take a GGUF file", "tjgg....", ErrorCode::unsupported},
      {"model.h5", "is an HDF5 file", "safetensors", "\x89HDF\r\n", ErrorCode::unsupported},
  };
  for (const auto& c : cases) {
    put(folder_ / c.name, c.bytes);
    expect(c.code, c.name, c.what, c.advice);
    // As the weights of a model, too.
    const std::string as_model = std::string("model-") + c.name;
    put(folder_ / as_model / "config.json", "{}");
    put(folder_ / as_model / "model.safetensors", c.bytes);
    if (!std::string(c.name).ends_with(".onnx")) expect(c.code, as_model, c.what, "model.safetensors");
  }
  put(folder_ / "renamed" / "model.safetensors", "GGUF" + std::string(40, '\0'));
  expect(ErrorCode::unsupported, "renamed", "is a GGUF file under another name", "name it *.gguf");
  put(folder_ / "lfs.gguf", "version https://git-lfs.github.com/spec/v1\n");
  expect_error(ErrorCode::corrupt_file, "git lfs pull", [&] { GgufFile(folder_ / "lfs.gguf"); });
}

TEST_F(Recognise, FoldersInPlaceOfAModel) {
  put(folder_ / "bin" / "config.json", "{}");
  put(folder_ / "bin" / "pytorch_model-00001-of-00002.bin", "x");
  expect(ErrorCode::unsupported, "bin", "a folder of PyTorch pickles ('pytorch_model", "safe_serialization=True");

  put(folder_ / "peft" / "adapter_config.json", R"({"base_model_name_or_path": "org/base"})");
  put(folder_ / "peft" / "adapter_model.safetensors", "x");
  expect(ErrorCode::unsupported, "peft", "is a PEFT adapter, not a model for 'org/base'", "merge_and_unload");

  const fs::path root = folder_ / "hub" / "models--org--name";
  put(root / "refs" / "main", "0123abc\n");
  put(root / "snapshots" / "0000000" / "config.json", "{}");
  put(root / "snapshots" / "0123abc" / "config.json", "{}");
  const std::string snapshot = "'" + (root / "snapshots" / "0123abc").string() + "'";
  expect(ErrorCode::unsupported, "hub/models--org--name", "the root of a model in a Hugging Face cache", snapshot);
  expect(ErrorCode::unsupported, "hub", "a Hugging Face cache of several repositories", snapshot);

  put(folder_ / "gguf" / "model-Q4_K_M.gguf", "GGUF");
  expect(ErrorCode::unsupported, "gguf", "a folder of GGUF files", (folder_ / "gguf" / "model-Q4_K_M.gguf").string());

  put(folder_ / "noindex" / "model-00001-of-00002.safetensors", "x");
  put(folder_ / "noindex" / "model-00002-of-00002.safetensors", "x");
  expect(ErrorCode::not_found, "noindex", "a sharded model without its index", "model.safetensors.index.json");

  put(folder_ / "mistral" / "consolidated.safetensors", "x");
  put(folder_ / "mistral" / "params.json", "{}");
  expect(ErrorCode::unsupported, "mistral", "Mistral's own layout", "config.json");

  put(folder_ / "a.mlpackage" / "Manifest.json", "{}");
  expect(ErrorCode::unsupported, "a.mlpackage", "a Core ML package", "safetensors or GGUF");
  fs::create_directories(folder_ / "empty");
  expect(ErrorCode::not_found, "empty", "an empty folder", "config.json");
  expect(ErrorCode::not_found, "nowhere", "there is no", "is needed");

  put(folder_ / "missing" / "model.safetensors.index.json",
      R"({"weight_map": {"a": "model-00001-of-00001.safetensors"}})");
  expect(ErrorCode::not_found, "missing", "names the shard 'model-00001-of-00001.safetensors'", "download it, too");
}

TEST_F(Recognise, AnAdapterBesideAWholeModelIsNoObstacle) {
  put(folder_ / "both" / "adapter_config.json", "{}");
  SafetensorsWriter writer(folder_ / "both" / "model.safetensors", {{"a", DType::u8, {1}, 0, 0}}, {});
  writer.write("a", std::as_bytes(std::span("x", 1)));
  writer.finish();
  EXPECT_TRUE(Checkpoint::open(folder_ / "both").contains("a"));
}

TEST_F(Recognise, WhatIsNoText) {
  const auto refused = [&](ErrorCode code, const std::string& name, const std::string& says) {
    expect_error(code, says, [&] { format::refuse_no_text(folder_ / name); });
  };
  fs::create_directories(folder_ / "texts");
  put(folder_ / "zeros", std::string("ab\0c", 4));
  put(folder_ / "utf16.txt",
      "\xff\xfe"
      "a");
  put(folder_ / "model.gguf", "GGUF\3");
  put(folder_ / "empty.txt", "");
  put(folder_ / "good.txt", "It is a truth universally acknowledged");
  refused(ErrorCode::invalid_argument, "texts", "is a folder");
  refused(ErrorCode::invalid_argument, "zeros", "byte 2 is 0");
  refused(ErrorCode::unsupported, "utf16.txt", "UTF-16");
  refused(ErrorCode::invalid_argument, "model.gguf", "is a GGUF file");
  refused(ErrorCode::corrupt_file, "empty.txt", "is an empty file");
  refused(ErrorCode::not_found, "nothing.txt", "there is no");
  EXPECT_NO_THROW(format::refuse_no_text(folder_ / "good.txt"));
}

}  // namespace
}  // namespace nibble
