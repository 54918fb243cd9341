// A backend of a caller's own, which does what a built-in one does and counts; and a default that throws when asked.
#pragma once

#include <atomic>
#include <cstdlib>
#include <utility>

#include "nibble/backend/backend.h"

namespace nibble::testing_support {

/// Not registered: whoever uses it was given it. What it packs belongs to the built-in one, which then multiplies.
class CountingBackend final : public Backend {
 public:
  explicit CountingBackend(const Backend& real = find_backend("scalar")) : real_(real) {}
  std::string_view name() const noexcept override { return "counting"; }
  std::string_view description() const noexcept override { return "a test's own"; }
  bool available() const noexcept override { return true; }
  bool supports(const QuantSpec& spec) const noexcept override { return real_.supports(spec); }
  QuantizedMatrix quantize(FloatMatrix w, const QuantSpec& spec, std::string_view name, Executor& e) const override {
    ++quantized;
    return real_.quantize(w, spec, name, e);
  }
  void dequantize(const QuantizedMatrix& q, std::size_t first, MatrixView<float> out, Executor& e) const override {
    ++decoded;
    real_.dequantize(q, first, out, e);
  }
  using Backend::pack;
  PackedMatrixPtr pack(QuantizedMatrix q, Executor& e) const override {
    ++packed;
    return real_.pack(std::move(q), e);
  }
  PackedMatrixPtr pack(FloatMatrix w, Executor& e) const override {
    ++packed;
    return real_.pack(w, e);
  }
  PackedMatrixPtr pack(BlockMatrix blocks, Executor& e) const override {
    ++packed;
    return real_.pack(std::move(blocks), e);
  }
  void matmul(MatrixView<const float> x, const PackedMatrix& w, MatrixView<float> y, Executor& e) const override {
    real_.matmul(x, w, y, e);
  }
  void matmul_transposed(MatrixView<const float> x, const PackedMatrix& w, MatrixView<float> y,
                         Executor& e) const override {
    real_.matmul_transposed(x, w, y, e);
  }

  mutable std::atomic<int> quantized = 0, decoded = 0, packed = 0;

 private:
  const Backend& real_;
};

/// While it lives, default_backend() throws not_found.
class NoDefaultBackend {
 public:
  NoDefaultBackend() { ::setenv("NIBBLE_BACKEND", "nobody asks for the default", 1); }
  ~NoDefaultBackend() { ::unsetenv("NIBBLE_BACKEND"); }
  NoDefaultBackend(const NoDefaultBackend&) = delete;
  NoDefaultBackend& operator=(const NoDefaultBackend&) = delete;
};

}  // namespace nibble::testing_support
