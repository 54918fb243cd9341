// tokenizer.model files that nobody's trainer wrote.
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <limits>
#include <random>

#include "nibble/text/tokenizer.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace nibble::inline NIBBLE_ABI::text {
namespace {

using testing_support::expect_error;
using testing_support::TemporaryFolder;
using Ids = std::vector<std::int32_t>;

/// One protobuf message in the making.
struct Message {
  std::string bytes;
  void varint(std::uint64_t v) {
    for (; v >= 0x80; v >>= 7) bytes += static_cast<char>(v | 0x80);
    bytes += static_cast<char>(v);
  }
  Message& number(std::uint64_t field, std::uint64_t value) {
    varint(field << 3);
    varint(value);
    return *this;
  }
  Message& text(std::uint64_t field, const std::string& value) {
    varint(field << 3 | 2);
    varint(value.size());
    bytes += value;
    return *this;
  }
  Message& single(std::uint64_t field, float value) {
    varint(field << 3 | 5);
    bytes.append(reinterpret_cast<const char*>(&value), 4);
    return *this;
  }
};

struct Piece {
  std::string text;
  float score = 0;
  int type = 1;
};
enum { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };

struct Model {
  std::vector<Piece> pieces{{"<unk>", 0, kUnknown}, {"<s>", 0, kControl}, {"a", -1}, {"b", -2}, {"ab", -1.5f}};
  bool is_bpe = true;
  std::string character_map;
  bool dummy_prefix = false;

  [[nodiscard]] std::string bytes() const {
    Message out, trainer, normalizer;
    for (const Piece& p : pieces)
      out.text(1, Message().text(1, p.text).single(2, p.score).number(3, static_cast<std::uint64_t>(p.type)).bytes);
    trainer.number(3, is_bpe ? 2 : 1);
    normalizer.text(2, character_map).number(3, dummy_prefix ? 1 : 0).number(4, 0);
    return out.text(2, trainer.bytes).text(3, normalizer.bytes).bytes;
  }
};

std::unique_ptr<Tokenizer> load(const std::string& bytes) {
  const TemporaryFolder folder;
  std::ofstream(folder / "tokenizer.model", std::ios::binary) << bytes;
  return load_tokenizer(folder.path());
}

/// A double array of one block: 'x' becomes what stands at offset `value` of the replacements.
std::string map_of_x(std::uint32_t value, const std::string& replacements) {
  std::vector<std::uint32_t> units(512);
  units[0] = 1u << 10;                          // children at 1 ^ byte
  units[1 ^ 'x'] = 256u << 10 | 1u << 8 | 'x';  // its value at (1 ^ 'x') ^ 256
  units[(1 ^ 'x') ^ 256] = 0x80000000u | value;
  std::string out(4 + units.size() * 4, '\0');
  const auto size = static_cast<std::uint32_t>(units.size() * 4);
  std::memcpy(out.data(), &size, 4);
  std::memcpy(out.data() + 4, units.data(), size);
  return out + replacements;
}

TEST(SentencePiece, AMapReplacesWhatItNames) {
  Model m;
  m.character_map = map_of_x(2, std::string("b\0a\0", 4));
  EXPECT_EQ(load(m.bytes())->encode("xb", false), (Ids{4}));
  m.character_map = map_of_x(0, std::string("b\0a\0", 4));
  EXPECT_EQ(load(m.bytes())->encode("ax", false), (Ids{4}));
}

TEST(SentencePiece, AMapThatPointsOutsideItselfIsRefused) {
  const auto refused = [](const std::string& map, const std::string& says) {
    Model m;
    m.character_map = map;
    expect_error(ErrorCode::corrupt_file, says, [&] { (void)load(m.bytes()); });
  };
  const auto set = [](std::string map, std::size_t unit, std::uint32_t value) {
    std::memcpy(map.data() + 4 + 4 * unit, &value, 4);
    return map;
  };
  const std::string good = map_of_x(0, std::string("b\0", 2));
  refused(map_of_x(2, std::string("b\0", 2)), "points beyond its replacements at unit 121");
  refused(map_of_x(0x7fffffff, std::string("b\0", 2)), "points beyond its replacements");
  refused(map_of_x(1, std::string("\xC3\xA9\0", 3)), "points into a character");
  refused(map_of_x(0, "b"), "cut off within a replacement");
  refused(map_of_x(0, std::string("\xC3\0", 2)), "replacements that are no text");
  refused(map_of_x(0, ""), "points beyond its replacements");
  refused(set(good, 0, 512u << 10), "points beyond its trie at unit 0");
  refused(set(good, 0, 0xffffffffu), "points beyond its trie at unit 0");
  refused(set(good, 1 ^ 'x', 0x1fffffu << 10 | 1u << 9 | 'x'), "points beyond its trie at unit 121");
  refused("abc", "is cut off");
  refused(std::string("\xff\xff\xff\xff\0\0\0\0", 8), "has a trie of 4294967295 bytes in 8");
  refused(std::string("\x06\0\0\0abcdef\0\0", 12), "has a trie of 6 bytes");
  refused(std::string("\0\0\0\0ab\0", 7), "has a trie of 0 bytes");
}

TEST(SentencePiece, AMapWhoseTrieTurnsInCirclesEnds) {
  Model m;
  std::string map = map_of_x(0, std::string("b\0", 2));
  // x's children are those of the root: xx, xxx, … have no end.
  const std::uint32_t back = (1u ^ (1u ^ 'x')) << 10 | 'x';
  std::memcpy(map.data() + 4 + 4 * (1 ^ 'x'), &back, 4);
  m.character_map = map;
  EXPECT_EQ(load(m.bytes())->encode(std::string(2000, 'x') + "a", false), (Ids{0, 2}));
}

TEST(SentencePiece, RandomMapsAreRefusedOrStayInside) {
  std::mt19937 random(1);
  const std::string good = map_of_x(0, std::string("b\0", 2));
  int accepted = 0;
  for (int i = 0; i < 300; ++i) {
    Model m;
    m.character_map = good;
    for (int k = 0; k < 1 + i % 5; ++k)
      m.character_map[random() % (i % 2 == 0 ? m.character_map.size() : 600)] = static_cast<char>(random());
    try {
      (void)load(m.bytes())->encode("xaxbx yz", false);
      ++accepted;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::corrupt_file) << e.what();
    }
  }
  EXPECT_GT(accepted, 0);
  EXPECT_LT(accepted, 300);
}

