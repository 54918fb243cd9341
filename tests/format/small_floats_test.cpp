// FP8, MX and NVFP4 as compressed-tensors, transformers and ModelOpt write them (tests/golden/small_floats): their
// bytes decode to the values that the libraries decode them to, and our quantizer gives the same bytes.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <numeric>

#include "nibble/backend/backend.h"
#include "nibble/format/checkpoint.h"
#include "nibble/quantize/quantize.h"
#include "tests/support/expect_error.h"
#include "tests/support/memory_checkpoint.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using namespace testing_support;

const fs::path kFolder = NIBBLE_TEST_DATA "/golden/small_floats";

struct Golden {
  const char* folder;
  CheckpointLayout layout;
  const char* spec;  ///< As it is read.
  bool same_bytes;   ///< Our quantizer gives the same: the library's scales are rounded once, as ours are.
  bool in_bf16;      ///< The library decodes to bfloat16.
};
constexpr auto kCompressed = CheckpointLayout::compressed_tensors;
constexpr Golden kGolden[] = {{"fp8_tensor", kCompressed, "e4m3-tensor", true, false},
                              {"fp8_channel", kCompressed, "fp8", true, false},
                              {"fp8_block", kCompressed, "e4m3-t32", true, false},
                              {"mxfp8", kCompressed, "mxfp8", true, false},
                              {"mxfp6", kCompressed, "mxfp6", true, false},
                              {"mxfp4", kCompressed, "mxfp4", true, false},
                              {"nvfp4", kCompressed, "nvfp4", true, true},
                              {"hf_fp8", CheckpointLayout::fp8, "e4m3-t32", false, false},
                              {"hf_fp8_ue8m0", CheckpointLayout::fp8, "e4m3-t32-e8m0", false, false},
                              {"hf_fp8_tensor", CheckpointLayout::fp8, "e4m3-tensor", false, false},
                              {"modelopt_fp8", CheckpointLayout::modelopt, "e4m3-tensor", true, false},
                              {"modelopt_fp8_channel", CheckpointLayout::modelopt, "fp8", true, false},
                              {"modelopt_nvfp4", CheckpointLayout::modelopt, "nvfp4", false, false}};

QuantizedMatrix read(const Golden& g) {
  const auto checkpoint = Checkpoint::open(kFolder / g.folder);
  EXPECT_EQ(layout_of(checkpoint, "layer"), g.layout) << g.folder;
  return *decode_quantized(checkpoint, "layer");
}

std::vector<float> source() { return Checkpoint::open(kFolder / "source.safetensors").read_f32("layer.weight"); }

TEST(SmallFloatFixtures, DecodeToTheLibrariesOwnValues) {
  const auto decoded = Checkpoint::open(kFolder / "decoded.safetensors");
  for (const Golden& g : kGolden) {
    const auto q = read(g);
    EXPECT_EQ(q.spec.to_string(), g.spec) << g.folder;
    const auto expected = decoded.read_f32(g.folder);
    ASSERT_EQ(expected.size(), q.rows * q.cols) << g.folder;
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const float ours = q.value(i / q.cols, i % q.cols);
      ASSERT_EQ(g.in_bf16 ? static_cast<float>(bf16(ours)) : ours, expected[i]) << g.folder << " at " << i;
    }
  }
}

/// Whether a group is of zeros: libraries differ in the scale that it gets.
bool is_zero(const std::vector<float>& x, const QuantizedMatrix& q, std::size_t group) {
  bool zero = true;
  q.spec.grouping().for_each_piece(group, q.rows, q.cols, [&](std::size_t row, std::size_t begin, std::size_t end) {
    for (std::size_t c = begin; c < end; ++c) zero = zero && x[row * q.cols + c] == 0;
  });
  return zero;
}

