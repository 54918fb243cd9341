#include "nibble/text/records.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <span>

#include "nibble/core/error.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace nibble::text {
namespace {

namespace fs = std::filesystem;
using testing_support::expect_error;
using Json = nlohmann::json;
using Ids = std::vector<std::int32_t>;

std::unique_ptr<Tokenizer> golden(const std::string& name) {
  return load_tokenizer(fs::path(NIBBLE_TEST_DATA "/golden") / name);
}

/// The text of a sample with what is trained on in brackets.
std::string shown(const train::Sample& sample, const Tokenizer& tokenizer) {
  std::string out;
  for (std::size_t i = 0, end = 0; i < sample.ids.size(); i = end) {
    while (end < sample.ids.size() && sample.trained[end] == sample.trained[i]) ++end;
    const std::string run = tokenizer.decode(std::span(sample.ids).subspan(i, end - i));
    out += sample.trained[i] != 0 ? "[" + run + "]" : run;
  }
  return out;
}

class RecordsTest : public testing::Test {
 protected:
  fs::path write(const std::string& text, const std::string& name = "data.jsonl") {
    std::ofstream(folder_ / name, std::ios::binary) << text;
    return folder_ / name;
  }
  Records read(const std::string& text, const RecordOptions& options = {}, const std::string& name = "data.jsonl") {
    return read_records(write(text, name), *tokenizer_, options);
  }
  /// What the one record of a file becomes.
  std::string read_one(const std::string& text, const RecordOptions& options = {},
                       const std::string& name = "data.jsonl") {
    const Records data = read(text, options, name);
    EXPECT_EQ(data.samples.size(), 1);
    EXPECT_EQ(data.records, 1);
    return shown(data.samples.at(0), *tokenizer_);
  }
  void expect_bad(const std::string& line, const std::string& says, const RecordOptions& options = {}) {
    expect_error(ErrorCode::corrupt_file, "data.jsonl, line 1", [&] { (void)read(line, options); });
    expect_error(ErrorCode::corrupt_file, says, [&] { (void)read(line, options); });
  }

  testing_support::TemporaryFolder folder_;
  std::unique_ptr<Tokenizer> tokenizer_ = load_tokenizer(NIBBLE_EXAMPLE_DATA "/austen-5m");
};

TEST_F(RecordsTest, WritesInstructionsByTheTemplate) {
  const std::string with = R"({"instruction": "Add.", "input": "2 3", "output": "5"})";
  const std::string without = R"({"instruction": "Say hi.", "output": "hi"})";
  EXPECT_EQ(read_one(with), "### Instruction:\nAdd.\n\n### Input:\n2 3\n\n### Response:\n[5]");
  EXPECT_EQ(read_one(without), "### Instruction:\nSay hi.\n\n### Response:\n[hi]");
  EXPECT_EQ(read_one(without, {.template_name = "alpaca-preamble"}),
            "Below is an instruction that describes a task. Write a response that appropriately completes the "
            "request.\n\n### Instruction:\nSay hi.\n\n### Response:[hi]");
  EXPECT_EQ(read_one(with, {.template_name = "plain"}), "Add.\n2 3\n[5]");
  EXPECT_EQ(read_one(without, {.template_name = "plain"}), "Say hi.\n[hi]");
  EXPECT_EQ(read_one(with, {.template_name = "chatml"}),
            "<|im_start|>user\nAdd.\n\n2 3<|im_end|>\n<|im_start|>assistant\n[5<|im_end|>]");
}

TEST_F(RecordsTest, TakesAnInputThatIsNotThereEmptyOrNull) {
  const std::string expected = "a\n[b]";
  for (const char* input : {"", R"("input": "",)", R"("input": null,)", R"("context": "", "category": "x",)"})
    EXPECT_EQ(
        read_one(std::string(R"({"instruction": "a",)") + input + R"("output": "b"})", {.template_name = "plain"}),
        expected);
  EXPECT_EQ(read_one(R"({"instruction": "a", "context": "c", "response": "b"})", {.template_name = "plain"}),
            "a\nc\n[b]");
}

TEST_F(RecordsTest, PutsTextsInOnce) {
  EXPECT_EQ(
      read_one(R"({"instruction": "{input} {output} {instruction}", "input": "{instruction}", "output": "{input}"})",
               {.template_name = "plain"}),
      "{input} {output} {instruction}\n{instruction}\n[{input}]");
  EXPECT_EQ(instruction_prompt(find_prompt_template("plain"), "{input", "}{content}"), "{input\n}{content}\n");
}

TEST_F(RecordsTest, ReadsPromptsAndTexts) {
  EXPECT_EQ(read_one(R"({"prompt": "1 + 1 =", "completion": " 2"})"), "1 + 1 =[ 2]");
  EXPECT_EQ(read_one(R"({"prompt": "", "completion": "all"})"), "[all]");
  EXPECT_EQ(read_one(R"({"text": "a\nb"})"), "[a\nb]");
  EXPECT_EQ(read_one(R"({"prompt": "1 + 1 =", "completion": " 2"})", {.completion_only = false}), "[1 + 1 = 2]");
}

constexpr const char* kChat = R"({"messages": [
  {"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi"},
  {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "Bye"},
  {"role": "assistant", "content": "Ciao"}]})";
