// Packing: where codes go, and that threads do not matter.
#include <gtest/gtest.h>

#include <cstring>
#include <thread>
#include <vector>

#include "nibble/quantize/quantize.h"
#include "tests/support/backends.h"
#include "tests/support/random_data.h"

namespace nibble {
namespace {

using testing_support::available;
using testing_support::normal;

/// unpack() reads codes by CodeLayout, so that what comes back lay where it says, whatever is left over of the rows and
/// columns that are interleaved at once.
TEST(Packing, PutsCodesWhereTheLayoutSays) {
  for (const Backend* b : available())
    for (int bits = 2; bits <= 8; ++bits)
      for (const std::size_t rows : {1u, 16u, 64u, 70u})
        for (const std::size_t cols : {32u, 96u, 480u, 2080u}) {
          const auto w = normal(rows * cols, static_cast<unsigned>(bits));
          const QuantizedMatrix q =
              quantize(MatrixView<const float>(w.data(), rows, cols), "int" + std::to_string(bits) + "-g32-sym");
          const QuantizedMatrix back = b->unpack(*b->pack(q));
          ASSERT_EQ(std::memcmp(back.codes.data(), q.codes.data(), q.codes.size()), 0)
              << b->name() << ", " << bits << " bits, " << rows << "x" << cols;
        }
}

/// Runs its tasks on threads of their own.
class ThreePool final : public Executor {
 public:
  int concurrency() const noexcept override { return 3; }
  void run(std::size_t count, FunctionRef<void(std::size_t)> task) override {
    std::vector<std::thread> threads;
    for (std::size_t i = 0; i < count; ++i) threads.emplace_back([&, i] { task(i); });
    for (auto& t : threads) t.join();
  }
};

TEST(Packing, IsTheSameOnAnyNumberOfThreads) {
  const std::size_t rows = 200, cols = 512;
  const auto w = normal(rows * cols, 77), x = normal(3 * cols, 78);
  const FloatMatrix weights(MatrixView<const float>(w.data(), rows, cols));
  ThreePool pool;
  for (const Backend* b : available()) {
    const auto expect_same = [&](const PackedMatrixPtr& one, const PackedMatrixPtr& many, const std::string& what) {
      std::vector<float> y(3 * rows), z(3 * rows);
      const MatrixView<const float> in(x.data(), 3, cols);
      b->matmul(in, *one, {y.data(), 3, rows}, serial_executor());
      b->matmul(in, *many, {z.data(), 3, rows}, serial_executor());
      EXPECT_EQ(y, z) << b->name() << ", " << what;
    };
    for (const std::string spec : {"int4-g32-asym", "int5-g64-sym", "int8", "nf4-dq", "llm-int8"}) {
      const QuantizedMatrix q = quantize(weights, spec);
      expect_same(b->pack(q), b->pack(q, pool), spec);
    }
    std::vector<bf16> halves(w.begin(), w.end());
    const FloatMatrix rounded(MatrixView<const bf16>(halves.data(), rows, cols));
    expect_same(b->pack(weights), b->pack(weights, pool), "fp32");
    expect_same(b->pack(rounded), b->pack(rounded, pool), "bf16");
  }
}

}  // namespace
}  // namespace nibble
