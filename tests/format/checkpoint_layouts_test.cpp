// All layouts at once: their names, what each may hold, and every conversion that says it loses nothing.
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>

#include "nibble/format/checkpoint.h"
#include "tests/support/expect_error.h"
#include "tests/support/layouts.h"
#include "tests/support/memory_checkpoint.h"
#include "tests/support/temporary_folder.h"

namespace nibble {
namespace {

using namespace testing_support;

TEST(CheckpointLayouts, HaveNames) {
  for (const CheckpointLayout layout : checkpoint_layouts())
    EXPECT_EQ(parse_checkpoint_layout(name_of(layout)), layout);
  EXPECT_EQ(checkpoint_layouts().size(), 10u);
  expect_error(ErrorCode::invalid_argument, "there is no layout 'gguf'; there are nibble, bitsandbytes, gptq",
               [] { (void)parse_checkpoint_layout("gguf"); });
}

TEST(CheckpointLayouts, KnowWhichTensorsMakeALayer) {
  for (const char* end :
       {".weight", ".weight.absmax", ".weight.quant_state.bitsandbytes__nf4", ".SCB", ".weight_format", ".qweight",
        ".qzeros", ".scales", ".scaled_zeros", ".g_idx", ".weight_packed", ".weight_scale", ".weight_zero_point",
        ".weight_shape", ".weight_g_idx", ".weight.nibble.codes"})
    EXPECT_EQ(layer_of_tensor(std::string("a.b") + end), "a.b") << end;
  for (const char* other : {"a.b.bias", "a.b", "qweight", "", "a.scale"}) EXPECT_FALSE(layer_of_tensor(other)) << other;
}

constexpr const char* kSpecs[] = {"nf4",
                                  "nf4-dq",
                                  "fp4-b128",
                                  "dynamic8-b64",
                                  "llm-int8",
                                  "int8",
                                  "int4-g32-sym",
                                  "int4-g64-asym",
                                  "int4-channel-asym-f16",
                                  "int3-g32-asym",
                                  "int8-g32-sym-bf16",
                                  "int2-tensor-sym",
                                  "int5-g32-asym-f32",
                                  "int4-g32-asymraw",
                                  "int4-g32-asymreal",
                                  "int3-g64-asymreal-f32",
                                  "int4-b64-sym",
                                  "int6-channel-sym",
                                  "fp8",
                                  "e4m3-tensor",
                                  "e4m3-t128",
                                  "e4m3-t32-e8m0-ceil",
                                  "e5m2-channel",
                                  "mxfp4",
                                  "mxfp6",
                                  "mxfp8",
                                  "e3m2-g32-e8m0",
                                  "nvfp4"};

TEST(CheckpointLayouts, GiveBackWhatTheySayTheyHold) {
  std::size_t held = 0;
  for (const char* text : kSpecs) {
    const auto q = random_quantized(QuantSpec::parse(text), 64, 128, 7);
    for (const CheckpointLayout layout : checkpoint_layouts()) {
      if (!loss_in(layout, q).empty()) continue;
      const MemoryCheckpoint file(layout, q);
      EXPECT_EQ(layout_of(file, "L"), layout);
      const auto back = decode_quantized(file, "L");
      ASSERT_TRUE(back) << text;
      for (std::size_t r = 0; r < q.rows; ++r)
        for (std::size_t c = 0; c < q.cols; ++c)
          ASSERT_EQ(back->value(r, c), q.value(r, c)) << text << " in " << name_of(layout) << " at " << r << ", " << c;
      ++held;
    }
  }
  EXPECT_GE(held, 35u);
  // Our own layout holds everything, act-order and codebooks too, and gives the very same matrix.
  for (const char* text : kSpecs)
    EXPECT_EQ(loss_in(CheckpointLayout::nibble, random_quantized(QuantSpec::parse(text), 8, 64, 1)), "") << text;
  auto q = random_quantized(QuantSpec::parse("int3-g32-asym"), 8, 64, 1);
  q.g_idx = scattered_g_idx(64, 32);
  EXPECT_EQ(decode_quantized(MemoryCheckpoint(CheckpointLayout::nibble, q), "L")->g_idx, q.g_idx);
}

/// The nearest spec is one that the layout holds, and its own where there is no loss.
TEST(CheckpointLayouts, KnowTheNearestSpec) {
  for (const char* text : kSpecs)
    for (const CheckpointLayout layout : checkpoint_layouts()) {
      if (layout == CheckpointLayout::awq_gemv_fast) continue;
      const LayerDescription d{QuantSpec::parse(text), 64, 128};
      const QuantSpec nearest = nearest_spec(layout, d);
      EXPECT_EQ(loss_in(layout, LayerDescription{nearest, 64, 128}), "")
          << text << " to " << nearest.to_string() << " in " << name_of(layout);
      if (loss_in(layout, d).empty()) EXPECT_EQ(nearest, d.spec) << text;
    }
  const auto nearest = [](CheckpointLayout layout, const char* text) {
    return nearest_spec(layout, {QuantSpec::parse(text), 64, 128}).to_string();
  };
  EXPECT_EQ(nearest(CheckpointLayout::gptq_v2, "nf4"), "int4-g64-asym");
  EXPECT_EQ(nearest(CheckpointLayout::gptq_v2, "int5-g32-sym"), "int8-g32-sym-full");
  EXPECT_EQ(nearest(CheckpointLayout::awq_gemv, "int3-g16-asym"), "int4-g128-asym");
  EXPECT_EQ(nearest(CheckpointLayout::bitsandbytes, "int3-g32-asym"), "nf4-b64");
  EXPECT_EQ(nearest(CheckpointLayout::bitsandbytes, "int8-g32-sym"), "int8-channel-sym");
  expect_error(ErrorCode::unsupported, "60 × 128", [] {
    (void)nearest_spec(CheckpointLayout::gptq, {QuantSpec::parse("nf4"), 60, 128});
  });
  expect_error(ErrorCode::unsupported, "only read", [] {
    (void)nearest_spec(CheckpointLayout::awq_gemv_fast, {QuantSpec::parse("nf4"), 64, 128});
  });
}

TEST(CheckpointLayouts, SayWhereTheLastBitIsLost) {
  // 1/127th parts of floats leave out one float in 127: there is an a with a/127 = 2^-7·(1 + …) for most scales only.
  auto q = random_quantized(QuantSpec::parse("int8"), 128, 8, 1);
  std::uint32_t bits = 0x3C400000;
  for (std::size_t r = 0; r < 128; ++r, ++bits) std::memcpy(q.scales.writable<float>() + r, &bits, 4);
  EXPECT_NE(loss_in(CheckpointLayout::bitsandbytes, q).find("is not the 127th part of any F32"), std::string::npos);
  const auto back = *decode_quantized(MemoryCheckpoint(CheckpointLayout::bitsandbytes, q), "L");
  std::size_t differing = 0;
  for (std::size_t r = 0; r < 128; ++r) {
    EXPECT_NEAR(back.scale(r), q.scale(r), q.scale(r) * 0x1p-23f);
    differing += back.scale(r) != q.scale(r);
  }
  EXPECT_GE(differing, 1u);
  EXPECT_LE(differing, 2u);
  // A codebook of the file's own is kept by bitsandbytes' layout, and has no place in ours.
  auto nf4 = random_quantized(QuantSpec::parse("nf4"), 8, 64, 1);
  nf4.codebook[3] += 0.01f;
  EXPECT_EQ(loss_in(CheckpointLayout::bitsandbytes, nf4), "");
  EXPECT_NE(loss_in(CheckpointLayout::nibble, nf4).find("value 3 of its codebook"), std::string::npos);
}

TEST(CheckpointLayouts, TensorsOfGptqOrAwqNeedAConfiguration) {
  MemoryCheckpoint file(CheckpointLayout::gptq, random_quantized(QuantSpec::parse("int4-g32-sym"), 32, 64, 1));
  file.config.reset();
  expect_error(ErrorCode::not_found, "'L.qweight' is GPTQ's or AWQ's", [&] { (void)decode_quantized(file, "L"); });
  expect_error(ErrorCode::not_found, "'L.qweight' is GPTQ's or AWQ's", [&] { (void)layout_of(file, "L"); });
  file.configure(R"({"quant_method": "hqq"})");
  expect_error(ErrorCode::unsupported, "by GPTQ or AWQ (quant_method 'hqq')", [&] { (void)layout_of(file, "L"); });
  EXPECT_FALSE(layout_of(file, "M"));
}

TEST(CheckpointLayouts, ADirectoryMayNameItsOnlyFileAsItLikes) {
  const TemporaryFolder folder;
  const auto q = random_quantized(QuantSpec::parse("int4-g32-sym"), 32, 64, 1);
  const auto tensors = encode_quantized(CheckpointLayout::gptq, "L", q, DType::f16);
  const auto write = [&](const char* file) {
    std::vector<TensorInfo> infos;
    for (const auto& t : tensors) infos.push_back({t.name, t.type, t.shape, 0, 0});
    SafetensorsWriter writer(folder / file, infos, {});
    for (const auto& t : tensors) writer.write(t.name, {t.bytes.data(), t.bytes.size()});
    writer.finish();
  };
  write("gptq_model-4bit-32g.safetensors");
  std::ofstream(folder / "quantize_config.json") << R"({"bits": 4, "group_size": 32, "desc_act": false})";
  EXPECT_TRUE(same_bytes(decode_quantized(Checkpoint::open(folder.path()), "L")->codes, q.codes));
  // The file alone is enough too: its folder's configuration counts.
  EXPECT_TRUE(decode_quantized(Checkpoint::open(folder / "gptq_model-4bit-32g.safetensors"), "L"));
  write("another.safetensors");
  expect_error(ErrorCode::not_found, "holds 2 files *.safetensors", [&] { (void)Checkpoint::open(folder.path()); });
  write("model.safetensors");
  EXPECT_TRUE(decode_quantized(Checkpoint::open(folder.path()), "L"));
}

// What is declared before the work is what is written after it, whatever the groups turned out to be.
TEST(CheckpointLayouts, DeclareWhatIsWritten) {
  for (const CheckpointLayout layout : checkpoint_layouts())
    for (const char* spec : {"int4-g32-sym-f16", "int4-g32-asym-f16", "int4-g256-sym-f16", "int4-channel-sym-f16",
                             "int8-g64-sym-f16", "int8-channel-sym", "nf4", "fp4", "nf4-b64-dq", "llm-int8",
                             "int3-g32-sym-f16", "fp8", "e4m3-tensor", "e4m3-t32", "mxfp4", "mxfp6", "mxfp8", "nvfp4"})
      for (const auto& [rows, cols] :
           {std::pair<std::size_t, std::size_t>{32, 32}, {32, 64}, {64, 32}, {1, 1}, {33, 1}, {7, 35}})
        for (int order = 0; order < 3; ++order) {
          auto q = random_quantized(full_range(spec), rows, cols, 5);
          if (order != 0 && q.spec.granularity != Granularity::group) continue;
          q.g_idx.resize(order == 0 ? 0
                                    : cols);  // order 1: all as in place; 2: reversed, where there are several groups
          for (std::size_t c = 0; c < q.g_idx.size(); ++c)
            q.g_idx[c] = static_cast<std::int32_t>((order == 1 ? c : cols - 1 - c) / q.spec.group_size);
          const auto description = LayerDescription::of(q);
          if (!loss_in(layout, q).empty()) continue;
          const auto declared = declare_quantized(layout, "L", description);
          const auto written = encode_quantized(layout, "L", q, description.dtype);
          const std::string what = std::string(name_of(layout)) + " " + spec + " " + std::to_string(cols);
          ASSERT_EQ(declared.size(), written.size()) << what;
          for (std::size_t i = 0; i < declared.size(); ++i) {
            EXPECT_EQ(declared[i].name, written[i].name) << what;
            EXPECT_EQ(declared[i].shape, written[i].shape) << what;
            EXPECT_GT(written[i].bytes.size(), 0u) << what << ": " << written[i].name;
          }
          // And once more from what is read back.
          const MemoryCheckpoint file(layout, q);
          const auto again = encode_quantized(layout, "L", *decode_quantized(file, "L"), description.dtype);
          EXPECT_EQ(again.size(), declared.size()) << what;
        }
}

TEST(CheckpointLayouts, BitsandbytesRowsAreRows) {
  const auto q = random_quantized(QuantSpec::parse("llm-int8"), 32, 64, 3);
  MemoryCheckpoint file(CheckpointLayout::bitsandbytes, q);
  EXPECT_NO_THROW((void)decode_quantized(file, "L"));
  for (const auto& [format, says] :
       {std::pair<int, const char*>{1, "'col32'"}, {2, "'col_turing'"}, {3, "'col_ampere'"}, {9, "'9'"}}) {
    file.put("L.weight_format", DType::u8, {}, std::vector<std::uint8_t>{static_cast<std::uint8_t>(format)});
    expect_error(ErrorCode::unsupported, says, [&] { (void)decode_quantized(file, "L"); });
    expect_error(ErrorCode::unsupported, "'L.weight'", [&] { (void)decode_quantized(file, "L"); });
  }
  file.put("L.weight_format", DType::u8, {2}, std::vector<std::uint8_t>{0, 0});
  expect_error(ErrorCode::corrupt_file, "'L.weight_format'", [&] { (void)decode_quantized(file, "L"); });
  file.tensors.erase("L.weight_format");  // files of today have none
  EXPECT_NO_THROW((void)decode_quantized(file, "L"));
  file.metadata["L.weight_format"] = "col_turing";
  expect_error(ErrorCode::unsupported, "'col_turing'", [&] { (void)decode_quantized(file, "L"); });
}

}  // namespace
}  // namespace nibble
