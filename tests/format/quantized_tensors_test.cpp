// Quantized layers written and read back, and every way in which a file can lie about them.
#include "nibble/format/quantized_tensors.h"

#include <gtest/gtest.h>

#include <cstring>
#include <nlohmann/json.hpp>

#include "nibble/quantize/quantize.h"
#include "tests/support/expect_error.h"
#include "tests/support/memory_checkpoint.h"
#include "tests/support/random_data.h"

namespace nibble {
namespace {

using namespace testing_support;

struct Memory : MemoryCheckpoint {
  explicit Memory(const QuantizedMatrix& q) {
    for (auto& t : encode_quantized("L", q, DType::bf16)) tensors.emplace(t.name, std::move(t));
    metadata.insert(quantized_metadata("L", q));
  }
};

QuantizedMatrix make(const char* spec, std::size_t rows = 7, std::size_t cols = 65) {
  const auto w = normal(rows * cols, 3);
  return quantize(MatrixView<const float>(w.data(), rows, cols), spec);
}

TEST(QuantizedTensors, ComeBackAsTheyWere) {
  for (const char* spec : {"nf4", "nf4-b64-dq", "fp4-b128", "llm-int8", "int8", "int4-g32-sym", "int3-g16-asym",
                           "int2-tensor-sym", "int5-g64-asymraw-f32", "dynamic8-b256", "int8-g32-asym-bf16"})
    for (const auto& [rows, cols] : {std::pair<std::size_t, std::size_t>{7, 65}, {1, 1}, {16, 64}}) {
      const auto q = make(spec, rows, cols);
      const Memory file(q);
      const auto declared = declare_quantized("L", q.spec, rows, cols, DType::bf16);
      EXPECT_EQ(declared.size(), file.tensors.size()) << spec;
      for (const auto& d : declared) EXPECT_EQ(file.tensors.at(d.name).shape, d.shape) << spec << ": " << d.name;
      const auto back = decode_quantized(file, "L");
      ASSERT_TRUE(back) << spec;
      EXPECT_EQ(back->rows, rows);
      EXPECT_EQ(back->cols, cols);
      EXPECT_TRUE(same_bytes(back->codes, q.codes)) << spec;
      EXPECT_TRUE(same_bytes(back->zero_points, q.zero_points)) << spec;
      for (std::size_t r = 0; r < rows; ++r)
        for (std::size_t c = 0; c < cols; ++c) ASSERT_FLOAT_EQ(back->value(r, c), q.value(r, c)) << spec;
    }
}

TEST(QuantizedTensors, AnOrdinaryLayerIsNotQuantized) {
  Memory file(make("nf4"));
  EXPECT_FALSE(decode_quantized(file, "M"));
}

template <class Damage>
void refuse(const char* spec, const std::string& says, const Damage& damage) {
  Memory file(make(spec));
  damage(file);
  expect_error(ErrorCode::corrupt_file, says, [&] { (void)decode_quantized(file, "L"); });
}

Buffer bytes_of(const std::string& text) {
  Buffer b = Buffer::allocate(text.size());
  std::memcpy(b.writable<char>(), text.data(), text.size());
  return b;
}

TEST(QuantizedTensors, RefusesBitsandbytesLayersThatLie) {
  const std::string state = "L.weight.quant_state.bitsandbytes__nf4";
  const auto with_state = [&](const std::string& field, const nlohmann::json& value) {
    return [=](Memory& f) {
      const Buffer& old = f.tensors.at(state).bytes;
      auto j = nlohmann::json::parse(old.as<char>(), old.as<char>() + old.size());
      if (value.is_null()) j.erase(field);
      else j[field] = value;
      f.tensors.at(state).bytes = bytes_of(j.dump());
    };
  };
  refuse("nf4", "\"blocksize\" must be a positive integer", with_state("blocksize", 0));
  refuse("nf4", "\"blocksize\" must be a positive integer", with_state("blocksize", -64));
  refuse("nf4", "the field \"blocksize\" is missing", with_state("blocksize", nullptr));
  refuse("nf4", "\"shape\" must be [rows, columns]", with_state("shape", {7}));
  refuse("nf4", "\"shape\" must be a positive integer", with_state("shape", {7, "65"}));
  refuse("nf4", "impossible shape", with_state("shape", {std::uint64_t{1} << 40, std::uint64_t{1} << 40}));
  refuse("nf4", "'L.weight': has 228 bytes; 35 are needed", with_state("shape", {7, 10}));
  refuse("nf4", "'L.weight.absmax': has 8 values; 15 are needed", with_state("blocksize", 32));
  refuse("nf4-b64-dq", "\"nested_blocksize\" is not 256", with_state("nested_blocksize", 128));
  refuse("nf4-b64-dq", "\"nested_offset\" must be a number", with_state("nested_offset", "0"));
  refuse("nf4", "is not JSON", [&](Memory& f) { f.tensors.at(state).bytes = bytes_of("[[[["); });
  refuse("nf4", "'L.weight.absmax': is missing", [](Memory& f) { f.tensors.erase("L.weight.absmax"); });
  refuse("nf4", "'L.weight.absmax': has type U8; F32 is needed",
         [](Memory& f) { f.tensors.at("L.weight.absmax").type = DType::u8; });
  refuse("nf4", "'L.weight.quant_map': value 3 is not finite", [](Memory& f) {
    auto& t = f.tensors.at("L.weight.quant_map");
    Buffer b = Buffer::allocate(64);
    std::memcpy(b.writable<std::byte>(), t.bytes.data(), 64);
    b.writable<float>()[3] = std::numeric_limits<float>::quiet_NaN();
    t.bytes = b;
  });
  refuse("llm-int8", "'L.SCB': has 3 values; 7 are needed",
         [](Memory& f) { f.tensors.at("L.SCB").bytes = Buffer::allocate(12); });
  refuse("llm-int8", "'L.weight': has type U8", [](Memory& f) { f.tensors.at("L.weight").type = DType::u8; });
  refuse("llm-int8", "must have two dimensions", [](Memory& f) { f.tensors.at("L.weight").shape = {455}; });
}

/// bnb_4bit_quant_storage: the same bytes as elements of another type, the last of them filled up.
TEST(QuantizedTensors, BitsandbytesCodesMayLieInElementsOfAnyType) {
  for (const char* spec : {"nf4", "nf4-b64-dq", "fp4-b128"})
    for (const auto& [rows, cols] : {std::pair<std::size_t, std::size_t>{7, 65}, {3, 40}, {16, 64}, {1, 1}})
      for (const DType type : {DType::i8, DType::bf16, DType::f16, DType::f32, DType::f64}) {
        const auto q = make(spec, rows, cols);
        Memory file(q);
        NamedTensor& packed = file.tensors.at("L.weight");
        const std::size_t wide = size_of(type), count = (packed.bytes.size() + wide - 1) / wide;
        Buffer bytes = Buffer::allocate(count * wide);
        std::memcpy(bytes.writable<std::byte>(), packed.bytes.data(), packed.bytes.size());
        packed = {"L.weight", type, {count, 1}, bytes};
        const auto back = decode_quantized(file, "L");
        ASSERT_TRUE(back) << spec;
        EXPECT_TRUE(same_bytes(back->codes, q.codes)) << spec << " in " << name_of(type);
        for (const std::size_t wrong : {count - 1, count + 1}) {
          packed.bytes = Buffer::allocate(wrong * wide);
          expect_error(ErrorCode::corrupt_file, "'L.weight': has " + std::to_string(wrong * wide) + " bytes",
                       [&] { (void)decode_quantized(file, "L"); });
        }
      }
}

TEST(QuantizedTensors, RefusesOurOwnLayersThatLie) {
  const auto described = [](const std::string& text) { return [=](Memory& f) { f.metadata.at("nibble.L") = text; }; };
  for (const char* bad :
       {"", "int4-g32-asym", "int4-g32-asym 7", "int4-g32-asym 7x", "int4-g32-asym 7x65x2", "int4-g32-asym -7x65"})
    refuse("int4-g32-asym", "'<spec> <rows>x<columns>' is needed", described(bad));
  refuse("int4-g32-asym", "impossible shape", described("int4-g32-asym 0x65"));
  refuse("int4-g32-asym", "impossible shape", described("int4-g32-asym 999999999999x65"));
  refuse("int4-g32-asym", "'L.weight.nibble.scales': has type F16; F32 is needed", described("nf4-b64 7x65"));
  refuse("int4-g32-asym", "has 231 bytes; ", described("int4-g32-asym 7x640"));
  refuse("int4-g32-asym", "has no metadata", [](Memory& f) { f.metadata.clear(); });
  refuse("int4-g32-asym", "scale 2 is not finite", [](Memory& f) {
    auto& t = f.tensors.at("L.weight.nibble.scales");
    Buffer b = Buffer::allocate(t.bytes.size());
    std::memcpy(b.writable<std::byte>(), t.bytes.data(), t.bytes.size());
    b.writable<std::uint16_t>()[2] = 0x7C00;
    t.bytes = b;
  });
  for (const char* part : {"codes", "scales", "zero_points"})
    for (const std::size_t size : {std::size_t{0}, std::size_t{3}, std::size_t{4096}}) {
      Memory file(make("int4-g32-asym"));
      file.tensors.at("L.weight.nibble." + std::string(part)).bytes = Buffer::allocate(size);
      expect_error(ErrorCode::corrupt_file, "L.weight", [&] { (void)decode_quantized(file, "L"); });
    }
}

}  // namespace
}  // namespace nibble
