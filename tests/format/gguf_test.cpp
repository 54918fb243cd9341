#include "nibble/format/gguf.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>

#include "nibble/core/error.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using testing_support::expect_error;
using testing_support::TemporaryFolder;

const fs::path kFixtures = NIBBLE_TEST_DATA "/format/gguf";

std::string read_bytes(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

GgufHeader parse(const std::string& file) { return parse_gguf_header(std::as_bytes(std::span(file)), "evil.gguf"); }

/// A header as a stream of fields.
class Bytes {
 public:
  template <class T>
  Bytes& put(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value));
    return *this;
  }
  Bytes& u32(std::uint32_t v) { return put(v); }
  Bytes& u64(std::uint64_t v) { return put(v); }
  Bytes& text(const std::string& s) {
    u64(s.size());
    bytes_ += s;
    return *this;
  }
  Bytes& start(std::uint64_t tensors, std::uint64_t keys, std::uint32_t version = 3) {
    return u32(0x46554747).u32(version).u64(tensors).u64(keys);
  }
  /// A tensor of two dimensions.
  Bytes& tensor(const std::string& name, std::uint64_t inner, std::uint64_t outer, std::uint32_t type,
                std::uint64_t offset) {
    return text(name).u32(2).u64(inner).u64(outer).u32(type).u64(offset);
  }
  /// Pads to the alignment and adds `n` bytes of data.
  Bytes& data(std::size_t n, std::size_t alignment = 32) {
    bytes_.resize((bytes_.size() + alignment - 1) / alignment * alignment + n, 'x');
    return *this;
  }
  operator const std::string&() const { return bytes_; }

 private:
  std::string bytes_;
};

TEST(Gguf, ReadsMetadataOfEveryType) {
  for (const char* name : {"types.gguf", "version2.gguf"}) {
    const GgufFile file(kFixtures / name);
    const auto get = [&](const char* key) { return file.metadata().at(key); };
    EXPECT_EQ(get("general.architecture"), GgufValue(std::string("test")));
    EXPECT_EQ(get("test.u8"), GgufValue(std::uint8_t{200}));
    EXPECT_EQ(get("test.i8"), GgufValue(std::int8_t{-100}));
    EXPECT_EQ(get("test.u16"), GgufValue(std::uint16_t{60000}));
    EXPECT_EQ(get("test.i16"), GgufValue(std::int16_t{-30000}));
    EXPECT_EQ(get("test.u32"), GgufValue(std::uint32_t{4000000000}));
    EXPECT_EQ(get("test.i32"), GgufValue(std::int32_t{-2000000000}));
    EXPECT_EQ(get("test.f32"), GgufValue(0.1f));
    EXPECT_EQ(get("test.bool"), GgufValue(true));
    EXPECT_EQ(get("test.string"), GgufValue(std::string("größe ☃")));
    EXPECT_EQ(get("test.u64"), GgufValue(std::uint64_t{18000000000000000000u}));
    EXPECT_EQ(get("test.i64"), GgufValue(std::int64_t{-9000000000000000000}));
    EXPECT_EQ(get("test.f64"), GgufValue(0.1));
    const auto array = [&](const char* key) { return std::get<GgufArray>(get(key)).elements; };
    std::string snow;
    for (int i = 0; i < 20; ++i) snow += "☃";
    EXPECT_EQ(std::get<std::vector<std::string>>(array("test.strings")), (std::vector<std::string>{"", "a", snow}));
    EXPECT_EQ(std::get<std::vector<std::int32_t>>(array("test.ints")), (std::vector<std::int32_t>{1, -2, 3}));
    EXPECT_EQ(std::get<std::vector<float>>(array("test.floats")), (std::vector<float>{0.5f, -0.25f}));
    EXPECT_EQ(std::get<std::vector<bool>>(array("test.bools")), (std::vector<bool>{true, false, true}));
    EXPECT_EQ(std::get<std::vector<std::uint8_t>>(array("test.bytes")), (std::vector<std::uint8_t>{0, 1, 2, 3, 4}));
  }
}

