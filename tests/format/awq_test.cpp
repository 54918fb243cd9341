// AWQ's layouts: bytes worked out by hand, every grouping there and back, and files that lie.
#include "nibble/format/awq.h"

#include <gtest/gtest.h>

#include "tests/support/expect_error.h"
#include "tests/support/layouts.h"

namespace nibble {
namespace {

using namespace testing_support;

constexpr auto kGemm = CheckpointLayout::awq_gemm;
constexpr auto kGemv = CheckpointLayout::awq_gemv;

TEST(Awq, ComesBackAsItWas) {
  for (const CheckpointLayout layout : {kGemm, kGemv})
    for (const char* group : {"g32", "g64", "g128", "channel"})
      for (const char* sign : {"sym", "asym"})
        for (const auto& [rows, cols] : {std::pair<std::size_t, std::size_t>{8, 128}, {24, 1152}, {64, 384}}) {
          const std::string text = std::string("int4-") + group + "-" + sign + "-f16";
          const auto q = random_quantized(QuantSpec::parse(text), rows, cols, 4);
          const MemoryCheckpoint file(layout, q);
          EXPECT_EQ(layout_of(file, "L"), layout);
          for (const auto& d : declare_quantized(layout, "L", LayerDescription::of(q)))
            EXPECT_EQ(file.tensors.at(d.name).shape, d.shape) << text << ": " << d.name;
          expect_same(*decode_quantized(file, "L"), q, text + " in " + std::string(name_of(layout)));
        }
  // GEMM packs the outputs only: any number of inputs, in groups of any size.
  for (const auto& [group, cols] : {std::pair<std::size_t, std::size_t>{5, 35}, {9, 9}, {13, 26}}) {
    const auto q = random_quantized(QuantSpec::parse("int4-g" + std::to_string(group) + "-asym"), 16, cols, 4);
    expect_same(*decode_quantized(MemoryCheckpoint(kGemm, q), "L"), q, q.spec.to_string());
  }
}

/// 8 rows; the code of row n, column k is (n + k) mod 16; scales 1.
QuantizedMatrix counting(std::size_t cols) {
  QuantizedMatrix q = QuantizedMatrix::allocate(QuantSpec::parse("int4-g32-asym"), 8, cols);
  for (std::size_t r = 0; r < 8; ++r)
    for (std::size_t c = 0; c < cols; ++c)
      set_code(q.codes.writable<std::uint8_t>() + r * q.row_bytes(), c, 4, static_cast<std::uint8_t>((r + c) % 16));
  const std::size_t groups = cols / 32;
  for (std::size_t g = 0; g < q.group_count(); ++g) {
    q.scales.writable<f16>()[g] = f16(static_cast<float>(g + 1));
    q.zero_points.writable<std::uint8_t>()[g] = static_cast<std::uint8_t>(g / groups + g % groups);
  }
  return q;
}

TEST(Awq, GemmPutsOutputs0246Then1357InAWord) {
  const MemoryCheckpoint file(kGemm, counting(32));
  const Words w = words_of(file.tensors.at("L.qweight"));
  ASSERT_EQ(file.tensors.at("L.qweight").shape, (std::vector<std::size_t>{32, 1}));
  EXPECT_EQ(w[0], 0x75316420u);                                            // column 0: code n of output n
  EXPECT_EQ(w[1], 0x86427531u);                                            // column 1: one more
  EXPECT_EQ(words_of(file.tensors.at("L.qzeros")), (Words{0x75316420u}));  // zero point n of output n, as it is
  EXPECT_EQ(file.tensors.at("L.scales").shape, (std::vector<std::size_t>{1, 8}));
}

// 5 groups of 32 make one word of zero points a row, padded to 4 words; scales beside them.
TEST(Awq, GemvPadsZeroPointsAndScales) {
  const MemoryCheckpoint file(kGemv, counting(160));
  const Words w = words_of(file.tensors.at("L.qweight")), z = words_of(file.tensors.at("L.qzeros"));
  ASSERT_EQ(file.tensors.at("L.qweight").shape, (std::vector<std::size_t>{8, 20}));
  ASSERT_EQ(file.tensors.at("L.qzeros").shape, (std::vector<std::size_t>{8, 4}));
  ASSERT_EQ(file.tensors.at("L.scales").shape, (std::vector<std::size_t>{8, 32}));
  EXPECT_EQ(w[0], 0x76543210u);
  EXPECT_EQ(w[20], 0x87654321u);
  EXPECT_EQ((Words{z.begin() + 4, z.begin() + 8}), (Words{0x00054321u, 0, 0, 0}));
  const auto* s = file.tensors.at("L.scales").bytes.as<f16>();
  for (std::size_t g = 0; g < 32; ++g)
    EXPECT_EQ(static_cast<float>(s[32 + g]), g < 5 ? static_cast<float>(6 + g) : 0.0f);
}

// Row 1, column 40 of a block: word e = 16·1 + 8·1 + 0, nibble (40 % 32) / 8 = 1.
TEST(Awq, GemvFastInterleavesFourRows) {
  const auto p = awq_layout::fast_position(5, 64 + 40);
  EXPECT_EQ(p.row, 1u);
  EXPECT_EQ(p.column, 64u + 24u);
  EXPECT_EQ(p.nibble, 1);
}

MemoryCheckpoint fast_file(std::uint16_t scale, std::uint16_t stored, const char* zeros_name = "L.qzeros") {
  MemoryCheckpoint file;
  file.configure(
      R"({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": true, "version": "gemv_fast"})");
  std::vector<std::uint16_t> words(128, 0);
  words[24] = 0x0070;  // row 1, column 40
  file.put("L.qweight", DType::i16, {1, 128}, words);
  std::vector<std::uint16_t> scales(32, 0), zeros(32, 0);
  for (std::size_t r = 0; r < 4; ++r) scales[r] = scale, zeros[r] = stored;
  file.put("L.scales", DType::f16, {8, 4}, scales);
  file.put(zeros_name, DType::f16, {8, 4}, zeros);
  return file;
}

TEST(Awq, GemvFastFindsTheZeroPointInItsProduct) {
  for (int zero = 0; zero < 16; ++zero)
    for (const float scale : {1.0f, 0.00731f, 123.0f, 6.0e-7f}) {
      const f16 s(scale), stored(-static_cast<float>(s) * static_cast<float>(zero));
      const auto q =
          decode_quantized(fast_file(s.bits, stored.bits, zero % 2 == 0 ? "L.qzeros" : "L.scaled_zeros"), "L");
      ASSERT_TRUE(q);
      EXPECT_EQ(q->zero_point(2), zero) << scale;
      EXPECT_EQ(q->code(1, 40), 7);
      EXPECT_EQ(q->code(1, 41), 0);
      EXPECT_EQ(q->value(1, 40), static_cast<float>(7 - zero) * static_cast<float>(s));
    }
  const auto refuse = [](float scale, float stored) {
    expect_error(ErrorCode::corrupt_file, "tensor 'L.qzeros': value 0",
                 [&] { (void)decode_quantized(fast_file(f16(scale).bits, f16(stored).bits), "L"); });
  };
  refuse(1, -16);
  refuse(1, 1);
  refuse(1, -2.5f);
  refuse(0, -1);
  EXPECT_EQ(decode_quantized(fast_file(0, 0x8000), "L")->value(1, 40), 0.0f);  // a group of zeros
}

TEST(Awq, ASymmetricFileMayLeaveOutItsZeroPoints) {
  const auto q = random_quantized(QuantSpec::parse("int4-g32-sym"), 16, 64, 5);
  for (const CheckpointLayout layout : {kGemm, kGemv}) {
    MemoryCheckpoint file(layout, q);
    file.tensors.erase("L.qzeros");
    expect_same(*decode_quantized(file, "L"), q, "without qzeros");
  }
}

TEST(Awq, SaysWhatItCannotHold) {
  const auto loss = [](CheckpointLayout layout, const char* spec, std::size_t rows, std::size_t cols,
                       bool act = false) {
    return loss_in(layout, LayerDescription{QuantSpec::parse(spec), rows, cols, act});
  };
  EXPECT_EQ(loss(kGemm, "int4-g48-asym", 8, 96), "");
  for (const auto& [why, says] :
       {std::pair{loss(kGemm, "int3-g32-sym", 8, 64), "3-bit codes; AWQ has 4 bits"},
        {loss(kGemm, "nf4", 8, 64), "integers"},
        {loss(kGemm, "int4-g32-sym", 8, 64, true), "act-order groups (g_idx) have no place"},
        {loss(kGemm, "int4-g32-sym", 12, 64), "12 × 64, is no multiple of the 8"},
        {loss(kGemm, "int4-g32-sym", 8, 80), "80 columns are no multiple of the group size 32"},
        {loss(kGemv, "int4-g48-sym", 8, 96), "groups of 48; GEMV has 32, 64 and from 128 on"},
        {loss(kGemm, "int4-g32-sym-bf16", 8, 64), "its scales are BF16; the layout has F16"},
        {loss(CheckpointLayout::awq_gemv_fast, "int4-g128-sym", 8, 128), "only read"}})
    EXPECT_NE(why.find(says), std::string::npos) << why;
}

template <class Damage>
void refuse(CheckpointLayout layout, const std::string& says, const Damage& damage,
            ErrorCode code = ErrorCode::corrupt_file) {
  MemoryCheckpoint file(layout, random_quantized(QuantSpec::parse("int4-g32-asym"), 16, 64, 3));
  damage(file);
  expect_error(code, says, [&] { (void)decode_quantized(file, "L"); });
}

TEST(Awq, RefusesFilesThatLie) {
  const auto shape = [](const char* name, std::vector<std::size_t> s) {
    return [=](MemoryCheckpoint& f) { f.tensors.at(name).shape = s; };
  };
  for (const CheckpointLayout layout : {kGemm, kGemv}) {
    for (const char* name : {"L.qzeros", "L.scales"})
      refuse(layout, std::string("'") + name + "': is missing", [&](MemoryCheckpoint& f) { f.tensors.erase(name); });
    refuse(layout, "'L.qweight': has type I16; I32",
           [](MemoryCheckpoint& f) { f.tensors.at("L.qweight").type = DType::i16; });
    refuse(layout, "'L.qweight': must have two dimensions", shape("L.qweight", {128}));
    refuse(layout, "'L.qweight': has an impossible shape",
           shape("L.qweight", {std::size_t{1} << 40, std::size_t{1} << 40}));
    refuse(layout, "'L.qweight': has an impossible shape", shape("L.qweight", {0, 2}));
    refuse(layout, "'L.qzeros': has shape [3, 3]", shape("L.qzeros", {3, 3}));
    refuse(layout, "'L.scales': has shape [64]", shape("L.scales", {64}));
    refuse(layout, "'L.scales': value 3 is not finite",
           [](MemoryCheckpoint& f) { f.edit<std::uint16_t>("L.scales")[3] = 0xFC00; });
    refuse(
        layout, "no quantize_config.json", [](MemoryCheckpoint& f) { f.config.reset(); }, ErrorCode::not_found);
  }
  refuse(kGemm, "'L.qweight': has 512 bytes; 4096 are needed", shape("L.qweight", {64, 16}));
  refuse(kGemm, "'L.qweight': has 72 input features, no multiple of the group size 32", [](MemoryCheckpoint& f) {
    f.put("L.qweight", DType::i32, {72, 2}, Words(144, 0));
  });
  refuse(
      kGemm, "3 bits are not read", [](MemoryCheckpoint& f) { f.configure(R"({"quant_method": "awq", "bits": 3})"); },
      ErrorCode::unsupported);
}

}  // namespace
}  // namespace nibble
