// What attention and its gradient share. Both are made of the matrix product of the kernels
// (KernelTable::gemm_panel_add) over strips: a few queries and all keys that they see, whose products, a row for each
// query, stay in the caches.
//
// Keys are counted from a document's first, and sums over keys are formed in parts of kPanelDepth from there, whatever
// the strip: a query's result is the same bits alone, among others, and in a row of several documents.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include "nibble/backend/impl/cpu_kernels.h"
#include "nibble/engine/operations.h"

namespace nibble::inline NIBBLE_ABI::engine {

using kernels::KernelTable;
using kernels::kPanelDepth;
using kernels::kPanelWidth;

constexpr std::size_t round_up(std::size_t n, std::size_t to) { return (n + to - 1) / to * to; }

/// The queries of one document and the keys from its first on: attention of its own, where nothing is hidden but by
/// order and window.
struct Document {
  std::size_t first_query, first_key;  ///< Of the whole.
  Attention part;
};
std::vector<Document> documents_of(const Attention& a);

/// Queries [first, first + count) of a document, and its keys [key, key + keys): what any of them sees, from a multiple
/// of kPanelDepth on.
struct Strip {
  Strip(const Attention& a, std::size_t first, std::size_t count);

  /// Floats from one query's row to the next.
  [[nodiscard]] std::size_t stride() const { return round_up(keys, kPanelWidth); }

  std::size_t first, count, key, keys;
};

/// Makes of a row of products, of query t with the strip's keys, exp(score − the largest score), 0 for keys that it
/// does not see, up to the strip's stride; returns their sum. With a cap, `slopes` takes d score / d (scale·product),
/// if not null.
float weigh(const KernelTable& isa, const Attention& a, const Strip& strip, std::size_t t, float* row, float* slopes);

/// out [tokens, out_stride] = x [tokens, x_stride] · panel [depth, kPanelWidth]
inline void multiply(const KernelTable& isa, const float* x, std::size_t x_stride, std::size_t tokens,
                     const float* panel, std::size_t depth, float* out, std::size_t out_stride) {
  for (std::size_t k = 0; k < depth; k += kPanelDepth)
    isa.gemm_panel_add(x + k, x_stride, tokens, panel + k * kPanelWidth, kPanelWidth, std::min(kPanelDepth, depth - k),
                       nullptr, k == 0, out, out_stride);
}

/// The first `width` columns of n rows as a panel, zeros beyond them.
inline void copy_panel(const float* rows, std::size_t stride, std::size_t n, std::size_t width, float* panel) {
  for (std::size_t r = 0; r < n; ++r) {
    std::copy_n(rows + r * stride, width, panel + r * kPanelWidth);
    std::fill(panel + r * kPanelWidth + width, panel + (r + 1) * kPanelWidth, 0.0f);
  }
}

}  // namespace nibble::inline NIBBLE_ABI::engine