TEST(SmallFloatFixtures, AreWhatOurQuantizerMakes) {
  const auto x = source();
  for (const Golden& g : kGolden) {
    const auto theirs = read(g);
    std::string spec = g.spec;
    if (spec == "nvfp4") spec += "-largest";
    if (spec.ends_with("e8m0")) spec += "-ceil";
    const auto ours = quantize(MatrixView<const float>(x.data(), theirs.rows, theirs.cols), spec);
    if (spec == "nvfp4-largest" && theirs.tensor_scale.divides) EXPECT_EQ(ours.tensor_scale, theirs.tensor_scale);
    std::size_t codes = 0;
    for (std::size_t i = 0; i < ours.group_count(); ++i) {
      if (is_zero(x, ours, i)) continue;
      // transformers stores 1/(448/max), ModelOpt a product where we divide: a rounding more.
      if (g.same_bytes) EXPECT_EQ(ours.scale(i), theirs.scale(i)) << g.folder << " group " << i;
      else EXPECT_NEAR(ours.scale(i) / theirs.scale(i), 1, 0x1p-22) << g.folder << " group " << i;
    }
    for (std::size_t i = 0; i < theirs.rows * theirs.cols; ++i)
      codes += ours.code(i / ours.cols, i % ours.cols) != theirs.code(i / ours.cols, i % ours.cols);
    EXPECT_LE(codes, g.same_bytes ? 0u : theirs.rows * theirs.cols / 100) << g.folder;
  }
}

TEST(SmallFloatFixtures, AreWrittenBackByteForByte) {
  for (const Golden& g : kGolden) {
    const auto checkpoint = Checkpoint::open(kFolder / g.folder);
    const auto q = read(g);
    for (const NamedTensor& t : encode_quantized(g.layout, "layer", q, DType::f32)) {
      const auto theirs = checkpoint.find(t.name);
      ASSERT_TRUE(theirs) << g.folder << ": " << t.name;
      EXPECT_EQ(t.type, theirs->type) << g.folder << ": " << t.name;
      EXPECT_TRUE(same_bytes(t.bytes, theirs->bytes)) << g.folder << ": " << t.name;
    }
  }
}

/// Codes and scales move from one library's layout to another's; NVFP4's tensor scale is a reciprocal there, and said
/// to be rounded.
TEST(SmallFloatFixtures, ConvertBetweenLayouts) {
  const auto theirs = read({"nvfp4", kCompressed, "nvfp4", false, true});
  EXPECT_NE(loss_in(CheckpointLayout::modelopt, theirs).find("reciprocal"), std::string::npos);
  const auto there = *decode_quantized(MemoryCheckpoint(CheckpointLayout::modelopt, theirs), "L");
  EXPECT_FALSE(there.tensor_scale.divides);
  EXPECT_TRUE(same_bytes(there.codes, theirs.codes) && same_bytes(there.scales, theirs.scales));
  for (std::size_t i = 0; i < theirs.rows * theirs.cols; ++i) {
    const float a = theirs.value(i / theirs.cols, i % theirs.cols), b = there.value(i / theirs.cols, i % theirs.cols);
    ASSERT_NEAR(a, b, std::abs(a) * 0x1p-22f);
  }
  const auto own = *decode_quantized(MemoryCheckpoint(CheckpointLayout::nibble, there), "L");
  EXPECT_EQ(own.tensor_scale, there.tensor_scale) << "our own layout keeps either kind";
}

MemoryCheckpoint in_fp8(const char* config, std::vector<std::size_t> scale_shape, std::size_t rows = 130,
                        std::size_t cols = 200) {
  MemoryCheckpoint file;
  file.put("L.weight", DType::f8_e4m3, {rows, cols}, std::vector<std::uint8_t>(rows * cols));
  std::vector<float> scales(scale_shape[0] * scale_shape[1]);
  std::iota(scales.begin(), scales.end(), 1.0f);
  file.put("L.weight_scale_inv", DType::f32, std::move(scale_shape), scales);
  file.configure(config);
  return file;
}

