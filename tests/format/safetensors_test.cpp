#include "nibble/format/safetensors.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "nibble/core/error.h"
#include "nibble/format/checkpoint.h"
#include "nibble/quantize/quantize.h"
#include "tests/support/random_data.h"
#include "tests/support/tiny_model.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

class Safetensors : public testing::Test {
 protected:
  Safetensors() : folder_(fs::temp_directory_path() / ("nibble-test-" + std::to_string(::getpid()))) {
    fs::create_directories(folder_);
  }
  ~Safetensors() override { fs::remove_all(folder_); }
  fs::path folder_;
};

std::string with_header(const std::string& json, std::size_t data_bytes) {
  std::string out(8, '\0');
  const std::uint64_t n = json.size();
  std::memcpy(out.data(), &n, 8);
  return out + json + std::string(data_bytes, 'x');
}

TEST_F(Safetensors, HostileHeadersAreRefused) {
  const std::string good = R"("a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]})";
  const struct {
    std::string json;
    std::size_t data;
    const char* says;
  } cases[] = {
      {"{" + good, 8, "JSON"},
      {"[]", 0, "object"},
      {"{" + good + "," + good + "}", 8, "twice"},
      {R"({"a":{"dtype":"F32","dtype":"F16","shape":[2],"data_offsets":[0,8]}})", 8, "twice"},
      {"{" + good + "}", 9, "end at 8 of 9"},
      {"{" + good + "}", 7, "outside"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", 8, "outside"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[-8,0]}})", 8, "whole numbers"},
      {R"({"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", 8, "whole numbers"},
      {R"({"a":{"dtype":"F32","shape":[2.5],"data_offsets":[0,8]}})", 8, "whole numbers"},
      {R"({"a":{"dtype":"F32","shape":[18446744073709551615,2],"data_offsets":[0,8]}})", 8, "overflows"},
      {R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}})", 8, "overflows"},
      {R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", 8, "needs 12 bytes"},
      {R"({"a":{"dtype":"F33","shape":[2],"data_offsets":[0,8]}})", 8, "dtype"},
      {R"({"a":{"dtype":4,"shape":[2],"data_offsets":[0,8]}})", 8, "dtype"},
      {R"({"a":{"shape":[2],"data_offsets":[0,8]}})", 8, "missing"},
      {R"({"a":{"dtype":"F32","data_offsets":[0,8]}})", 8, "missing"},
      {R"({"a":{"dtype":"F32","shape":[2]}})", 8, "missing"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1}})", 8, "unknown field"},
      {R"({"a":{"dtype":"F32","shape":2,"data_offsets":[0,8]}})", 8, "shape"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0]}})", 8, "data_offsets"},
      {R"({"a":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,2],"data_offsets":[0,8]}})", 8, "16"},
      {R"({"a":7})", 0, "object"},
      {"{" + good + R"(,"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})", 12, "begins at 4"},
      {"{" + good + R"(,"b":{"dtype":"F32","shape":[1],"data_offsets":[12,16]}})", 16, "begins at 12"},
      {R"({"__metadata__":{"a":1}})", 0, "not text"},
      {R"({"__metadata__":[]})", 0, "not an object"},
      {"{\"a\xff\":" + good.substr(4) + "}", 8, "JSON"},
      {R"({"a":)" + std::string(5000, '['), 0, "deep"},
      {"{" + good + "} trailing", 8, "JSON"},
  };
  for (const auto& c : cases) {
    const std::string file = with_header(c.json, c.data);
    try {
      (void)parse_safetensors_header(std::as_bytes(std::span(file)), "evil.safetensors");
      ADD_FAILURE() << "accepted " << c.json.substr(0, 120);
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::corrupt_file);
      EXPECT_NE(std::string(e.what()).find(c.says), std::string::npos) << e.what();
      EXPECT_NE(std::string(e.what()).find("evil.safetensors"), std::string::npos) << e.what();
    }
  }
}

TEST_F(Safetensors, AHeaderLengthBeyondTheFileIsRefused) {
  for (std::uint64_t length : {std::uint64_t{100}, std::uint64_t{200'000'000}, ~std::uint64_t{0}}) {
    std::string file = with_header("{}", 0);
    std::memcpy(file.data(), &length, 8);
    EXPECT_THROW((void)parse_safetensors_header(std::as_bytes(std::span(file)), "f"), Error);
  }
  EXPECT_THROW((void)parse_safetensors_header({}, "f"), Error);
}

