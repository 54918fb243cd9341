// GPTQ's layout: bytes worked out by hand, every width and grouping there and back, and files that lie.
#include "nibble/format/gptq.h"

#include <gtest/gtest.h>

#include "tests/support/expect_error.h"
#include "tests/support/layouts.h"

namespace nibble {
namespace {

using namespace testing_support;

constexpr auto kV1 = CheckpointLayout::gptq;
constexpr auto kV2 = CheckpointLayout::gptq_v2;

TEST(Gptq, ComesBackAsItWas) {
  for (const int bits : {2, 3, 4, 8})
    for (const char* group : {"g16", "g32", "g48", "g128", "channel"})
      for (const char* sign : {"sym", "asym"})
        for (const auto& [rows, cols] : {std::pair<std::size_t, std::size_t>{32, 32}, {64, 160}, {96, 96}, {32, 1024}})
          for (const CheckpointLayout layout : {kV1, kV2}) {
            const std::string text = "int" + std::to_string(bits) + "-" + group + "-" + sign + "-f16";
            const auto q = random_quantized(full_range(text), rows, cols, static_cast<unsigned>(bits));
            const MemoryCheckpoint file(layout, q);
            EXPECT_EQ(layout_of(file, "L"), layout);
            for (const auto& d : declare_quantized(layout, "L", LayerDescription::of(q)))
              EXPECT_EQ(file.tensors.at(d.name).shape, d.shape) << text << ": " << d.name;
            expect_same(*decode_quantized(file, "L"), q, text);
          }
}

TEST(Gptq, KeepsActOrder) {
  for (const int bits : {2, 3, 4, 8}) {
    auto q = random_quantized(full_range("int" + std::to_string(bits) + "-g32-asym"), 32, 128, 9);
    q.g_idx = scattered_g_idx(128, 32);
    expect_same(*decode_quantized(MemoryCheckpoint(kV2, q), "L"), q, std::to_string(bits));
  }
}

TEST(Gptq, ReadsScalesOfOlderWriters) {
  for (const char* type : {"f32", "bf16"}) {
    const auto q = random_quantized(full_range(std::string("int4-g32-sym-") + type), 32, 64, 1);
    MemoryCheckpoint file(kV2, q);  // written in F16, which holds these exactly
    EXPECT_EQ(file.tensors.at("L.scales").type, DType::f16);
    const DType wide = q.spec.scale_type == ScaleType::f32 ? DType::f32 : DType::bf16;
    Buffer scales = copy_of(q.scales);
    for (std::size_t r = 0; r < 32; ++r)
      for (std::size_t g = 0; g < 2; ++g)
        std::memcpy(scales.writable<std::byte>() + (g * 32 + r) * size_of(wide),
                    q.scales.data() + (r * 2 + g) * size_of(wide), size_of(wide));
    file.tensors.at("L.scales") = {"L.scales", wide, {2, 32}, scales};
    expect_same(*decode_quantized(file, "L"), q, type);
  }
}

/// 32 rows and one word's worth of columns, all codes 0 but row 0's.
QuantizedMatrix with_first_row(const char* spec, std::size_t cols, const std::vector<std::uint8_t>& codes) {
  QuantizedMatrix q = QuantizedMatrix::allocate(full_range(spec), 32, cols);
  for (std::size_t g = 0; g < q.group_count(); ++g) q.scales.writable<f16>()[g] = f16(1.0f);
  for (std::size_t c = 0; c < codes.size(); ++c) set_code(q.codes.writable<std::uint8_t>(), c, q.spec.bits, codes[c]);
  return q;
}

TEST(Gptq, PacksFourBitsLowFirstDownAColumn) {
  const auto q = with_first_row("int4-channel-sym-f16", 32, {1, 2, 3, 4, 5, 6, 7, 8, 9});
  const MemoryCheckpoint file(kV1, q);
  const Words w = words_of(file.tensors.at("L.qweight"));
  ASSERT_EQ(file.tensors.at("L.qweight").shape, (std::vector<std::size_t>{4, 32}));
  EXPECT_EQ(w[0], 0x87654321u);
  EXPECT_EQ(w[32], 0x9u);  // the next word down the column
  EXPECT_EQ(w[1], 0u);
  // v1 stores the zero point 8 as 7; v2 as 8
  EXPECT_EQ(words_of(file.tensors.at("L.qzeros")), Words(4, 0x77777777u));
  EXPECT_EQ(words_of(MemoryCheckpoint(kV2, q).tensors.at("L.qzeros")), Words(4, 0x88888888u));
  EXPECT_EQ(words_of(file.tensors.at("L.g_idx")), Words(32, 0u));
}

// Code k at bit 3k of 96: code 10 is bits 30 to 32, code 21 bits 63 to 65.
TEST(Gptq, ThreeBitCodes10And21StraddleWords) {
  std::vector<std::uint8_t> codes(32, 0);
  codes[0] = 5;
  codes[10] = 6;  // 110: the low two bits, 10, on top of word 0; the high bit, 1, at the bottom of word 1
  codes[21] = 3;  // 011: the low bit, 1, on top of word 1; the high two, 01, at the bottom of word 2
  codes[31] = 7;
  const MemoryCheckpoint file(kV2, with_first_row("int3-channel-sym-f16", 32, codes));
  const Words w = words_of(file.tensors.at("L.qweight"));
  ASSERT_EQ(file.tensors.at("L.qweight").shape, (std::vector<std::size_t>{3, 32}));
  EXPECT_EQ(w[0], 5u | 2u << 30);
  EXPECT_EQ(w[32], 1u | 1u << 31);
  EXPECT_EQ(w[64], 1u | 7u << 29);
  EXPECT_EQ(words_of(file.tensors.at("L.qzeros")), (Words{0x24924924u, 0x49249249u, 0x92492492u}));  // 4, 32 times
}

TEST(Gptq, V1TakesOneFromEachZeroPointModuloItsBits) {
  auto q = with_first_row("int4-channel-asym-f16", 32, {});
  for (std::size_t r = 0; r < 32; ++r) q.zero_points.writable<std::uint8_t>()[r] = 5;
  q.zero_points.writable<std::uint8_t>()[0] = 0;
  q.zero_points.writable<std::uint8_t>()[7] = 15;
  EXPECT_EQ(words_of(MemoryCheckpoint(kV2, q).tensors.at("L.qzeros"))[0], 0xF5555550u);
  EXPECT_EQ(words_of(MemoryCheckpoint(kV1, q).tensors.at("L.qzeros"))[0], 0xE444444Fu);  // no borrow: 0 alone wraps
  EXPECT_NE(loss_in(kV1, q).find("zero point of group 0 is 0"), std::string::npos);
  EXPECT_EQ(loss_in(kV2, q), "");
}

// GPTQModel subtracts 0x11111111 from the word: 0xF5555550 − 0x11111111 = 0xE444443F, a borrow from the second field.
TEST(Gptq, ReadsTheBorrowOfGptqModel) {
  auto q = with_first_row("int4-channel-asym-f16", 32, {});
  for (std::size_t r = 0; r < 32; ++r) q.zero_points.writable<std::uint8_t>()[r] = 5;
  q.zero_points.writable<std::uint8_t>()[0] = 0;
  q.zero_points.writable<std::uint8_t>()[7] = 15;
  MemoryCheckpoint file(kV1, q);
  file.edit<std::uint32_t>("L.qzeros")[0] = 0xE444443Fu;
  const char* json =
      R"({"quant_method": "gptq", "bits": 4, "group_size": -1, "sym": false, "checkpoint_format": "gptq")";
  file.configure(std::string(json) + R"(, "meta": {"quantizer": ["gptqmodel:1.4.0"]}})");
  EXPECT_TRUE(same_bytes(decode_quantized(file, "L")->zero_points, q.zero_points));
  file.configure(std::string(json) + "}");  // read by fields, the second is 3 + 1
  EXPECT_EQ(decode_quantized(file, "L")->zero_points.as<std::uint8_t>()[1], 4);
}

// Some files say v1 and hold v2's zero points, and the other way round; where all are the middle, they tell.
TEST(Gptq, SymmetricZeroPointsTellTheVersion) {
  for (const int bits : {2, 3, 4, 8}) {
    const auto q = random_quantized(full_range("int" + std::to_string(bits) + "-g32-sym"), 32, 64, 2);
    MemoryCheckpoint first(kV1, q), second(kV2, q);
    std::swap(first.tensors.at("L.qzeros"), second.tensors.at("L.qzeros"));
    expect_same(*decode_quantized(first, "L"), q, "v1 with v2's");
    expect_same(*decode_quantized(second, "L"), q, "v2 with v1's");
  }
  // Not where the file says that they are asymmetric.
  auto q = random_quantized(full_range("int4-g32-asym"), 32, 64, 2);
  for (std::size_t g = 0; g < q.group_count(); ++g) q.zero_points.writable<std::uint8_t>()[g] = 7;
  EXPECT_EQ(decode_quantized(MemoryCheckpoint(kV2, q), "L")->zero_point(0), 7);
}

TEST(Gptq, AMissingGIdxMeansColumnsInOrder) {
  const auto q = random_quantized(full_range("int4-g32-asym"), 32, 64, 2);
  MemoryCheckpoint file(kV2, q);
  file.tensors.erase("L.g_idx");
  expect_same(*decode_quantized(file, "L"), q, "without g_idx");
}

TEST(Gptq, SaysWhatItCannotHold) {
  const auto loss = [](const std::string& spec, std::size_t rows = 64, std::size_t cols = 64) {
    return loss_in(kV2, LayerDescription{full_range(spec), rows, cols});
  };
  EXPECT_EQ(loss("int4-g32-asym"), "");
  EXPECT_EQ(loss("int3-channel-sym-f16"), "");
  for (const auto& [spec, says] : {std::pair<const char*, const char*>{"nf4", "integers"},
                                   {"int5-g32-sym", "GPTQ has 2, 3, 4 and 8 bits"},
                                   {"int4-tensor-sym-f16", "one scale for the whole tensor"},
                                   {"int4-b64-sym", "blocks cross rows"},
                                   {"int4-g32-asymraw", "zero points are of 32 bits"},
                                   {"int4-g32-sym-f32", "its scales are F32; the layout has F16"}})
    EXPECT_NE(loss(spec).find(says), std::string::npos) << loss(spec);
  EXPECT_NE(loss("int4-g32-sym", 64, 60).find("64 × 60, is no multiple of 8"), std::string::npos);
  EXPECT_NE(loss("int3-g32-sym", 48, 64).find("48 × 64, is no multiple of 32"), std::string::npos);
  EXPECT_NE(loss("int2-g32-sym", 8, 64).find("no multiple of 16"), std::string::npos);
  expect_error(ErrorCode::unsupported, "layer 'L' cannot be stored in the layout gptq-v2: ", [] {
    (void)declare_quantized(kV2, "L", {full_range("nf4"), 64, 64});
  });
  // An F32 scale that F16 holds is no loss; one that it does not is, and is never rounded unasked.
  auto q = random_quantized(full_range("int4-g32-sym-f32"), 32, 64, 3);
  EXPECT_EQ(loss_in(kV2, q), "");
  q.scales.writable<float>()[5] = 0.1f;
  EXPECT_NE(loss_in(kV2, q).find("the scale of group 5"), std::string::npos) << loss_in(kV2, q);
  expect_error(ErrorCode::unsupported, "the scale of group 5",
               [&] { (void)encode_quantized(kV2, "L", q, DType::f32); });
  const auto rounded = with_scale_type(q, ScaleType::f16);
  EXPECT_EQ(loss_in(kV2, rounded), "");
  EXPECT_EQ(rounded.scale(5), static_cast<float>(f16(0.1f)));
  q.scales.writable<float>()[5] = 1e6f;
  expect_error(ErrorCode::non_finite, "group 5", [&] { (void)with_scale_type(q, ScaleType::f16); });
}

template <class Damage>
void refuse(const std::string& says, const Damage& damage, const char* spec = "int4-g32-asym",
            ErrorCode code = ErrorCode::corrupt_file) {
  auto q = random_quantized(full_range(spec), 32, 96, 3);
  MemoryCheckpoint file(kV2, q);
  damage(file);
  expect_error(code, says, [&] { (void)decode_quantized(file, "L"); });
}

TEST(Gptq, RefusesFilesThatLie) {
  const auto shape = [](const char* name, std::vector<std::size_t> s) {
    return [=](MemoryCheckpoint& f) { f.tensors.at(name).shape = s; };
  };
  const auto config = [](const char* json) { return [=](MemoryCheckpoint& f) { f.configure(json); }; };
  for (const char* name : {"L.qzeros", "L.scales"})
    refuse(std::string("'") + name + "': is missing", [&](MemoryCheckpoint& f) { f.tensors.erase(name); });
  refuse("'L.qweight': has type F32; I32", [](MemoryCheckpoint& f) { f.tensors.at("L.qweight").type = DType::f32; });
  refuse("'L.qzeros': has type U8; I32", [](MemoryCheckpoint& f) { f.tensors.at("L.qzeros").type = DType::u8; });
  refuse("'L.scales': has type I32; F32, F16 or BF16",
         [](MemoryCheckpoint& f) { f.tensors.at("L.scales").type = DType::i32; });
  refuse("'L.g_idx': has type I64; I32", [](MemoryCheckpoint& f) { f.tensors.at("L.g_idx").type = DType::i64; });
  refuse("'L.qweight': must have two dimensions", shape("L.qweight", {384}));
  refuse("'L.qweight': must have two dimensions", shape("L.qweight", {}));
  refuse("'L.qweight': has an impossible shape", shape("L.qweight", {std::size_t{1} << 61, 32}));
  refuse("'L.qweight': has an impossible shape", shape("L.qweight", {12, 0}));
  refuse("'L.qweight': has an impossible shape", shape("L.qweight", {std::size_t{1} << 28, 32}));
  refuse("'L.qweight': has 33 columns", shape("L.qweight", {12, 33}));
  refuse("'L.qweight': has 1536 bytes; 3072 are needed", shape("L.qweight", {24, 32}));
  refuse("'L.qzeros': has shape [3, 5]; [3, 4] is needed", shape("L.qzeros", {3, 5}));
  refuse("'L.scales': has shape [4, 32]; [3, 32] is needed", shape("L.scales", {4, 32}));
  refuse("'L.g_idx': has shape [95]; [96] is needed", shape("L.g_idx", {95}));
  refuse("'L.qweight': 11 words", shape("L.qweight", {11, 32}), "int3-g32-asym");
  refuse("'L.qzeros': has shape [3, 8]; [12, 8] is needed",
         config(R"({"quant_method": "gptq", "bits": 8, "group_size": 8, "checkpoint_format": "gptq_v2"})"),
         "int8-g32-asym", ErrorCode::corrupt_file);
}

TEST(Gptq, RefusesValuesThatLie) {
  for (const std::int32_t bad : {-1, 3, 1 << 30})
    refuse("'L.g_idx': the group of column 7 is " + std::to_string(bad) + "; it must be 0 to 2",
           [&](MemoryCheckpoint& f) { f.edit<std::int32_t>("L.g_idx")[7] = bad; });
  refuse("'L.scales': value 40 is not finite",
         [](MemoryCheckpoint& f) { f.edit<std::uint16_t>("L.scales")[40] = 0x7C00; });
  refuse("'L.qzeros': has 48 bytes; ", [](MemoryCheckpoint& f) {
    f.configure(R"({"quant_method": "gptq", "bits": 4, "group_size": 96, "checkpoint_format": "gptq_v2"})");
    f.tensors.at("L.qzeros").shape = {1, 4};
  });
  refuse(
      "5 bits are not read", [](MemoryCheckpoint& f) { f.configure(R"({"quant_method": "gptq", "bits": 5})"); },
      "int4-g32-asym", ErrorCode::unsupported);
  refuse(
      "no quantize_config.json", [](MemoryCheckpoint& f) { f.config.reset(); }, "int4-g32-asym", ErrorCode::not_found);
}

}  // namespace
}  // namespace nibble
