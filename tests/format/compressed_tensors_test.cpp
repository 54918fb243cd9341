// compressed-tensors' pack-quantized layout: bytes worked out by hand, everything there and back, and files that lie.
#include "nibble/format/compressed_tensors.h"

#include <gtest/gtest.h>

#include <functional>

#include "tests/support/expect_error.h"
#include "tests/support/layouts.h"

namespace nibble {
namespace {

using namespace testing_support;

constexpr auto kLayout = CheckpointLayout::compressed_tensors;

TEST(CompressedTensors, ComesBackAsItWas) {
  for (int bits = 2; bits <= 8; ++bits)
    for (const char* group : {"g1", "g32", "g35", "channel", "tensor"})
      for (const char* sign : {"sym", "asym"})
        for (const char* type : {"f16", "bf16", "f32"})
          for (const auto& [rows, cols] : {std::pair<std::size_t, std::size_t>{1, 1}, {7, 35}, {33, 96}, {16, 320}}) {
            const std::string text = "int" + std::to_string(bits) + "-" + group + "-" + sign + "-" + type;
            const auto q = random_quantized(full_range(text), rows, cols, static_cast<unsigned>(bits));
            if (q.spec.granularity == Granularity::group && cols % q.spec.group_size != 0) continue;
            const MemoryCheckpoint file(kLayout, q);
            EXPECT_EQ(layout_of(file, "L"), kLayout);
            for (const auto& d : declare_quantized(kLayout, "L", LayerDescription::of(q)))
              EXPECT_EQ(file.tensors.at(d.name).shape, d.shape) << text << ": " << d.name;
            expect_same(*decode_quantized(file, "L"), q, text);
          }
}

// Its readers read actorder "group" no more, so it is not written; files that have it are read.
TEST(CompressedTensors, ReadsActOrderAndDoesNotWriteIt) {
  auto q = random_quantized(full_range("int4-g32-asym"), 16, 128, 9);
  MemoryCheckpoint file(kLayout, q);
  q.g_idx = scattered_g_idx(128, 32);
  file.put("L.weight_g_idx", DType::i32, {128}, q.g_idx);
  expect_same(*decode_quantized(file, "L"), q, "act-order");
  expect_error(ErrorCode::unsupported, "act-order groups (g_idx)",
               [&] { (void)encode_quantized(kLayout, "L", q, DType::bf16); });
  EXPECT_NE(loss_in(kLayout, q).find("gptq and nibble hold them"), std::string::npos);
}

/// The layer "L" as int-quantized stores it: each code a signed byte.
MemoryCheckpoint in_bytes(const QuantizedMatrix& q) {
  QuantizedMatrix in_order = q;
  in_order.g_idx.clear();
  MemoryCheckpoint file(kLayout, in_order);  // for its scales and its configuration
  const int middle = 1 << (q.spec.bits - 1);
  std::vector<std::int8_t> codes, zeros;
  for (std::size_t r = 0; r < q.rows; ++r)
    for (std::size_t c = 0; c < q.cols; ++c) codes.push_back(static_cast<std::int8_t>(q.code(r, c) - middle));
  for (std::size_t g = 0; g < q.group_count(); ++g) zeros.push_back(static_cast<std::int8_t>(q.zero_point(g) - middle));
  for (const char* part : {"L.weight_packed", "L.weight_shape", "L.weight_zero_point"}) file.tensors.erase(part);
  file.put("L.weight", DType::i8, {q.rows, q.cols}, codes);
  if (q.spec.has_zero_points())
    file.put("L.weight_zero_point", DType::i8, file.tensors.at("L.weight_scale").shape, zeros);
  if (!q.g_idx.empty()) file.put("L.weight_g_idx", DType::i32, {q.cols}, q.g_idx);
  return file;
}

TEST(CompressedTensors, CodesInBytesAreReadExactly) {
  for (int bits = 2; bits <= 8; ++bits)
    for (const char* group : {"g32", "channel", "tensor"})
      for (const char* sign : {"sym", "asym"})
        for (const char* type : {"f16", "bf16", "f32"}) {
          const std::string text = "int" + std::to_string(bits) + "-" + group + "-" + sign + "-" + type;
          const auto q = random_quantized(full_range(text), 7, 96, static_cast<unsigned>(bits));
          const auto file = in_bytes(q);
          EXPECT_EQ(layout_of(file, "L"), kLayout);
          expect_same(*decode_quantized(file, "L"), q, text);
        }
  auto q = random_quantized(full_range("int8-g32-sym-bf16"), 16, 128, 9);
  q.g_idx = scattered_g_idx(128, 32);
  expect_same(*decode_quantized(in_bytes(q), "L"), q, "act-order");
}

TEST(CompressedTensors, CodesInBytesAreChecked) {
  const auto q = random_quantized(full_range("int4-channel-asym-bf16"), 8, 32, 1);
  const auto refused = [&](const char* says, const std::function<void(MemoryCheckpoint&)>& damage) {
    auto file = in_bytes(q);
    damage(file);
    expect_error(ErrorCode::corrupt_file, says, [&] { (void)decode_quantized(file, "L"); });
  };
  refused("'L.weight': value 5 is 8, which 4 bits do not hold",
          [](auto& f) { f.template edit<std::int8_t>("L.weight")[5] = 8; });
  refused("'L.weight_zero_point': value 2 is -9",
          [](auto& f) { f.template edit<std::int8_t>("L.weight_zero_point")[2] = -9; });
  refused("'L.weight_zero_point': is missing", [](auto& f) { f.tensors.erase("L.weight_zero_point"); });
  refused("'L.weight_scale': has shape", [](auto& f) { f.tensors.at("L.weight_scale").shape = {1, 8}; });
  refused("'L.weight_scale': value 0 is not finite",
          [](auto& f) { f.template edit<std::uint16_t>("L.weight_scale")[0] = 0x7f80; });
  auto file = in_bytes(q);
  file.config.reset();
  expect_error(ErrorCode::unsupported, "'L.weight' is I8", [&] { (void)decode_quantized(file, "L"); });
}

QuantizedMatrix counting(int bits, std::size_t rows, std::size_t cols) {
  auto q = QuantizedMatrix::allocate(full_range("int" + std::to_string(bits) + "-channel-asym"), rows, cols);
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t c = 0; c < cols; ++c)
      set_code(q.codes.writable<std::uint8_t>() + r * q.row_bytes(), c, bits,
               static_cast<std::uint8_t>((r + c) % (1u << bits)));
    q.scales.writable<float>()[r] = 1;
    q.zero_points.writable<std::uint8_t>()[r] = static_cast<std::uint8_t>(r % (1u << bits));
  }
  return q;
}

