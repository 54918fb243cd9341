// Every backend against the schemes themselves, bit for bit: codes, scales, zero points, decoded values.
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>

#include "nibble/core/error.h"
#include "nibble/quantize/quantize.h"
#include "tests/support/random_data.h"

namespace nibble {
namespace {

using namespace testing_support;

/// visit(F{}) with the format of a scheme of small floats.
template <class Visitor>
auto visit_format(SchemeKind kind, Visitor visit) {
  switch (kind) {
    case SchemeKind::e5m2: return visit(e5m2{});
    case SchemeKind::e2m3: return visit(e2m3{});
    case SchemeKind::e3m2: return visit(e3m2{});
    case SchemeKind::e2m1: return visit(e2m1{});
    default: return visit(e4m3{});
  }
}

/// Value by value, by the definitions alone.
class SlowReference {
 public:
  SlowReference(const std::vector<float>& x, std::size_t rows, std::size_t cols, const QuantSpec& spec)
      : q_(QuantizedMatrix::allocate(spec, rows, cols)) {
    std::vector<std::vector<float>> groups(q_.group_count());
    for (std::size_t r = 0; r < rows; ++r)
      for (std::size_t c = 0; c < cols; ++c) groups[q_.group_of(r, c)].push_back(x[r * cols + c]);
    if (spec.has_float_codes()) {
      fit_ = {spec.scale_type, spec.scale_rule, 1};
      const float absmax = range_of(x).absmax();
      if (spec.has_tensor_scale())
        fit_.tensor_divisor = visit_format(spec.scheme, [&]<class F>(F) { return fit_tensor_divisor<F>(absmax); });
      for (const auto& g : groups) fit_floats(g);
    } else {
      for (const auto& g : groups) fit(range_of(g));
    }
    for (std::size_t r = 0; r < rows; ++r)
      for (std::size_t c = 0; c < cols; ++c) codes.push_back(encode(x[r * cols + c], q_.group_of(r, c)));
  }
  float decode(std::size_t i, std::size_t group, float stored_scale_value) const {
    const QuantSpec& s = q_.spec;
    if (s.scheme == SchemeKind::nf4) return Codebook<nf4>::decode(codes[i], {stored_scale_value});
    if (s.scheme == SchemeKind::fp4) return Codebook<fp4>::decode(codes[i], {stored_scale_value});
    if (s.scheme == SchemeKind::dynamic8) return Codebook<dynamic_map<true>>::decode(codes[i], {stored_scale_value});
    if (s.scheme == SchemeKind::llm_int8) return LlmInt8::decode(codes[i], {stored_scale_value});
    if (s.has_float_codes())
      return visit_format(s.scheme, [&]<class F>(F) { return FloatCodes<F>::decode(codes[i], {stored_scale_value}); });
    return affine_decode(codes[i], {stored_scale_value, params[group].zero_point});
  }
  std::vector<AffineParams> params;  ///< scale = absmax where there is no scale
  std::vector<std::uint8_t> codes;