/// Tiles are by the configuration's size, not by what divides: 130 rows have two scales of 128, the second of 2 rows.
TEST(Fp8, ShortTilesAreReadByTheConfiguredSize) {
  const auto q = *decode_quantized(in_fp8(R"({"quant_method": "fp8", "weight_block_size": [128, 128]})", {2, 2}), "L");
  EXPECT_EQ(q.spec.to_string(), "e4m3-t128");
  EXPECT_EQ(q.scale(q.group_of(127, 127)), 1);
  EXPECT_EQ(q.scale(q.group_of(127, 128)), 2);
  EXPECT_EQ(q.scale(q.group_of(128, 127)), 3);
  EXPECT_EQ(q.scale(q.group_of(129, 199)), 4);
}

TEST(Fp8, WhatCannotBeReadForSureIsRefused) {
  const auto refused = [](const MemoryCheckpoint& file, ErrorCode code, const char* why) {
    expect_error(code, why, [&] { (void)decode_quantized(file, "L"); });
  };
  refused(in_fp8(R"({"quant_method": "fp8"})", {2, 2}), ErrorCode::unsupported, "no weight_block_size");
  refused(in_fp8(R"({"quant_method": "fp8", "weight_block_size": [128, 128]})", {2, 3}), ErrorCode::corrupt_file,
          "has shape [2, 3]; [2, 2] is needed");
  refused(in_fp8(R"({"quant_method": "fp8", "weight_block_size": [64, 128]})", {3, 2}), ErrorCode::unsupported,
          "64 rows by 128 columns");
  expect_error(ErrorCode::corrupt_file, "weight_block_size", [] {
    (void)in_fp8(R"({"quant_method": "fp8", "weight_block_size": [128]})", {2, 2});
  });
  auto nan = in_fp8(R"({"quant_method": "fp8", "weight_block_size": [128, 128]})", {2, 2});
  nan.edit<std::uint8_t>("L.weight")[201] = 0x7f;
  refused(nan, ErrorCode::non_finite, "row 1, column 1: the code 127 is no number");
}

TEST(Fp8, FbgemmHasAScaleForEachRow) {
  MemoryCheckpoint file;
  file.put("L.weight", DType::f8_e4m3, {3, 200}, std::vector<std::uint8_t>(600, 0x38));
  file.put("L.weight_scale", DType::f32, {3, 1}, std::vector<float>{1, 2, 3});
  file.configure(R"({"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0})");
  const auto q = *decode_quantized(file, "L");
  EXPECT_EQ(q.spec.to_string(), "fp8");
  EXPECT_EQ(q.value(2, 199), 3);
}

/// A tensor that would change what is read, and that a layer of the form has no use for.
TEST(SmallFloats, WhatIsBesideALayerIsReadOrRefused) {
  const auto compressed = [](const char* spec) {
    return MemoryCheckpoint(kCompressed, random_quantized(QuantSpec::parse(spec), 8, 64, 3));
  };
  const auto refused = [](const MemoryCheckpoint& file, const char* tensor) {
    expect_error(ErrorCode::unsupported, tensor, [&] { (void)decode_quantized(file, "L"); });
  };
  for (const char* spec : {"fp8", "mxfp4", "int4-g32-sym"}) {
    auto file = compressed(spec);
    file.put("L.weight_global_scale", DType::f32, {1}, std::vector<float>{2});
    refused(file, "'L.weight_global_scale'");
  }
  auto zeros = compressed("fp8");
  zeros.put("L.weight_zero_point", DType::i8, {8, 1}, std::vector<std::int8_t>(8, 0));
  EXPECT_TRUE(decode_quantized(zeros, "L")) << "zeros change nothing";
  zeros.edit<std::int8_t>("L.weight_zero_point")[5] = 1;
  refused(zeros, "'L.weight_zero_point'");
  auto rows = compressed("fp8");
  rows.put("L.weight_g_idx", DType::i32, {64}, std::vector<std::int32_t>(64, 0));
  refused(rows, "'L.weight_g_idx'");

  MemoryCheckpoint twice(CheckpointLayout::fp8, random_quantized(QuantSpec::parse("e4m3-t128"), 8, 64, 3));
  twice.put("L.weight_scale", DType::f32, {1}, std::vector<float>{2});
  refused(twice, "'L.weight_scale'");
  MemoryCheckpoint modelopt(CheckpointLayout::modelopt, random_quantized(QuantSpec::parse("fp8"), 8, 64, 3));
  modelopt.put("L.weight_scale_2", DType::f32, {1}, std::vector<float>{2});
  refused(modelopt, "'L.weight_scale_2'");
  modelopt.tensors.erase("L.weight_scale_2");
  modelopt.put("L.weight", DType::u8, {8, 32}, std::vector<std::uint8_t>(256));
  expect_error(ErrorCode::unsupported, "its integers", [&] { (void)decode_quantized(modelopt, "L"); });
}

