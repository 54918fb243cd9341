#include "rotated_tensor.h"

#include <algorithm>

#include "merged_rows.h"
#include "nibble/core/impl/downcast.h"
#include "nibble/core/visit_float.h"

namespace nibble::inline NIBBLE_ABI::model {

namespace {

/// A matrix whose sides are rotated in stretches falls into tiles that have nothing to do with each other: one stretch
/// of rows by one of columns. Sides that are not rotated are cut as it suits the cache.
struct Tiles {
  std::size_t rows, cols;     ///< Of the whole.
  std::size_t height, width;  ///< Of a tile; the last of a row may be narrower.

  static Tiles of(const TensorChange& c) {
    constexpr std::size_t across = 64;  // columns that are rotated together, a few cache lines of each row
    Tiles t{c.rows, c.cols, c.output != nullptr ? c.output->size() : 1, c.cols};
    if (c.input != nullptr) t.width = c.input->size();
    else if (c.output != nullptr) t.width = std::min(across, c.cols);
    return t;
  }
  [[nodiscard]] std::size_t across() const { return (cols + width - 1) / width; }
  [[nodiscard]] std::size_t count() const { return across() * (rows / height); }
};

/// The matrix that is made of `values`, and what its tiles need.
struct Folding {
  const std::vector<float>& values;
  const TensorChange& change;
  std::span<const double> norm;
  DType type;
  const std::string& tensor;
};

/// Of one thread: a tile in double, again and again another.
class Tile {
 public:
  explicit Tile(const Folding& folding) : f_(folding), tiles_(Tiles::of(folding.change)) {}

  void make(std::size_t index, std::byte* to) {
    row_ = index / tiles_.across() * tiles_.height;
    col_ = index % tiles_.across() * tiles_.width;
    width_ = std::min(tiles_.width, tiles_.cols - col_);
    load();
    rotate();
    store(to);
  }

 private:
  [[nodiscard]] MatrixView<double> exact() { return {exact_.data(), tiles_.height, width_}; }

  void load() {
    exact_.resize(tiles_.height * width_);
    for (std::size_t r = 0; r < tiles_.height; ++r) {
      const float* from = f_.values.data() + (row_ + r) * tiles_.cols + col_;
      const std::span<double> row = exact().row(r);
      for (std::size_t i = 0; i < width_; ++i) row[i] = static_cast<double>(from[i]);
      if (f_.norm.empty()) continue;
      for (std::size_t i = 0; i < width_; ++i) row[i] *= f_.norm[col_ + i];
    }
  }

  void rotate() {
    if (f_.change.input != nullptr)
      for (std::size_t r = 0; r < tiles_.height; ++r) f_.change.input->apply(exact().row(r), scratch_);
    if (f_.change.output != nullptr && row_ >= f_.change.first_row)
      f_.change.output->apply_to_columns(exact(), scratch_);
  }

  void store(std::byte* to) {
    rounded_.resize(width_);
    for (std::size_t r = 0; r < tiles_.height; ++r) {
      const std::span<const double> row = exact().row(r);
      for (std::size_t i = 0; i < width_; ++i) rounded_[i] = once_rounded(row[i], f_.type);
      check_downcast(rounded_, f_.type, f_.tensor, tiles_.cols, row_ + r, col_);
      const std::size_t at = (row_ + r) * tiles_.cols + col_;
      downcast_floats(f_.type, rounded_.data(), width_, to + at * size_of(f_.type));
    }
  }

  const Folding& f_;
  const Tiles tiles_;
  std::size_t row_ = 0, col_ = 0, width_ = 0;
  std::vector<double> exact_, scratch_;
  std::vector<float> rounded_;
};

}  // namespace

Buffer rotated_tensor(const std::vector<float>& values, const TensorChange& change, std::span<const double> norm,
                      DType type, const std::string& tensor, Executor& executor) {
  const Folding folding{values, change, norm, type, tensor};
  Buffer out = Buffer::allocate(values.size() * size_of(type));
  auto* const to = out.writable<std::byte>();
  parallel_for(executor, Tiles::of(change).count(), 1, [&](std::size_t begin, std::size_t end) {
    Tile tile(folding);
    for (std::size_t index = begin; index < end; ++index) tile.make(index, to);
  });
  return out;
}

}  // namespace nibble::inline NIBBLE_ABI::model
