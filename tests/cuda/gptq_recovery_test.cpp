// What GPTQ on the device does with Hessians that say too little, or nothing; its memory; its errors.
#include <cmath>

#include "tests/cuda/gptq_replay.h"
#include "tests/cuda/gptq_support.h"
#include "tests/support/expect_error.h"

namespace nibble {
namespace {

using namespace cuda_test;
using namespace testing_support;

void expect_same_report(const gptq::Report& actual, const gptq::Report& expected) {
  EXPECT_EQ(actual.name, expected.name);
  EXPECT_EQ(actual.damp_percent, expected.damp_percent);
  EXPECT_EQ(actual.tokens, expected.tokens);
  EXPECT_EQ(actual.coverage, expected.coverage);
  EXPECT_EQ(actual.dead_channels, expected.dead_channels);
  EXPECT_EQ(actual.recovery, expected.recovery);
  EXPECT_EQ(actual.fallback, expected.fallback);
}

/// What the device needed must be what the CPU did; its codes are followed.
void expect_recovery(const Hessian& h, const gptq::Options& o, const std::string& says, bool dominant = false) {
  const std::size_t rows = 6, cols = h.channels();
  const auto w = normal(rows * cols, 18);
  on_device([&](const cuda::Context& context) {
    const auto actual = cuda::gptq_solve(context, view(w, cols), h, o, nullptr);
    const auto expected = gptq::solve(view(w, cols), h, o);
    expect_same_report(actual.report, expected.report);
    ASSERT_FALSE(actual.report.recovery.empty());
    EXPECT_NE(actual.report.recovery.back().find(says), std::string::npos) << actual.report.recovery.back();
    EXPECT_TRUE(std::isfinite(actual.report.loss));
    const double epsilon = o.double_precision ? 0x1p-53 : 0x1p-24;
    const bool raised = says.find("raised to 0") != std::string::npos;  // else the factor is fp64's
    GptqReplay replay(view(w, cols), h, o, actual.report.damp_percent, {epsilon, raised ? epsilon : 0x1p-53}, dominant);
    ASSERT_LT(replay.perturbation(), 0.1);
    for (std::size_t r = 0; r < rows; ++r) (void)replay.row(actual.matrix, r);
    // Or the bound says nothing, as it does of a GPU's fp32 factor of a Hessian so near to singular.
    if (!on_gpu || o.double_precision || !raised) EXPECT_LT(replay.most_slack, 0.125);
    EXPECT_NEAR(actual.report.loss, replay.loss, replay.loss_slack + 1e-12 * replay.loss);
  });
}

TEST(CudaGptqRecovery, IsTheCpus) {
  Hessian deficient(48, "deficient");  // two tokens
  deficient.add(view(activations(2, 48, 37), 48));
  expect_recovery(deficient, {.group_size = 16, .damp_percent = 0}, "damp raised to 0.01");
  expect_recovery(deficient, {.group_size = 16, .damp_percent = 0, .damp_increment = 0.005, .double_precision = true},
                  "damp raised to 0.005");
  expect_recovery(paired_hessian(64), {.group_size = 32, .damp_percent = 2e-7}, "factored in fp64");
  expect_recovery(indefinite_hessian(32), {.group_size = 32}, "sum of its row's magnitudes", true);
}

TEST(CudaGptqRecovery, RoundsToNearestLoudly) {
  const std::size_t rows = 5, cols = 48;
  Hessian zero(cols, "zero"), few(cols, "few");
  zero.add(view(std::vector<float>(10 * cols), cols));
  few.add(view(normal(49 * cols, 21), cols));
  std::vector<double> sum(cols * cols);
  for (std::size_t i = 0; i < cols; ++i) sum[i * cols + i] = 1e308;
  const Hessian huge = Hessian::from_sum({sum.data(), cols, cols}, 1, "huge");
  const struct {
    const Hessian* h;
    gptq::Options options;
    const char* why;
  } cases[] = {{&zero, {.act_order = true}, "all its inputs were zero"},
               {&few, {.bits = 3, .symmetric = false, .calibration_tokens = 10000}, "49 of 10000 calibration tokens"},
               {&few, {.bits = 8, .group_size = -1, .calibration_tokens = 10000}, "less than 0.5 %"},
               {&huge, {}, "its Hessian cannot be factored"}};
  const auto values = normal(rows * cols, 20);
  const auto halves = converted<f16>(values);
  for (const auto& c : cases)
    for (const FloatMatrix w :
         {FloatMatrix(view(values, cols)), FloatMatrix{halves.data(), DType::f16, rows, cols, cols}})
      on_device([&](const cuda::Context& context) {
        gptq::Options o = c.options;
        o.name = "experts.7.down_proj";
        const auto actual = cuda::gptq_solve(context, w, *c.h, o, nullptr), expected = gptq::solve(w, *c.h, o);
        expect_same(actual.matrix, expected.matrix);
        expect_same_report(actual.report, expected.report);
        EXPECT_NE(actual.report.fallback.find("'experts.7.down_proj' was rounded to nearest"), std::string::npos);
        EXPECT_NE(actual.report.fallback.find(c.why), std::string::npos) << actual.report.fallback;
        if (!std::isfinite(expected.report.loss)) return;
        if (w.type != DType::f32) return;
        // H and ΔW are rounded, then a sum of n products, each a product with H: on both sides.
        const Doubles delta = doubles_of(values, huge) - decoded(actual.matrix);
        Doubles h(index(cols), index(cols));
        for (std::size_t i = 0; i < cols; ++i)
          for (std::size_t j = 0; j < cols; ++j)
            h(index(i), index(j)) = std::abs(2 * c.h->sum(i, j) / static_cast<double>(c.h->tokens()));
        const double most = loss_of(delta.cwiseAbs(), h);
        EXPECT_NEAR(actual.report.loss, expected.report.loss, 2 * (cols + 3) * 0x1p-24 * most);
        EXPECT_EQ(actual.report.error, actual.report.loss / rows);
      });
}

TEST(CudaGptq, RefusesWhatTheCpuRefuses) {
  const Layer layer;
  on_device([&](const cuda::Context& context) {
    const auto refused = [&](ErrorCode code, const std::string& says, const gptq::Options& o) {
      expect_error(code, says, [&] { (void)gptq::solve(layer.weights(), layer.h, o); });
      expect_error(code, says, [&] { (void)cuda::gptq_solve(context, layer.weights(), layer.h, o, nullptr); });
    };
    refused(ErrorCode::invalid_argument, "bits is 9", {.bits = 9});
    refused(ErrorCode::invalid_argument, "damp_percent is -0.1", {.damp_percent = -0.1});
    refused(ErrorCode::invalid_argument, "two orders", {.act_order = true, .act_group_aware = true});
    refused(ErrorCode::cancelled, "solving", {.progress = [](double done, std::string_view) { return done < 0.3; }});
    expect_error(ErrorCode::invalid_argument, "group_size is 0",
                 [&] { (void)cuda::gptq_device_bytes(context, 4, 4, DType::f32, {.group_size = 0}); });
    expect_error(ErrorCode::unsupported, "it is 4 × 4294967296; cuBLAS takes",
                 [&] { (void)cuda::gptq_device_bytes(context, 4, std::size_t{1} << 32, DType::f32, {}); });
    expect_error(ErrorCode::unsupported, "refit_scales is solved on a CPU alone",
                 [&] { (void)cuda::gptq_device_bytes(context, 4, 4, DType::f32, {.refit_scales = true}); });
    const Hessian both(layer.cols, "x", true);
    expect_error(ErrorCode::unsupported, "on a CPU alone", [&] {
      (void)cuda::gptq_solve(context, layer.weights(), both, {.qronos = true, .name = "up"}, nullptr);
    });
    auto w = layer.w;
    w[3 * layer.cols + 8] = NAN;
    for (const bool twice : {false, true})
      expect_error(ErrorCode::non_finite, "tensor 'up': row 3, column 8 is nan", [&] {
        const gptq::Options o{.double_precision = twice, .name = "up"};
        (void)cuda::gptq_solve(context, view(w, layer.cols), layer.h, o, nullptr);
      });
    w[3 * layer.cols + 8] = 1e30f;
    expect_error(ErrorCode::non_finite, "tensor 'up': the scale of row 3, group 1 does not fit its type", [&] {
      (void)cuda::gptq_solve(context, view(w, layer.cols), layer.h, {.group_size = 8, .name = "up"}, nullptr);
    });
    expect_error(ErrorCode::shape_mismatch, "the Hessian 'other' has 4 channels", [&] {
      Hessian other(4, "other");
      other.add(view(activations(4, 4, 1), 4));
      (void)cuda::gptq_solve(context, layer.weights(), other, {}, nullptr);
    });
  });
}

/// Counts what goes through the hook.
class CountingAllocator final : public cuda::DeviceAllocator {
 public:
  void* allocate(std::size_t bytes, cudaStream_t stream) override {
    ++calls;
    held += bytes;
    most = std::max(most, held);
    return cuda::default_allocator().allocate(bytes, stream);
  }
  void deallocate(void* memory, std::size_t bytes, cudaStream_t stream) noexcept override {
    held -= bytes;
    cuda::default_allocator().deallocate(memory, bytes, stream);
  }
  std::size_t calls = 0, held = 0, most = 0;
};

/// All memory is the allocator's, and no more than said; exactly as much where the greediest phase was gone through
/// (of a GPU's own cuSOLVER another one may be).
void check_memory(const Hessian& h, std::size_t rows, const gptq::Options& o, bool exact) {
  const auto w = normal(rows * h.channels(), 50);
  power_on();
  CountingAllocator allocator;
  const cuda::Context context(0, allocator);
  const std::size_t said = cuda::gptq_device_bytes(context, rows, h.channels(), DType::f32, o);
  EXPECT_EQ(allocator.calls, 0u);
  (void)cuda::gptq_solve(context, view(w, h.channels()), h, o, nullptr);
  expect_allocations(allocator.calls, allocator.most);
  EXPECT_EQ(allocator.held, 0u);
  EXPECT_LE(allocator.most, said) << o.name;
  if (exact && !on_gpu) EXPECT_EQ(allocator.most, said) << o.name;
}

TEST(CudaGptq, HoldsNoMoreMemoryThanItSays) {
  const Layer layer;
  check_memory(layer.h, 3, {.group_size = 16, .double_precision = true}, true);
  check_memory(layer.h, 3, {.group_size = 16, .alpha = 0.25, .double_precision = true}, true);
  check_memory(layer.h, 600, {.group_size = 16, .symmetric = false}, true);
  check_memory(layer.h, 600, {.group_size = 16, .static_groups = true, .alpha = 0.25}, true);
  check_memory(layer.h, 3, {.group_size = 16}, false);
  check_memory(layer.h, 3, {.group_size = 16, .calibration_tokens = 1000000}, false);
  check_memory(layer.h, 600, {.group_size = 16, .symmetric = false, .calibration_tokens = 1000000}, false);
  check_memory(paired_hessian(64), 3, {.group_size = 32, .damp_percent = 2e-7}, true);
}

TEST(CudaHessian, SumsAsTheCpu) {
  const std::size_t tokens = 300, cols = 12;
  const auto x = activations(tokens, cols, 33), full = activations(tokens, cols, 34);
  on_device([&](const cuda::Context& context) {
    const DeviceArray<float> dx(x), dfull(full);
    const auto part = [&](const DeviceArray<float>& from, std::size_t first, std::size_t n) {
      return cuda::DeviceMatrix{from.get() + first * cols, DType::f32, n, cols, cols};
    };
    cuda::DeviceHessian plain(context, cols, "up", nullptr), both(context, cols, "up", nullptr, true);
    plain.add(part(dx, 0, 20), nullptr);
    plain.add(part(dx, 20, 280), nullptr);
    both.add(part(dx, 0, 10), part(dfull, 0, 10), nullptr);
    both.add(part(dx, 10, 290), part(dfull, 10, 290), nullptr);
    Hessian expected(cols, "up", true);
    expected.add(view(x, cols), view(full, cols));
    for (const Hessian& actual : {plain.download(nullptr), both.download(nullptr)}) {
      EXPECT_EQ(actual.tokens(), tokens);
      for (std::size_t i = 0; i < cols; ++i)
        for (std::size_t j = 0; j < cols; ++j) {
          double size = 0, cross = 0;
          for (std::size_t t = 0; t < tokens; ++t) {
            const double xi = x[t * cols + i], xj = x[t * cols + j];
            size += std::abs(xi * xj);
            cross += std::abs((full[t * cols + i] - xi) * xj);
          }
          EXPECT_NEAR(actual.sum(i, j), expected.sum(i, j), 2 * tokens * 0x1p-24 * size);  // both round
          if (actual.asymmetric())
            EXPECT_NEAR(actual.cross(i, j), expected.cross(i, j), 2 * (tokens + 1) * 0x1p-24 * cross);
        }
    }
    EXPECT_FALSE(plain.asymmetric());
    expect_error(ErrorCode::unsupported, "'up' are F16", [&] {
      plain.add({dx.get(), DType::f16, 1, cols, cols}, nullptr);
    });
    expect_error(ErrorCode::invalid_argument, "needs the full-precision", [&] { both.add(part(dx, 0, 1), nullptr); });
    expect_error(ErrorCode::invalid_argument, "was not made asymmetric",
                 [&] { plain.add(part(dx, 0, 1), part(dfull, 0, 1), nullptr); });
    expect_error(ErrorCode::shape_mismatch, "2 tokens, but 1 in full precision",
                 [&] { both.add(part(dx, 0, 2), part(dfull, 0, 1), nullptr); });
    auto bad = x;
    bad[7 * cols + 3] = NAN;
    const DeviceArray<float> dbad(bad);
    plain.add(part(dbad, 0, 10), nullptr);
    expect_error(ErrorCode::non_finite, "the Hessian of 'up': element (3, 0) is",
                 [&] { (void)plain.download(nullptr); });
    both.add(part(dx, 0, 10), part(dbad, 0, 10), nullptr);
    expect_error(ErrorCode::non_finite, "the cross statistic of 'up': element (3, 0) is",
                 [&] { (void)both.download(nullptr); });
  });
}

}  // namespace
}  // namespace nibble
