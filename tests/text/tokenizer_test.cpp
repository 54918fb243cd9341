#include "nibble/text/tokenizer.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <nlohmann/json.hpp>

#include "nibble/core/error.h"
#include "text/added_tokens.h"

namespace nibble::inline NIBBLE_ABI::text {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using Ids = std::vector<std::int32_t>;

Json read_json(const fs::path& path) { return Json::parse(std::ifstream(path)); }
fs::path golden(const std::string& name) { return fs::path(NIBBLE_TEST_DATA "/golden") / name; }

class GoldenTokenizer : public testing::TestWithParam<const char*> {
 protected:
  std::unique_ptr<Tokenizer> tokenizer_ = load_tokenizer(golden(GetParam()));
};

TEST_P(GoldenTokenizer, AgreesWithTheRealLibrary) {
  const Json cases = read_json(golden(GetParam()) / "cases.json");
  ASSERT_GT(cases.size(), 40u);
  for (const Json& c : cases) {
    const auto text = c["text"].get<std::string>();
    EXPECT_EQ(tokenizer_->encode(text, false), c["ids"].get<Ids>()) << c["text"];
    EXPECT_EQ(tokenizer_->encode(text), c["ids_with_special"].get<Ids>()) << c["text"];
    EXPECT_EQ(tokenizer_->decode(c["ids"].get<Ids>()), c["decoded"].get<std::string>()) << c["text"];
  }
}

TEST_P(GoldenTokenizer, AStreamGivesTheSameTextInWholeCharacters) {
  for (const Json& c : read_json(golden(GetParam()) / "cases.json")) {
    TextStream stream(*tokenizer_);
    std::string text;
    for (const std::int32_t id : c["ids"].get<Ids>()) {
      const std::string more = stream.next(id);
      EXPECT_NO_THROW((void)Json(more).dump()) << "a cut character in " << c["text"];
      text += more;
    }
    EXPECT_EQ(text, c["decoded"].get<std::string>());
  }
}

TEST_P(GoldenTokenizer, RefusesBytesThatAreNotText) {
  try {
    (void)tokenizer_->encode("good \xC3( bad");
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::invalid_argument);
    EXPECT_STREQ(e.what(), "the text is not UTF-8: byte 0xc3 at offset 5");
  }
  EXPECT_THROW((void)tokenizer_->decode(Ids{1 << 20}), Error);
  EXPECT_THROW((void)tokenizer_->decode(Ids{-1}), Error);
}

INSTANTIATE_TEST_SUITE_P(Libraries, GoldenTokenizer,
                         testing::Values("gpt2", "llama3", "qwen2", "smollm2", "sentencepiece", "unigram",
                                         "json_llama2", "json_mistral", "json_gemma", "json_t5"),
                         [](const auto& p) { return std::string(p.param); });

TEST(Tokenizer, TheEmbeddedModelReadsBytes) {
  const auto tokenizer = load_tokenizer(NIBBLE_EXAMPLE_DATA "/austen-5m");
  EXPECT_EQ(tokenizer->encode("A\xFF"), (Ids{65, 255}));
  EXPECT_EQ(tokenizer->decode(Ids{65, 255}), "A\xFF");
  EXPECT_THROW((void)tokenizer->decode(Ids{256}), Error);
}

TEST(Tokenizer, AStreamHoldsACharacterUntilItIsWhole) {
  const auto tokenizer = load_tokenizer(NIBBLE_EXAMPLE_DATA "/austen-5m");
  TextStream stream(*tokenizer);
  EXPECT_EQ(stream.next('a'), "a");
  EXPECT_EQ(stream.next(0xE2), "");
  EXPECT_EQ(stream.next(0x80), "");
  EXPECT_EQ(stream.next(0x94), "\xE2\x80\x94");
  EXPECT_EQ(stream.next('b'), "b");
}

TEST(Tokenizer, AWordOfAMillionLettersTakesNoSquareOfTheTime) {
  const auto tokenizer = load_tokenizer(golden("gpt2"));
  const std::string word(1'000'000, 'a');
  EXPECT_EQ(tokenizer->decode(tokenizer->encode(word)), word);
}

class TokenizerFile : public testing::Test {
 protected:
  TokenizerFile() : folder_(fs::temp_directory_path() / ("nibble-tokenizer-" + std::to_string(::getpid()))) {
    fs::create_directories(folder_);
    description_ = read_json(golden("gpt2") / "tokenizer.json");
  }
  ~TokenizerFile() override { fs::remove_all(folder_); }
  std::unique_ptr<Tokenizer> load() {
    std::ofstream(folder_ / "tokenizer.json") << description_;
    return load_tokenizer(folder_);
  }
  void expect_error(ErrorCode code, const std::string& says) {
    try {
      (void)load();
      ADD_FAILURE() << "accepted; expected: " << says;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), code) << e.what();
      EXPECT_NE(std::string(e.what()).find(says), std::string::npos) << e.what();
    }
  }
  fs::path folder_;
  Json description_;
};