TEST(Gguf, ReadsVersionTwoAndAnotherAlignment) {
  const GgufFile file(kFixtures / "version2.gguf");
  EXPECT_EQ(file.version(), 2u);
  EXPECT_EQ(file.info("matrix").shape, (std::vector<std::size_t>{2, 3}));
  EXPECT_EQ(file.read_f32("matrix"), (std::vector<float>{0, 1, 2, 3, 4, 5}));
  expect_error(ErrorCode::not_found, "'other'", [&] { (void)file.info("other"); });
}

class BlockFixture : public testing::TestWithParam<BlockType> {
 protected:
  BlockFixture() : file_(kFixtures / "types.gguf"), name_(name_of(GetParam())) {}
  GgufFile file_;
  std::string name_;
};

TEST_P(BlockFixture, DecodesToTheValuesOfTheRealPackage) {
  const auto values = file_.read_f32(name_), theirs = file_.read_f32(name_ + ".values");
  ASSERT_EQ(values.size(), 12u * 256u);
  EXPECT_EQ(std::memcmp(values.data(), theirs.data(), values.size() * 4), 0);
}

TEST(Gguf, BlocksOfBitsDecodeToTheValuesOfGgml) {
  const GgufFile file(kFixtures / "bits.gguf");
  for (const BlockType type : {BlockType::q1_0, BlockType::q2_0}) {
    const std::string name(name_of(type));
    const auto theirs = file.read_f32(name + ".values");
    const Buffer blocks = file.data(file.info(name));
    ASSERT_EQ(blocks.size(), 24 * block_bytes(type));
    std::vector<float> values(24 * block_size(type));
    decode_blocks(type, blocks.data(), values.size(), values.data());
    ASSERT_EQ(values.size(), theirs.size());
    EXPECT_EQ(std::memcmp(values.data(), theirs.data(), values.size() * 4), 0) << name;
  }
}

class EncodedFixture : public BlockFixture {};

TEST_P(EncodedFixture, EncodesToTheBytesOfTheRealPackage) {
  const BlockType type = GetParam();
  const auto source = file_.read_f32("source");
  const auto ours =
      BlockMatrix::encode(MatrixView<const float>(source.data(), 12, 256), type, "source", serial_executor());
  const Buffer theirs = file_.data(file_.info(name_));
  ASSERT_EQ(ours.blocks.size(), theirs.size());
  EXPECT_EQ(std::memcmp(ours.blocks.data(), theirs.data(), theirs.size()), 0);
}

INSTANTIATE_TEST_SUITE_P(Types, BlockFixture,
                         testing::Values(BlockType::f16, BlockType::bf16, BlockType::q4_0, BlockType::q4_1,
                                         BlockType::q5_0, BlockType::q5_1, BlockType::q8_0, BlockType::q4_k,
                                         BlockType::q5_k, BlockType::q6_k, BlockType::iq4_nl, BlockType::q2_k,
                                         BlockType::q3_k, BlockType::iq4_xs, BlockType::iq1_s, BlockType::iq1_m,
                                         BlockType::iq2_xxs, BlockType::iq2_xs, BlockType::iq2_s, BlockType::iq3_xxs,
                                         BlockType::iq3_s, BlockType::tq1_0, BlockType::tq2_0, BlockType::mxfp4,
                                         BlockType::nvfp4),
                         [](const auto& p) { return std::string(name_of(p.param)); });

// Those that the package can quantize.
INSTANTIATE_TEST_SUITE_P(Types, EncodedFixture,
                         testing::Values(BlockType::f16, BlockType::bf16, BlockType::q4_0, BlockType::q4_1,
                                         BlockType::q5_0, BlockType::q5_1, BlockType::q8_0),
                         [](const auto& p) { return std::string(name_of(p.param)); });

