// The one product that the solvers are built from: the CPU kernels' fp32 micro-kernel, and the same in fp64.
#pragma once

#include <cstddef>
#include <memory>

#include "nibble/backend/impl/cpu/kernels.h"

namespace nibble::inline NIBBLE_ABI::solver {

/// Lanes of a panel: columns of a right-hand matrix, or rows of a weight matrix, that are worked on side by side.
inline constexpr std::size_t kLanes = kernels::kPanelWidth;
/// Depth of one call.
inline constexpr std::size_t kDepth = kernels::kPanelDepth;

/// out[t][kLanes] = Σ_k x[t][k]·panel[k][kLanes] for k < depth ≤ kDepth; x's rows are x_stride apart. The same on every
/// CPU and for any split of the t.
template <class T>
using GemmPanel = void (*)(const T* x, std::size_t x_stride, std::size_t tokens, const T* panel, std::size_t depth,
                           T* out);

/// The kernel for float or double; only the one for float is `isa`'s.
template <class T>
GemmPanel<T> gemm_panel(const kernels::KernelTable& isa);

/// Memory that is not filled first: large matrices are written once, by the threads that need them.
template <class T>
struct RawArray {
  std::unique_ptr<T[]> data;
  std::size_t size = 0;

  RawArray() = default;
  explicit RawArray(std::size_t n) : data(new T[n]), size(n) {}
  T* get() { return data.get(); }
  const T* get() const { return data.get(); }
};

/// n × n, row-major. Rows are no multiple of a page apart, so that equal columns of neighbours do not share a cache
/// set.
template <class T>
struct SquareMatrix {
  std::size_t n = 0, stride = 0;
  RawArray<T> values;

  explicit SquareMatrix(std::size_t size) : n(size), stride((size + 15) / 16 * 16 + 16), values(size * stride) {}
  T* row(std::size_t r) { return values.get() + r * stride; }
  const T* row(std::size_t r) const { return values.get() + r * stride; }
};

}  // namespace nibble::inline NIBBLE_ABI::solver

#if defined(NIBBLE_HEADER_ONLY)
#include "nibble/solver/impl/panel_inl.h"
#endif