TEST(CompressedTensors, PacksCodesAlongRowsAndZeroPointsDownThem) {
  const MemoryCheckpoint file(kLayout, counting(4, 10, 9));
  const Words w = words_of(file.tensors.at("L.weight_packed"));
  ASSERT_EQ(file.tensors.at("L.weight_packed").shape, (std::vector<std::size_t>{10, 2}));
  EXPECT_EQ((Words{w.begin(), w.begin() + 4}), (Words{0x76543210u, 0x8u, 0x87654321u, 0x9u}));
  ASSERT_EQ(file.tensors.at("L.weight_zero_point").shape, (std::vector<std::size_t>{2, 1}));
  EXPECT_EQ(words_of(file.tensors.at("L.weight_zero_point")), (Words{0x76543210u, 0x98u}));
  EXPECT_EQ(file.tensors.at("L.weight_scale").shape, (std::vector<std::size_t>{10, 1}));
  EXPECT_EQ(words_of(file.tensors.at("L.weight_shape")), (Words{10, 0, 9, 0}));
}

// 3 bits: the stream of today's releases lets code 10 straddle words; older ones put ten codes into each.
TEST(CompressedTensors, ReadsBothWaysToPackThreeBits) {
  const auto q = counting(3, 40, 40);
  MemoryCheckpoint file(kLayout, q);
  ASSERT_EQ(file.tensors.at("L.weight_packed").shape, (std::vector<std::size_t>{40, 4}));
  ASSERT_EQ(file.tensors.at("L.weight_zero_point").shape, (std::vector<std::size_t>{4, 1}));
  // 40 codes take 4 words either way; 64 take 6 or 7.
  const auto wide = counting(3, 64, 64);
  Words packed(64 * 7, 0), zeros(7, 0);
  for (std::size_t r = 0; r < 64; ++r) {
    for (std::size_t c = 0; c < 64; ++c)
      packed[r * 7 + c / 10] |= static_cast<std::uint32_t>(wide.code(r, c)) << (c % 10 * 3);
    zeros[r / 10] |= static_cast<std::uint32_t>(wide.zero_point(r)) << (r % 10 * 3);
  }
  MemoryCheckpoint old(kLayout, wide);
  EXPECT_EQ(old.tensors.at("L.weight_packed").shape, (std::vector<std::size_t>{64, 6}));
  old.put("L.weight_packed", DType::i32, {64, 7}, packed);
  old.put("L.weight_zero_point", DType::i32, {7, 1}, zeros);
  expect_same(*decode_quantized(old, "L"), wide, "ten codes in a word");
  expect_same(*decode_quantized(file, "L"), q, "a stream");
}