TEST(Gguf, HostileHeadersAreRefused) {
  const std::string good = Bytes().start(1, 0).tensor("a", 4, 2, 0, 0).data(32);
  ASSERT_NO_THROW((void)parse(good));
  const auto key = [](std::uint32_t type) { return Bytes().start(0, 1).text("k").u32(type); };
  const auto array = [&](std::uint32_t type, std::uint64_t n) { return key(9).u32(type).u64(n); };
  Bytes nested = Bytes().start(0, 1).text("k").u32(9);
  for (int i = 0; i < 4; ++i) nested.u32(9).u64(1);
  nested.u32(0).u64(1).put(std::uint8_t{1});
  const auto alignment = [](std::uint32_t n) { return Bytes().start(0, 1).text("general.alignment").u32(4).u32(n); };
  const struct {
    std::string file;
    const char* says;
    ErrorCode code = ErrorCode::corrupt_file;
  } cases[] = {
      {"", "fewer than the 24"},
      {"GGUF", "fewer than the 24"},
      {std::string("GGML") + good.substr(4), "does not begin with \"GGUF\""},
      {Bytes().start(0, 0, 0).data(0), "version is 0"},
      {Bytes().start(0, 0, 4).data(0), "version is 4"},
      {Bytes().start(0, 0, 1).data(0), "version is 1", ErrorCode::unsupported},
      {Bytes().start(0, 0, 0x03000000).data(0), "big-endian", ErrorCode::unsupported},
      {Bytes().start(~std::uint64_t{0}, 0).data(0), "the number of tensors is 18446744073709551615"},
      {Bytes().start(0, std::uint64_t{1} << 63).data(0), "the number of keys is 9223372036854775808"},
      {Bytes().start(0, 1).u64(1), "number of keys is 1; at most 0"},
      {Bytes().start(0, 1).u64(~std::uint64_t{0}).u64(0), "key 0 has 18446744073709551615 bytes"},
      {Bytes().start(0, 1).text(std::string(65536, 'k')).u32(4).u32(1), "65535 is the most"},
      {Bytes().start(0, 1).text("").u32(4).u32(1), "key 0 is empty"},
      {Bytes().start(0, 2).text("k").u32(4).u32(1).text("k").u32(4).u32(1), "the key 'k' appears twice"},
      {key(13).u64(0), "the type of key 'k' is 13"},
      {key(0xffffffff).u64(0), "the type of key 'k' is 4294967295"},
      {key(7).put(std::uint8_t{2}), "a boolean is 0 or 1"},
      {key(10).u32(1), "key 'k' is cut off"},
      {key(8).u64(100), "key 'k' has 100 bytes"},
      {key(8).u64(~std::uint64_t{0}), "key 'k' has 18446744073709551615 bytes"},
      {array(4, std::uint64_t{1} << 62), "the number of elements of key 'k' is 4611686018427387904"},
      {array(8, 3).text("a").u64(0), "the number of elements of key 'k' is 3; at most 2"},
      {array(8, 2).text("a").u64(50), "key 'k' has 50 bytes"},
      {array(7, 2).put(std::uint8_t{1}).put(std::uint8_t{9}), "a boolean is 0 or 1"},
      {array(13, 1).u64(0), "the type of key 'k' is 13"},
      {nested, "more than 4 deep"},
      {alignment(0), "general.alignment is 0"},
      {alignment(48), "general.alignment is 48"},
      {Bytes().start(0, 1).text("general.alignment").u32(10).u64(32), "general.alignment is no u32"},
      {Bytes().start(1, 0).tensor("", 4, 2, 0, 0).data(32), "tensor 0 has no name"},
      {Bytes().start(1, 0).tensor(std::string(65, 'n'), 4, 2, 0, 0).data(32), "64 is the most"},
      {Bytes().start(1, 0).text("a").u32(5).u64(1).u64(1).u64(1).u64(1).u64(1).u32(0).u64(0).data(4), "5 dimensions"},
      {Bytes().start(1, 0).text("a").u32(0xffffffff).data(64), "4294967295 dimensions"},
      {Bytes().start(1, 0).tensor("a", ~std::uint64_t{0}, 2, 0, 0).data(32), "overflows"},
      {Bytes().start(1, 0).tensor("a", std::uint64_t{1} << 32, std::uint64_t{1} << 32, 0, 0).data(32), "overflows"},
      {Bytes().start(1, 0).tensor("a", 0, ~std::uint64_t{0}, 0, 0).data(1), "the tensors end at 0 of 1"},
      {Bytes().start(1, 0).tensor("a", 4, 2, 4, 0).data(32), "type 4", ErrorCode::unsupported},
      {Bytes().start(1, 0).tensor("a", 4, 2, 63, 0).data(32), "tensor 'a' has type 63", ErrorCode::unsupported},
      {Bytes().start(1, 0).tensor("a", 4, 2, 137, 0).data(32), "ik_llama.cpp", ErrorCode::unsupported},
      {Bytes().start(1, 0).tensor("a", 128, 2, 10, 0).data(64), "is Q2_K with rows of 128, which are no whole blocks"},
      {Bytes().start(1, 0).tensor("a", 256, 2, 10, 0).data(160), "lies outside the file's 160 bytes"},
      {Bytes().start(1, 0).tensor("a", 4, 2, 99, 0).data(32), "tensor 'a' has type 99"},
      {Bytes().start(1, 0).tensor("a", 33, 2, 2, 0).data(64), "no whole blocks of 32"},
      {Bytes().start(1, 0).tensor("a", 32, 2, 12, 0).data(64), "no whole blocks of 256"},
      {Bytes().start(1, 0).tensor("a", 4, 2, 0, 0).data(31), "lies outside the file's 31 bytes"},
      {Bytes().start(1, 0).tensor("a", 4, 2, 0, 0).data(33), "the tensors end at 32 of 33"},
      {Bytes().start(1, 0).tensor("a", 4, 2, 0, 32).data(64), "begins at 32"},
      {Bytes().start(1, 0).tensor("a", 4, 2, 0, ~std::uint64_t{31}).data(64), "begins at 18446744073709551584"},
      {Bytes().start(2, 0).tensor("a", 4, 2, 0, 0).tensor("b", 4, 2, 0, 0).data(64), "'b' begins at 0"},
      {Bytes().start(2, 0).tensor("a", 4, 2, 0, 0).tensor("b", 4, 2, 0, 40).data(96), "'b' begins at 40"},
      {Bytes().start(2, 0).tensor("a", 4, 2, 0, 0).tensor("b", 4, 2, 0, 64).data(96), "'b' begins at 64"},
      {Bytes().start(2, 0).tensor("a", 4, 2, 0, 0).tensor("a", 4, 2, 0, 32).data(64), "two tensors are named 'a'"},
      {Bytes().start(1, 0).tensor("a", 0, 2, 0, 0), "the padding before the data is missing"},
      {Bytes().start(1, 0).tensor("a\n\x1b[31m", 4, 2, 0, 32).data(64), "'a??[31m'"},
  };
  for (const auto& c : cases) {
    try {
      (void)parse(c.file);
      ADD_FAILURE() << "accepted; expected: " << c.says;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), c.code) << e.what();
      EXPECT_NE(std::string(e.what()).find(c.says), std::string::npos) << e.what() << "\nexpected: " << c.says;
      const char* verdict = c.code == ErrorCode::unsupported ? "'evil.gguf' cannot be read: at byte "
                                                             : "'evil.gguf' is not a valid GGUF file: at byte ";
      EXPECT_NE(std::string(e.what()).find(verdict), std::string::npos) << e.what();
    }
  }
}

