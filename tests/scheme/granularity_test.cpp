#include "nibble/scheme/granularity.h"

#include <gtest/gtest.h>

#include <vector>

namespace nibble {
namespace {

constexpr std::size_t kRows = 3, kCols = 10;
const Grouping kAll[] = {{Granularity::tensor, 0}, {Granularity::channel, 0}, {Granularity::group, 4},
                         {Granularity::group, 10}, {Granularity::block, 4},   {Granularity::block, 7},
                         {Granularity::block, 30}, {Granularity::block, 64}};

TEST(Grouping, CountsTheGroupsThatElementsHave) {
  for (const Grouping& g : kAll) {
    std::size_t last = 0;
    for (std::size_t r = 0; r < kRows; ++r)
      for (std::size_t c = 0; c < kCols; ++c) last = std::max(last, g.of(r, c, kCols));
    EXPECT_EQ(g.count(kRows, kCols), last + 1);
  }
  EXPECT_EQ((Grouping{Granularity::group, 4}.count(kRows, kCols)), 9u);  // the last of a row is shorter
  EXPECT_EQ((Grouping{Granularity::block, 4}.count(kRows, kCols)), 8u);  // and goes on in the next
}

// Both ways of going through a matrix visit every element once, with its group.
TEST(Grouping, RunsAndPiecesCoverEveryElementOnce) {
  for (const Grouping& g : kAll) {
    std::vector<int> by_runs(kRows * kCols), by_pieces(kRows * kCols);
    for (std::size_t r = 0; r < kRows; ++r)
      g.for_each_run(kCols, r, 0, kCols, [&](std::size_t begin, std::size_t end, std::size_t group) {
        for (std::size_t c = begin; c < end; ++c) {
          ++by_runs[r * kCols + c];
          EXPECT_EQ(g.of(r, c, kCols), group);
        }
      });
    for (std::size_t group = 0; group < g.count(kRows, kCols); ++group)
      g.for_each_piece(group, kRows, kCols, [&](std::size_t r, std::size_t begin, std::size_t end) {
        for (std::size_t c = begin; c < end; ++c) {
          ++by_pieces[r * kCols + c];
          EXPECT_EQ(g.of(r, c, kCols), group);
        }
      });
    EXPECT_EQ(by_runs, std::vector<int>(kRows * kCols, 1));
    EXPECT_EQ(by_pieces, by_runs);
  }
}

TEST(Grouping, SaysWhetherAGroupHasElementsOfTwoRows) {
  EXPECT_FALSE((Grouping{Granularity::tensor, 0}.within_rows(kCols)));
  EXPECT_TRUE((Grouping{Granularity::channel, 0}.within_rows(kCols)));
  EXPECT_TRUE((Grouping{Granularity::group, 4}.within_rows(kCols)));
  EXPECT_TRUE((Grouping{Granularity::block, 5}.within_rows(kCols)));
  EXPECT_FALSE((Grouping{Granularity::block, 4}.within_rows(kCols)));
}

}  // namespace
}  // namespace nibble
