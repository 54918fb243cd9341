// Rows in GGUF's blocks.
#pragma once

#include "nibble/matrix/block_matrix.h"
#include "nibble/solver/impl/gptq_rows.h"

namespace nibble::inline NIBBLE_ABI::gptq {

/// Fills the blocks of `out`; returns ½Σe². The plan's groups are whole blocks.
double solve_block_rows(const RowsInput<float>& input, BlockMatrix& out, Executor& executor);

}  // namespace nibble::inline NIBBLE_ABI::gptq

#if defined(NIBBLE_HEADER_ONLY)
#include "nibble/solver/impl/gptq_blocks_inl.h"
#endif