// A file opens whatever types ggml has in it; only reading such a tensor is refused, by its name and its type's.
TEST(Gguf, TensorsOfTypesThatAreNotDecodedAreListedAndTheOthersRead) {
  const TemporaryFolder folder;
  const struct {
    std::uint32_t id;
    const char* name;
    std::uint64_t row;
    std::size_t bytes;
  } types[] = {{9, "Q8_1", 32, 36}, {31, "Q4_0_4_4", 32, 18}, {26, "I32", 3, 12}};
  for (const auto& t : types) {
    const std::string bytes = Bytes()
                                  .start(2, 0)
                                  .tensor("foreign", t.row, 2, t.id, 0)
                                  .tensor("plain", 4, 1, 0, (2 * t.bytes + 31) / 32 * 32)
                                  .data((2 * t.bytes + 31) / 32 * 32)
                                  .data(16);
    std::ofstream(folder / "mixed.gguf", std::ios::binary) << bytes;
    const GgufFile file(folder / "mixed.gguf");
    EXPECT_EQ(file.info("foreign").type_name(), t.name);
    EXPECT_EQ(file.info("foreign").bytes, 2 * t.bytes);
    EXPECT_EQ(file.read_f32("plain").size(), 4u);
    const std::string says = "tensor 'foreign' is " + std::string(t.name);
    expect_error(ErrorCode::unsupported, says, [&] { (void)file.read_f32("foreign"); });
    expect_error(ErrorCode::unsupported, says, [&] { (void)file.matrix("foreign"); });
  }
  std::set<std::uint32_t> ids;
  for (const GgmlType& t : ggml_types()) EXPECT_TRUE(ids.insert(t.id).second) << t.name;
}