std::string chat() { return Json::parse(kChat).dump(); }

TEST_F(RecordsTest, TrainsTheAnswersOfAChat) {
  EXPECT_EQ(read_one(chat(), {.template_name = "chatml"}),
            "<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
            "[Hello<|im_end|>]\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n[Ciao<|im_end|>]");
  EXPECT_EQ(read_one(chat(), {.template_name = "alpaca", .eos = '$'}),
            "Be short.\n\n### Instruction:\nHi\n\n### Response:\n[Hello$]\n\n"
            "### Instruction:\nBye\n\n### Response:\n[Ciao$]");
  EXPECT_EQ(read_one(chat(), {.template_name = "plain"}), "Be short.\nHi\n[Hello]\nBye\n[Ciao]");
}

TEST_F(RecordsTest, ReadsChatsByTheirOtherNames) {
  EXPECT_EQ(read_one(R"({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]})",
                     {.template_name = "plain"}),
            "Hi\n[Hello]");
  // Nothing makes user and assistant take turns; what follows the last answer teaches nothing.
  const std::string odd = R"({"messages": [{"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"},
    {"role": "user", "content": "c"}, {"role": "user", "content": "d"}]})";
  const std::string line = Json::parse(odd).dump();
  EXPECT_EQ(read_one(line, {.template_name = "plain", .eos = '$'}), "[a$]\n[b$]");
  EXPECT_EQ(read_one(line, {.template_name = "plain", .completion_only = false, .eos = '$'}), "[a$\nb$\nc\nd\n]");
}

TEST_F(RecordsTest, EndsAnswersOnce) {
  const std::string record = R"({"prompt": "a", "completion": "b"})";
  EXPECT_EQ(read_one(record, {.eos = '$'}), "a[b$]");
  EXPECT_EQ(read_one(record, {.eos = 'b'}), "a[b]");  // it ends with it already
  EXPECT_EQ(read_one(R"({"text": "a"})", {.eos = '$'}), "[a$]");
  EXPECT_EQ(read_one(record, {.eos = '$', .bos = '^'}), "^a[b$]");
  EXPECT_EQ(read_one(record, {.completion_only = false, .eos = '$', .bos = '^'}), "[^ab$]");
  EXPECT_EQ(read_one(record, {.bos = 'a'}), "a[b]");
  // chatml says itself where an answer ends; the text ends behind the last.
  EXPECT_TRUE(read_one(chat(), {.template_name = "chatml", .eos = '$'}).ends_with("[Ciao<|im_end|>$]"));
  EXPECT_EQ(read_one(chat(), {.template_name = "chatml", .eos = '$'}).find("Hello<|im_end|>$"), std::string::npos);
  expect_error(ErrorCode::invalid_argument, "eos is 256", [&] { (void)read(record, {.eos = 256}); });
  expect_error(ErrorCode::invalid_argument, "bos is -7", [&] { (void)read(record, {.bos = -7}); });
}

