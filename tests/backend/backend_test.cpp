#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <thread>

#include "nibble/matrix/scheme_registry.h"
#include "nibble/quantize/quantize.h"
#include "tests/support/child.h"
#include "tests/support/expect_error.h"
#include "tests/support/random_data.h"

namespace nibble {
namespace {

using namespace testing_support;

/// An engine's own backend: forwards to the reference and counts.
class CountingBackend final : public Backend {
 public:
  explicit CountingBackend(bool available) : available_(available) {}
  std::string_view name() const noexcept override { return available_ ? "counting" : "elsewhere"; }
  std::string_view description() const noexcept override { return "a test's own"; }
  bool available() const noexcept override { return available_; }
  bool supports(const QuantSpec& spec) const noexcept override { return spec.bits == 4; }
  QuantizedMatrix quantize(FloatMatrix w, const QuantSpec& spec, std::string_view name, Executor& e) const override {
    ++calls;
    return reference().quantize(w, spec, name, e);
  }
  void dequantize(const QuantizedMatrix& q, std::size_t first, MatrixView<float> out, Executor& e) const override {
    ++calls;
    reference().dequantize(q, first, out, e);
  }
  using Backend::pack;  // GGUF blocks are refused, as by default
  PackedMatrixPtr pack(QuantizedMatrix q, Executor& e) const override { return reference().pack(std::move(q), e); }
  PackedMatrixPtr pack(FloatMatrix w, Executor& e) const override { return reference().pack(w, e); }
  void matmul(MatrixView<const float> x, const PackedMatrix& w, MatrixView<float> y, Executor& e) const override {
    reference().matmul(x, w, y, e);
  }
  void matmul_transposed(MatrixView<const float> x, const PackedMatrix& w, MatrixView<float> y,
                         Executor& e) const override {
    reference().matmul_transposed(x, w, y, e);
  }
  static inline std::atomic<int> calls = 0;

 private:
  static const Backend& reference() { return find_backend("scalar"); }
  bool available_;
};

// First, for where all tests run in one process: what is asked for is asked for the first time in the children.
TEST(Registry, AChildForkedWhileAnotherThreadAsksForTheFirstTimeHasItsBackends) {
  if (!testing_support::forks_beside_threads)
    GTEST_SKIP() << "a child may wait for a lock of the sanitizer's allocator";
  const auto asks = [] { return default_backend().available() && backends().size() > 1 && find_scheme("nf4"); };
  for (int i = 0; i < 30; ++i) {
    const int status = exit_of([&] {
      std::atomic<bool> running{false};
      std::thread first([&] {
        running = true;
        (void)asks();
      });
      while (!running) std::this_thread::yield();
      const int grandchild = exit_of([&] { ::_exit(asks() ? 0 : 1); });
      first.join();
      ::_exit(grandchild);
    });
    ASSERT_EQ(status, 0) << "at the " << i << "th fork";
  }
}

TEST(Registry, AnEngineBringsItsOwnBackend) {
  register_backend(std::make_unique<CountingBackend>(true));
  expect_error(ErrorCode::invalid_argument, "'counting' is registered already",
               [] { register_backend(std::make_unique<CountingBackend>(true)); });
  QuantizeOptions options;
  options.backend = &find_backend("counting");
  const auto w = normal(4 * 64, 1);
  const auto q = quantize(MatrixView<const float>(w.data(), 4, 64), "int4-g32-sym", options);
  std::vector<float> back(w.size());
  dequantize(q, {back.data(), 4, 64}, options);
  EXPECT_EQ(CountingBackend::calls, 2);
  ::setenv("NIBBLE_BACKEND", "counting", 1);
  EXPECT_EQ(&default_backend(), options.backend);
  ::unsetenv("NIBBLE_BACKEND");
  EXPECT_NE(&default_backend(), options.backend);  // never chosen unasked
}

TEST(Registry, AnOverrideIsNeverIgnored) {
  ::setenv("NIBBLE_BACKEND", "avx1024", 1);
  expect_error(ErrorCode::not_found, "there is no backend 'avx1024'; there are", [] { (void)default_backend(); });
  ::unsetenv("NIBBLE_BACKEND");
  register_backend(std::make_unique<CountingBackend>(false));
  expect_error(ErrorCode::unsupported, "this CPU cannot run the backend 'elsewhere'",
               [] { (void)find_backend("elsewhere"); });
}

TEST(Registry, TellsHowCudaIsBroughtIn) {
  expect_error(ErrorCode::not_found, "nibble::cuda::register_backend()", [] { (void)find_backend("cuda"); });
}

}  // namespace
}  // namespace nibble