TEST_F(TokenizerFile, RefusesHostileFiles) {
  const Json good = description_;
  const auto broken = [&](const char* pointer, const Json& value, ErrorCode code, const std::string& says) {
    description_ = good;
    description_[Json::json_pointer(pointer)] = value;
    expect_error(code, says);
  };
  const auto corrupt = ErrorCode::corrupt_file, unsupported = ErrorCode::unsupported;
  broken("/model/vocab", Json::array(), corrupt, "\"vocab\" must be an object");
  broken("/model/vocab/!", -1, corrupt, "token \"!\" has the id -1");
  broken("/model/vocab/!", 1e300, corrupt, "token \"!\" has the id 1e+300");
  broken("/model/vocab/!", 5, corrupt, "the id 5 stands for two tokens");
  broken("/model/merges/3", "abc", corrupt, "merge 3");
  broken("/model/merges/3", "a b c", corrupt, "merge 3");
  broken("/model/merges/3", Json::array({"a", "☃"}), corrupt, "\"☃\" is not in the vocabulary");
  broken("/model/merges", nullptr, corrupt, "\"merges\" must be an array");
  broken("/model/type", "WordPiece", unsupported, "the model 'WordPiece' is not known (BPE, Unigram are)");
  broken("/model/type", "Unigram", corrupt, "\"vocab\" must be an array");
  broken("/model/dropout", 0.1, unsupported, "'dropout'");
  broken("/pre_tokenizer/type", "UnicodeScripts", unsupported, "'UnicodeScripts'");
  broken("/pre_tokenizer", Json{{"type", "Metaspace"}, {"replacement", "ab"}}, corrupt, "must be one character");
  broken("/normalizer", Json{{"type", "BertNormalizer"}}, unsupported, "the normalizer 'BertNormalizer'");
  broken("/normalizer", Json{{"type", "Precompiled"}, {"precompiled_charsmap", "a?=="}}, corrupt, "no base64");
  broken("/normalizer", Json{{"type", "Precompiled"}, {"precompiled_charsmap", "/////w=="}}, corrupt, "is cut off");
  broken("/decoder", Json{{"type", "WordPiece"}}, unsupported, "the decoder 'WordPiece'");
  broken("/post_processor/type", "BertProcessing", unsupported, "'BertProcessing'");
  broken("/added_tokens/0/content", "", corrupt, "empty");
  broken("/added_tokens", 3, corrupt, "\"added_tokens\" must be an array");
  Json split{{"type", "Split"}, {"pattern", {{"Regex", "(("}}}, {"behavior", "Isolated"}};
  broken("/pre_tokenizer", split, corrupt, "the regular expression \"((\" is wrong");
  split["behavior"] = "MergedWithBoth";
  split["pattern"] = {{"String", "a"}};
  broken("/pre_tokenizer", split, unsupported, "'MergedWithBoth'");
  broken("/added_tokens/0/content", "a", corrupt, "in the vocabulary it has");
  Json twice = good["added_tokens"];
  twice.push_back({{"content", "<x>"}, {"id", 1001}});
  twice.push_back({{"content", "<x>"}, {"id", 1002}});
  broken("/added_tokens", twice, corrupt, "has the ids 1001 and 1002");
  Json deep = good["pre_tokenizer"];
  for (int i = 0; i < 20; ++i) deep = Json{{"type", "Sequence"}, {"pretokenizers", Json::array({deep})}};
  broken("/pre_tokenizer", deep, corrupt, "more than 8 deep");
  std::ofstream(folder_ / "tokenizer.json") << "{\"model\": ";
  EXPECT_THROW((void)load_tokenizer(folder_), Error);
  fs::remove(folder_ / "tokenizer.json");
  EXPECT_THROW((void)load_tokenizer(folder_), Error);
}