TEST_F(RecordsTest, GivesTheTokensOfTheWholeText) {
  const auto qwen = golden("qwen2");
  const fs::path file = write(chat());
  const Records data = read_records(file, *qwen, {.template_name = "chatml", .eos = 622});
  EXPECT_EQ(data.samples.at(0).ids,
            qwen->encode("<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
                         "<|im_start|>assistant\nHello<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n"
                         "<|im_start|>assistant\nCiao<|im_end|>"));
  EXPECT_EQ(std::ranges::count(data.samples[0].ids, 622), 5);  // <|im_end|>, which eos does not double
  EXPECT_TRUE(shown(data.samples[0], *qwen)
                  .ends_with("\n[Hello<|im_end|>]\n<|im_start|>user\nBye<|im_end|>\n"
                             "<|im_start|>assistant\n[Ciao<|im_end|>]"));
  EXPECT_TRUE(data.notes.empty());
}

TEST_F(RecordsTest, PutsWhatTheTokenizerBeginsWithBeforeTheFirstTextAlone) {
  const auto llama = golden("json_llama2");
  const fs::path file = write(chat());
  const Records data = read_records(file, *llama, {.eos = 2, .bos = 0});
  const auto& sample = data.samples.at(0);
  EXPECT_EQ(sample.ids.front(), 1);  // its own <s>, not the option's
  EXPECT_EQ(std::ranges::count(sample.ids, 1), 1);
  EXPECT_EQ(std::ranges::count(sample.ids, 2), 2);
  EXPECT_EQ(sample.trained.front(), 0);
  const Ids first = llama->encode("Be short.\n\n### Instruction:\nHi\n\n### Response:\nHello");
  EXPECT_TRUE(std::equal(first.begin(), first.end(), sample.ids.begin()));
  // A tokenizer that ends texts itself, and begins them with nothing.
  const auto t5 = golden("json_t5");
  const Records other = read_records(write(R"({"prompt": "the", "completion": " best"})"), *t5, {.eos = 1, .bos = 2});
  EXPECT_EQ(other.samples.at(0).ids.front(), 2);
  EXPECT_EQ(std::ranges::count(other.samples[0].ids, 1), 1);
}

TEST_F(RecordsTest, TokenizesApartWhatTheTokenizerJoins) {
  const auto gpt2 = golden("gpt2");
  const std::string_view word = "in";
  ASSERT_EQ(gpt2->encode(word).size(), 1);  // so the tokens of its first letter are not its beginning
  const Records data = read_records(write(R"({"prompt": "i", "completion": "n"}
                                             {"prompt": "in", "completion": " a"})"),
                                    *gpt2);
  const Ids first = gpt2->encode("i"), second = gpt2->encode("n");
  ASSERT_EQ(data.samples.size(), 2);
  EXPECT_EQ(data.samples[0].ids, (Ids{first.at(0), second.at(0)}));
  EXPECT_EQ(shown(data.samples[0], *gpt2), "i[n]");
  EXPECT_EQ(data.samples[1].ids, gpt2->encode("in a"));
  ASSERT_EQ(data.notes.size(), 1);
  EXPECT_TRUE(data.notes[0].starts_with("prompt and answer were tokenized apart") && data.notes[0].ends_with(" 1"))
      << data.notes[0];
}

