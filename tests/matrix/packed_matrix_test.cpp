#include "nibble/matrix/packed_matrix.h"

#include <gtest/gtest.h>

#include "nibble/backend/backend.h"
#include "tests/support/random_data.h"

namespace nibble {
namespace {

/// What an engine's own backend makes.
class Own final : public PackedMatrix {
 public:
  explicit Own(const Backend& backend) : PackedMatrix(backend, 3, 5) {}
  [[nodiscard]] std::size_t storage_bytes() const override { return 60; }
};

TEST(PackedMatrix, KnowsItsShapeAndWhoMadeIt) {
  const Backend& backend = find_backend("scalar");
  const PackedMatrixPtr own = std::make_shared<Own>(backend);
  EXPECT_EQ(own->rows(), 3u);
  EXPECT_EQ(own->cols(), 5u);
  EXPECT_EQ(&own->backend(), &backend);
  EXPECT_EQ(own->storage_bytes(), 60u);
}

TEST(PackedMatrix, HoldsWhatItWasMadeOf) {
  const auto w = testing_support::normal(64 * 64, 1);
  const PackedMatrixPtr packed = default_backend().pack(FloatMatrix(MatrixView<const float>(w.data(), 64, 64)));
  EXPECT_GE(packed->storage_bytes(), w.size() * sizeof(float));
}

}  // namespace
}  // namespace nibble