TEST(CompressedTensors, TakesTheShapeAsI32Too) {
  const auto q = random_quantized(full_range("int4-g32-sym"), 8, 64, 1);
  MemoryCheckpoint file(kLayout, q);
  file.put("L.weight_shape", DType::i32, {2}, std::vector<std::int32_t>{8, 64});
  expect_same(*decode_quantized(file, "L"), q, "I32");
}

TEST(CompressedTensors, FourBitGroupsGoToGptqAndBackWithoutLoss) {
  auto q = random_quantized(full_range("int4-g32-asym"), 32, 64, 6);
  ASSERT_EQ(loss_in(CheckpointLayout::gptq_v2, q), "");
  const auto through = *decode_quantized(MemoryCheckpoint(CheckpointLayout::gptq_v2, q), "L");
  expect_same(*decode_quantized(MemoryCheckpoint(kLayout, through), "L"), q, "there and back");
}

template <class Damage>
void refuse(const std::string& says, const Damage& damage, const char* spec = "int4-g32-asym",
            ErrorCode code = ErrorCode::corrupt_file) {
  MemoryCheckpoint file(kLayout, random_quantized(full_range(spec), 16, 64, 3));
  damage(file);
  expect_error(code, says, [&] { (void)decode_quantized(file, "L"); });
}

TEST(CompressedTensors, RefusesFilesThatLie) {
  const auto shape = [](const char* name, std::vector<std::size_t> s) {
    return [=](MemoryCheckpoint& f) { f.tensors.at(name).shape = s; };
  };
  const auto sizes = [](std::int64_t rows, std::int64_t cols) {
    return [=](MemoryCheckpoint& f) {
      f.put("L.weight_shape", DType::i64, {2}, std::vector<std::int64_t>{rows, cols});
    };
  };
  for (const char* name : {"L.weight_scale", "L.weight_shape", "L.weight_zero_point"})
    refuse(std::string("'") + name + "': is missing", [&](MemoryCheckpoint& f) { f.tensors.erase(name); });
  refuse("'L.weight_packed': has type U8; I32",
         [](MemoryCheckpoint& f) { f.tensors.at("L.weight_packed").type = DType::u8; });
  refuse("'L.weight_shape': has type F32; I64",
         [](MemoryCheckpoint& f) { f.tensors.at("L.weight_shape").type = DType::f32; });
  refuse("'L.weight_shape': has shape [3]; [2] is needed", shape("L.weight_shape", {3}));
  refuse("'L.weight_shape': holds the size -16", sizes(-16, 64));
  refuse("'L.weight_shape': holds the size 0", sizes(16, 0));
  refuse("'L.weight_shape': has an impossible shape", sizes(std::int64_t{1} << 40, std::int64_t{1} << 40));
  refuse("'L.weight_packed': has shape [16, 8]; [17, 8] is needed", sizes(17, 64));
  refuse("'L.weight_packed': has shape [16, 8]; [16, 16] is needed", sizes(16, 128));
  refuse("'L.weight_scale': has shape [2, 16]", shape("L.weight_scale", {2, 16}));
  refuse("'L.weight_zero_point': has shape [2]", shape("L.weight_zero_point", {2}));
  refuse("'L.weight_scale': value 1 is not finite",
         [](MemoryCheckpoint& f) { f.edit<std::uint16_t>("L.weight_scale")[1] = 0x7E00; });
  refuse("'L.weight_g_idx': the group of column 0 is 2",
         [](MemoryCheckpoint& f) { f.put("L.weight_g_idx", DType::i32, {64}, std::vector<std::int32_t>(64, 2)); });
  refuse(
      "'L.weight_zero_point': is 9, which 4 bits do not hold",
      [](MemoryCheckpoint& f) { f.edit<std::int8_t>("L.weight_zero_point")[0] = 9; }, "int4-tensor-asym");
  refuse(
      "says how", [](MemoryCheckpoint& f) { f.config.reset(); }, "int4-g32-asym", ErrorCode::not_found);
  refuse(
      "pack-quantized, int-quantized, float-quantized",
      [](MemoryCheckpoint& f) {
        f.configure(R"({"quant_method": "compressed-tensors", "format": "marlin-24", "config_groups": {}})");
      },
      "int4-g32-asym", ErrorCode::unsupported);
}

}  // namespace
}  // namespace nibble