TEST_F(RecordsTest, SaysWhatLooksOdd) {
  const Records chatml = read(chat(), {.template_name = "chatml"});
  ASSERT_EQ(chatml.notes.size(), 1);
  EXPECT_NE(chatml.notes[0].find("<|im_end|>, which is no token of this vocabulary, but 10"), std::string::npos);
  const Records idle = read(R"({"text": "a"})");
  ASSERT_EQ(idle.notes.size(), 1);
  EXPECT_EQ(idle.notes[0], "records without a token to predict another from: 1");
  const Records as_text = read(R"({"text": "a"})", {}, "data.ndjson");
  ASSERT_EQ(as_text.notes.size(), 1);
  EXPECT_TRUE(as_text.notes[0].starts_with("the file begins as JSON does"));
}

TEST_F(RecordsTest, PassesOverWhatIsNoPartOfALine) {
  const Records data = read("\xEF\xBB\xBF{\"text\": \"one\"}\r\n\r\n \t\n{\"text\": \"two\"}\r\n\n", {}, "DATA.JSON");
  ASSERT_EQ(data.samples.size(), 2);
  EXPECT_EQ(data.records, 2);
  EXPECT_EQ(shown(data.samples[1], *tokenizer_), "[two]");
  expect_error(ErrorCode::corrupt_file, "line 4", [&] { (void)read("{\"text\": \"one\"}\r\n\r\n\n{}"); });
}

TEST_F(RecordsTest, ReadsPlainText) {
  EXPECT_EQ(read_one("\xEF\xBB\xBFone\n\ntwo\r\n", {}, "book.txt"), "[one\n\ntwo]");
  EXPECT_EQ(read_one("{input}", {.eos = '$'}, "book"), "[{input}$]");
  const Records data = read("one\n\f\n  \n\ftwo\n\f", {}, "book.txt");
  ASSERT_EQ(data.samples.size(), 2);
  EXPECT_EQ(shown(data.samples[1], *tokenizer_), "[two]");
  expect_error(ErrorCode::corrupt_file, "book.txt, document 2': byte 3 is '\\xff'",
               [&] { (void)read("a\fbc\xff", {}, "book.txt"); });
  expect_error(ErrorCode::corrupt_file, "a form feed would end a document",
               [&] { (void)read("abcdef", {.max_line_bytes = 5}, "book.txt"); });
}

TEST_F(RecordsTest, RefusesBadRecords) {
  expect_bad("[1, 2]", "a record is an object; here is array: [1,2]");
  expect_bad("{\"text\": \"a\"", "is not JSON");
  expect_bad("{", "each line must be one whole record");
  expect_bad("{\"text\": \"a\"} x", "is not JSON");
  expect_bad("{}", "the keys none;");
  expect_bad(R"({"question": "a", "answer\u001b": "b"})", R"(has the keys "answer\u001b", "question")");
  expect_bad(R"({"instruction": "a"})", R"("output" is missing; the keys that are there are "instruction")");
  expect_bad(R"({"instruction": 5, "output": "b"})", R"("instruction" must be a string; it is number: 5)");
  expect_bad(R"({"instruction": "a", "input": ["b"], "output": "b"})",
             R"("input" must be a string; it is array: ["b"])");
  expect_bad(R"({"instruction": "a", "output": ""})", R"("output" is empty)");
  expect_bad(R"({"instruction": "a", "response": ""})", R"("response" is empty)");
  expect_bad(R"({"prompt": "a"})", R"("completion" is missing)");
  expect_bad(R"({"prompt": null, "completion": "a"})", R"("prompt" must be a string; it is null)");
  expect_bad(R"({"text": ""})", R"("text" is empty)");
  expect_bad(R"({"text": "a", "text": "b"})", R"("text" twice)");
  expect_bad("{\"text\": \"\xC3(\"}", "byte 11 is '\\xc3'");
  expect_bad("\xFF\xFE{", "byte 1 is '\\xff'");
}