TEST_F(TokenizerFile, AddedTokensKeepTheirOptions) {
  const auto add = [&](const char* content, int id, const char* option) {
    description_["added_tokens"].push_back({{"content", content}, {"id", id}, {"normalized", false}, {option, true}});
  };
  add("<L>", 1001, "lstrip");
  add("<R>", 1002, "rstrip");
  add("cat", 1003, "single_word");
  add("<L>!", 1004, "special");  // longer than <L>, so preferred to it
  const auto tokenizer = load();
  const auto a = tokenizer->encode("a").front(), space = tokenizer->encode(" ").front();
  EXPECT_EQ(tokenizer->encode("a \t<L>"), (Ids{a, 1001}));
  EXPECT_EQ(tokenizer->encode("<R> \n a"), (Ids{1002, a}));
  EXPECT_EQ(tokenizer->encode("<R> <L> "), (Ids{1002, 1001, space}));
  EXPECT_EQ(tokenizer->encode("<L>!"), (Ids{1004}));
  EXPECT_EQ(tokenizer->encode("cat"), (Ids{1003}));
  EXPECT_EQ(tokenizer->encode("cat ").front(), 1003);
  for (const char* no : {"cats", "acat", "cat_", "écat"})
    for (const auto id : tokenizer->encode(no)) EXPECT_NE(id, 1003) << no;
}

TEST_F(TokenizerFile, SplitsCanRemoveOrInvert) {
  const Json byte_level{{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
  const auto with = [&](Json split) {
    split["type"] = "Split";
    description_["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", {split, byte_level}}};
    const auto tokenizer = load();
    return tokenizer->decode(tokenizer->encode("ab.cd..e"));
  };
  EXPECT_EQ(with({{"pattern", {{"String", "."}}}, {"behavior", "Isolated"}}), "ab.cd..e");
  EXPECT_EQ(with({{"pattern", {{"String", "."}}}, {"behavior", "Removed"}}), "abcde");
  EXPECT_EQ(with({{"pattern", {{"Regex", "[a-z]+"}}}, {"behavior", "Removed"}, {"invert", true}}), "abcde");
}

TEST_F(TokenizerFile, APatternThatBacktracksWithoutEndIsNamed) {
  for (const char* pattern : {"(a|aa|a*)*(a*)*b", "(a+)+$b", "(.*a){18}z"}) {
    const Json split{{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}};
    description_["pre_tokenizer"] = split;
    const auto tokenizer = load();
    try {
      (void)tokenizer->encode(std::string(300, 'a'));
      ADD_FAILURE() << pattern;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::unsupported);
      EXPECT_NE(std::string(e.what()).find("\"" + std::string(pattern) + "\" backtracks"), std::string::npos)
          << e.what();
    }
  }
}

TEST_F(TokenizerFile, CancellingReachesIntoAMatch) {
  const Json split{{"type", "Split"}, {"pattern", {{"Regex", "(a|aa|a*)*(a*)*b"}}}, {"behavior", "Isolated"}};
  description_["pre_tokenizer"] = split;
  const auto tokenizer = load();
  int asked = 0;
  try {
    (void)tokenizer->encode(std::string(300, 'a'), true, [&](double, std::string_view) { return ++asked < 3; });
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::cancelled);
    EXPECT_EQ(asked, 3);
  }
}

TEST(Tokenizer, EveryLongLoopCanBeCancelled) {
  const std::string text(200'000, 'a');
  for (const char* name : {"gpt2", "sentencepiece", "unigram", "json_llama2", "json_t5"}) {
    const auto tokenizer = load_tokenizer(golden(name));
    try {
      (void)tokenizer->encode(text, true, [](double, std::string_view) { return false; });
      ADD_FAILURE() << name;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::cancelled) << name;
    }
  }
}

TEST(AddedTokens, TwoHundredThousandTakeNoSquareOfTheTime) {
  std::vector<AddedToken> tokens(200'000);
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    tokens[i].content = "<" + std::to_string(i) + std::string(i % 97, 'y');
    tokens[i].id = static_cast<std::int32_t>(i);
  }
  const auto start = std::chrono::steady_clock::now();
  const AddedTokens added(std::move(tokens));
  const Progress none;
  Watch watch(none);
  Ids found;
  const auto collect = [&](std::string_view, std::int32_t id) { found.push_back(id); };
  added.split("<4yyyy<979", collect, watch);  // the longest at each place
  EXPECT_EQ(found, (Ids{4, 97, -1}));
  added.split(std::string(100'000, '<'), collect, watch);
  // A list that each is put into by its length took over 40 s.
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(10));
}

TEST(Tokenizer, ATextWithoutSpacesTakesNoSquareOfTheTimeInAnyModel) {
  const auto start = std::chrono::steady_clock::now();
  for (const char* name : {"sentencepiece", "unigram", "json_llama2", "json_t5"}) {
    const auto tokenizer = load_tokenizer(golden(name));
    const std::string word(300'000, 'a');
    EXPECT_NE(tokenizer->decode(tokenizer->encode(word, false)).find(word), std::string::npos) << name;
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(30));
}

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI::text