TEST(Gguf, EveryCutAndEveryChangedByteIsAcceptedOrRefused) {
  const std::string file = read_bytes(kFixtures / "version2.gguf");
  ASSERT_NO_THROW((void)parse(file));
  for (std::size_t n = 0; n < file.size(); ++n) {
    // What the file may lack is the padding behind its only tensor of 24 bytes.
    if (n >= file.size() - (64 - 24)) continue;
    EXPECT_THROW((void)parse(file.substr(0, n)), Error) << n;
  }
  for (std::size_t i = 0; i < file.size(); ++i)
    for (const int value : {0, 1, 0x7f, 0x80, 0xff}) {
      std::string changed = file;
      changed[i] = static_cast<char>(value);
      try {
        const GgufHeader header = parse(changed);
        for (const GgufTensor& t : header.tensors) ASSERT_LE(header.data_start + t.offset + t.bytes, file.size());
      } catch (const Error&) {
      }
    }
}

TEST(Gguf, WhatIsWrittenIsRead) {
  const TemporaryFolder folder;
  const GgufFile types(kFixtures / "types.gguf");
  for (const std::uint32_t alignment : {0u, 1u, 8u, 256u}) {
    GgufMetadata metadata = types.metadata();
    if (alignment != 0) metadata["general.alignment"] = alignment;
    metadata["nested"] =
        GgufArray{std::vector<GgufArray>{{std::vector<std::string>{"a", ""}}, {std::vector<double>{}}}};
    std::vector<GgufTensor> tensors = types.tensors();
    tensors.push_back({"scalar", BlockType::f32, {}, 0, 0});
    tensors.push_back({"empty", BlockType::q4_0, {0, 32}, 0, 0});
    tensors.push_back({"cube", BlockType::f16, {2, 3, 5}, 0, 0});
    const auto path = folder / "out.gguf";
    fs::remove(path);
    GgufWriter writer(path, metadata, tensors);
    for (std::size_t i = tensors.size(); i-- > 0;) {  // any order
      if (types.contains(tensors[i].name)) {
        const Buffer bytes = types.data(tensors[i]);
        writer.write(tensors[i].name, {bytes.data(), bytes.size()});
      } else {
        const std::size_t n = tensors[i].name == "scalar" ? 4 : tensors[i].name == "cube" ? 60 : 0;
        writer.write(tensors[i].name, std::vector<std::byte>(n, std::byte{1}));
      }
    }
    EXPECT_FALSE(fs::exists(path)) << "the name appears only when all is written";
    writer.finish();
    const GgufFile file(path);
    EXPECT_EQ(file.version(), 3u);
    EXPECT_EQ(file.metadata(), metadata);
    ASSERT_EQ(file.tensors().size(), tensors.size());
    for (const GgufTensor& t : tensors) {
      const GgufTensor& back = file.info(t.name);
      EXPECT_EQ(back.type, t.type);
      EXPECT_EQ(back.shape, t.shape);
      EXPECT_EQ(back.offset % (alignment == 0 ? 32 : alignment), 0u);
      if (types.contains(t.name))
        EXPECT_EQ(std::memcmp(file.data(back).data(), types.data(t).data(), t.bytes), 0) << t.name;
    }
    EXPECT_EQ(file.data(file.info("cube")).data()[59], std::byte{1});
  }
}