 private:
  void fit_floats(const std::vector<float>& group) {
    const float scale = visit_format(q_.spec.scheme, [&]<class F>(F) {
      const bool searches = q_.spec.scale_rule == ScaleRule::search;
      return fit_.value(fit_scale<F>(searches ? std::span<const float>(group) : std::span<const float>(),
                                     range_of(group).absmax(), fit_));
    });
    params.push_back({scale, 0});
  }
  void fit(Range r) {
    const QuantSpec& s = q_.spec;
    switch (s.scheme) {
      case SchemeKind::symmetric: params.push_back(fit_symmetric(r, s.bits, s.narrow_range, s.scale_type)); break;
      case SchemeKind::asymmetric: params.push_back(fit_asymmetric(r, s.bits, s.preserve_zero, s.scale_type)); break;
      case SchemeKind::llm_int8: params.push_back({LlmInt8::fit(r).absmax, 128}); break;
      default: params.push_back({stored_absmax(r.absmax()), 0}); break;
    }
  }
  std::uint8_t encode(float x, std::size_t group) const {
    const QuantSpec& s = q_.spec;
    const AffineParams p = params[group];
    switch (s.scheme) {
      case SchemeKind::symmetric: return affine_encode(x, p, symmetric_low(s.narrow_range), (1 << s.bits) - 1);
      case SchemeKind::asymmetric: return affine_encode(x, p, 0, (1 << s.bits) - 1);
      case SchemeKind::nf4: return Codebook<nf4>::encode(x, {p.scale});
      case SchemeKind::fp4: return Codebook<fp4>::encode(x, {p.scale});
      case SchemeKind::dynamic8: return Codebook<dynamic_map<true>>::encode(x, {p.scale});
      case SchemeKind::llm_int8: return LlmInt8::encode(x, {p.scale});
      default: break;
    }
    return visit_format(s.scheme, [&]<class F>(F) { return FloatCodes<F>::encode(x, {p.scale}); });
  }
  QuantizedMatrix q_;
  ScaleFit fit_;
};

std::vector<std::string> every_spec() {
  std::vector<std::string> out{"nf4-b64",    "nf4-b7",        "nf4-b4096",      "fp4-b64",
                               "fp4-b33",    "dynamic8-b256", "dynamic8-b10",   "llm-int8",
                               "nf4-b64-dq", "fp4-b16-dq",    "dynamic8-b64-dq"};
  for (const char* text :
       {"fp8",           "e4m3-tensor",   "e4m3-t16",      "e4m3-t7-e8m0-ceil", "e4m3-g32-bf16", "e5m2-channel",
        "e5m2-t16-bf16", "mxfp4",         "mxfp4-floor",   "mxfp4-ceil",        "mxfp4-search",  "e2m1-g7-e8m0",
        "e2m1-t16",      "mxfp6",         "e3m2-g32-e8m0", "e3m2-channel-f32",  "mxfp8",         "mxfp8-search",
        "nvfp4",         "nvfp4-largest", "e2m1-g7-e4m3",  "e4m3-g16-e4m3"})
    out.push_back(text);
  for (int bits = 2; bits <= 8; ++bits)
    for (const char* where : {"tensor", "channel", "g128", "g32", "g7", "b50"})
      for (const char* how : {"sym-f32", "sym-f32-restricted", "sym-bf16", "asym-f32", "asymraw-f32", "asym-bf16"})
        out.push_back("int" + std::to_string(bits) + "-" + where + "-" + how);
  return out;
}

class BitIdentity : public testing::TestWithParam<const Backend*> {
 protected:
  void SetUp() override {
    if (!GetParam()->available()) GTEST_SKIP() << "NOT RUN: this CPU has no " << GetParam()->description();
  }
};

void check(const Backend& backend, const std::string& text, const std::vector<float>& x, std::size_t rows,
           std::size_t cols) {
  const QuantSpec spec = QuantSpec::parse(text);
  const SlowReference expected(x, rows, cols, spec);
  const auto q = backend.quantize(MatrixView<const float>(x.data(), rows, cols), spec, "w", default_executor());
  std::vector<float> decoded(x.size());
  backend.dequantize(q, 0, {decoded.data(), rows, cols}, default_executor());
  for (std::size_t g = 0; g < q.group_count(); ++g) {
    if (!spec.double_quant)
      ASSERT_EQ(std::bit_cast<std::uint32_t>(q.scale(g)), std::bit_cast<std::uint32_t>(expected.params[g].scale))
          << text << " group " << g;
    if (spec.is_affine()) ASSERT_EQ(q.zero_point(g), expected.params[g].zero_point) << text << " group " << g;
  }
  for (std::size_t r = 0, i = 0; r < rows; ++r)
    for (std::size_t c = 0; c < cols; ++c, ++i) {
      ASSERT_EQ(q.code(r, c), expected.codes[i]) << text << " at " << r << ", " << c << ": " << x[i];
      const std::size_t g = q.group_of(r, c);
      ASSERT_EQ(std::bit_cast<std::uint32_t>(decoded[i]),
                std::bit_cast<std::uint32_t>(expected.decode(i, g, q.scale(g))))
          << text << " at " << i;
    }
}

TEST_P(BitIdentity, HoldsForEverySpecOnHardData) {
  const struct { std::size_t rows, cols; } shapes[] = {{3, 131}, {5, 64}, {1, 1}, {2, 17}};
  for (const auto& text : every_spec())
    for (const auto& s : shapes) {
      const std::size_t n = s.rows * s.cols;
      for (const auto& data : {normal(n, 1), ties(n, 2), denormals(n, 3), any_finite(n, 4), std::vector<float>(n, 0.0f),
                               std::vector<float>(n, -0.7f)})
        ASSERT_NO_FATAL_FAILURE(check(*GetParam(), text, data, s.rows, s.cols));
    }
}

TEST_P(BitIdentity, HoldsForHalfPrecisionInputs) {
  const auto x = normal(7 * 77, 9);
  std::vector<f16> half;
  std::vector<bf16> brain;
  std::vector<float> from_half, from_brain;
  for (float v : x) {
    half.push_back(f16(v));
    brain.push_back(bf16(v));
    from_half.push_back(static_cast<float>(half.back()));
    from_brain.push_back(static_cast<float>(brain.back()));
  }
  const auto same = [&](const QuantizedMatrix& a, const QuantizedMatrix& b) {
    EXPECT_EQ(std::memcmp(a.codes.data(), b.codes.data(), a.codes.size()), 0);
    EXPECT_EQ(std::memcmp(a.scales.data(), b.scales.data(), a.scales.size()), 0);
  };
  for (const char* text : {"nf4-b64", "int4-g32-asym", "int8-tensor-sym"}) {
    const QuantSpec spec = QuantSpec::parse(text);
    const auto quantized = [&](FloatMatrix m) { return GetParam()->quantize(m, spec, "w", default_executor()); };
    same(quantized(MatrixView<const f16>(half.data(), 7, 77)),
         quantized(MatrixView<const float>(from_half.data(), 7, 77)));
    same(quantized(MatrixView<const bf16>(brain.data(), 7, 77)),
         quantized(MatrixView<const float>(from_brain.data(), 7, 77)));
  }
}

/// Values of every kind, infinities and NaN among them, through scales that a file could hold.
TEST_P(BitIdentity, HoldsForHalfPrecisionResults) {
  const struct {
    std::size_t rows, cols;
    const char* spec;
  } cases[] = {{3, 131, "nf4-b64"},          {2, 4099, "int4-channel-asym-f32"},
               {5, 96, "int4-g32-asym"},     {7, 100, "int8"},
               {3, 77, "int4-g7-sym"},       {4, 160, "fp4-b16-dq"},
               {4, 64, "int4-g16-sym-bf16"}, {2, 50, "int3-g16-asym"}};
  for (const auto& c : cases) {
    const auto x = normal(c.rows * c.cols, 13, 3e-5f);
    auto q = quantize(MatrixView<const float>(x.data(), c.rows, c.cols), c.spec);
    std::vector<float> plain(x.size());
    std::vector<f16> half(x.size());
    std::vector<bf16> brain(x.size());
    const auto fits = [&](auto& v) { return MutableFloatMatrix(MatrixView(v.data(), c.rows, c.cols)); };
    if (!q.spec.double_quant && q.spec.scale_type == ScaleType::f32) {
      for (const float beyond : {std::numeric_limits<float>::quiet_NaN(), 1e38f}) {
        q.scales.writable<float>()[0] = beyond;
        EXPECT_THROW(GetParam()->dequantize_to(q, 0, fits(half), default_executor()), Error) << c.spec;
      }
      q.scales.writable<float>()[0] = 0;
      q.scales.writable<float>()[1] = 500;  // values up to 64000, near the end of f16
    }
    GetParam()->dequantize_to(q, 0, fits(plain), default_executor());
    GetParam()->dequantize_to(q, 0, fits(half), default_executor());
    GetParam()->dequantize_to(q, 0, fits(brain), default_executor());
    for (std::size_t i = 0; i < x.size(); ++i) {
      const float value = q.value(i / c.cols, i % c.cols);
      ASSERT_EQ(std::bit_cast<std::uint32_t>(plain[i]), std::bit_cast<std::uint32_t>(value)) << c.spec << " at " << i;
      ASSERT_EQ(half[i].bits, f16(value).bits) << c.spec << " at " << i << ": " << value;
      ASSERT_EQ(brain[i].bits, bf16(value).bits) << c.spec << " at " << i << ": " << value;
    }
  }
}

/// Results past the size that caches keep are written around them, from any alignment.
TEST_P(BitIdentity, HoldsForResultsThatAreStreamed) {
  constexpr std::size_t rows = 1100, cols = 8011;
  const auto x = normal(cols, 14);
  QuantizedMatrix q = QuantizedMatrix::allocate(QuantSpec::parse("int4-g32-asym-f32"), rows, cols);
  auto* codes = q.codes.writable<std::uint8_t>();
  for (std::size_t i = 0; i < q.codes.size(); ++i) codes[i] = static_cast<std::uint8_t>(i * 37 % 251);
  for (std::size_t g = 0; g < q.group_count(); ++g) {
    q.scales.writable<float>()[g] = x[g % cols];
    q.zero_points.writable<std::uint8_t>()[g] = static_cast<std::uint8_t>(g % 16);
  }
  const auto at = [&](std::size_t r, std::size_t c) {
    const std::size_t g = q.group_of(r, c);
    return affine_decode(q.code(r, c), {q.scale(g), q.zero_point(g)});
  };
  std::vector<float> plain(rows * cols + 1);
  GetParam()->dequantize(q, 0, {plain.data() + 1, rows, cols}, default_executor());
  for (std::size_t r = 0; r < rows; r += 7)
    for (std::size_t c = 0; c < cols; ++c) ASSERT_EQ(plain[1 + r * cols + c], at(r, c)) << r << ", " << c;
  std::vector<bf16> brain(2 * rows * cols);  // twice the rows by a stride, to pass the size
  const MatrixView<bf16> out(brain.data(), rows, cols, 2 * cols);
  GetParam()->dequantize_to(q, 0, out, default_executor());
  for (std::size_t r = 0; r < rows; r += 7)
    for (std::size_t c = 0; c < cols; ++c) ASSERT_EQ(out(r, c).bits, bf16(at(r, c)).bits) << r << ", " << c;
}

/// Every 4001st float; every one with NIBBLE_SWEEP_STEP=1, as the test labelled "soak" has it.
TEST_P(BitIdentity, SweepsTheFloats) {
  const char* wanted = std::getenv("NIBBLE_SWEEP_STEP");
  const std::uint64_t step = wanted != nullptr ? std::strtoull(wanted, nullptr, 10) : 4001;
  ASSERT_GT(step, 0u);
  std::vector<float> x;
  const auto check_and_clear = [&] {
    x.push_back(1e4f);  // the largest of each part, so that all have one scale
    for (const char* text : {"int8-tensor-sym-f32", "int4-tensor-asym-f32", "nf4-b1000000000"})
      ASSERT_NO_FATAL_FAILURE(check(*GetParam(), text, x, 1, x.size()));
    x.clear();
  };
  for (std::uint64_t bits = 0; bits < (std::uint64_t{1} << 32); bits += step) {
    if (const auto v = std::bit_cast<float>(static_cast<std::uint32_t>(bits)); is_finite(v) && std::abs(v) < 1e4f)
      x.push_back(v);
    if (x.size() == std::size_t{1} << 20) ASSERT_NO_FATAL_FAILURE(check_and_clear());
  }
  check_and_clear();
}

INSTANTIATE_TEST_SUITE_P(Backends, BitIdentity, testing::ValuesIn(backends()),
                         [](const auto& p) { return std::string(p.param->name()); });

}  // namespace
}  // namespace nibble
