// Layers packed by the real libraries decode to the values that the same libraries compute.
//
// The fixtures and the script that made them are in tests/interop. `expected` is in the type in which the library
// computed it, so our value, rounded to it once, must be equal; two of bitsandbytes' within the bound derived below.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "nibble/format/checkpoint.h"
#include "tests/support/memory_checkpoint.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using namespace testing_support;

std::vector<fs::path> fixtures() {
  std::vector<fs::path> out;
  for (const auto& entry : fs::directory_iterator(NIBBLE_TEST_DATA "/interop/fixtures")) out.push_back(entry.path());
  std::sort(out.begin(), out.end());
  return out;
}

float rounded(float value, DType type) {
  if (type == DType::f16) return static_cast<float>(f16(value));
  if (type == DType::bf16) return static_cast<float>(bf16(value));
  return value;
}

/// How far the library may be from us: nowhere, but where bitsandbytes rounds the same product or sum elsewhere. With
/// u = 2⁻²⁴ the unit roundoff of fp32:
///   8-bit   (code·absmax)·(1/127) there, code·(absmax·(1/127)) here: two roundings each, so 4u·|w|
///   nested  absmax = (map·nested) + offset rounded twice there and once, fused, here: u·|map·nested| + 2u·|absmax|
///   with
///           |map·nested| ≤ |absmax| + |offset|; times |code| ≤ |w|/|absmax|; and one rounding of w each
float tolerance(const QuantizedMatrix& q, std::size_t r, std::size_t c) {
  constexpr float u = 0x1p-24f;
  const float w = std::fabs(q.value(r, c));
  if (q.spec.scheme == SchemeKind::llm_int8) return 4 * u * w;
  if (!q.spec.double_quant) return 0;
  const float absmax = std::fabs(q.scale(q.group_of(r, c)));
  return w / absmax * u * (3 * absmax + std::fabs(q.nested.offset)) + 2 * u * w;
}

std::size_t differing_values(const Checkpoint& checkpoint, const QuantizedMatrix& q) {
  const DType type = checkpoint.info("expected").type;
  const auto expected = checkpoint.read_f32("expected");
  std::size_t differing = 0;
  for (std::size_t r = 0; r < q.rows; ++r)
    for (std::size_t c = 0; c < q.cols; ++c) {
      const float ours = rounded(q.value(r, c), type);
      differing += !(std::fabs(ours - expected[r * q.cols + c]) <= tolerance(q, r, c));
    }
  return differing;
}

TEST(LibraryFixtures, DecodeToTheLibrariesOwnValues) {
  const auto all = fixtures();
  ASSERT_EQ(all.size(), 34u);
  for (const fs::path& path : all) {
    const auto checkpoint = Checkpoint::open(path);
    const auto q = decode_quantized(checkpoint, "layer");
    ASSERT_TRUE(q) << path;
    EXPECT_EQ(q->rows, 64u) << path;
    EXPECT_EQ(q->cols, 128u) << path;
    EXPECT_EQ(differing_values(checkpoint, *q), 0u) << path;
    EXPECT_EQ(!q->g_idx.empty(), path.filename().string().ends_with("-act")) << path;
    const auto layout = std::string(name_of(*layout_of(checkpoint, "layer")));
    EXPECT_TRUE(path.filename().string().starts_with(layout.substr(0, 4))) << path << ": " << layout;
  }
}

/// What a fixture's layer becomes in another layout, where nothing is lost, still has the library's values.
TEST(LibraryFixtures, KeepTheirValuesThroughEveryLayoutThatHoldsThem) {
  std::size_t conversions = 0;
  for (const fs::path& path : fixtures()) {
    const auto checkpoint = Checkpoint::open(path);
    const auto q = *decode_quantized(checkpoint, "layer");
    for (const CheckpointLayout to : checkpoint_layouts()) {
      if (!loss_in(to, q).empty()) continue;
      const MemoryCheckpoint file(to, q);
      const auto back = decode_quantized(file, "L");
      ASSERT_TRUE(back) << path << " in " << name_of(to);
      EXPECT_EQ(differing_values(checkpoint, *back), 0u) << path << " in " << name_of(to);
      ++conversions;
    }
  }
  EXPECT_GE(conversions, 100u);
}

/// Our encoder gives the library's own bytes: the layouts leave no freedom.
TEST(LibraryFixtures, AreWrittenBackByteForByte) {
  for (const fs::path& path : fixtures()) {
    const auto checkpoint = Checkpoint::open(path);
    const auto layout = *layout_of(checkpoint, "layer");
    if (layout == CheckpointLayout::awq_gemv_fast || layout == CheckpointLayout::bitsandbytes)
      continue;  // only read; and a quant_state has a length of ours
    const auto q = *decode_quantized(checkpoint, "layer");
    for (const NamedTensor& t : encode_quantized(layout, "layer", q, DType::f32)) {
      const auto theirs = checkpoint.find(t.name);
      if (!theirs) {
        EXPECT_TRUE(t.name.ends_with("g_idx")) << path << ": " << t.name;  // left out by the oldest writers
        continue;
      }
      // GPTQModel takes 1 from whole words, which v1_field does not where a zero point is 0.
      const bool by_word = checkpoint.quantization()->zeros_by_word() && layout == CheckpointLayout::gptq &&
                           q.spec.has_zero_points() && q.spec.bits != 3;
      if (by_word && t.name.ends_with("qzeros")) {
        EXPECT_FALSE(same_bytes(t.bytes, theirs->bytes)) << path;
        EXPECT_NE(loss_in(layout, q).find("is 0, which v1 stores less 1"), std::string::npos) << loss_in(layout, q);
        continue;
      }
      EXPECT_EQ(t.shape, theirs->shape) << path << ": " << t.name;
      EXPECT_TRUE(same_bytes(t.bytes, theirs->bytes)) << path << ": " << t.name;
    }
  }
}

}  // namespace
}  // namespace nibble
