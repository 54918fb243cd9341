#include "nibble/scheme/rank_lines.h"

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <vector>

#include "nibble/backend/backend.h"
#include "nibble/backend/impl/cpu_kernels.h"
#include "nibble/scheme/rank_keys.h"

namespace nibble {
namespace {

static_assert(RankLines<dynamic_map<true>>().holds());
static_assert(RankLines<dynamic_map<false>>().holds());

/// No two thresholds are evenly spaced with a third: there would be more pieces than exponents.
struct uneven {
  static constexpr std::array<float, 256> values() {
    std::array<float, 256> all{};
    for (std::size_t i = 0; i < 256; ++i) all[i] = static_cast<float>(i * i) / (255.0f * 255.0f);
    return all;
  }
};
static_assert(!RankLines<uneven>().holds());

/// Positive values that the negative ones do not mirror.
struct lopsided {
  static constexpr std::array<float, 256> values() {
    std::array<float, 256> all{};
    for (std::size_t i = 0; i < 256; ++i)
      all[i] = i < 128 ? static_cast<float>(i) / 128 - 1 : static_cast<float>(i - 128) / 254;
    return all;
  }
};
static_assert(!RankLines<lopsided>().holds());

/// A threshold at 0.
struct without_zero {
  static constexpr std::array<float, 256> values() {
    std::array<float, 256> all{};
    for (std::size_t i = 0; i < 256; ++i) all[i] = (static_cast<float>(i) - 127.5f) / 127.5f;
    return all;
  }
};
static_assert(!RankLines<without_zero>().holds());

/// Thresholds of which two are the same float.
struct adjacent {
  static constexpr std::array<float, 256> values() {
    std::array<float, 256> all{};
    for (std::size_t i = 0; i < 256; ++i)
      all[i] = std::bit_cast<float>(std::bit_cast<std::uint32_t>(0.5f) + static_cast<std::uint32_t>(i));
    return all;
  }
};
static_assert(!RankLines<adjacent>().holds());

constexpr std::size_t kFloatsOfKey = 65536;

/// All floats of a key, and the rank of each, found by walking through the thresholds.
template <class Table>
struct Key {
  std::vector<float> x = std::vector<float>(kFloatsOfKey);
  std::vector<std::uint8_t> ranks = std::vector<std::uint8_t>(kFloatsOfKey);

  void fill(std::uint32_t key, bool negative) {
    const auto& order = Codebook<Table>::order();
    std::size_t rank = negative ? order.ranks - 1 : 0;
    for (std::uint32_t i = 0; i < kFloatsOfKey; ++i) {
      x[i] = std::bit_cast<float>(key << 16 | i | (negative ? 0x80000000u : 0u));
      if (negative)
        while (rank > 0 && !(x[i] > order.threshold[rank - 1])) --rank;
      else
        while (x[i] > order.threshold[rank]) ++rank;
      ranks[i] = static_cast<std::uint8_t>(rank);
    }
  }
};

/// Calls for each backend's kernels and some keys up to that of 1: all of them for the fastest, every 29th for others.
template <class Table>
void for_each_key(const std::function<void(const kernels::KernelTable&, const Key<Table>&, bool negative)>& check) {
  for (const Backend* backend : backends()) {
    if (!backend->available()) continue;
    SCOPED_TRACE(backend->name());
    Key<Table> key;
    for (const bool negative : {false, true})
      for (std::uint32_t k = kFirstRankKey - 300; k <= kLastRankKey; k += backend == &default_backend() ? 1 : 29) {
        key.fill(k, negative);
        check(kernels_of(backend), key, negative);
        if (testing::Test::HasFailure()) return;
      }
  }
}

template <class Table>
void check_every_float() {
  std::vector<std::uint8_t> ranks(kFloatsOfKey);
  for_each_key<Table>([&](const kernels::KernelTable& isa, const Key<Table>& key, bool) {
    isa.encode_keys(key.x.data(), key.x.size(), 1.0f, kRankKeys<Table>.entries().data(), ranks.data());
    EXPECT_EQ(std::memcmp(ranks.data(), key.ranks.data(), ranks.size()), 0) << "from " << key.x[0];
  });
}

TEST(RankLines, GiveTheRankOfEveryFloatInTheSignedMap) { check_every_float<dynamic_map<true>>(); }
TEST(RankLines, GiveTheRankOfEveryFloatInTheUnsignedMap) { check_every_float<dynamic_map<false>>(); }

/// A step of Lion whose momentum is the gradient: what it codes keeps its sign. Each block ends with a 1, so that it is
/// scaled by 1.
TEST(RankLines, GiveNegativeMomentsANegativeCode) {
  using Map = dynamic_map<true>;
  const std::uint8_t zero = Codebook<Map>::encode_scaled(0.0f);
  std::vector<std::uint8_t> codes(kFloatsOfKey);
  std::vector<float> absmax(kFloatsOfKey / kernels::kMomentBlock), parameters(kFloatsOfKey);
  const kernels::CodedMoment moment{codes.data(), absmax.data(), Codebook<Map>::values().data(),
                                    kRankKeys<Map>.entries().data()};
  for_each_key<Map>([&](const kernels::KernelTable& isa, Key<Map> key, bool negative) {
    for (std::size_t i = 0; i < kFloatsOfKey; ++i) {
      if (negative && key.x[i] < 0 && key.ranks[i] == zero) --key.ranks[i];
      if (i % kernels::kMomentBlock != kernels::kMomentBlock - 1 && key.x[i] <= 1 && key.x[i] >= -1) continue;
      key.x[i] = 1;
      key.ranks[i] = 255;
    }
    kernels::OptimizerFactors step{};
    step.rest2 = 1;
    isa.lion8(step, key.x.data(), kFloatsOfKey, moment, parameters.data());
    EXPECT_EQ(std::memcmp(codes.data(), key.ranks.data(), codes.size()), 0) << "from " << key.x[0];
  });
}

/// 0 times a negative momentum, plus a gradient of −0, is −0, which is not below 0.
TEST(RankLines, GiveNegativeZeroTheCodeOfZero) {
  using Map = dynamic_map<true>;
  constexpr std::size_t n = kernels::kMomentBlock;
  for (const Backend* backend : backends()) {
    if (!backend->available()) continue;
    std::vector<std::uint8_t> codes(n);
    std::vector<float> gradients(n, -0.5f), parameters(n);
    float absmax = 0;
    const kernels::CodedMoment moment{codes.data(), &absmax, Codebook<Map>::values().data(),
                                      kRankKeys<Map>.entries().data()};
    kernels::OptimizerFactors step{};
    step.rest2 = 1;
    kernels_of(backend).lion8(step, gradients.data(), n, moment, parameters.data());
    EXPECT_EQ(codes[7], Codebook<Map>::encode_scaled(-1.0f)) << backend->name();
    gradients.assign(n, -0.0f);
    gradients[0] = 1;
    kernels_of(backend).lion8(step, gradients.data(), n, moment, parameters.data());
    EXPECT_EQ(codes[7], Codebook<Map>::encode_scaled(0.0f)) << backend->name();
  }
}

}  // namespace
}  // namespace nibble
