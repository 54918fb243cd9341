// Compiles what nibble/solver/impl/gptq_rows.h declares, for programs that link the library.
#include "nibble/solver/impl/gptq_rows_inl.h"

namespace nibble::inline NIBBLE_ABI::gptq {

template double solve_rows(const RowsInput<float>&, QuantizedMatrix&, Executor&);
template double solve_rows(const RowsInput<double>&, QuantizedMatrix&, Executor&);

}  // namespace nibble::inline NIBBLE_ABI::gptq
