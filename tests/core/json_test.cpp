// JSON from anywhere: limits, keys that stand twice, messages that say where; and time in proportion to the text.
#include "core/json.h"

#include <gtest/gtest.h>

#include <ctime>

#include "tests/support/expect_error.h"

namespace nibble::inline NIBBLE_ABI::json {
namespace {

using testing_support::expect_error;

std::string nested(std::size_t depth, const std::string& open, const std::string& close) {
  std::string out;
  for (std::size_t i = 0; i < depth; ++i) out += open;
  for (std::size_t i = 0; i < depth; ++i) out += close;
  return out;
}

void refuse(const std::string& text, const std::string& says, const Limits& limits = {}) {
  expect_error(ErrorCode::corrupt_file, says, [&] { (void)parse(text, "f.json", limits); });
  expect_error(ErrorCode::corrupt_file, says, [&] { (void)parse_ordered(text, "f.json", limits); });
}

TEST(Json, ReadsWhatNlohmannReads) {
  const std::string text =
      R"({"b": [1, -2, 2.5, true, null, "x\u00e9"], "a": {"c": {}, "aa": []}, "z": 18446744073709551615})";
  EXPECT_EQ(*parse(text, "f"), nlohmann::json::parse(text));
  EXPECT_EQ(*parse_ordered(text, "f"), nlohmann::ordered_json::parse(text));
  EXPECT_EQ(parse_ordered(text, "f")->dump(), nlohmann::ordered_json::parse(text).dump()) << "the order of the text";
  EXPECT_EQ(*parse("7", "f"), 7);
  EXPECT_EQ(*parse("\xEF\xBB\xBF{}", "f"), nlohmann::json::object()) << "a byte order mark";
}

TEST(Json, NestingEndsInAMessage) {
  EXPECT_EQ(parse(nested(64, "[", "]"), "f")->size(), 1u);
  refuse(nested(65, "[", "]"), "'f.json' nests objects and arrays more than 64 deep");
  refuse(nested(66000, "[", "]"), "more than 64 deep");
  refuse(R"({"quantization_config": {"x": )" + nested(66000, "{\"a\":", "}") + "}}",
         "more than 64 deep, in \"quantization_config\" in \"x\" in \"a\"");
  refuse("[[1]]", "more than 1 deep", {1, 100, 100});
  refuse(std::string(1000000, '['), "more than 64 deep");
}

TEST(Json, AKeyStandsOnce) {
  refuse(R"({"bits": 4, "x": 1, "bits": 8})", "has the key \"bits\" twice");
  refuse(R"({"a": [{"b": 1, "\u0062": 2}]})", "has the key \"b\" twice");
  refuse("{\"\\u001b[2J\": 1, \"\\u001b[2J\": 1}", "\"\\u001b[2J\" twice");  // no escape sequence leaves
  EXPECT_EQ(parse(R"([{"a": 1}, {"a": 2}])", "f")->size(), 2u);
}

TEST(Json, SizeAndNumberOfValuesEnd) {
  refuse("[1, 2, 3]", "has 9 bytes of JSON; 8 are the most", {4, 8, 100});
  refuse("[1, 2, 3]", "more than 3 values", {4, 100, 3});
  EXPECT_EQ(parse("[1, 2, 3]", "f", {1, 9, 4})->size(), 3u);
}

TEST(Json, SaysWhereItIsNotJson) {
  refuse("", "'f.json' is not JSON: at byte 1");
  refuse("{\"a\": 1,}", "at byte 9");
  refuse("{} x", "at byte 4");
  refuse("[NaN]", "'f.json' is not JSON");
  refuse("\"a\xff\"", "UTF-8");
  refuse("[1e999]", "number overflow");
  try {
    (void)parse("[\"" + std::string(1000000, 'a'), "f.json");
    FAIL();
  } catch (const Error& e) {
    EXPECT_LT(std::string(e.what()).size(), 600u) << "a message, not the file";
  }
}

/// Best of three: noise makes it only slower.
double seconds(const std::string& text, bool ordered) {
  double best = 1e9;
  for (int i = 0; i < 3; ++i) {
    const std::clock_t begin = std::clock();
    if (ordered) (void)parse_ordered(text, "f");
    else (void)parse(text, "f");
    best = std::min(best, static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC);
  }
  return best;
}

/// Ten times the members take about ten times as long; a hundred times as long where each is searched for.
TEST(Json, TimeGrowsWithTheText) {
  const auto members = [](int count) {
    std::string out = "{\"k\": 0";
    for (int i = 0; i < count; ++i) out += ", \"tensor." + std::to_string(i) + "\": {\"shape\": [1]}";
    return out + "}";
  };
  for (const bool ordered : {false, true})
    EXPECT_LT(seconds(members(30000), ordered), 40 * seconds(members(3000), ordered));
}

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI::json
