// Compiles what nibble/solver/impl/gptq_grid.h declares, for programs that link the library.
#include "nibble/solver/impl/gptq_grid_inl.h"

namespace nibble::inline NIBBLE_ABI::gptq {

template LaneGrid<float> fit_grid(const float*, std::size_t, const Options&);
template LaneGrid<double> fit_grid(const double*, std::size_t, const Options&);

}  // namespace nibble::inline NIBBLE_ABI::gptq
