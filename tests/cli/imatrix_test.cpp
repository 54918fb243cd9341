// nibble imatrix, and export-gguf by what it measures.
#include <gtest/gtest.h>

#include <fstream>

#include "nibble/format/imatrix.h"
#include "tests/support/run_tool.h"
#include "tests/support/temporary_folder.h"

namespace nibble::cli {
namespace {

namespace fs = std::filesystem;
using testing_support::has;
using testing_support::run;
using testing_support::TemporaryFolder;

const std::string kModel = NIBBLE_EXAMPLE_DATA "/austen-5m";

std::string bytes_of(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

class Imatrix : public testing::Test {
 protected:
  [[nodiscard]] std::string at(const char* name) const { return (folder_ / name).string(); }
  TemporaryFolder folder_;
  const std::string few_ = " --samples 4 --sample-tokens 64";
};

TEST_F(Imatrix, IsMeasuredAddedAndUsed) {
  const auto made = run("imatrix " + kModel + " -o " + at("a.gguf") + few_);
  ASSERT_EQ(made.status, 0) << made.text;
  EXPECT_TRUE(has(made.text, "43 weights, 4 × 64 tokens")) << made.text;
  const auto again = run("imatrix " + kModel + " -o " + at("a.gguf") + few_);
  EXPECT_EQ(again.status, 1);
  EXPECT_TRUE(has(again.text, "--force replaces it")) << again.text;
  const auto more = run("imatrix " + kModel + " -o " + at("b.dat") + few_ + " --format legacy --add " + at("a.gguf"));
  ASSERT_EQ(more.status, 0) << more.text;
  EXPECT_TRUE(has(more.text, "4 × 64 tokens, and what " + at("a.gguf") + " held")) << more.text;
  const auto one = ImportanceMatrix::read(at("a.gguf")), both = ImportanceMatrix::read(at("b.dat"));
  EXPECT_EQ(both.chunk_count, 8u);
  EXPECT_EQ(one.entries().size(), both.entries().size());

  const std::string to = "export-gguf " + kModel + " ";
  ASSERT_EQ(run(to + at("plain.gguf") + " --type q4_k --quiet").status, 0);
  ASSERT_EQ(run(to + at("weighed.gguf") + " --type q4_k --quiet --imatrix " + at("a.gguf")).status, 0);
  EXPECT_NE(bytes_of(at("plain.gguf")), bytes_of(at("weighed.gguf")));
  // Measured on the way it is the same, but for what the file says of where that was read.
  const std::string text = NIBBLE_EXAMPLE_DATA "/calibration.txt";
  ASSERT_EQ(run(to + at("now.gguf") + " --type q4_k --quiet --calibration " + text + few_).status, 0);
  const std::string a = bytes_of(at("weighed.gguf")), b = bytes_of(at("now.gguf"));
  EXPECT_EQ(a.substr(a.size() / 2), b.substr(b.size() - (a.size() - a.size() / 2)));
}

TEST_F(Imatrix, SaysWhatItDoesNotKnowAndThatItIsNoModel) {
  ImportanceMatrix one;
  const std::vector<float> x(256, 1.0f);
  one.add("blk.0.attn_q.weight", MatrixView<const float>(x.data(), 1, 256));
  one.write(at("one.gguf"));
  const auto exported = run("export-gguf " + kModel + " " + at("m.gguf") + " --type q4_0 --imatrix " + at("one.gguf"));
  EXPECT_TRUE(has(exported.text, "41 of 42 linear layers are not in the importance matrix")) << exported.text;
  const auto rounded = run("quantize " + kModel + " -o " + at("q") + " --method nf4 --imatrix " + at("one.gguf"));
  EXPECT_TRUE(has(rounded.text, "41 of 42 linear layers")) << rounded.text;
  EXPECT_TRUE(has(run("eval " + at("one.gguf")).text, "this is an importance matrix"));
  EXPECT_EQ(run("imatrix --add " + at("one.gguf") + " " + kModel + " -o " + at("two.gguf") + few_).status, 0);
  EXPECT_EQ(run("imatrix " + kModel + " -o " + at("three.gguf") + few_, "TMPDIR=/nowhere").status, 0);
}

TEST_F(Imatrix, WeighsRoundingToo) {
  ASSERT_EQ(run("imatrix " + kModel + " -o " + at("a.gguf") + few_ + " --quiet").status, 0);
  const std::string to = "quantize " + kModel + " --quiet --method int3-g128-asym -o ";
  ASSERT_EQ(run(to + at("plain")).status, 0);
  const auto weighed = run(to + at("weighed") + " --imatrix " + at("a.gguf"));
  ASSERT_EQ(weighed.status, 0) << weighed.text;
  EXPECT_NE(bytes_of(at("plain") + "/model.safetensors"), bytes_of(at("weighed") + "/model.safetensors"));
  const std::string no = "quantize " + kModel + " -o " + at("no") + " --imatrix " + at("a.gguf") + " --method ";
  EXPECT_TRUE(has(run(no + "gptq-4-g128").text, "measures its calibration text itself"));
  EXPECT_TRUE(has(run(no + "bf16").text, "'bf16' rounds no layer"));
  EXPECT_FALSE(fs::exists(at("no")));
}

TEST_F(Imatrix, OptionsThatDoNothingAreRefused) {
  std::ofstream(at("text.txt")) << "a text";
  const std::string to = "export-gguf " + kModel + " " + at("x.gguf") + " --type q4_0";
  EXPECT_NE(run(to + " --samples 4").status, 0);
  const auto both = run(to + " --imatrix " + at("text.txt") + " --calibration " + at("text.txt"));
  EXPECT_EQ(both.status, 1);
  EXPECT_TRUE(has(both.text, "nibble imatrix --add")) << both.text;
  const auto floats = run("export-gguf " + kModel + " " + at("x.gguf") + " --imatrix " + at("text.txt"));
  EXPECT_TRUE(has(floats.text, "F16 has none")) << floats.text;
  EXPECT_TRUE(has(run(to + " --adapter a --imatrix " + at("text.txt")).text, "--adapter writes"));
  EXPECT_NE(run(to + " --imatrix ''").status, 0);
  EXPECT_TRUE(has(run("imatrix " + at("nowhere") + " -o " + at("x.gguf")).text, "there is no '"))
      << "not its tokenizer";
  EXPECT_NE(run("quantize " + kModel + " -o " + at("no") + " --method nf4 --cache-memory 1MB").status, 0);
  const auto wrong = run(to + " --imatrix " + at("text.txt"));
  EXPECT_EQ(wrong.status, 1);
  EXPECT_TRUE(has(wrong.text, "no importance matrix")) << wrong.text;
  EXPECT_FALSE(fs::exists(at("x.gguf")));
}

}  // namespace
}  // namespace nibble::cli