TEST(SentencePiece, VocabulariesThatCannotBeAreRefused) {
  const auto refused = [](const std::string& says, const auto& change) {
    Model m;
    change(m);
    expect_error(ErrorCode::corrupt_file, says, [&] { (void)load(m.bytes()); });
  };
  refused("piece 2 has the score nan", [](Model& m) { m.pieces[2].score = std::numeric_limits<float>::quiet_NaN(); });
  refused("piece 3 has the score -inf", [](Model& m) { m.pieces[3].score = -std::numeric_limits<float>::infinity(); });
  refused("piece 3 repeats \"a\"", [](Model& m) { m.pieces[3].text = "a"; });
  refused("piece 4 is empty", [](Model& m) { m.pieces[4].text = ""; });
  refused("no unknown piece", [](Model& m) { m.pieces[0].type = kControl; });
  refused("second unknown piece", [](Model& m) { m.pieces[3].type = kUnknown; });
  refused("does not fall back to bytes", [](Model& m) { m.pieces.push_back({"<0x41>", 0, kByte}); });
  refused("a piece of type 9", [](Model& m) { m.pieces[3].type = 9; });
  refused("no unknown piece", [](Model& m) { m.pieces.clear(); });
  const std::string whole = Model().bytes();
  for (std::size_t n = 1; n < whole.size(); ++n) {
    try {
      (void)load(whole.substr(0, n));  // fields that are whole may be enough
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::corrupt_file) << e.what();
    }
  }
  Message words;
  words.text(2, Message().number(3, 3).bytes);
  expect_error(ErrorCode::unsupported, "of type 3", [&] { (void)load(words.bytes); });
}

TEST(SentencePiece, AnUnusedPieceIsTakenApartAgain) {
  Model m;
  m.pieces[4].type = kUnused;
  EXPECT_EQ(load(m.bytes())->encode("ab", false), (Ids{2, 3}));
  m.is_bpe = false;
  EXPECT_EQ(load(m.bytes())->encode("ab", false), (Ids{2, 3}));
}

TEST(SentencePiece, OfEqualScoresTheLeftmostMergesAndTheFirstPathStays) {
  Model m;
  m.pieces = {{"<unk>", 0, kUnknown}, {"a", -1}, {"aa", -2}};
  EXPECT_EQ(load(m.bytes())->encode("aaa", false), (Ids{2, 1}));
  m.is_bpe = false;  // a a a, aa a and a aa are all −3; at each place the path found first stays
  EXPECT_EQ(load(m.bytes())->encode("aaa", false), (Ids{1, 2}));
}

TEST(SentencePiece, PiecesThatAreNoTextDoNotLeadOutOfTheText) {
  Model m;
  m.pieces.push_back({"\xC3", -1, kUserDefined});
  m.pieces.push_back({"\xE2\x82", -1});
  for (const bool bpe : {true, false}) {
    m.is_bpe = bpe;
    const auto tokenizer = load(m.bytes());
    EXPECT_FALSE(tokenizer->encode("\xC3\xA9\xE2\x82\xAC", false).empty());
  }
}

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI::text
