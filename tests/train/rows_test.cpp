#include "nibble/train/rows.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <random>

#include "tests/support/expect_error.h"

namespace nibble::train {
namespace {

using testing_support::expect_error;
using Ids = std::vector<std::int32_t>;
using Starts = std::vector<std::size_t>;

constexpr std::size_t kNone = kNoTarget;

/// `length` tokens first, first + 1, …, all of them trained on.
Sample run_of(std::size_t length, std::int32_t first) {
  Sample sample{Ids(length), std::vector<std::uint8_t>(length, 1)};
  std::iota(sample.ids.begin(), sample.ids.end(), first);
  return sample;
}

/// The lengths of the samples of each row.
std::vector<Starts> lengths_of(const std::vector<Row>& rows) {
  std::vector<Starts> out;
  for (const Row& row : rows) {
    out.emplace_back();
    for (std::size_t i = 0; i < row.starts.size(); ++i)
      out.back().push_back((i + 1 < row.starts.size() ? row.starts[i + 1] : row.ids.size()) - row.starts[i]);
  }
  return out;
}

std::vector<Sample> of_lengths(const Starts& lengths) {
  std::vector<Sample> out;
  for (const std::size_t length : lengths) out.push_back(run_of(length, static_cast<std::int32_t>(out.size()) * 1000));
  return out;
}

TEST(Rows, ATokenPredictsTheNextOfItsSample) {
  Row row;
  row.append(Sample{{10, 11, 12, 13}, {0, 0, 1, 1}});
  row.append(Sample{{20, 21}, {1, 1}});
  row.append(Sample{{30, 31}, {0, 0}});
  EXPECT_EQ(row.starts, (Starts{0, 4, 6}));
  EXPECT_EQ(targets_of(row), (Starts{kNone, 12, 13, kNone, 21, kNone, kNone, kNone}));
  EXPECT_EQ(row.targets(), 3);
}

TEST(Rows, CountTheTargetsOfASample) {
  EXPECT_EQ(Sample{}.targets(), 0);
  EXPECT_EQ((Sample{{7}, {1}}).targets(), 0);  // predicted from nothing
  EXPECT_EQ((Sample{{7, 8, 9}, {1, 1, 1}}).targets(), 2);
  EXPECT_EQ((Sample{{7, 8, 9}, {0, 0, 1}}).targets(), 1);
  EXPECT_EQ((Sample{{7, 8, 9}, {1, 0, 0}}).targets(), 0);
}

TEST(Rows, AppendToOneAnother) {
  Row row, other;
  EXPECT_EQ(row.targets(), 0);
  EXPECT_TRUE(targets_of(row).empty());
  row.append(Sample{});
  EXPECT_TRUE(row.starts.empty());
  row.append(run_of(3, 0));
  other.append(run_of(2, 10));
  other.append(run_of(1, 20));
  row.append(other);
  EXPECT_EQ(row.ids, (Ids{0, 1, 2, 10, 11, 20}));
  EXPECT_EQ(row.starts, (Starts{0, 3, 5}));
  row.append(row);
  EXPECT_EQ(row.starts, (Starts{0, 3, 5, 6, 9, 11}));
  EXPECT_EQ(row.ids.size(), 12);
  EXPECT_EQ(row.targets(), 6);
}

TEST(Rows, NeedAMarkForEachToken) {
  Row row;
  const Sample bad{{1, 2, 3}, {1}};
  expect_error(ErrorCode::shape_mismatch, "3 tokens and 1 marks", [&] { row.append(bad); });
  expect_error(ErrorCode::shape_mismatch, "3 tokens and 1 marks", [&] { (void)bad.targets(); });
  expect_error(ErrorCode::shape_mismatch, "3 tokens and 1 marks", [&] { (void)pack_rows({bad}, 8, Packing::none); });
  expect_error(ErrorCode::shape_mismatch, "a row has 2 tokens and 3", [] {
    (void)targets_of({{1, 2}, {1, 1, 1}, {0}});
  });
  expect_error(ErrorCode::shape_mismatch, "a row has 2 tokens and 3", [&] { row.append(Row{{1, 2}, {1, 1, 1}, {0}}); });
  expect_error(ErrorCode::shape_mismatch, "begins at token 2 of a row of 2", [] {
    (void)targets_of({{1, 2}, {1, 1}, {0, 2}});
  });
}

TEST(Packing, EachHasAName) {
  for (const Packing packing : {Packing::none, Packing::best_fit, Packing::wrapped})
    EXPECT_EQ(parse_packing(name_of(packing)), packing);
  expect_error(ErrorCode::invalid_argument, "no packing 'bfd'; there are none, best-fit, wrapped",
               [] { (void)parse_packing("bfd"); });
  expect_error(ErrorCode::invalid_argument, "max_length is 1", [] { (void)pack_rows({}, 1, Packing::none); });
}

// The example of TRL's documentation, lengths 5, 2, 3, 1 at 4, gives [4], [3 + 1], [2]; in twice the tokens here, for
// a sample of a single one has nothing to predict and is left out.
TEST(Packing, BestFitIsThatOfTrl) {
  EXPECT_EQ(lengths_of(pack_rows(of_lengths({10, 4, 6, 2}), 8, Packing::best_fit)),
            (std::vector<Starts>{{8}, {6, 2}, {4}}));
  EXPECT_EQ(lengths_of(pack_rows(of_lengths({5, 2, 3, 1}), 4, Packing::best_fit)),
            (std::vector<Starts>{{4}, {3}, {2}}));
}

TEST(Packing, BestFitTakesTheRowThatHasHadTheRoomForLongest) {
  // The 8 leaves 2 in the second row before the 4 does so in the first.
  EXPECT_EQ(lengths_of(pack_rows(of_lengths({14, 10, 8, 4, 2}), 20, Packing::best_fit)),
            (std::vector<Starts>{{14, 4}, {10, 8, 2}}));
  const auto rows = pack_rows(of_lengths({7, 7, 3, 3}), 10, Packing::best_fit);  // equal lengths keep their order
  ASSERT_EQ(lengths_of(rows), (std::vector<Starts>{{7, 3}, {7, 3}}));
  EXPECT_EQ(rows[0].ids[0], 0);
  EXPECT_EQ(rows[0].ids[7], 2000);
  EXPECT_EQ(rows[1].ids[0], 1000);
  EXPECT_EQ(rows[1].ids[7], 3000);
}

TEST(Packing, CutsAndLeavesOutWhatHasNothingToLearn) {
  const std::vector<Sample> samples{run_of(6, 0), {{50, 51, 52, 53, 54}, {0, 0, 0, 0, 1}}, {}, run_of(1, 60)};
  EXPECT_EQ(lengths_of(pack_rows(samples, 4, Packing::none)), (std::vector<Starts>{{4}}));
  EXPECT_EQ(lengths_of(pack_rows(samples, 5, Packing::none)), (std::vector<Starts>{{5}, {5}}));
  EXPECT_EQ(lengths_of(pack_rows(samples, 4, Packing::best_fit)), (std::vector<Starts>{{4}}));
  EXPECT_TRUE(pack_rows({}, 4, Packing::best_fit).empty());
}

TEST(Packing, WrappedGoesOnInTheNextRow) {
  const auto rows = pack_rows({run_of(6, 0), run_of(3, 10), run_of(4, 20)}, 4, Packing::wrapped);
  EXPECT_EQ(lengths_of(rows), (std::vector<Starts>{{4}, {2, 2}, {1, 3}}));  // a fourth would hold the 23 alone
  EXPECT_EQ(targets_of(rows[1]), (Starts{5, kNone, 11, kNone}));
  EXPECT_EQ(targets_of(rows[2]), (Starts{kNone, 21, 22, kNone}));
}

TEST(Packing, WrappedLeavesOutTheMiddleOfAPrompt) {
  Sample sample = run_of(12, 0);
  std::fill(sample.trained.begin() + 2, sample.trained.end() - 2, 0);
  const auto rows = pack_rows({sample}, 4, Packing::wrapped);
  ASSERT_EQ(rows.size(), 2);
  EXPECT_EQ(rows[1].ids.front(), 8);
}

/// Samples whose tokens all differ, with prompts here and there.
std::vector<Sample> random_samples(std::mt19937& random, std::size_t count, std::size_t longest) {
  std::vector<Sample> out;
  std::int32_t id = 0;
  for (std::size_t i = 0; i < count; ++i) {
    Sample sample = run_of(2 + random() % (longest - 1), id);
    const auto prompt = static_cast<std::ptrdiff_t>(random() % sample.ids.size());
    std::fill_n(sample.trained.begin(), prompt, std::uint8_t{0});
    id += static_cast<std::int32_t>(sample.ids.size());
    out.push_back(std::move(sample));
  }
  return out;
}

/// (token, what it predicts) of all rows, or of the samples by themselves, in the order of the tokens.
using Pairs = std::vector<std::pair<std::int32_t, std::size_t>>;
Pairs pairs_of(const std::vector<Row>& rows) {
  Pairs out;
  for (const Row& row : rows) {
    const auto targets = targets_of(row);
    for (std::size_t i = 0; i < row.ids.size(); ++i) out.emplace_back(row.ids[i], targets[i]);
  }
  std::ranges::sort(out);
  return out;
}

TEST(Packing, KeepsEveryTokenAndTargetOnce) {
  std::mt19937 random(20240607);
  for (int round = 0; round < 200; ++round) {
    const std::size_t longest = 2 + random() % 40, max_length = longest + random() % 100;
    const auto samples = random_samples(random, 1 + random() % 80, longest);
    const auto alone = pack_rows(samples, max_length, Packing::none);
    ASSERT_EQ(alone.size(), samples.size());
    const auto packed = pack_rows(samples, max_length, Packing::best_fit);
    EXPECT_EQ(pairs_of(packed), pairs_of(alone));
    std::size_t targets = 0;
    for (const Row& row : packed) {
      EXPECT_LE(row.ids.size(), max_length);
      EXPECT_EQ(row.starts.front(), 0);
      EXPECT_EQ(std::ranges::adjacent_find(row.starts, std::greater_equal<>()), row.starts.end());
      targets += row.targets();
    }
    for (const Sample& sample : samples) targets -= sample.targets();
    EXPECT_EQ(targets, 0);
    // No two rows would fit into one: otherwise the shorter's samples had gone there.
    std::vector<std::size_t> lengths;
    for (const Row& row : packed) lengths.push_back(row.ids.size());
    std::ranges::sort(lengths);
    if (lengths.size() > 1) EXPECT_GT(lengths[0] + lengths[1], max_length);
    EXPECT_EQ(lengths_of(pack_rows(samples, max_length, Packing::best_fit)), lengths_of(packed));
  }
}

TEST(Packing, WrappedKeepsEveryTokenInItsOrder) {
  std::mt19937 random(7);
  for (int round = 0; round < 200; ++round) {
    auto samples = random_samples(random, 1 + random() % 40, 2 + random() % 60);
    std::size_t tokens = 0;
    for (Sample& sample : samples) {
      sample.trained.assign(sample.ids.size(), 1);
      tokens += sample.ids.size();
    }
    const std::size_t max_length = 2 + random() % 30;
    const auto rows = pack_rows(samples, max_length, Packing::wrapped);
    std::int32_t next = 0;
    for (const Row& row : rows) {
      EXPECT_TRUE(row.ids.size() == max_length || &row == &rows.back());
      EXPECT_GT(row.targets(), 0);
      // Of two tokens a row may hold the end of one sample and the beginning of another, and is left out.
      if (max_length > 2) EXPECT_EQ(row.ids.front(), next);
      for (std::size_t i = 1; i < row.ids.size(); ++i) EXPECT_EQ(row.ids[i], row.ids[i - 1] + 1);
      next = row.ids.back() + 1;
      EXPECT_EQ(row.targets(), row.ids.size() - row.starts.size());
    }
    if (max_length > 2) EXPECT_GE(static_cast<std::size_t>(next) + 2, tokens);
  }
}

}  // namespace
}  // namespace nibble::train
