// A GGUF file carries the model's chat templates, under the keys that the gguf package writes.
#include "model/gguf_chat_template.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "nibble/model/export_gguf.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace nibble::inline NIBBLE_ABI::model {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using Strings = std::vector<std::string>;
using testing_support::expect_error;
using testing_support::TemporaryFolder;

class ChatTemplate : public testing::Test {
 protected:
  void put(const fs::path& name, const std::string& text) const {
    fs::create_directories((folder_ / name).parent_path());
    std::ofstream(folder_ / name, std::ios::binary) << text;
  }
  GgufMetadata found() { return chat_templates(folder_.path(), notes_); }
  TemporaryFolder folder_;
  Strings notes_;
};

TEST_F(ChatTemplate, ATextOfTheTokenizersConfiguration) {
  put("tokenizer_config.json", R"({"chat_template": "{% for m in messages %}é{% endfor %}"})");
  EXPECT_EQ(found(), (GgufMetadata{{"tokenizer.chat_template", std::string("{% for m in messages %}é{% endfor %}")}}));
  EXPECT_TRUE(notes_.empty());
}

TEST_F(ChatTemplate, AListOfNamedOnes) {
  put("tokenizer_config.json", R"({"chat_template": [{"name": "tool-use", "template": "T"},
                                                     {"name": "default", "template": "D"},
                                                     {"name": "rag", "template": "R"}]})");
  const GgufMetadata wanted{{"tokenizer.chat_template", std::string("D")},
                            {"tokenizer.chat_template.rag", std::string("R")},
                            {"tokenizer.chat_template.tool_use", std::string("T")},
                            {"tokenizer.chat_templates", GgufArray{Strings{"rag", "tool_use"}}}};
  EXPECT_EQ(found(), wanted);
}

TEST_F(ChatTemplate, AListWithoutADefaultHasNone) {
  put("tokenizer_config.json", R"({"chat_template": [{"name": "rag", "template": "R"}]})");
  EXPECT_EQ(found(), (GgufMetadata{{"tokenizer.chat_template.rag", std::string("R")},
                                   {"tokenizer.chat_templates", GgufArray{Strings{"rag"}}}}));
}

TEST_F(ChatTemplate, FilesOfTheirOwn) {
  put("tokenizer_config.json", "{}");
  put("chat_template.jinja", "J\n");
  put("additional_chat_templates/tool_use.jinja", "T");
  const GgufMetadata wanted{{"tokenizer.chat_template", std::string("J\n")},
                            {"tokenizer.chat_template.tool_use", std::string("T")},
                            {"tokenizer.chat_templates", GgufArray{Strings{"tool_use"}}}};
  EXPECT_EQ(found(), wanted);
  EXPECT_TRUE(notes_.empty());
}

TEST_F(ChatTemplate, TheFileComesFirstAndADifferenceIsSaid) {
  put("tokenizer_config.json", R"({"chat_template": "old"})");
  put("chat_template.jinja", "new");
  EXPECT_EQ(found(), (GgufMetadata{{"tokenizer.chat_template", std::string("new")}}));
  ASSERT_EQ(notes_.size(), 1u);
  EXPECT_NE(notes_[0].find("two different chat templates"), std::string::npos);
}

TEST_F(ChatTemplate, TheProcessorsFileIsTheLast) {
  put("chat_template.json", R"({"chat_template": "P"})");
  EXPECT_EQ(found(), (GgufMetadata{{"tokenizer.chat_template", std::string("P")}}));
  put("tokenizer_config.json", R"({"chat_template": "C"})");
  EXPECT_EQ(found(), (GgufMetadata{{"tokenizer.chat_template", std::string("C")}}));
}

TEST_F(ChatTemplate, NoneIsNoKey) {
  EXPECT_TRUE(found().empty());
  put("tokenizer_config.json", R"({"chat_template": null})");
  EXPECT_TRUE(found().empty());
  EXPECT_TRUE(notes_.empty());
}

TEST_F(ChatTemplate, WhatIsNoTemplateIsLeftOutAndSaid) {
  for (const char* bad : {"5", "{}", "[5]", R"([{"name": "a"}])", R"([{"name": 1, "template": "x"}])"}) {
    notes_.clear();
    put("tokenizer_config.json", std::string(R"({"chat_template": )") + bad + "}");
    EXPECT_TRUE(found().empty()) << bad;
    EXPECT_EQ(notes_.size(), 1u) << bad;
  }
  put("tokenizer_config.json", "{}");
  put("chat_template.jinja", "\xff");
  notes_.clear();
  EXPECT_TRUE(found().empty());
  EXPECT_EQ(notes_.size(), 1u);
  put("tokenizer_config.json", "[]");
  expect_error(ErrorCode::corrupt_file, "tokenizer_config.json", [&] { (void)found(); });
}

TEST_F(ChatTemplate, IsInTheExportedFile) {
  for (const auto& entry : fs::directory_iterator(NIBBLE_EXAMPLE_DATA "/austen-5m"))
    fs::copy_file(entry.path(), folder_ / entry.path().filename());
  put("chat_template.jinja", "{{ messages }}");
  const TemporaryFolder out;
  (void)export_gguf(folder_.path(), out / "model.gguf", {.type = BlockType::q4_0});
  EXPECT_EQ(std::get<std::string>(GgufFile(out / "model.gguf").metadata().at("tokenizer.chat_template")),
            "{{ messages }}");
}

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI::model
