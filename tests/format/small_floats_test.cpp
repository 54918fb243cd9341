// FP8, MX and NVFP4 as compressed-tensors, transformers and ModelOpt write them (tests/golden/small_floats): their
// bytes decode to the values that the libraries decode them to, and our quantizer gives the same bytes.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <numeric>

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

}  // namespace
}  // namespace nibble
