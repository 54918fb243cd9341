// Every kernel where its matrices' elements are numbered beyond 2³²: an index of 32 bits would wrap there. Rows lie far
// apart where a kernel takes a stride; elsewhere the last blocks of a huge grid run alone. And what is more than the
// grid that CUDA allows, or than the kernel asks for: a block then takes several parts.
#include <numeric>

#include "kernels/cuda/activations.h"
#include "kernels/cuda/adam8.h"
#include "kernels/cuda/blocks.h"
#include "kernels/cuda/dequantize.h"
#include "kernels/cuda/gather.h"
#include "kernels/cuda/gemv.h"
#include "kernels/cuda/gptq_dense.h"
#include "kernels/cuda/gptq_update.h"
#include "kernels/cuda/quantize.h"
#include "tests/cuda/far_rows.h"

namespace nibble {
namespace {

using namespace cuda_test;
using namespace testing_support;

constexpr std::size_t kRows = FarRows<float>::rows, kStride = FarRows<float>::stride;
constexpr std::size_t kFar = std::size_t{1} << 32;

QuantizedMatrix weights(const char* spec, std::size_t cols) {
  const auto w = normal(kRows * cols, 61);
  return quantize(MatrixView<const float>(w.data(), kRows, cols), spec);
}

/// A canonical matrix whose rows of codes lie far apart.
struct FarCanonical {
  DeviceCanonical near;
  FarRows<std::uint8_t> codes;
  explicit FarCanonical(const QuantizedMatrix& q) : near(q, 16), codes(near.view().pitch, true) {
    for (std::size_t r = 0; r < kRows; ++r)
      require(cudaMemcpy(codes.get() + r * kStride, near.view().codes + r * near.view().pitch, near.view().pitch,
                         cudaMemcpyDeviceToDevice),
              "cudaMemcpy");
    require(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  }
  [[nodiscard]] cuda::CanonicalMatrix view() const {
    cuda::CanonicalMatrix q = near.view();
    q.codes = codes.get();
    q.pitch = kStride;
    return q;
  }
};

TEST(CudaFarIndex, DequantizeReadsAndWritesRowsBeyond32Bits) {
  const std::size_t cols = 72;
  for (const char* spec : {"int4-g32-asym", "int3-g20-asym", "nf4-b64"}) {
    const FarCanonical w(weights(spec, std::string(spec) == "nf4-b64" ? 64 : cols));
    const std::size_t n = w.near.view().cols;
    const DeviceArray<float> near(kRows * n);
    const FarRows<float> far(n);
    require(cuda::dequantize(w.near.view(), 0, near.get(), DType::f32, kRows, n, nullptr), "dequantize");
    require(cuda::dequantize(w.view(), 0, far.get(), DType::f32, kRows, kStride, nullptr), "dequantize");
    expect_same_bits(far.host(), near.host());
  }
}

TEST(CudaFarIndex, QuantizeReadsAndWritesRowsBeyond32Bits) {
  const std::size_t cols = 72;
  for (const char* name : {"int4-g24-asym", "int3-channel-sym"}) {
    const QuantizedMatrix q = weights(name, cols);
    const auto x = converted<f16>(normal(kRows * cols, 61));
    const DeviceArray<f16> near(x);
    const FarRows<f16> far(x, cols);
    const std::size_t groups = q.spec.group_count(kRows, cols), row_bytes = q.row_bytes();
    const DeviceArray<std::uint8_t> workspace(cuda::quantize_workspace(q.spec, kRows, cols) + 16);
    const DeviceArray<cuda::QuantizeStatus> status(1);
    const Bytes codes(kRows * row_bytes), scales(4 * groups), zeros(4 * groups), far_scales(4 * groups);
    const FarRows<std::uint8_t> far_codes(row_bytes);
    const auto run = [&](const f16* from, std::size_t stride, std::uint8_t* to, std::size_t pitch, const Bytes& scale) {
      cuda::CanonicalBuffers buffers;
      buffers.codes = to, buffers.pitch = pitch, buffers.scales = scale.get(), buffers.zero_points = zeros.get();
      require(cuda::quantize(from, DType::f16, kRows, cols, stride, q.spec, buffers, workspace.get(), status.get(),
                             nullptr),
              "quantize");
    };
    run(near.get(), cols, codes.get(), row_bytes, scales);
    run(far.get(), kStride, far_codes.get(), kStride, far_scales);
    expect_same_bits(far_codes.host(), codes.host());
    expect_same_bits(far_scales.host(), scales.host());
  }
}

TEST(CudaFarIndex, GemvReadsAndWritesRowsBeyond32Bits) {
  const std::size_t cols = 96;
  for (const char* spec : {"int4-g32-asym", "int8-g16-asym", "int4-g7-asym"}) {
    const FarCanonical w(weights(spec, cols));
    const auto x = converted<f16>(normal(kRows * cols, 62));
    const DeviceArray<f16> near_x(x);
    const FarRows<f16> far_x(x, cols);
    const DeviceArray<float> near(kRows * kRows);
    const FarRows<float> far(kRows);
    require(cuda::gemv(w.near.view(), near_x.get(), DType::f16, cols, kRows, near.get(), DType::f32, kRows, nullptr),
            "gemv");
    require(cuda::gemv(w.view(), far_x.get(), DType::f16, kStride, kRows, far.get(), DType::f32, kStride, nullptr),
            "gemv");
    expect_same_bits(far.host(), near.host());
  }
}

TEST(CudaFarIndex, BlocksAreWrittenToRowsBeyond32Bits) {
  const std::size_t cols = 64, count = kRows * cols / block_size(BlockType::q8_0);
  std::vector<std::uint8_t> bytes(count * sizeof(blocks::Q8_0));
  for (std::size_t i = 0; i < bytes.size(); ++i)
    bytes[i] = static_cast<std::uint8_t>(i % sizeof(blocks::Q8_0) == 1 ? 60 : i * 7);
  const Bytes from(bytes);
  const DeviceArray<bf16> near(kRows * cols);
  const FarRows<bf16> far(cols);
  require(cuda::dequantize_blocks(BlockType::q8_0, from.get(), kRows, cols, near.get(), DType::bf16, cols, nullptr),
          "");
  require(cuda::dequantize_blocks(BlockType::q8_0, from.get(), kRows, cols, far.get(), DType::bf16, kStride, nullptr),
          "");
  expect_same_bits(far.host(), near.host());
}

TEST(CudaFarIndex, ColumnsAreGatheredFromAndToRowsBeyond32Bits) {
  const std::size_t cols = 40;
  const auto x = converted<f16>(normal(kRows * cols, 63));
  const FarRows<f16> far_x(x, cols), far(cols);
  std::vector<std::int32_t> order(cols);
  for (std::size_t c = 0; c < cols; ++c) order[c] = static_cast<std::int32_t>(c * 7 % cols);
  const DeviceArray<std::int32_t> columns(order);
  const cuda::ActivationMatrix view{far_x.get(), DType::f16, kRows, cols, kStride};
  require(cuda::gather_columns(view, columns.get(), cols, nullptr, far.get(), kStride, nullptr), "gather_columns");
  const auto out = far.host();
  for (std::size_t t = 0; t < kRows; ++t)
    for (std::size_t c = 0; c < cols; ++c) EXPECT_EQ(out[t * cols + c].bits, x[t * cols + c * 7 % cols].bits);
}

TEST(CudaFarIndex, OutliersAreFoundInRowsBeyond32Bits) {
  const std::size_t cols = 40;
  std::vector<f16> x(kRows * cols, f16(1.0f));
  x[5] = x[cols + 11] = x[2 * cols + 30] = f16(9.0f);
  const FarRows<f16> far(x, cols);
  const DeviceArray<std::uint32_t> marks(cols);
  const DeviceArray<std::int32_t> columns(cols), count(1);
  require(cuda::find_outlier_columns({far.get(), DType::f16, kRows, cols, kStride}, 6, marks.get(), columns.get(),
                                     count.get(), nullptr),
          "find_outlier_columns");
  ASSERT_EQ(count.host()[0], 3);
  const auto found = columns.host();
  EXPECT_EQ(std::vector<std::int32_t>(found.begin(), found.begin() + 3), (std::vector<std::int32_t>{5, 11, 30}));
}

/// The last of 2²⁰ + 1 tokens of 4096 columns, which is also where a value that is not finite is reported.
TEST(CudaFarIndex, TheLastOfAMillionTokensIsRounded) {
  const std::size_t cols = 4096, last = kFar / cols;
  auto values = converted<f16>(normal(cols, 64));
  const FarArray<f16> far_x(kFar + cols);
  const FarArray<std::int8_t> far(kFar + cols);
  const DeviceArray<f16> near_x(values);
  const DeviceArray<std::int8_t> near(cols);
  const DeviceArray<float> absmax(1), far_absmax(last + 1);
  const DeviceArray<unsigned long long> place(std::vector<unsigned long long>{0});
  const auto run = [&] {
    require(cuda::round_activations({near_x.get(), DType::f16, 1, cols, cols}, nullptr, near.get(), cols, absmax.get(),
                                    place.get(), nullptr),
            "round_activations");
    with_blocks(last, last + 1, [&] {  // the kernel that sets the place back has one block, which does not run
      require(cuda::round_activations({far_x.get(), DType::f16, last + 1, cols, cols}, nullptr, far.get(), cols,
                                      far_absmax.get(), place.get(), nullptr),
              "round_activations");
    });
  };
  far_x.put(kFar, values);
  run();
  expect_same_bits(far.host(kFar, cols), near.host());
  EXPECT_EQ(far_absmax.host()[last], absmax.host()[0]);
  values[17] = f16(INFINITY);
  far_x.put(kFar, values);
  run();
  EXPECT_EQ(cuda::place_of(place.host()[0]), kFar + 17);
}

TEST(CudaFarIndex, TheLastOfFourBillionParametersAreUpdated) {
  const std::size_t n = kAdam8Block;
  const auto parameters = converted<bf16>(normal(n, 65)), gradients = converted<bf16>(normal(n, 66));
  const AdamStep step = adam_step({}, 1);
  const FarArray<bf16> far(kFar + n), far_g(kFar + n);
  const FarArray<std::uint8_t> far_m(kFar + n), far_v(kFar + n);
  const FarArray<float> far_ma(kFar / n + 1), far_va(kFar / n + 1);
  for (const auto* absmax : {&far_ma, &far_va}) absmax->put(kFar / n, std::vector<float>{0});
  const DeviceArray<bf16> near(parameters), g(gradients);
  const Bytes m(std::vector<std::uint8_t>(n, 0)), v(std::vector<std::uint8_t>(n, 0));
  const DeviceArray<float> ma(std::vector<float>{0}), va(std::vector<float>{0});
  far.put(kFar, parameters);
  far_g.put(kFar, gradients);
  require(cuda::adam8(near.get(), g.get(), DType::bf16, n, {m.get(), ma.get(), v.get(), va.get()}, step, nullptr), "");
  const std::uint64_t last = kFar / 2048;
  with_blocks(last, last + 1, [&] {
    require(cuda::adam8(far.get(), far_g.get(), DType::bf16, kFar + n,
                        {far_m.get(), far_ma.get(), far_v.get(), far_va.get()}, step, nullptr),
            "adam8");
  });
  expect_same_bits(far.host(kFar, n), near.host());
  expect_same_bits(far_m.host(kFar, n), m.host());
  expect_same_bits(far_v.host(kFar, n), v.host());
  expect_same_bits(far_ma.host(kFar / n, 1), ma.host());
}

TEST(CudaFarIndex, GptqSubtractsRowsBeyond32Bits) {
  const std::size_t cols = 30;
  const auto a = normal(kRows * cols, 67), b = normal(kRows * cols, 68);
  const FarRows<float> far_a(a, cols), far_b(b, cols), out(cols);
  require(cuda::gptq_subtract(far_a.get(), kStride, far_b.get(), kStride, out.get(), kStride, kRows, cols, nullptr),
          "gptq_subtract");
  const auto difference = out.host();
  for (std::size_t i = 0; i < a.size(); ++i) EXPECT_EQ(difference[i], a[i] - b[i]) << i;
}

/// The row that begins at element 2³² of matrices without gaps, which is the first block's.
TEST(CudaFarIndex, GptqMultipliesARowBeyond32Bits) {
  const std::size_t cols = std::size_t{1} << 15, row = kFar / cols;
  const FarArray<float> a(kFar + cols), b(kFar + cols);
  const std::vector<float> ones(cols, 1.0f), twos(cols, 2.0f);
  a.put(kFar, ones);
  b.put(kFar, twos);
  const DeviceArray<double> sums(row + 1);
  with_blocks(0, 1, [&] {
    require(cuda::gptq_row_products(a.get(), b.get(), row + 1, cols, sums.get(), nullptr), "gptq_row_products");
  });
  EXPECT_EQ(sums.host()[row], 2.0 * static_cast<double>(cols));
  EXPECT_EQ(sums.host()[0], 0.0);
}

TEST(CudaFarIndex, GptqNarrowsAndClearsElementsBeyond32Bits) {
  const std::size_t threads = 128, step = 4096 * threads;  // from one element of a thread to its next
  const FarArray<double> wide(kFar + threads);
  const FarArray<float> narrow(kFar + threads);
  const std::vector<double> values(threads, 0.1);
  wide.put(kFar, values);
  with_blocks(0, 1, [&] { require(cuda::gptq_downcast(wide.get(), narrow.get(), kFar + threads, nullptr), ""); });
  EXPECT_EQ(narrow.host(kFar, threads), std::vector<float>(threads, 0.1f));
  const std::size_t n = 65600;  // n² is 2³² and 8 million more
  const FarArray<float> square(n * n);
  const std::vector<float> ones(threads, 1.0f);
  for (std::size_t i = kFar; i + threads < n * n; i += step) square.put(i, ones);
  with_blocks(0, 1, [&] { require(cuda::gptq_keep_above_diagonal(square.get(), n, nullptr), ""); });
  std::size_t cleared = 0, kept = 0;
  for (std::size_t i = kFar; i + threads < n * n; i += step) {
    const auto after = square.host(i, threads);
    for (std::size_t k = 0; k < threads; ++k) {
      const bool clears = (i + k) % n >= (i + k) / n;
      ASSERT_EQ(after[k], clears ? 0.0f : 1.0f) << i + k;
      ++(clears ? cleared : kept);
    }
  }
  EXPECT_GT(kept, 0u);
}

/// Two positions of 1100 and the last 64 of four million rows.
TEST(CudaFarIndex, GptqSolvesPositionsBeyond32Bits) {
  const std::size_t cols = 1100, width = 64, many = std::size_t{1} << 22;
  const auto w = normal(2 * width, 69);
  std::vector<float> inverse(cols * cols, 0.0f);
  inverse[(cols - 1) * cols + cols - 1] = 0.7f, inverse[(cols - 1) * cols + cols - 2] = 0.2f;
  inverse[(cols - 2) * cols + cols - 2] = 0.9f;
  std::vector<std::int32_t> group(cols), members(cols), first(cols / 2 + 1);
  for (std::size_t i = 0; i < cols; ++i) group[i] = static_cast<std::int32_t>(i / 2);
  for (std::size_t g = 0; g < first.size(); ++g) first[g] = static_cast<std::int32_t>(2 * g);
  std::iota(members.begin(), members.end(), 0);
  const DeviceArray<float> u(inverse);
  const DeviceArray<std::int32_t> groups(group), ordered(members), firsts(first);
  const auto solve = [&](std::size_t rows) {
    const FarArray<float> weights(cols * rows), scales(cols / 2 * rows);
    const FarArray<std::uint8_t> codes(cols * rows);
    const FarArray<std::int32_t> zeros(cols / 2 * rows);
    const FarArray<float> errors(2 * rows);
    const FarArray<double> losses(rows);
    const std::size_t from = rows - width;
    for (std::size_t i = 0; i < 2; ++i) weights.put((cols - 1 - i) * rows + from, w.data() + i * width, width);
    losses.put(from, std::vector<double>(width, 0.0));
    cuda::GptqStep step;
    step.rows = rows, step.cols = cols, step.begin = 0, step.end = 2, step.groups = cols / 2;
    cuda::GptqBuffers<float> b;
    b.weights = weights.get(), b.inverse = u.get(), b.group = groups.get(), b.members = ordered.get();
    b.first_member = firsts.get(), b.codes = codes.get(), b.scales = scales.get(), b.zero_points = zeros.get();
    b.errors = errors.get(), b.losses = losses.get();
    with_blocks(from / width, from / width + 1, [&] { require(cuda::gptq_update(step, b, nullptr), "gptq_update"); });
    std::vector<float> out = scales.host(from, width);
    for (std::size_t i = 0; i < 2; ++i) {
      for (const std::uint8_t code : codes.host((cols - 1 - i) * rows + from, width))
        out.push_back(static_cast<float>(code));
      for (const float e : errors.host(i * rows + from, width)) out.push_back(e);
    }
    for (const double loss : losses.host(from, width)) out.push_back(static_cast<float>(loss));
    return out;
  };
  const std::vector<float> near = solve(width);
  EXPECT_NE(near[width], near[width + 1]) << "codes differ";
  expect_same_bits(solve(many), near);
}

// ---- Work that is larger than a grid may be, so that blocks take several parts: the first block's second part.
// --------

constexpr std::size_t kMaxGridY = 65535;

TEST(CudaBeyondTheGrid, DequantizeTakesColumns) {
  const DeviceCanonical small(weights("int4-tensor-sym", 64), 16);
  const std::size_t first = kMaxGridY * 256, cols = first + 8;
  cuda::CanonicalMatrix q = small.view();
  const FarArray<std::uint8_t> codes(cols / 2);
  require(cudaMemcpy(codes.get() + first / 2, q.codes, 4, cudaMemcpyDeviceToDevice), "cudaMemcpy");
  const DeviceArray<float> near(64);
  const FarArray<float> far(cols);
  require(cuda::dequantize(q, 0, near.get(), DType::f32, 1, 64, nullptr), "dequantize");
  q.rows = 1, q.cols = cols, q.pitch = cols / 2, q.codes = codes.get();
  with_blocks(0, 1, [&] { require(cuda::dequantize(q, 0, far.get(), DType::f32, 1, cols, nullptr), "dequantize"); });
  const auto expected = near.host();
  expect_same_bits(far.host(first, 8), std::vector<float>(expected.begin(), expected.begin() + 8));
}

TEST(CudaBeyondTheGrid, GatherTakesTokens) {
  const std::size_t cols = 8, tokens = kMaxGridY + 1;
  std::vector<f16> x(tokens * cols);
  for (std::size_t c = 0; c < cols; ++c) x[kMaxGridY * cols + c] = f16(static_cast<float>(c + 1));
  const DeviceArray<f16> from(x), to(x.size());
  const DeviceArray<std::int32_t> columns(std::vector<std::int32_t>{7, 6, 5, 4, 3, 2, 1, 0});
  with_blocks(0, 1, [&] {
    require(cuda::gather_columns({from.get(), DType::f16, tokens, cols, cols}, columns.get(), cols, nullptr, to.get(),
                                 cols, nullptr),
            "gather_columns");
  });
  const auto out = to.host();
  for (std::size_t c = 0; c < cols; ++c)
    EXPECT_EQ(out[kMaxGridY * cols + c].bits, f16(static_cast<float>(8 - c)).bits) << c;
}

TEST(CudaBeyondTheGrid, OutliersAreFoundInTokens) {
  const std::size_t cols = 8, stride = 256, tokens = kMaxGridY * 64 + 1;
  const FarArray<f16> from(tokens * stride);
  from.put((tokens - 1) * stride + 5, std::vector<f16>{f16(9.0f)});
  const DeviceArray<std::uint32_t> marks(cols);
  const DeviceArray<std::int32_t> columns(cols), count(1);
  with_blocks(0, 1, [&] {
    require(cuda::find_outlier_columns({from.get(), DType::f16, tokens, cols, stride}, 6, marks.get(), columns.get(),
                                       count.get(), nullptr),
            "find_outlier_columns");
  });
  EXPECT_EQ(count.host()[0], 1);
  EXPECT_EQ(columns.host()[0], 5);
}

TEST(CudaBeyondTheGrid, GptqFitsGroups) {
  const std::size_t groups = kMaxGridY + 1;
  std::vector<std::int32_t> members(groups), first(groups + 1);
  std::iota(members.begin(), members.end(), 0);
  std::iota(first.begin(), first.end(), 0);
  std::vector<float> w(groups, 1.0f);
  w[0] = 3.0f;  // the last position's
  const DeviceArray<float> weights(w), scales(groups);
  const DeviceArray<std::int32_t> zeros(groups), ordered(members), firsts(first);
  cuda::GptqStep step;
  step.rows = 1, step.cols = groups, step.groups = groups;
  cuda::GptqBuffers<float> b;
  b.weights = weights.get(), b.members = ordered.get(), b.first_member = firsts.get();
  b.scales = scales.get(), b.zero_points = zeros.get();
  with_blocks(0, 1, [&] { require(cuda::gptq_fit(step, b, nullptr), "gptq_fit"); });
  EXPECT_EQ(scales.host()[kMaxGridY], grid_of({3.0f, 3.0f}, step.rule).scale);
}

/// Threads that are done with a row go on to the next before the first has added up what they left.
TEST(CudaBeyondTheGrid, GptqMultipliesRows) {
  const std::size_t rows = 4096 + 1, cols = 200;
  std::vector<float> a(rows * cols, 1.0f);
  std::fill_n(a.begin() + static_cast<std::ptrdiff_t>(4096 * cols), cols, 3.0f);
  const DeviceArray<float> device(a);
  for (const auto order : {cuda_emulation::ThreadOrder::ascending, cuda_emulation::ThreadOrder::descending}) {
    const DeviceArray<double> sums(rows);
    with_blocks(
        0, 1,
        [&] { require(cuda::gptq_row_products(device.get(), device.get(), rows, cols, sums.get(), nullptr), ""); },
        order);
    EXPECT_EQ(sums.host()[0], 200.0);
    EXPECT_EQ(sums.host()[4096], 1800.0);
  }
}

}  // namespace
}  // namespace nibble
