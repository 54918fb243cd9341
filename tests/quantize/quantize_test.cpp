#include "nibble/quantize/quantize.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "tests/support/random_data.h"

namespace nibble {
namespace {

using testing_support::normal;

void expect_error(ErrorCode code, std::initializer_list<const char*> words, const std::function<void()>& action) {
  try {
    action();
    ADD_FAILURE() << "no error";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), code) << e.what();
    for (const char* w : words) EXPECT_NE(std::string(e.what()).find(w), std::string::npos) << e.what();
  }
}

TEST(Quantize, NamesTheFirstValueThatIsNotFinite) {
  auto w = normal(300 * 256, 2);
  const MatrixView<const float> m(w.data(), 300, 256);
  w[200 * 256 + 3] = -INFINITY;
  w[123 * 256 + 45] = NAN;
  w[123 * 256 + 99] = INFINITY;
  for (const char* spec : {"nf4", "int4-g32-asym", "int8-tensor-sym", "nf4-b100", "llm-int8"})
    expect_error(ErrorCode::non_finite, {"'layer.weight'", "row 123", "column 45", "NaN"},
                 [&] { (void)quantize(m, spec, {.name = "layer.weight"}); });
}

TEST(Quantize, RefusesWhatCannotBeQuantized) {
  const auto w = normal(64, 3, 1e6f);
  expect_error(ErrorCode::invalid_argument, {"0 × 8"},
               [&] { (void)quantize(MatrixView<const float>(w.data(), 0, 8), "nf4"); });
  expect_error(ErrorCode::shape_mismatch, {"stride"},
               [&] { (void)quantize(MatrixView<const float>(w.data(), 2, 8, 4), "nf4"); });
  expect_error(ErrorCode::non_finite, {"scale", "row 0"},
               [&] { (void)quantize(MatrixView<const float>(w.data(), 8, 8), "int4-g8-sym-f16"); });
  expect_error(ErrorCode::unsupported, {"I32"},
               [&] { (void)quantize(FloatMatrix(w.data(), DType::i32, 8, 8, 8), "nf4"); });
}

TEST(Registry, TheEnvironmentNamesTheBackend) {
  ::setenv("NIBBLE_BACKEND", "scalar", 1);
  EXPECT_EQ(default_backend().name(), "scalar");
  ::setenv("NIBBLE_BACKEND", "avx1024", 1);
  expect_error(ErrorCode::not_found, {"avx1024", "scalar"}, [] { (void)default_backend(); });
  ::unsetenv("NIBBLE_BACKEND");
}

}  // namespace
}  // namespace nibble
