// GGUF's blocks as packed weights: their products by the definition in backend.h, spelled out over the blocks
// themselves, and all else against what the blocks decode to.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "nibble/backend/fixed_point.h"
#include "nibble/core/error.h"
#include "nibble/matrix/block_matrix.h"
#include "nibble/scheme/llm_int8.h"
#include "tests/support/backends.h"
#include "tests/support/expect_error.h"
#include "tests/support/random_blocks.h"
#include "tests/support/random_data.h"

namespace nibble {
namespace {

using namespace testing_support;

struct Shape {
  std::size_t rows, blocks;
};
constexpr Shape kShapes[] = {{70, 2}, {64, 1}, {1, 5}, {130, 3}};
constexpr std::size_t kTokens = 7;

/// Blocks of random bytes whose scales and minima are ordinary numbers of both signs.
BlockMatrix random_blocks(BlockType type, Shape s, unsigned seed) {
  return testing_support::random_blocks(type, s.rows, s.blocks * block_size(type), seed);
}

std::vector<float> values_of(const BlockMatrix& m) {
  std::vector<float> out(m.rows * m.cols);
  for (std::size_t r = 0; r < m.rows; ++r) m.decode_row(r, out.data() + r * m.cols);
  return out;
}

/// A group of a row: integers that are multiplied by `scale`, and what is added to each value.
struct Group {
  std::vector<int> codes;
  float scale = 0, offset = 0;
};

template <class Block>
Group group_of(const Block& b, std::size_t g) {
  Group out;
  for (std::size_t i = g * Block::group; i < (g + 1) * Block::group; ++i) {
    if constexpr (std::is_same_v<Block, blocks::Q8_0> || std::is_same_v<Block, blocks::Q8_K>)
      out.codes.push_back(b.codes[i]);
    else if constexpr (requires { b.table(); }) out.codes.push_back(b.table()[b.code(i)]);
    else if constexpr (requires { b.level(i); }) out.codes.push_back(b.level(i));
    else if constexpr (std::is_same_v<Block, blocks::TQ1_0> || std::is_same_v<Block, blocks::TQ2_0> ||
                       std::is_same_v<Block, blocks::Q1_0> || std::is_same_v<Block, blocks::Q2_0>)
      out.codes.push_back(b.code(i) - 1);
    else if constexpr (std::is_same_v<Block, blocks::Q4_0>) out.codes.push_back(blocks::split_nibble(b.codes, i) - 8);
    else if constexpr (std::is_same_v<Block, blocks::Q5_0>) out.codes.push_back(b.code(i) - 16);
    else if constexpr (std::is_same_v<Block, blocks::Q3_K>) out.codes.push_back(b.code(i) - 4);
    else if constexpr (std::is_same_v<Block, blocks::Q6_K>) out.codes.push_back(b.code(i) - 32);
    else if constexpr (requires { b.code(i); }) out.codes.push_back(b.code(i));
  }
  if constexpr (requires { b.scale(g); }) out.scale = b.scale(g);
  else if constexpr (requires { b.scale(); }) out.scale = b.scale();
  else if constexpr (requires { b.d; }) out.scale = static_cast<float>(b.d);
  if constexpr (requires { b.m; }) out.offset = static_cast<float>(b.m);
  if constexpr (requires { b.dmin; }) {
    out.scale *= static_cast<float>(b.scales.scale(g));
    out.offset = -(static_cast<float>(b.dmin) * static_cast<float>(b.scales.min(g)));
  } else if constexpr (requires { b.group_scale(g); }) {
    out.scale *= static_cast<float>(b.group_scale(g));
  }
  return out;
}

std::vector<Group> groups_of_row(const BlockMatrix& m, std::size_t r) {
  std::vector<Group> out;
  visit_block(m.type, [&](auto block) {
    for (std::size_t k = 0; k < m.cols; k += block.size) {
      std::memcpy(&block, m.row(r) + k / block.size * sizeof block, sizeof block);
      for (std::size_t g = 0; g < block.size / block.group; ++g) out.push_back(group_of(block, g));
    }
  });
  return out;
}

/// Backend::matmul's definition, chunks of `chunk` columns.
float fixed_product(const std::vector<Group>& row, const float* x, std::size_t chunk, bool has_offset) {
  float y = 0;
  for (const Group& g : row)
    for (std::size_t first = 0; first < g.codes.size(); first += chunk) {
      const std::size_t n = std::min(chunk, g.codes.size() - first);
      float absmax = 0;
      for (std::size_t k = 0; k < n; ++k) absmax = std::max(absmax, std::abs(x[k]));
      const float factor = FixedPoint24::factor(absmax);
      std::int64_t sum = 0, total = 0;
      for (std::size_t k = 0; k < n; ++k) {
        const std::int64_t q = FixedPoint24::encode(x[k], factor);
        sum += g.codes[first + k] * q;
        total += q;
      }
      y = std::fma(static_cast<float>(sum), g.scale * FixedPoint24::inverse(factor), y);
      if (has_offset) y = std::fma(static_cast<float>(total), g.offset * FixedPoint24::inverse(factor), y);
      x += n;
    }
  return y;
}

/// Backend::matmul_int8's, or where `by_group`, matmul_fused's.
float int8_product(const std::vector<Group>& row, const float* x, std::size_t cols, bool has_offset, bool by_group) {
  const auto absmax_of = [](const float* from, std::size_t n) {
    float absmax = 0;
    for (std::size_t k = 0; k < n; ++k) absmax = std::max(absmax, std::abs(from[k]));
    return absmax;
  };
  const float absmax_of_token = absmax_of(x, cols);
  float y = 0;
  for (const Group& g : row) {
    const float absmax = by_group ? absmax_of(x, g.codes.size()) : absmax_of_token;
    const float x_scale = by_group ? absmax * LlmInt8::inverse_127 : 1.0f;
    std::int64_t sum = 0, total = 0;
    for (const int code : g.codes) {
      const int q = LlmInt8::encode_scaled(*x++, LlmInt8::multiplier(absmax)) - 128;
      sum += code * q;
      total += q;
    }
    y = std::fma(static_cast<float>(sum), g.scale * x_scale, y);
    if (has_offset) y = std::fma(static_cast<float>(total), g.offset * x_scale, y);
  }
  return by_group ? y : y * (absmax_of_token * LlmInt8::inverse_127);
}

/// Activations with an outlier a thousand times larger in some tokens, and tiny ones.
std::vector<float> activations(std::size_t cols) {
  auto x = normal(kTokens * cols, 41, 2);
  for (std::size_t i = 0; i < x.size(); ++i) {
    if (i / cols % 3 == 1 && i % 97 == 5) x[i] *= 1000;
    if (i / cols % 3 == 2) x[i] *= 0x1p-100f;
  }
  return x;
}

class PackedBlocks : public testing::TestWithParam<BlockType> {
 protected:
  /// Columns of a chunk; only ternary types have groups of more.
  static std::size_t chunk() { return GetParam() == BlockType::tq1_0 || GetParam() == BlockType::tq2_0 ? 256 : 128; }
  bool has_offset() const {
    return visit_block(GetParam(), [](auto block) {
      return requires { block.m; }
      || requires { block.dmin; };
    });
  }
};

TEST_P(PackedBlocks, FloatActivationsGiveTheExactFixedPointResult) {
  for (const Shape s : kShapes) {
    const BlockMatrix m = random_blocks(GetParam(), s, 1);
    const auto x = activations(m.cols), w = values_of(m);
    std::vector<float> expected(kTokens * m.rows);
    for (std::size_t r = 0; r < m.rows; ++r) {
      const auto row = groups_of_row(m, r);
      for (std::size_t t = 0; t < kTokens; ++t) {
        const float y = expected[t * m.rows + r] = fixed_product(row, x.data() + t * m.cols, chunk(), has_offset());
        double exact = 0, size = 0, absmax = 0;
        for (std::size_t c = 0; c < m.cols; ++c) {
          const double value = static_cast<double>(x[t * m.cols + c]), weight = static_cast<double>(w[r * m.cols + c]);
          exact += value * weight;
          size += std::abs(value * weight);
          absmax = std::max(absmax, std::abs(value));
        }
        // The bound of sums in fp32, and half a unit of the fixed point for each weight.
        double weights = 0;
        for (std::size_t c = 0; c < m.cols; ++c) weights += std::abs(static_cast<double>(w[r * m.cols + c]));
        ASSERT_NEAR(static_cast<double>(y), exact, 258 * 0x1p-24 * size + absmax / 0x7F7F7F * weights)
            << t << ", " << r;
      }
    }
    for (const Backend* b : available()) {
      const auto packed = b->pack(m);
      for (const std::size_t n : {kTokens, std::size_t{1}, std::size_t{3}}) {
        std::vector<float> y(n * m.rows), serial(n * m.rows);
        b->matmul({x.data(), n, m.cols}, *packed, {y.data(), n, m.rows}, default_executor());
        b->matmul({x.data(), n, m.cols}, *packed, {serial.data(), n, m.rows}, serial_executor());
        ASSERT_EQ(y, std::vector<float>(expected.begin(), expected.begin() + static_cast<std::ptrdiff_t>(n * m.rows)))
            << b->name() << ", " << n << " tokens, " << m.rows << " × " << m.cols;
        ASSERT_EQ(y, serial) << b->name();
      }
    }
  }
}

TEST_P(PackedBlocks, EightBitActivationsGiveTheExactIntegerResult) {
  for (const Shape s : kShapes) {
    const BlockMatrix m = random_blocks(GetParam(), s, 2);
    const auto x = activations(m.cols);
    std::vector<float> expected(kTokens * m.rows), by_group(kTokens * m.rows);
    for (std::size_t r = 0; r < m.rows; ++r) {
      const auto row = groups_of_row(m, r);
      for (std::size_t t = 0; t < kTokens; ++t) {
        expected[t * m.rows + r] = int8_product(row, x.data() + t * m.cols, m.cols, has_offset(), false);
        by_group[t * m.rows + r] = int8_product(row, x.data() + t * m.cols, m.cols, has_offset(), true);
      }
    }
    for (const Backend* b : available()) {
      const auto packed = b->pack(m);
      ASSERT_TRUE(b->has_int8_matmul(*packed));
      std::vector<float> y(kTokens * m.rows), one(m.rows);
      const MatrixView<const float> in(x.data(), kTokens, m.cols);
      const Projection only{packed.get(), {y.data(), kTokens, m.rows}};
      b->matmul_int8(in, *packed, only.y, default_executor());
      ASSERT_EQ(y, expected) << b->name();
      b->matmul_int8(in.row_range(0, 1), *packed, {one.data(), 1, m.rows}, serial_executor());
      ASSERT_TRUE(std::equal(one.begin(), one.end(), expected.begin())) << b->name();
      b->matmul_fused(in, {&only, 1}, Activations::int8_group, default_executor());
      ASSERT_EQ(y, by_group) << b->name();
    }
  }
}

/// Rows, and the transposed product: bit for bit those of the decoded matrix.
TEST_P(PackedBlocks, DecodeToTheBlocksValues) {
  for (const Shape s : kShapes) {
    const BlockMatrix m = random_blocks(GetParam(), s, 3);
    const auto w = values_of(m), x = normal(kTokens * m.rows, 4);
    std::vector<std::int32_t> ids{static_cast<std::int32_t>(m.rows) - 1, 0, static_cast<std::int32_t>(m.rows) / 2};
    for (const Backend* b : available()) {
      const auto packed = b->pack(m), dense = b->pack(MatrixView<const float>(w.data(), m.rows, m.cols));
      std::vector<float> rows(ids.size() * m.cols), y(kTokens * m.cols), of_dense(kTokens * m.cols);
      ASSERT_TRUE(b->has_gather_rows(*packed));
      b->gather_rows(*packed, ids, {rows.data(), ids.size(), m.cols}, default_executor());
      for (std::size_t i = 0; i < ids.size(); ++i)
        ASSERT_EQ(0, std::memcmp(rows.data() + i * m.cols, w.data() + static_cast<std::size_t>(ids[i]) * m.cols,
                                 m.cols * sizeof(float)))
            << b->name() << ", row " << ids[i];
      const MatrixView<const float> in(x.data(), kTokens, m.rows);
      b->matmul_transposed(in, *packed, {y.data(), kTokens, m.cols}, default_executor());
      b->matmul_transposed(in, *dense, {of_dense.data(), kTokens, m.cols}, default_executor());
      ASSERT_EQ(y, of_dense) << b->name();
    }
  }
}

TEST_P(PackedBlocks, ShareInputsAndGates) {
  const BlockMatrix m = random_blocks(GetParam(), {130, 3}, 5);
  const std::size_t cols = m.cols;
  const auto w = normal(130 * cols, 7, 0.1f), x = activations(cols);
  const MatrixView<const float> in(x.data(), kTokens, cols);
  for (const Backend* b : available()) {
    const auto gate = b->pack(m), up = b->pack(MatrixView<const float>(w.data(), 130, cols));
    for (const auto how : {Activations::fp32, Activations::int8, Activations::int8_group}) {
      std::vector<float> g(kTokens * 130), u(g.size()), y(g.size()), expected(g.size());
      const Projection both[] = {{gate.get(), {g.data(), kTokens, 130}}, {up.get(), {u.data(), kTokens, 130}}};
      b->matmul_fused(in, both, how, default_executor());
      apply_gate(GatedActivation::silu, g, u, expected);
      b->matmul_gated(in, *gate, *up, GatedActivation::silu, {y.data(), kTokens, 130}, how, default_executor());
      ASSERT_EQ(y, expected) << b->name();
    }
  }
}

/// Bits of a weight where they are not about the file's: a scale or minimum of four bits takes a byte, 3-bit codes lie
/// as 4 bits, E8M0 and E4M3 as two bytes, and a point of a lattice as its levels.
double bits_in_memory(BlockType type) {
  switch (type) {
    case BlockType::q2_k: return 2 + 2 * 8.0 / 16 + 32.0 / 256;
    case BlockType::q3_k: return 4 + 8.0 / 16 + 16.0 / 256;
    case BlockType::tq1_0: return 2 + 16.0 / 256;
    case BlockType::q1_0: return 2 + 16.0 / 128;
    case BlockType::mxfp4: return 4 + 16.0 / 32;
    case BlockType::nvfp4: return 4 + 16.0 / 16;
    case BlockType::iq1_s:
    case BlockType::iq1_m:
    case BlockType::iq2_xxs:
    case BlockType::iq2_xs:
    case BlockType::iq2_s:
    case BlockType::iq3_xxs:
    case BlockType::iq3_s: return 8 + 8.0 / 16 + 32.0 / 256;
    default: return 1.03 * 8 * static_cast<double>(block_bytes(type)) / static_cast<double>(block_size(type));
  }
}

TEST_P(PackedBlocks, TakeAboutWhatTheFileDoes) {
  const BlockMatrix m = random_blocks(GetParam(), {128, 2048 / block_size(GetParam())}, 8);
  EXPECT_LE(static_cast<double>(default_backend().pack(m)->storage_bytes()),
            bits_in_memory(GetParam()) / 8 * 128 * 2048 + 128);
}

TEST_P(PackedBlocks, UnpackOnlyWhereTheCanonicalFormIsExact) {
  const BlockMatrix m = random_blocks(GetParam(), {70, 2}, 9);
  const auto packed = default_backend().pack(m);
  if (!exact_spec(GetParam()))
    return expect_error(ErrorCode::unsupported, "one scale and zero point a group",
                        [&] { (void)default_backend().unpack(*packed); });
  const QuantizedMatrix expected = to_quantized(m), q = default_backend().unpack(*packed);
  EXPECT_EQ(q.spec, expected.spec);
  EXPECT_EQ(0, std::memcmp(q.codes.data(), expected.codes.data(), expected.codes.size()));
  EXPECT_EQ(0, std::memcmp(q.scales.data(), expected.scales.data(), expected.scales.size()));
}

std::vector<BlockType> integer_types() {
  std::vector<BlockType> out;
  for (const BlockType type : kBlockTypes)
    if (!is_float(type)) out.push_back(type);
  return out;
}
INSTANTIATE_TEST_SUITE_P(Types, PackedBlocks, testing::ValuesIn(integer_types()),
                         [](const auto& p) { return std::string(name_of(p.param)); });

}  // namespace
}  // namespace nibble