/// Eight matrices of 1 KiB, written in files of at most so many bytes.
std::vector<fs::path> write_parts(const fs::path& path, std::size_t part_bytes, GgufMetadata metadata = {}) {
  std::vector<GgufTensor> tensors;
  for (int i = 0; i < 8; ++i) tensors.push_back({"t" + std::to_string(i), BlockType::f32, {16, 16}, 0, 0});
  metadata["general.name"] = std::string("parts");
  GgufWriter writer(path, metadata, tensors, part_bytes);
  for (int i = 0; i < 8; ++i)
    writer.write("t" + std::to_string(i), std::vector<std::byte>(1024, static_cast<std::byte>(i)));
  writer.finish();
  return writer.paths();
}

TEST(Gguf, AModelInSeveralFilesIsOne) {
  const TemporaryFolder folder;
  EXPECT_EQ(write_parts(folder / "whole.gguf", 1 << 20), std::vector{folder / "whole.gguf"});
  for (const std::uint32_t alignment : {32u, 256u, 1024u}) {
    const std::size_t count = alignment == 1024 ? 8 : 4;
    const auto paths = write_parts(folder / "m.gguf", 3500, {{"general.alignment", alignment}});
    ASSERT_EQ(paths.size(), count);
    EXPECT_EQ(paths[1], folder / ("m-00002-of-0000" + std::to_string(count) + ".gguf"));
    for (const auto& p : paths) EXPECT_LE(fs::file_size(p), 3500u);
    const GgufFile file(paths[0]), whole(folder / "whole.gguf");
    EXPECT_EQ(file.parts(), count);
    EXPECT_EQ(std::get<std::string>(file.metadata().at("general.name")), "parts");
    ASSERT_EQ(file.tensors().size(), 8u);
    for (const GgufTensor& t : whole.tensors()) {
      const Buffer ours = file.data(file.info(t.name)), one = whole.data(t);
      EXPECT_EQ(std::memcmp(ours.data(), one.data(), 1024), 0) << t.name;
      file.release(file.info(t.name));
      EXPECT_EQ(file.read_f32(t.name), whole.read_f32(t.name));
    }
    file.require_intact();
  }
  EXPECT_EQ(write_parts(folder / "small.gguf", 1).size(), 8u) << "a tensor a file, if none has room for two";
}