TEST_F(Safetensors, EveryTypeSurvivesARoundTrip) {
  std::vector<TensorInfo> tensors;
  for (int i = 0; i <= static_cast<int>(DType::boolean); ++i)
    tensors.push_back({"t" + std::to_string(i), static_cast<DType>(i), {3, 5}, 0, 0});
  tensors.push_back({"scalar", DType::u8, {}, 0, 0});
  tensors.push_back({"empty", DType::f32, {0, 4}, 0, 0});
  const auto path = folder_ / "all.safetensors";
  SafetensorsWriter writer(path, tensors, {{"format", "pt"}, {"ключ", "värde"}});
  for (std::size_t i = tensors.size(); i-- > 0;) {  // any order
    std::size_t n = size_of(tensors[i].type);
    for (std::size_t d : tensors[i].shape) n *= d;
    writer.write(tensors[i].name, std::vector<std::byte>(n, static_cast<std::byte>(i + 1)));
  }
  EXPECT_FALSE(fs::exists(path)) << "the name appears only when all is written";
  writer.finish();
  const SafetensorsFile file(path);
  EXPECT_EQ(file.metadata().at("ключ"), "värde");
  ASSERT_EQ(file.tensors().size(), tensors.size());
  for (const TensorInfo& t : file.tensors())
    for (std::size_t i = 0; i < tensors.size(); ++i)
      if (tensors[i].name == t.name) {
        EXPECT_EQ(t.type, tensors[i].type);
        EXPECT_EQ(t.shape, tensors[i].shape);
        if (t.bytes > 0) EXPECT_EQ(file.data(t).data()[t.bytes - 1], static_cast<std::byte>(i + 1));
      }
}

TEST_F(Safetensors, TheWriterAlignsEveryTensorWhateverTheOrder) {
  std::vector<TensorInfo> tensors;
  for (int i = 0; i <= static_cast<int>(DType::boolean); ++i)
    for (const std::size_t count : {3u, 1u, 0u}) {
      const auto type = static_cast<DType>(i);
      tensors.push_back({std::string(name_of(type)) + "." + std::to_string(count), type, {count}, 0, 0});
    }
  std::string first;
  for (int turn = 0; turn < 3; ++turn) {
    const auto path = folder_ / ("aligned" + std::to_string(turn));
    std::rotate(tensors.begin(), tensors.begin() + 7, tensors.end());
    SafetensorsWriter writer(path, tensors, {{"n", std::string(static_cast<std::size_t>(turn), 'x')}});
    for (const TensorInfo& t : tensors)
      writer.write(t.name, std::vector<std::byte>(t.shape[0] * size_of(t.type), static_cast<std::byte>(t.name[0])));
    writer.finish();
    const SafetensorsFile file(path);
    std::string order;
    for (const TensorInfo& t : file.tensors()) {
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(file.data(t).data()) % size_of(t.type), 0u) << t.name;
      if (t.bytes > 0) order += t.name + " ";
    }
    if (turn == 0) first = order;
    EXPECT_EQ(order, first) << "the order of the declarations shows in the file";
  }
}

/// Headers of every length, and a byte before everything else.
TEST_F(Safetensors, TensorsThatAreNotAlignedAreRead) {
  const std::vector<float> floats{1, -2, 3, 0.5f};
  for (std::size_t spaces = 0; spaces < 8; ++spaces) {
    testing_support::write_in_order(
        folder_ / "model.safetensors",
        {{"flag", DType::u8, {1}, testing_support::buffer_of<std::uint8_t>({7})},
         {"wide", DType::f32, {2, 2}, testing_support::buffer_of(floats)},
         {"codes", DType::i32, {4}, testing_support::buffer_of<std::int32_t>({1, 2, 3, 4})}},
        spaces);
    const auto file = Checkpoint::open(folder_);
    const FloatMatrix m = file.matrix("wide"), again = file.matrix("wide");
    EXPECT_EQ(m.data, again.data);
    ASSERT_EQ(reinterpret_cast<std::uintptr_t>(m.data) % sizeof(float), 0u);
    EXPECT_EQ(std::memcmp(m.data, floats.data(), 16), 0);
    EXPECT_EQ(file.read_f32("wide"), floats);
    file.release("wide");
    EXPECT_EQ(std::memcmp(file.matrix("wide").data, floats.data(), 16), 0);
    const Buffer codes = file.aligned_data("codes");
    ASSERT_EQ(reinterpret_cast<std::uintptr_t>(codes.data()) % 4, 0u);
    EXPECT_EQ(codes.as<std::int32_t>()[3], 4);
    EXPECT_EQ(file.find("codes")->bytes.as<std::int32_t>()[2], 3);
  }
}

