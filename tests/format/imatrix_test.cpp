#include "nibble/format/imatrix.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <span>

#include "nibble/format/gguf.h"
#include "tests/support/expect_error.h"
#include "tests/support/random_data.h"
#include "tests/support/temporary_folder.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using testing_support::expect_error;
using testing_support::TemporaryFolder;
using Form = ImportanceMatrix::Form;

MatrixView<const float> view(const std::vector<float>& x, std::size_t cols) {
  return {x.data(), x.size() / cols, cols};
}

std::string bytes_of(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

/// Little-endian numbers and texts, one behind the other.
class Bytes {
 public:
  Bytes& number(std::int32_t n) { return raw(&n, sizeof n); }
  Bytes& value(float f) { return raw(&f, sizeof f); }
  Bytes& text(const std::string& s) {
    number(static_cast<std::int32_t>(s.size()));
    bytes_ += s;
    return *this;
  }
  void save(const fs::path& path) const { std::ofstream(path, std::ios::binary) << bytes_; }

 private:
  Bytes& raw(const void* from, std::size_t n) {
    bytes_.append(static_cast<const char*>(from), n);
    return *this;
  }
  std::string bytes_;
};

/// A dense weight, and a stack of two experts of which one saw nothing.
ImportanceMatrix example() {
  ImportanceMatrix m;
  m.add("blk.0.attn_q.weight", view({1, 2, 3, 4, 5, 6}, 3));
  m.add("blk.0.ffn_up_exps.weight", view({1, -1, 2, -2}, 2), 1, 2);
  m.datasets = {"some.txt"};
  m.chunk_count = 7;
  m.chunk_size = 2;
  return m;
}

TEST(ImportanceMatrix, IsTheMeanSquareOfEachChannel) {
  const ImportanceMatrix m = example();
  EXPECT_EQ(m.mean_squares("blk.0.attn_q.weight", 3), (std::vector<float>{8.5f, 14.5f, 22.5f}));
  EXPECT_EQ(m.mean_squares("blk.0.ffn_up_exps.weight", 2, 1, 2), (std::vector<float>{2.5f, 2.5f}));
  EXPECT_EQ(m.mean_squares("blk.0.ffn_up_exps.weight", 2, 0, 2), (std::vector<float>{1, 1})) << "no token went there";
  EXPECT_TRUE(m.mean_squares("blk.0.attn_k.weight", 3).empty());
}

class Forms : public testing::TestWithParam<Form> {};

TEST_P(Forms, ComeBackFromTheirFiles) {
  const TemporaryFolder folder;
  const ImportanceMatrix m = example();
  m.write(folder / "a", GetParam());
  const ImportanceMatrix back = ImportanceMatrix::read(folder / "a");
  EXPECT_EQ(back.datasets, m.datasets);
  EXPECT_EQ(back.chunk_count, 7u);
  ASSERT_EQ(back.entries().size(), 2u);
  EXPECT_EQ(back.mean_squares("blk.0.attn_q.weight", 3), m.mean_squares("blk.0.attn_q.weight", 3));
  for (const std::size_t expert : {0u, 1u})
    EXPECT_EQ(back.mean_squares("blk.0.ffn_up_exps.weight", 2, expert, 2),
              m.mean_squares("blk.0.ffn_up_exps.weight", 2, expert, 2));
}

// Whatever is cut off or changed, there is a typed error or a matrix that can be asked.
TEST_P(Forms, ThatAreDamagedAreRefusedOrRead) {
  const TemporaryFolder folder;
  example().write(folder / "a", GetParam());
  const std::string whole = bytes_of(folder / "a");
  const auto try_it = [&](const std::string& bytes) {
    std::ofstream(folder / "b", std::ios::binary | std::ios::trunc) << bytes;
    try {
      const ImportanceMatrix m = ImportanceMatrix::read(folder / "b");
      for (const auto& [name, e] : m.entries()) {
        EXPECT_EQ(e.sums.size(), e.columns * e.experts());
        (void)m.mean_squares(name, e.columns, 0, e.experts());
      }
    } catch (const Error& e) {
      EXPECT_TRUE(e.code() == ErrorCode::corrupt_file || e.code() == ErrorCode::non_finite ||
                  e.code() == ErrorCode::unsupported || e.code() == ErrorCode::shape_mismatch)
          << e.what();
    }
  };
  for (std::size_t n = 0; n < whole.size(); ++n) try_it(whole.substr(0, n));
  for (std::size_t i = 0; i < whole.size(); ++i)
    for (const char bit : {'\x01', '\x40', '\xff'}) {
      std::string changed = whole;
      changed[i] = static_cast<char>(changed[i] ^ bit);
      try_it(changed);
    }
}

INSTANTIATE_TEST_SUITE_P(Both, Forms, testing::Values(Form::gguf, Form::legacy),
                         [](const auto& p) { return std::string(p.param == Form::gguf ? "gguf" : "legacy"); });

// The GGUF form as llama.cpp names things: outer dimensions of 1 are left out.
TEST(ImportanceMatrix, IsWrittenAsLlamaCppNamesIt) {
  const TemporaryFolder folder;
  example().write(folder / "a.gguf");
  const GgufFile file(folder / "a.gguf");
  EXPECT_EQ(file.metadata().at("general.type"), GgufValue(std::string("imatrix")));
  EXPECT_EQ(file.metadata().at("imatrix.chunk_count"), GgufValue(std::uint32_t{7}));
  EXPECT_EQ(file.metadata().at("imatrix.chunk_size"), GgufValue(std::uint32_t{2}));
  EXPECT_EQ(file.info("blk.0.attn_q.weight.in_sum2").shape, (std::vector<std::size_t>{3}));
  EXPECT_EQ(file.read_f32("blk.0.attn_q.weight.in_sum2"), (std::vector<float>{17, 29, 45}));
  EXPECT_EQ(file.read_f32("blk.0.attn_q.weight.counts"), (std::vector<float>{2}));
  EXPECT_EQ(file.info("blk.0.ffn_up_exps.weight.in_sum2").shape, (std::vector<std::size_t>{2, 2}));
  EXPECT_EQ(file.info("blk.0.ffn_up_exps.weight.counts").shape, (std::vector<std::size_t>{2, 1}));
}

// The legacy form holds means times calls; experts lie in a row; a file may end before the text's name.
TEST(ImportanceMatrix, ReadsTheLegacyForm) {
  const TemporaryFolder folder;
  Bytes()
      .number(2)
      .text("blk.0.attn_q.weight")
      .number(4)
      .number(2)
      .value(8)
      .value(2)
      .text("blk.0.ffn_up_exps.weight")
      .number(0)
      .number(4)
      .value(1)
      .value(2)
      .value(3)
      .value(4)
      .save(folder / "old.dat");
  const ImportanceMatrix m = ImportanceMatrix::read(folder / "old.dat");
  EXPECT_EQ(m.mean_squares("blk.0.attn_q.weight", 2), (std::vector<float>{2, 0.5f}));
  EXPECT_EQ(m.mean_squares("blk.0.ffn_up_exps.weight", 2, 1, 2), (std::vector<float>{3, 4})) << "no calls: as it is";
  EXPECT_TRUE(m.datasets.empty());
}

TEST(ImportanceMatrix, AddsWhatAnotherTextGave) {
  ImportanceMatrix m = example();
  ImportanceMatrix other;
  other.add("blk.0.attn_q.weight", view({3, 0, 0}, 3));
  other.add("blk.1.attn_q.weight", view({1, 1, 1}, 3));
  other.datasets = {"other.txt"};
  other.chunk_count = 1;
  m.merge(other);
  EXPECT_EQ(m.mean_squares("blk.0.attn_q.weight", 3), (std::vector<float>{26.0f / 3, 29.0f / 3, 15}));
  EXPECT_NE(m.find("blk.1.attn_q.weight"), nullptr);
  EXPECT_EQ(m.datasets, (std::vector<std::string>{"some.txt", "other.txt"}));
  EXPECT_EQ(m.chunk_count, 8u);
  ImportanceMatrix wide;
  wide.add("blk.2.attn_q.weight", view({1}, 1));
  wide.add("blk.0.attn_q.weight", view({1, 1}, 2));
  expect_error(ErrorCode::shape_mismatch, "'blk.0.attn_q.weight' has 3 columns", [&] { m.merge(wide); });
  EXPECT_EQ(m.find("blk.2.attn_q.weight"), nullptr) << "nothing was added";
}

// A legacy call is a chunk: 512 tokens, by which it counts beside another file's.
TEST(ImportanceMatrix, AddsFilesOfBothFormsByTheirTokens) {
  const TemporaryFolder folder;
  Bytes()
      .number(2)
      .text("w")
      .number(3)
      .number(1)
      .value(6)
      .text("experts")
      .number(1)
      .number(4)
      .value(1)
      .value(2)
      .value(3)
      .value(4)
      .save(folder / "old.dat");
  ImportanceMatrix m = ImportanceMatrix::read(folder / "old.dat");
  ImportanceMatrix measured;
  const std::vector<float> tokens(512, 4.0f);
  measured.add("w", view(tokens, 1));
  measured.add("experts", view({1, 1}, 2), 0, 2);
  measured.add("experts", view({1, 1}, 2), 1, 2);
  ImportanceMatrix other_way = measured;
  m.merge(measured);
  other_way.merge(ImportanceMatrix::read(folder / "old.dat"));
  for (const ImportanceMatrix* both : {&m, &other_way}) {
    EXPECT_EQ(both->mean_squares("w", 1), std::vector<float>{(3 * 2 + 16) / 4.0f});
    EXPECT_EQ(both->find("experts")->experts(), 2u);
    EXPECT_FLOAT_EQ(both->mean_squares("experts", 2, 1, 2)[1], (512 * 4 + 1) / 513.0f);
  }
  m.write(folder / "again.dat", Form::legacy);
  EXPECT_EQ(ImportanceMatrix::read(folder / "again.dat").mean_squares("w", 1), m.mean_squares("w", 1));
}

// Counts and sums as large as a file can hold are added and written, not wrapped around or made infinite.
TEST(ImportanceMatrix, KeepsTheMeansOfAnyCounts) {
  const TemporaryFolder folder;
  GgufTensor sums, counts;
  sums.name = "w.in_sum2";
  counts.name = "w.counts";
  sums.shape = counts.shape = {1};
  GgufWriter writer(folder / "large.gguf",
                    {{"general.type", std::string("imatrix")},
                     {"imatrix.datasets", GgufArray{std::vector<std::string>{"t"}}},
                     {"imatrix.chunk_count", std::numeric_limits<std::uint32_t>::max()},
                     {"imatrix.chunk_size", std::uint32_t{512}}},
                    {sums, counts});
  const float large = 3e38f;
  writer.write("w.in_sum2", std::as_bytes(std::span(&large, 1)));
  writer.write("w.counts", std::as_bytes(std::span(&large, 1)));
  writer.finish();
  ImportanceMatrix m = ImportanceMatrix::read(folder / "large.gguf");
  m.merge(ImportanceMatrix::read(folder / "large.gguf"));
  EXPECT_EQ(m.chunk_count, std::numeric_limits<std::uint32_t>::max());
  for (const Form form : {Form::gguf, Form::legacy}) {
    m.write(folder / "out", form);
    EXPECT_NEAR(ImportanceMatrix::read(folder / "out").mean_squares("w", 1)[0], 1, 1e-5);
  }
}

TEST(ImportanceMatrix, RefusesWhatIsNone) {
  const TemporaryFolder folder;
  ImportanceMatrix m = example();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  expect_error(ErrorCode::non_finite, "'blk.0.attn_q.weight': token 1, channel 0 is nan", [&] {
    m.add("blk.0.attn_q.weight", view({1, 2, 3, nan, 5, 6}, 3));
  });
  EXPECT_EQ(m.mean_squares("blk.0.attn_q.weight", 3)[0], 8.5f) << "nothing of the batch was counted";
  expect_error(ErrorCode::shape_mismatch, "2 columns", [&] { m.add("blk.0.attn_q.weight", view({1, 2}, 2)); });
  expect_error(ErrorCode::invalid_argument, "no expert 2 of 2", [&] {
    m.add("blk.0.ffn_up_exps.weight", view({1, 2}, 2), 2, 2);
  });
  expect_error(ErrorCode::shape_mismatch, "it is another model's",
               [&] { (void)m.mean_squares("blk.0.attn_q.weight", 4); });
  expect_error(ErrorCode::invalid_argument, "none is written", [&] { ImportanceMatrix().write(folder / "x"); });
  m.add(std::string(60, 'n'), view({1}, 1));
  expect_error(ErrorCode::invalid_argument, "longer name", [&] { m.write(folder / "x"); });
  EXPECT_FALSE(fs::exists(folder / "x"));
  expect_error(ErrorCode::not_found, "nowhere", [&] { (void)ImportanceMatrix::read(folder / "nowhere"); });
  std::ofstream(folder / "text") << "this is only a text, and a rather long one";
  expect_error(ErrorCode::corrupt_file, "no importance matrix", [&] { (void)ImportanceMatrix::read(folder / "text"); });
  Bytes().number(1).text("w").number(1).number(2).value(1).value(-1).save(folder / "negative");
  expect_error(ErrorCode::non_finite, "sum 1 of 'w' is -", [&] { (void)ImportanceMatrix::read(folder / "negative"); });
  Bytes().number(1).text("w").number(1).number(std::numeric_limits<std::int32_t>::max()).save(folder / "huge");
  expect_error(ErrorCode::corrupt_file, "ends inside", [&] { (void)ImportanceMatrix::read(folder / "huge"); });
  GgufWriter(folder / "model.gguf", {{"general.type", std::string("model")}}, {}).finish();
  expect_error(ErrorCode::corrupt_file, "of the type 'model'",
               [&] { (void)ImportanceMatrix::read(folder / "model.gguf"); });
}

}  // namespace
}  // namespace nibble