TEST(Gguf, FilesThatAreNoPartsOfOneModelAreRefused) {
  const TemporaryFolder folder;
  const auto paths = write_parts(folder / "m.gguf", 3500);
  const auto refuse = [&](ErrorCode code, const std::string& says, const fs::path& path) {
    expect_error(code, says, [&] { (void)GgufFile(path); });
  };
  refuse(ErrorCode::invalid_argument, "give the first, '" + paths[0].string() + "'", paths[1]);
  fs::copy_file(paths[0], folder / "renamed.gguf");
  refuse(ErrorCode::not_found, "does not end in '-00001-of-00004.gguf'", folder / "renamed.gguf");
  fs::rename(paths[2], folder / "away");
  refuse(ErrorCode::not_found, "'" + paths[2].string() + "' is not beside it; download it, too", paths[0]);
  fs::copy_file(paths[1], paths[2]);
  refuse(ErrorCode::corrupt_file, "says that it is another part", paths[0]);
  fs::rename(folder / "away", paths[2]);
  (void)GgufFile(paths[0]);
  fs::copy_file(folder / "m-00001-of-00004.gguf", folder / "n-00001-of-00004.gguf");
  for (int i = 1; i < 4; ++i)
    fs::copy_file(paths[1], gguf_part_path(folder / "n.gguf", static_cast<std::size_t>(i), 4));
  refuse(ErrorCode::corrupt_file, "says that it is another part", folder / "n-00001-of-00004.gguf");

  const auto part = [&](std::size_t i, std::uint64_t count, const char* tensor, std::int32_t all) {
    GgufWriter writer(
        gguf_part_path(folder / "own.gguf", i, 2),
        {{"split.no", static_cast<std::uint16_t>(i)}, {"split.count", count}, {"split.tensors.count", all}},
        {{tensor, BlockType::f32, {1}, 0, 0}});
    writer.write(tensor, std::vector<std::byte>(4));
    writer.finish();
  };
  const fs::path own = gguf_part_path(folder / "own.gguf", 0, 2);
  part(0, 2, "a", 2);
  part(1, 2, "a", 2);
  refuse(ErrorCode::corrupt_file, "tensor 'a' is in two of the files", own);
  part(1, 2, "b", 2);
  EXPECT_EQ(GgufFile(own).tensors().size(), 2u);
  part(0, 2, "a", 3);
  refuse(ErrorCode::corrupt_file, "of 3 tensors, and they hold 2", own);
  part(0, std::uint64_t{1} << 60, "a", 2);
  refuse(ErrorCode::not_found, "one of 1152921504606846976 files", own);
}

TEST(Gguf, AnAbandonedWriterLeavesTheOldFile) {
  const TemporaryFolder folder;
  const auto path = folder / "model.gguf";
  std::ofstream(path) << "old";
  {
    GgufWriter writer(path, {}, {{"a", BlockType::f32, {2}, 0, 0}});
    expect_error(ErrorCode::invalid_argument, "'a' was declared but never written", [&] { writer.finish(); });
    expect_error(ErrorCode::not_found, "'b'", [&] { writer.write("b", {}); });
    expect_error(ErrorCode::shape_mismatch, "8 bytes and given 7",
                 [&] { writer.write("a", std::vector<std::byte>(7)); });
  }
  EXPECT_EQ(read_bytes(path), "old");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator()), 1);
}

TEST(Gguf, TheWriterRefusesWhatNoReaderTakes) {
  const TemporaryFolder folder;
  const auto refuse = [&](const std::string& says, std::vector<GgufTensor> tensors, const GgufMetadata& metadata = {}) {
    expect_error(ErrorCode::invalid_argument, says, [&] { GgufWriter(folder / "x.gguf", metadata, tensors); });
  };
  refuse("no whole blocks of 256", {{"a", BlockType::q4_k, {2, 32}, 0, 0}});
  refuse("two tensors are named 'a'", {{"a", BlockType::f32, {1}, 0, 0}, {"a", BlockType::f32, {1}, 0, 0}});
  refuse("has 64 bytes; 1 to 63", {{std::string(64, 'n'), BlockType::f32, {1}, 0, 0}});
  refuse("5 dimensions", {{"a", BlockType::f32, {1, 1, 1, 1, 1}, 0, 0}});
  refuse("overflows", {{"a", BlockType::f32, {std::size_t{1} << 40, std::size_t{1} << 40}, 0, 0}});
  refuse("general.alignment", {}, {{"general.alignment", std::uint32_t{3}}});
  refuse("a key has 0 bytes", {}, {{"", std::uint32_t{3}}});
  GgufArray deep{std::vector<bool>{true}};
  for (int i = 0; i < 4; ++i) deep = GgufArray{std::vector<GgufArray>{deep}};
  refuse("more than 4 deep", {}, {{"k", deep}});
  EXPECT_TRUE(fs::is_empty(folder.path()));
}

}  // namespace
}  // namespace nibble