TEST_F(Safetensors, AnAbandonedWriterLeavesTheOldFile) {
  const auto path = folder_ / "model.safetensors";
  std::ofstream(path) << "old";
  {
    SafetensorsWriter writer(path, {{"a", DType::f32, {2}, 0, 0}}, {});
    EXPECT_THROW(writer.finish(), Error);
    EXPECT_THROW(writer.write("b", {}), Error);
    EXPECT_THROW(writer.write("a", std::vector<std::byte>(7)), Error);
  }
  std::string text;
  std::ifstream(path) >> text;
  EXPECT_EQ(text, "old");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()), 1) << "a temporary file was left";
}

TEST_F(Safetensors, ShardedCheckpointsAreOneCheckpoint) {
  for (const char* name : {"one", "two"}) {
    SafetensorsWriter w(folder_ / (std::string(name) + ".safetensors"), {{name, DType::f32, {1}, 0, 0}}, {});
    const float value = name[0] == 'o' ? 1.0f : 2.0f;
    w.write(name, std::as_bytes(std::span(&value, 1)));
    w.finish();
  }
  const auto index = [&](const std::string& map) {
    std::ofstream(folder_ / "model.safetensors.index.json") << "{\"weight_map\":" << map << "}";
  };
  index(R"({"one":"one.safetensors","two":"two.safetensors"})");
  EXPECT_EQ(Checkpoint::open(folder_).read_f32("two"), std::vector<float>{2.0f});
  EXPECT_THROW((void)Checkpoint::open(folder_).info("three"), Error);
  for (const char* bad :
       {R"({"one":"../one.safetensors"})", R"({"one":"/etc/passwd"})", R"({"three":"one.safetensors"})", R"({"one":7})",
        "[]", "{}", R"({"one":"missing.safetensors"})"}) {
    index(bad);
    EXPECT_THROW((void)Checkpoint::open(folder_), Error) << bad;
  }
  index(R"({"one":")" + std::string(300, 'n') + R"("})");  // no file of any system has so long a name
  EXPECT_THROW((void)Checkpoint::open(folder_), Error);
  EXPECT_THROW((void)Checkpoint::open(folder_ / std::string(5000, 'p')), Error);
}

TEST_F(Safetensors, QuantizedLayersSurviveARoundTrip) {
  const auto w = testing_support::normal(48 * 75, 1);
  for (const char* text : {"nf4", "nf4-dq", "fp4-b128", "fp4-dq", "int8", "llm-int8", "int4-g128-sym", "int3-g32-asym",
                           "int5-g16-asymraw-f32", "dynamic8-b64-dq", "int8-g32-sym-bf16"}) {
    const auto q = quantize(MatrixView<const float>(w.data(), 48, 75), text);
    std::vector<TensorInfo> declared;
    for (const auto& t : declare_quantized("L", q.spec, 48, 75, DType::bf16))
      declared.push_back({t.name, t.type, t.shape, 0, 0});
    const auto path = folder_ / "q.safetensors";
    SafetensorsWriter writer(path, declared, {quantized_metadata("L", q)});
    for (const auto& t : encode_quantized("L", q, DType::bf16)) writer.write(t.name, {t.bytes.data(), t.bytes.size()});
    writer.finish();
    const auto back = decode_quantized(Checkpoint::open(path), "L");
    ASSERT_TRUE(back) << text;
    EXPECT_EQ(back->spec, q.spec);
    for (std::size_t r = 0; r < 48; ++r)
      for (std::size_t c = 0; c < 75; ++c)
        ASSERT_EQ(std::bit_cast<std::uint32_t>(back->value(r, c)), std::bit_cast<std::uint32_t>(q.value(r, c))) << text;
  }
}

}  // namespace
}  // namespace nibble
