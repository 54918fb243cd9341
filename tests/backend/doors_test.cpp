// Every public call that takes a matrix, with every way that one can be broken: a typed error, and no memory touched.
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "nibble/format/quantized_tensors.h"
#include "nibble/quantize/activation.h"
#include "nibble/quantize/quantize.h"
#include "nibble/solver/awq.h"
#include "nibble/solver/gptq.h"
#include "tests/support/backends.h"
#include "tests/support/expect_error.h"
#include "tests/support/memory_checkpoint.h"
#include "tests/support/random_data.h"

namespace nibble {
namespace {

using namespace testing_support;

constexpr std::size_t kRows = 70, kCols = 128, kHuge = std::numeric_limits<std::size_t>::max() / 2;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

template <class Broken>
struct Damage {
  std::string name;
  std::function<Broken()> make;
};

/// Calls every door with every broken thing; `kinds` lists the codes that may come back.
template <class Broken>
void expect_refused(const std::vector<Damage<Broken>>& damages,
                    const std::vector<std::pair<std::string, std::function<void(const Broken&)>>>& doors) {
  for (const auto& damage : damages)
    for (const auto& [door, call] : doors) {
      const Broken broken = damage.make();
      try {
        call(broken);
        ADD_FAILURE() << door << " takes a matrix with " << damage.name;
      } catch (const Error& e) {
        const bool typed = e.code() == ErrorCode::corrupt_file || e.code() == ErrorCode::invalid_argument ||
                           e.code() == ErrorCode::shape_mismatch || e.code() == ErrorCode::unsupported;
        EXPECT_TRUE(typed) << door << ", " << damage.name << ": " << e.what();
      }
    }
}

QuantizedMatrix quantized(const char* spec) { return random_quantized(QuantSpec::parse(spec), kRows, kCols, 7); }

Damage<QuantizedMatrix> damaged(const char* name, const char* spec, void (*change)(QuantizedMatrix&)) {
  return {std::string(name) + " (" + spec + ")", [=] {
            QuantizedMatrix q = quantized(spec);
            change(q);
            return q;
          }};
}

/// Those whose buffers cannot be read as the shape asks.
std::vector<Damage<QuantizedMatrix>> unreadable() {
  std::vector<Damage<QuantizedMatrix>> out;
  for (const char* spec : {"int4-g32-sym", "int3-g32-asym", "int8", "int4-tensor-asym", "nf4", "nf4-b64-dq", "llm-int8",
                           "dynamic8", "int4-g24-asymraw"}) {
    out.push_back(damaged("no columns", spec, [](QuantizedMatrix& q) { q.cols = 0; }));
    out.push_back(damaged("no rows", spec, [](QuantizedMatrix& q) { q.rows = 0; }));
    out.push_back(damaged("a row too many", spec, [](QuantizedMatrix& q) { ++q.rows; }));
    out.push_back(damaged("9 columns too many", spec, [](QuantizedMatrix& q) { q.cols += 9; }));
    out.push_back(damaged("more rows than memory", spec, [](QuantizedMatrix& q) { q.rows = kHuge; }));
    out.push_back(damaged("more columns than memory", spec, [](QuantizedMatrix& q) { q.cols = kHuge; }));
    out.push_back(damaged("rows × columns that wrap to 0", spec, [](QuantizedMatrix& q) {
      q.rows = q.cols = std::size_t{1} << 32;
      q.codes = {};
    }));
    out.push_back(damaged("no codes", spec, [](QuantizedMatrix& q) { q.codes = {}; }));
    out.push_back(damaged("a byte of codes too few", spec,
                          [](QuantizedMatrix& q) { q.codes = Buffer::allocate(q.codes.size() - 1); }));
    out.push_back(damaged("no scales", spec, [](QuantizedMatrix& q) { q.scales = {}; }));
    out.push_back(damaged("9 bits", spec, [](QuantizedMatrix& q) { q.spec.bits = 9; }));
  }
  out.push_back(damaged("groups of 0", "int4-g32-sym", [](QuantizedMatrix& q) { q.spec.group_size = 0; }));
  out.push_back(damaged("blocks of 0", "nf4", [](QuantizedMatrix& q) { q.spec.group_size = 0; }));
  out.push_back(damaged("no zero points", "int4-g32-asym", [](QuantizedMatrix& q) { q.zero_points = {}; }));
  out.push_back(damaged("zero points of a byte", "int4-g24-asymraw",
                        [](QuantizedMatrix& q) { q.zero_points = Buffer::allocate(q.group_count()); }));
  out.push_back(damaged("a codebook of 15", "nf4", [](QuantizedMatrix& q) { q.codebook.pop_back(); }));
  out.push_back(damaged("no codebook", "dynamic8", [](QuantizedMatrix& q) { q.codebook.clear(); }));
  out.push_back(damaged("no nested absmax", "nf4-b64-dq", [](QuantizedMatrix& q) { q.nested.absmax.clear(); }));
  out.push_back(damaged("a nested map of 255", "nf4-b64-dq", [](QuantizedMatrix& q) { q.nested.map.pop_back(); }));
  out.push_back(damaged("a g_idx of 3", "int4-g32-sym", [](QuantizedMatrix& q) { q.g_idx.assign(3, 0); }));
  out.push_back(damaged("a g_idx beyond the groups", "int4-g32-sym", [](QuantizedMatrix& q) {
    q.g_idx = scattered_g_idx(kCols, 32);
    q.g_idx[5] = 4;
  }));
  out.push_back(damaged("a negative g_idx", "int4-g32-asym", [](QuantizedMatrix& q) {
    q.g_idx = scattered_g_idx(kCols, 32);
    q.g_idx[5] = -1;
  }));
  return out;
}

/// Those that can be read, and mean nothing.
std::vector<Damage<QuantizedMatrix>> meaningless() {
  std::vector<Damage<QuantizedMatrix>> out;
  out.push_back(damaged("a scale of infinity", "int4-g32-sym",
                        [](QuantizedMatrix& q) { q.scales.writable<f16>()[4] = f16(kInfinity); }));
  out.push_back(damaged("a scale of NaN", "int8", [](QuantizedMatrix& q) { q.scales.writable<float>()[4] = NAN; }));
  out.push_back(damaged("a nested scale of NaN", "nf4-b64-dq", [](QuantizedMatrix& q) { q.nested.offset = NAN; }));
  out.push_back(damaged("a codebook with infinity", "nf4", [](QuantizedMatrix& q) { q.codebook[3] = kInfinity; }));
  out.push_back(damaged("a zero point of 16", "int4-g32-asym",
                        [](QuantizedMatrix& q) { q.zero_points.writable<std::uint8_t>()[2] = 16; }));
  return out;
}

TEST(Doors, RefuseQuantizedMatricesThatCannotBeRead) {
  std::vector<float> y(kRows * kCols);
  std::vector<f16> half(kRows * kCols);
  const auto w = normal(kRows * kCols, 3);
  const MatrixView<const float> weights(w.data(), kRows, kCols);
  Hessian hessian(kCols);
  hessian.add(weights);
  std::vector<std::pair<std::string, std::function<void(const QuantizedMatrix&)>>> doors;
  for (const Backend* b : available()) {
    const std::string name(b->name());
    doors.emplace_back(name + " pack", [=](const QuantizedMatrix& q) { (void)b->pack(q); });
    doors.emplace_back(name + " dequantize", [&, b](const QuantizedMatrix& q) {
      b->dequantize(q, 0, {y.data(), kRows, kCols}, serial_executor());
    });
    doors.emplace_back(name + " dequantize of the last row", [&, b](const QuantizedMatrix& q) {
      b->dequantize_to(q, q.rows - 1, MatrixView<f16>(half.data(), 1, q.cols), default_executor());
    });
  }
  doors.emplace_back("dequantize", [&](const QuantizedMatrix& q) { dequantize(q, {y.data(), kRows, kCols}); });
  doors.emplace_back("layer_loss", [&](const QuantizedMatrix& q) { (void)gptq::layer_loss(weights, q, hessian); });
  doors.emplace_back("to_blocks", [](const QuantizedMatrix& q) { (void)to_blocks(q); });
  doors.emplace_back("with_scale_type", [](const QuantizedMatrix& q) { (void)with_scale_type(q, ScaleType::f32); });
  for (const CheckpointLayout layout : checkpoint_layouts())
    doors.emplace_back(std::string("encode_quantized ") + std::string(name_of(layout)),
                       [layout](const QuantizedMatrix& q) { (void)encode_quantized(layout, "L", q, DType::f16); });
  expect_refused(unreadable(), doors);
}

TEST(Doors, RefuseQuantizedMatricesThatMeanNothing) {
  std::vector<std::pair<std::string, std::function<void(const QuantizedMatrix&)>>> doors;
  for (const Backend* b : available())
    doors.emplace_back(std::string(b->name()) + " pack", [=](const QuantizedMatrix& q) { (void)b->pack(q); });
  doors.emplace_back("encode_quantized", [](const QuantizedMatrix& q) { (void)encode_quantized("L", q, DType::f16); });
  doors.emplace_back("with_scale_type", [](const QuantizedMatrix& q) { (void)with_scale_type(q, ScaleType::f32); });
  expect_refused(meaningless(), doors);
}

void expect_broken_blocks_refused(BlockType type) {
  const auto broken = [type](const char* name, void (*change)(BlockMatrix&)) {
    return Damage<BlockMatrix>{name, [=] {
                                 BlockMatrix m = BlockMatrix::allocate(type, kRows, 2 * kCols);
                                 change(m);
                                 return m;
                               }};
  };
  std::vector<Damage<BlockMatrix>> damages;
  damages.push_back(broken("no blocks", [](BlockMatrix& m) { m.blocks = {}; }));
  damages.push_back(broken("a byte too few", [](BlockMatrix& m) { m.blocks = Buffer::allocate(m.blocks.size() - 1); }));
  damages.push_back(broken("no rows", [](BlockMatrix& m) { m.rows = 0; }));
  damages.push_back(broken("no columns", [](BlockMatrix& m) { m.cols = 0; }));
  damages.push_back(broken("half a block", [](BlockMatrix& m) { m.cols -= 16; }));
  damages.push_back(broken("more rows than memory", [](BlockMatrix& m) { m.rows = kHuge; }));
  damages.push_back(broken("a row that wraps", [](BlockMatrix& m) { m.cols = std::size_t{1} << 63; }));
  std::vector<std::pair<std::string, std::function<void(const BlockMatrix&)>>> doors;
  for (const Backend* b : available())
    doors.emplace_back(std::string(b->name()) + " pack", [=](const BlockMatrix& m) { (void)b->pack(m); });
  if (exact_spec(type)) doors.emplace_back("to_quantized", [](const BlockMatrix& m) { (void)to_quantized(m); });
  expect_refused(damages, doors);
}

TEST(Doors, RefuseBrokenBlocks) {
  for (const BlockType type : kBlockTypes)
    if (!is_float(type)) expect_broken_blocks_refused(type);
}

TEST(Doors, RefuseBrokenFloats) {
  static const auto values = normal(kRows * kCols, 5);
  const auto broken = [](const char* name, FloatMatrix m) { return Damage<FloatMatrix>{name, [=] { return m; }}; };
  const std::vector<Damage<FloatMatrix>> damages = {
      broken("no address", {nullptr, DType::f32, kRows, kCols, kCols}),
      broken("rows that overlap", {values.data(), DType::f32, kRows, kCols, kCols - 1}),
      broken("a stride of 0", {values.data(), DType::f16, kRows, kCols, 0}),
      broken("an end beyond memory", {values.data(), DType::f32, kRows, kCols, kHuge}),
      broken("an end that wraps", {values.data(), DType::f32, 5, kCols, std::size_t{1} << 62}),
      broken("integers", {values.data(), DType::i32, kRows, kCols, kCols}),
      broken("fp64", {values.data(), DType::f64, kRows / 2, kCols, kCols})};
  static std::vector<float> out(kRows * kCols);
  Hessian hessian(kCols);
  hessian.add(MatrixView<const float>(values.data(), kRows, kCols));
  awq::ActivationStats stats(kCols);
  stats.add(MatrixView<const float>(values.data(), kRows, kCols));
  const auto q = quantized("int4-g32-sym");
  std::vector<std::pair<std::string, std::function<void(const FloatMatrix&)>>> doors;
  for (const Backend* b : available()) {
    const std::string name(b->name());
    doors.emplace_back(name + " pack", [=](FloatMatrix m) { (void)b->pack(m); });
    for (const char* spec : {"int4-g32-sym", "int4-tensor-asym", "nf4", "nf4-b48-dq", "llm-int8"})
      doors.emplace_back(name + " quantize " + spec,
                         [=](FloatMatrix m) { (void)b->quantize(m, QuantSpec::parse(spec), "w", default_executor()); });
    doors.emplace_back(name + " upcast", [=](FloatMatrix m) { b->upcast(m, {out.data(), kRows, kCols}); });
  }
  doors.emplace_back("encode in blocks",
                     [](FloatMatrix m) { (void)BlockMatrix::encode(m, BlockType::q4_0, "w", serial_executor()); });
  doors.emplace_back("gptq", [&](FloatMatrix m) { (void)gptq::solve(m, hessian, {.group_size = 32}); });
  doors.emplace_back("layer_loss", [&](FloatMatrix m) { (void)gptq::layer_loss(m, q, hessian); });
  doors.emplace_back("Hessian", [](FloatMatrix m) { Hessian(kCols).add(m); });
  doors.emplace_back("ActivationStats", [](FloatMatrix m) { awq::ActivationStats(kCols).add(m); });
  doors.emplace_back("search_scales", [&](FloatMatrix m) {
    const awq::LinearWeights one[] = {{"w", m}};
    (void)awq::search_scales(one, stats, {.grid = 2});
  });
  doors.emplace_back("search_clip", [&](FloatMatrix m) { (void)awq::search_clip({"w", m}, stats, {}); });
  expect_refused(damages, doors);
}

TEST(Doors, RefuseBrokenActivationsAndResults) {
  static std::vector<float> x(4 * kCols), y(4 * kRows), wide(4 * kCols);
  static const std::vector<f16> half(4 * kCols);
  using Broken = MatrixView<float>;
  const auto damages = [](float* data, std::size_t cols) {
    return std::vector<Damage<Broken>>{{"no address", [=] { return Broken(nullptr, 4, cols); }},
                                       {"rows that overlap", [=] { return Broken(data, 4, cols, cols - 1); }},
                                       {"a stride of 0", [=] { return Broken(data, 4, cols, 0); }},
                                       {"an end beyond memory", [=] { return Broken(data, 4, cols, kHuge); }}};
  };
  const MatrixView<float> good_x(x.data(), 4, kCols), good_y(y.data(), 4, kRows), good_wide(wide.data(), 4, kCols);
  std::vector<std::pair<std::string, std::function<void(const Broken&)>>> by_x, by_y, by_wide;
  for (const Backend* b : available())
    for (const char* spec : {"int8", "nf4", "int4-g24-asymraw"}) {
      const PackedMatrixPtr w = b->pack(quantized(spec));
      const std::string name = std::string(b->name()) + " " + spec + " ";
      Executor& on = serial_executor();
      by_x.emplace_back(name + "matmul", [=, &on](Broken m) { b->matmul(m, *w, good_y, on); });
      by_y.emplace_back(name + "matmul", [=, &on](Broken m) { b->matmul(good_x, *w, m, on); });
      by_x.emplace_back(name + "fused", [=, &on](Broken m) {
        const Projection p{w.get(), good_y};
        b->matmul_fused(m, {&p, 1}, Activations::int8, on);
      });
      by_y.emplace_back(name + "fused", [=, &on](Broken m) {
        const Projection two[] = {{w.get(), good_y}, {w.get(), m}};
        b->matmul_fused(good_x, two, Activations::fp32, on);
      });
      by_x.emplace_back(name + "gated", [=, &on](Broken m) {
        b->matmul_gated(m, *w, *w, GatedActivation::silu, good_y, Activations::fp32, on);
      });
      by_y.emplace_back(name + "gated", [=, &on](Broken m) {
        b->matmul_gated(good_x, *w, *w, GatedActivation::silu, m, Activations::fp32, on);
      });
      by_y.emplace_back(name + "transposed", [=, &on](Broken m) { b->matmul_transposed(m, *w, good_wide, on); });
      by_wide.emplace_back(name + "transposed", [=, &on](Broken m) { b->matmul_transposed(good_y, *w, m, on); });
      by_x.emplace_back(name + "matmul of f16", [=, &on](Broken m) {
        const auto* data = m.data == nullptr ? nullptr : half.data();
        b->matmul(MatrixView<const f16>(data, m.rows, m.cols, m.stride), *w, good_y, on);
      });
      by_wide.emplace_back(name + "dequantize", [=, &on](Broken m) { b->dequantize(quantized(spec), 0, m, on); });
      if (!b->has_int8_matmul(*w)) continue;
      by_x.emplace_back(name + "int8", [=, &on](Broken m) { b->matmul_int8(m, *w, good_y, on); });
      by_y.emplace_back(name + "int8", [=, &on](Broken m) { b->matmul_int8(good_x, *w, m, on); });
    }
  by_x.emplace_back("quantize_static", [](Broken m) { (void)quantize_static(m, {1, 128}, 8); });
  by_x.emplace_back("quantize_dynamic", [](Broken m) { (void)quantize_dynamic(m, 8, true); });
  by_wide.emplace_back("scale_columns", [](Broken m) { awq::scale_columns(m, std::vector<float>(kCols, 2)); });
  by_wide.emplace_back("fold_into_linear", [](Broken m) { awq::fold_into_linear(m, {}, std::vector<float>(4, 2)); });
  by_wide.emplace_back("apply_clip", [](Broken m) { awq::apply_clip(m, std::vector<float>(4, 1), 0); });
  expect_refused(damages(x.data(), kCols), by_x);
  expect_refused(damages(y.data(), kRows), by_y);
  expect_refused(damages(wide.data(), kCols), by_wide);
}

TEST(Doors, RefuseFusedProductsWithAPartThatIsMissing) {
  std::vector<float> x(kCols), y(kRows);
  for (const Backend* b : available()) {
    const PackedMatrixPtr w = b->pack(quantized("int8"));
    const auto fused = [&](const Projection& second) {
      const Projection two[] = {{w.get(), {y.data(), 1, kRows}}, second};
      y.assign(kRows, 5);
      b->matmul_fused({x.data(), 1, kCols}, two, Activations::fp32, serial_executor());
    };
    expect_error(ErrorCode::invalid_argument, "no weights", [&] { fused({nullptr, {y.data(), 1, kRows}}); });
    const std::vector<float> bias(kRows - 1);
    expect_error(ErrorCode::shape_mismatch, "bias", [&] { fused({w.get(), {y.data(), 1, kRows}, bias}); });
    EXPECT_EQ(y, std::vector<float>(kRows, 5)) << "nothing is written where one part is refused";
  }
}

TEST(Doors, WidenAndDequantizeNeedRoomForAll) {
  std::vector<float> in(6), out(6);
  const auto q = quantized("int4-g32-sym");
  for (const Backend* b : available()) {
    expect_error(ErrorCode::shape_mismatch, "x is 2 × 3, the output 3 × 2", [&] {
      b->upcast(MatrixView<const float>(in.data(), 2, 3), {out.data(), 3, 2});
    });
    expect_error(ErrorCode::shape_mismatch, "rows 69 to 71", [&] {
      b->dequantize(q, kRows - 1, {out.data(), 2, kCols}, serial_executor());
    });
  }
}

TEST(Doors, ActivationQuantizersNeedAScaleAndNumbers) {
  const std::vector<float> x = {1, 2, NAN, 4};
  std::vector<float> out(4);
  for (const float scale : {0.0f, -1.0f, kInfinity, NAN}) {
    const auto refuse = [&](const auto& call) { expect_error(ErrorCode::invalid_argument, "scale is", call); };
    refuse([&] { (void)quantize_static({x.data(), 1, 2}, {scale, 0}, 8); });
    refuse([&] { fake_quantize({x.data(), 2}, {scale, 0}, 8, {out.data(), 2}); });
    refuse([&] { fake_quantize_gradient({x.data(), 2}, {scale, 0}, 8, {x.data(), 2}, {out.data(), 2}); });
  }
  expect_error(ErrorCode::non_finite, "value 2 is nan", [&] { fake_quantize(x, {1, 0}, 8, out); });
}

TEST(Doors, TakeAnEmptyBatch) {
  std::vector<float> none;
  for (const Backend* b : available())
    for (const char* spec : {"int8", "nf4", "llm-int8"})
      EXPECT_NO_THROW(b->matmul(MatrixView<const float>(nullptr, 0, kCols), *b->pack(quantized(spec)),
                                {nullptr, 0, kRows}, default_executor()))
          << b->name() << " " << spec;
}

}  // namespace
}  // namespace nibble
