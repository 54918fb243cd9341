// Schemes registered from outside the library, through each generic path: spec, quantize, dequantize, matmul, our own
// file layout. (`compare` runs one in tests/cli/own_scheme_test.cpp.)
#include "nibble/matrix/scheme_registry.h"

#include <gtest/gtest.h>

#include <cstring>

#include "nibble/quantize/rows.h"
#include "nibble/quantize/typed.h"
#include "tests/support/backends.h"
#include "tests/support/expect_error.h"
#include "tests/support/memory_checkpoint.h"
#include "tests/support/own_schemes.h"
#include "tests/support/random_data.h"

namespace nibble {
namespace {

using namespace testing_support;

class OwnSchemes : public testing::Test {
 protected:
  void SetUp() override { register_own_schemes(); }
};

TEST_F(OwnSchemes, AreParsedAndPrinted) {
  for (const char* text : {"nf3-b64", "nf3-b50-dq", "pow4-b32", "signs-b16"})
    EXPECT_EQ(QuantSpec::parse(text).to_string(), text);
  EXPECT_EQ(QuantSpec::parse("nf3").to_string(), "nf3-b64");
  EXPECT_EQ(QuantSpec::parse("pow4").to_string(), "pow4-b32");
  EXPECT_EQ(QuantSpec::parse("nf3-dq").bits, 3);
  EXPECT_DOUBLE_EQ(QuantSpec::parse("nf3-b64").bits_per_weight(4, 256), 3.5);
  expect_error(ErrorCode::invalid_argument, "blockwise", [] { (void)QuantSpec::parse("nf3-g64"); });
  expect_error(
      ErrorCode::invalid_argument,
      "int2 … int8, nf4, fp4, dynamic8, e4m3, e5m2, e2m3, e3m2, e2m1, nf3, pow4, signs, fp8, mxfp4, mxfp6, mxfp8, "
      "nvfp4, llm-int8",
      [] { (void)QuantSpec::parse("nf5"); });
}

struct unknown {
  static constexpr std::string_view name = "unknown";
  static constexpr std::array<float, 4> values() { return {-1, 0, 0.5f, 1}; }
};

TEST_F(OwnSchemes, TheTypedFormIsTheTextualOne) {
  const auto x = normal(16 * 64, 1);
  const MatrixView<const float> m(x.data(), 16, 64);
  const auto a = quantize<Codebook<nf3>>(m, {.block_size = 32}), b = quantize(m, "nf3-b32");
  EXPECT_EQ(a.spec, b.spec);
  EXPECT_TRUE(same_bytes(a.codes, b.codes));
  expect_error(ErrorCode::not_found, "'unknown'", [&] { (void)quantize<Codebook<unknown>>(m); });
}

/// The definition, the rows of the headers alone, and every backend agree to the bit; blocks across rows, too.
template <Scheme S>
void check_codes(const std::string& name) {
  constexpr std::size_t rows = 6, cols = 100;
  for (const std::size_t block : {std::size_t{10}, std::size_t{64}, std::size_t{100}, std::size_t{1000}}) {
    const std::string text = name + "-b" + std::to_string(block);
    const Grouping groups = QuantSpec::parse(text).grouping();
    for (const auto& x : {normal(rows * cols, 2), ties(rows * cols, 3), std::vector<float>(rows * cols, 0.0f)}) {
      const MatrixView<const float> m(x.data(), rows, cols);
      std::vector<std::uint8_t> codes(rows * packed_bytes(cols, S::bits));
      std::vector<typename S::Params> params(groups.count(rows, cols));
      ASSERT_TRUE(quantize_rows<S>(m, groups, codes, params));
      std::vector<float> expected(x.size()), decoded(x.size());
      ASSERT_TRUE(dequantize_rows<S>(codes, params, groups, MatrixView<float>(expected.data(), rows, cols)));
      for (const Backend* backend : available()) {
        const auto q = backend->quantize(m, QuantSpec::parse(text), "w", default_executor());
        ASSERT_EQ(std::memcmp(q.codes.data(), codes.data(), codes.size()), 0) << backend->name() << ", " << text;
        for (std::size_t g = 0; g < params.size(); ++g)
          ASSERT_EQ(q.scale(g), detail::scale_of(params[g])) << backend->name() << ", " << text;
        backend->dequantize(q, 0, {decoded.data(), rows, cols}, default_executor());
        ASSERT_EQ(decoded, expected) << backend->name() << ", " << text;
      }
    }
  }
}

TEST_F(OwnSchemes, AreQuantizedAndDecodedByEveryBackend) {
  ASSERT_NO_FATAL_FAILURE(check_codes<Codebook<nf3>>("nf3"));
  ASSERT_NO_FATAL_FAILURE(check_codes<Codebook<powers>>("pow4"));
  ASSERT_NO_FATAL_FAILURE(check_codes<SignAndSize>("signs"));
}

TEST_F(OwnSchemes, NameTheValueThatCannotBeQuantized) {
  auto x = normal(4 * 64, 4);
  x[2 * 64 + 9] = NAN;
  for (const char* text : {"nf3-b64", "signs-b64", "signs-b1000"})
    expect_error(ErrorCode::non_finite, "row 2, column 9: the value is NaN",
                 [&] { (void)quantize(MatrixView<const float>(x.data(), 4, 64), text, {.name = "w"}); });
}

TEST_F(OwnSchemes, AreMultipliedByAndDecodedInAnyType) {
  constexpr std::size_t out = 40, in = 192, tokens = 3;
  const auto weights = normal(out * in, 5), x = normal(tokens * in, 6);
  for (const char* text : {"nf3-b64", "nf3-b50", "nf3-b64-dq", "pow4-b32", "signs-b64"}) {
    const auto q = quantize(MatrixView<const float>(weights.data(), out, in), text);
    std::vector<float> first;
    for (const Backend* backend : available()) {
      const auto packed = backend->pack(q);
      std::vector<float> y(tokens * out);
      matmul(MatrixView<const float>(x.data(), tokens, in), *packed, MatrixView<float>(y.data(), tokens, out));
      for (std::size_t t = 0; t < tokens; ++t)
        for (std::size_t o = 0; o < out; ++o) {
          double exact = 0, sum = 0;
          for (std::size_t k = 0; k < in; ++k) {
            const double term = static_cast<double>(x[t * in + k]) * static_cast<double>(q.value(o, k));
            exact += term;
            sum += std::abs(term);
          }
          ASSERT_NEAR(static_cast<double>(y[t * out + o]), exact, 300 * 0x1p-24 * sum) << text << backend->name();
        }
      if (first.empty()) first = y;
      EXPECT_EQ(y, first) << text << ": " << backend->name();
      std::vector<bf16> narrow(out * in);
      backend->dequantize_to(q, 0, MatrixView<bf16>(narrow.data(), out, in), default_executor());
      for (std::size_t i = 0; i < narrow.size(); ++i) ASSERT_EQ(narrow[i], bf16(q.value(i / in, i % in)));
      const auto back = backend->unpack(*packed);
      EXPECT_TRUE(same_bytes(back.codes, q.codes) && same_bytes(back.scales, q.scales)) << text;
    }
  }
}

TEST_F(OwnSchemes, AreWrittenAndReadInOurLayoutAlone) {
  const auto weights = normal(24 * 96, 7);
  for (const char* text : {"nf3-b32", "nf3-b32-dq", "pow4-b32", "signs-b1000"}) {
    const auto q = quantize(MatrixView<const float>(weights.data(), 24, 96), text);
    EXPECT_EQ(default_layout(q.spec), CheckpointLayout::nibble);
    for (const CheckpointLayout layout : checkpoint_layouts())
      EXPECT_EQ(loss_in(layout, q).empty(), layout == CheckpointLayout::nibble) << text << ": " << name_of(layout);
    const MemoryCheckpoint file(CheckpointLayout::nibble, q);
    const auto read = decode_quantized(file, "L");
    ASSERT_TRUE(read);
    EXPECT_EQ(read->spec, q.spec);
    std::vector<float> a(weights.size()), b(weights.size());
    dequantize(q, {a.data(), 24, 96});
    dequantize(*read, {b.data(), 24, 96});
    EXPECT_EQ(a, b) << text;
  }
}

TEST_F(OwnSchemes, AreRefusedForWhatIsWrongWithThem) {
  const auto refused = [](const std::string& says, const auto& change) {
    SchemeEntry row = codebook_scheme<nf3>();
    row.name = "other";
    change(row);
    expect_error(ErrorCode::invalid_argument, says, [&] { (void)register_scheme(row); });
  };
  refused("'nf3' is registered already", [](SchemeEntry& r) { r.name = "nf3"; });
  refused("'nf4' is registered already", [](SchemeEntry& r) { r.name = "nf4"; });
  refused("lower-case letters and digits", [](SchemeEntry& r) { r.name = "a-b"; });
  refused("lower-case letters and digits", [](SchemeEntry& r) { r.name = ""; });
  refused("another scheme's", [](SchemeEntry& r) { r.name = "int9"; });
  refused("another scheme's", [](SchemeEntry& r) { r.name = "fp8"; });
  refused("codes have 9 bits", [](SchemeEntry& r) { r.bits = 9; });
  refused("has 8 values; a code of 4 bits needs 16", [](SchemeEntry& r) { r.bits = 4; });
  refused("block size is 0", [](SchemeEntry& r) { r.block_size = 0; });
  refused("neither thresholds nor quantize_group", [](SchemeEntry& r) { r.thresholds = nullptr; });
  static constexpr std::array<float, 8> bad{0, 1, 2, NAN, 4, 5, 6, 7};
  refused("value 3 of its codebook is not finite", [](SchemeEntry& r) { r.codebook = bad; });
  EXPECT_FALSE(find_scheme("other"));
  QuantSpec s = QuantSpec::parse("nf3");
  s.scheme = static_cast<SchemeKind>(200);
  expect_error(ErrorCode::invalid_argument, "kind 200", [&] { s.validate(); });
}

}  // namespace
}  // namespace nibble