/// Columns in an order of their own, as act-order leaves them, mean the same to every path.
TEST(SmallFloats, KeepTheOrderOfTheirColumns) {
  for (const char* spec : {"e4m3-g32", "e3m2-g32-e8m0", "mxfp4"}) {
    auto q = random_quantized(QuantSpec::parse(spec), 8, 96, 4);
    for (std::size_t c = 0; c < 96; ++c) q.g_idx.push_back(static_cast<std::int32_t>(c * 5 % 96 / 32));
    const auto back = *decode_quantized(MemoryCheckpoint(CheckpointLayout::nibble, q), "L");
    EXPECT_EQ(back.g_idx, q.g_idx) << spec;
    std::vector<float> unit(96), y(8);
    for (const std::size_t column : {0u, 1u, 40u, 95u}) {
      unit.assign(96, 0);
      unit[column] = 1;
      const Backend& b = default_backend();
      b.matmul({unit.data(), 1, 96}, *b.pack(q), {y.data(), 1, 8}, default_executor());
      for (std::size_t r = 0; r < 8; ++r) EXPECT_EQ(y[r], q.value(r, column)) << spec;
    }
    EXPECT_NE(loss_in(kCompressed, q), "") << spec;
  }
}

TEST(SmallFloats, ATensorScaleWithoutAReciprocalStaysWhereItIs) {
  auto q = random_quantized(QuantSpec::parse("nvfp4"), 8, 64, 5);
  q.tensor_scale = {1e-45f, false};
  EXPECT_NE(loss_in(kCompressed, q).find("has no reciprocal"), std::string::npos) << loss_in(kCompressed, q);
  EXPECT_EQ(loss_in(CheckpointLayout::modelopt, q), "");
}

TEST(SmallFloats, ScalesOfAnotherTypeGoWithTheirRule) {
  const auto mx = random_quantized(QuantSpec::parse("mxfp4"), 8, 64, 6);
  const auto wide = with_scale_type(mx, ScaleType::f32);
  EXPECT_EQ(wide.spec.to_string(), "e2m1-g32");
  EXPECT_EQ(wide.value(3, 40), mx.value(3, 40));
  wide.validate("wide");
  const auto nv = random_quantized(QuantSpec::parse("nvfp4"), 8, 64, 6);
  EXPECT_EQ(with_scale_type(nv, ScaleType::f32).value(3, 40), nv.value(3, 40));
  expect_error(ErrorCode::invalid_argument, "quantize anew", [&] { (void)with_scale_type(wide, ScaleType::e4m3); });
}

TEST(SmallFloats, ACodebookThatIsNotTheFormatsIsRefused) {
  auto q = random_quantized(QuantSpec::parse("mxfp4"), 8, 64, 7);
  q.codebook[3] = 1e30f;
  expect_error(ErrorCode::corrupt_file, "codebook value 3 is not the format's",
               [&] { (void)default_backend().pack(q); });
}

}  // namespace
}  // namespace nibble