TEST_F(RecordsTest, RefusesBadChats) {
  expect_bad(R"({"messages": "hi"})", R"("messages" must be an array of messages; it is string: "hi")");
  expect_bad(R"({"messages": []})", "no message of the assistant's");
  expect_bad(R"({"conversations": [{"from": "human", "value": "a"}]})", R"("conversations" holds no message)");
  expect_bad(R"({"messages": [5]})", R"("messages"[0]': a message is an object; here is number: 5)");
  expect_bad(R"({"messages": [{"role": "user", "content": "a"}, {"content": "b"}]})",
             R"("messages"[1]': "role" is missing)");
  expect_bad(R"({"messages": [{"role": "tool", "content": "a"}]})", R"(the role is "tool"; those that are read)");
  expect_bad(R"({"messages": [{"role": "assistant", "content": null}]})", R"("content" must be a string; it is null)");
  expect_bad(R"({"messages": [{"role": "assistant", "content": ""}]})", R"("content" is empty)");
}

TEST_F(RecordsTest, HoldsOutAgainstHostileFiles) {
  expect_bad(std::string(100000, '['), "deep");
  expect_bad(R"({"text": ")" + std::string(1000, 'a'), "has more than 100 bytes", {.max_line_bytes = 100});
  expect_bad(std::string(200000, 'a'), "has more than 100 bytes", {.max_line_bytes = 100});
  expect_bad(R"({"a": [)" +
                 [] {
                   std::string zeros;
                   for (int i = 0; i < 300000; ++i) zeros += "0,";
                   return zeros;
                 }() +
                 "0]}",
             "values");
  const std::string key = std::string(5000, 'k');
  try {
    (void)read("{\"" + key + "\": 1}");
    FAIL();
  } catch (const Error& e) {
    EXPECT_LT(std::string(e.what()).size(), 1000);
  }
  EXPECT_EQ(read_one(R"({"text": "a\u0000b"})"), std::string("[a\0b]", 5));
  expect_bad(R"({"text": "\ud800"})", "is not JSON");
}

TEST_F(RecordsTest, LeavesOutBadRecordsWhereItMay) {
  std::string text = "{\"text\": \"one\"}\n";
  for (int i = 0; i < 15; ++i) text += "{\"text\": " + std::to_string(i) + "}\n";
  text += std::string(300, ' ') + "x\n{\"text\": \"two\"}";
  const Records data = read(text, {.skip_bad = true, .max_line_bytes = 200});
  ASSERT_EQ(data.samples.size(), 2);
  EXPECT_EQ(shown(data.samples[1], *tokenizer_), "[two]");
  EXPECT_EQ(data.records, 18);
  EXPECT_EQ(data.skipped, 16);
  ASSERT_EQ(data.notes.size(), 11);
  EXPECT_TRUE(data.notes[0].starts_with("left out: '")) << data.notes[0];
  EXPECT_NE(data.notes[0].find("line 2': \"text\" must be a string; it is number: 0"), std::string::npos);
  EXPECT_EQ(data.notes[10], "6 more were left out");
  expect_error(ErrorCode::invalid_argument, "holds no record to train on; 1 were left out: '",
               [&] { (void)read("x", {.skip_bad = true}); });
}

TEST_F(RecordsTest, RefusesFilesWithoutARecord) {
  for (const char* text : {"", "\n \n", "\xEF\xBB\xBF", "\xEF\xBB\xBF\n"})
    for (const char* name : {"data.jsonl", "data.txt"})
      expect_error(ErrorCode::invalid_argument, "holds no record", [&] { (void)read(text, {}, name); });
  expect_error(ErrorCode::not_found, "no.jsonl", [&] { (void)read_records(folder_ / "no.jsonl", *tokenizer_); });
  expect_error(ErrorCode::io, "a folder", [&] { (void)read_records(folder_.path(), *tokenizer_); });
  expect_error(ErrorCode::invalid_argument, "no template 'x'; there are alpaca, alpaca-preamble, chatml, plain",
               [&] { (void)read(chat(), {.template_name = "x"}); });
}

