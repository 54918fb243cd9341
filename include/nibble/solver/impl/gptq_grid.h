// Scales and zero points of one group in kLanes rows at once.
#pragma once

#include <cstddef>

#include "nibble/solver/gptq.h"
#include "nibble/solver/impl/panel.h"

namespace nibble::inline NIBBLE_ABI::gptq {

/// As floating point, for the loops over lanes; both hold float values exactly.
template <class T>
struct LaneGrid {
  alignas(64) T scale[solver::kLanes];
  alignas(64) T zero[solver::kLanes];
};

/// Fits a grid to w [n][kLanes]. A lane whose range no scale can hold gets an infinite one.
template <class T>
LaneGrid<T> fit_grid(const T* w, std::size_t n, const Options& options);

}  // namespace nibble::inline NIBBLE_ABI::gptq

#if defined(NIBBLE_HEADER_ONLY)
#include "nibble/solver/impl/gptq_grid_inl.h"
#endif
