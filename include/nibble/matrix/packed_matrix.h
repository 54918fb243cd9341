// A weight matrix in one backend's private layout. Opaque: only the backend that made it multiplies by it.
#pragma once

#include <cstddef>
#include <memory>

#include "nibble/core/abi.h"

namespace nibble::inline NIBBLE_ABI {

class Backend;

/// rows = output features, cols = input features. Immutable after packing; safe to share between threads.
class PackedMatrix {
 public:
  virtual ~PackedMatrix() = default;
  [[nodiscard]] std::size_t rows() const { return rows_; }
  [[nodiscard]] std::size_t cols() const { return cols_; }
  /// The backend that made this one and must be handed it.
  [[nodiscard]] const Backend& backend() const { return *backend_; }
  /// Bytes it holds.
  [[nodiscard]] virtual std::size_t storage_bytes() const = 0;

 protected:
  PackedMatrix(const Backend& backend, std::size_t rows, std::size_t cols)
      : backend_(&backend), rows_(rows), cols_(cols) {}

 private:
  const Backend* backend_;
  std::size_t rows_;
  std::size_t cols_;
};

using PackedMatrixPtr = std::shared_ptr<const PackedMatrix>;

}  // namespace nibble::inline NIBBLE_ABI