// Bytes changed, taken out and put in: a line becomes a sample or is left out, and nothing else happens.
TEST_F(RecordsTest, StandsDamagedLines) {
  std::mt19937 random(11);
  const std::vector<std::string> lines{
      chat(), R"({"instruction": "a", "input": "b", "output": "c"})",
      R"({"conversations": [{"from": "human", "value": "\u00e4"}, {"from": "gpt", "value": "\ud83d\ude00"}]})",
      R"({"prompt": "ä", "completion": "€"})"};
  const std::string bytes = std::string("{}[]\",:\\u0\n\r\f\xff\xc3 ") + '\0';
  std::size_t samples = 0, skipped = 0;
  for (int round = 0; round < 50; ++round) {
    std::string file;
    for (int i = 0; i < 100; ++i) {
      std::string line = lines[random() % lines.size()];
      for (auto changes = random() % 4; changes > 0; --changes) {
        const std::size_t at = random() % line.size(), count = random() % 3;
        line.replace(at, count, 1, bytes[random() % bytes.size()]);
      }
      file += line + '\n';
    }
    const Records data = read(file, {.template_name = "chatml", .eos = 0, .skip_bad = true});
    EXPECT_EQ(data.records, data.samples.size() + data.skipped);
    for (const auto& sample : data.samples) EXPECT_EQ(sample.ids.size(), sample.trained.size());
    samples += data.samples.size();
    skipped += data.skipped;
  }
  EXPECT_GT(samples, 1000);
  EXPECT_GT(skipped, 1000);
}

// Lines of every length around a block's of the reader, so that each of its ends is met once.
TEST_F(RecordsTest, ReadsLinesAcrossBlocks) {
  std::mt19937 random(5);
  std::vector<std::string> texts;
  std::string file;
  for (std::size_t total = 0; total < 1000000; total += texts.back().size()) {
    const std::size_t length = 1 + (random() % 4 == 0 ? 65536 - 20 + random() % 20 : random() % 3000);
    texts.push_back(std::string(length, static_cast<char>('a' + random() % 26)));
    file += "{\"text\": \"" + texts.back() + (random() % 2 == 0 ? "\"}\n" : "\"}\r\n");
  }
  const Records data = read(file);
  ASSERT_EQ(data.samples.size(), texts.size());
  for (std::size_t i = 0; i < texts.size(); ++i) EXPECT_EQ(tokenizer_->decode(data.samples[i].ids), texts[i]);
}

TEST_F(RecordsTest, TellsHowFarItIsAndStops) {
  std::string file;
  for (int i = 0; i < 1000; ++i) file += "{\"text\": \"" + std::string(500, 'a') + "\"}\n";
  double last = 0;
  int calls = 0;
  const auto watch = [&](double fraction, std::string_view) {
    EXPECT_GE(fraction, last);
    last = fraction;
    ++calls;
    return true;
  };
  (void)read(file, {.progress = watch});
  EXPECT_EQ(last, 1);
  EXPECT_GT(calls, 10);
  expect_error(ErrorCode::cancelled, "reading records", [&] {
    (void)read(file, {.skip_bad = true, .progress = [](double fraction, std::string_view) { return fraction < 0.5; }});
  });
}

TEST_F(RecordsTest, ThePackagedInstructionsAreSamples) {
  const Records data =
      read_records(NIBBLE_EXAMPLE_DATA "/instructions.jsonl", *tokenizer_, {.template_name = "plain", .eos = 0});
  EXPECT_EQ(data.samples.size(), 320);
  EXPECT_TRUE(data.notes.empty());
  for (const auto& sample : data.samples) {
    EXPECT_LE(sample.ids.size(), 200);
    EXPECT_GE(sample.targets(), 2);
    EXPECT_EQ(sample.ids.back(), 0);
  }
}

}  // namespace
}  // namespace nibble::text
