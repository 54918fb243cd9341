// Arrays on the emulated device whose far end lies beyond 2³² elements: they take addresses, and memory where they are
// written. What a kernel computes there must be what it computes of the same values in a small array.
#pragma once

#include "tests/cuda/machine.h"

namespace nibble::cuda_test {

/// `count` elements; only those that are put somewhere have memory.
template <class T>
class FarArray {
 public:
  explicit FarArray(std::size_t count) : memory_(nullptr) {
    require(cudaMalloc(&memory_, count * sizeof(T)), "cudaMalloc");
  }
  ~FarArray() { (void)cudaFree(memory_); }
  FarArray(const FarArray&) = delete;
  FarArray& operator=(const FarArray&) = delete;
  [[nodiscard]] T* get() const { return static_cast<T*>(memory_); }
  void put(std::size_t at, const T* values, std::size_t n) const {
    require(cudaMemcpy(get() + at, values, n * sizeof(T), cudaMemcpyHostToDevice), "cudaMemcpy");
    require(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  }
  void put(std::size_t at, const std::vector<T>& values) const { put(at, values.data(), values.size()); }
  [[nodiscard]] std::vector<T> host(std::size_t at, std::size_t n) const {
    std::vector<T> out(n);
    require(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    require(cudaMemcpy(out.data(), get() + at, n * sizeof(T), cudaMemcpyDeviceToHost), "cudaMemcpy");
    return out;
  }

 private:
  void* memory_;
};

/// A matrix of three rows: the second begins beyond 2³¹ elements, the third beyond 2³².
template <class T>
class FarRows {
 public:
  static constexpr std::size_t rows = 3, stride = (std::size_t{1} << 31) + 64;
  /// `whole`: the last row has a whole stride, too, as kernels that are told a pitch may read.
  explicit FarRows(std::size_t cols, bool whole = false)
      : cols_(cols), array_((rows - 1) * stride + (whole ? stride : cols)) {}
  /// Of rows × cols values that touch.
  FarRows(const std::vector<T>& values, std::size_t cols) : FarRows(cols) {
    for (std::size_t r = 0; r < rows; ++r) array_.put(r * stride, values.data() + r * cols, cols);
  }
  [[nodiscard]] T* get() const { return array_.get(); }
  /// The rows, touching.
  [[nodiscard]] std::vector<T> host() const {
    std::vector<T> out;
    for (std::size_t r = 0; r < rows; ++r) {
      const std::vector<T> row = array_.host(r * stride, cols_);
      out.insert(out.end(), row.begin(), row.end());
    }
    return out;
  }

 private:
  std::size_t cols_;
  FarArray<T> array_;
};

/// Runs `body` with blocks first … end − 1 of each launch only.
template <class Body>
void with_blocks(std::uint64_t first, std::uint64_t end, const Body& body,
                 cuda_emulation::ThreadOrder order = cuda_emulation::ThreadOrder::ascending) {
  cuda_emulation::with_options({order, 1, 1, false, first, end}, body);
}

template <class T>
void expect_same_bits(const std::vector<T>& actual, const std::vector<T>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  EXPECT_EQ(std::memcmp(actual.data(), expected.data(), actual.size() * sizeof(T)), 0);
}

}  // namespace nibble::cuda_test
