#include "awq_fold.h"

#include <cmath>

#include "calibrate_block.h"
#include "nibble/core/visit_float.h"
#include "nibble/solver/awq.h"

namespace nibble::inline NIBBLE_ABI::model {

namespace {

float rounded(float x, DType type) {
  if (type == DType::f16) return static_cast<float>(f16(x));
  if (type == DType::bf16) return static_cast<float>(bf16(x));
  return x;
}

/// What the norm multiplies by becomes RN(norm/s), s = what that is of the norm before: exact where the two are not 0
/// or of different size by far.
void fold_into_stored_norm(ScaleSource& source, std::vector<float>& scales) {
  StoredVector &norm = source.norm, &bias = source.norm_bias;
  const float one = source.norm_plus_one ? 1 : 0;
  std::vector<float> folded = norm.values;
  awq::fold_into_norm(folded, {}, scales, source.norm_plus_one);
  for (std::size_t c = 0; c < norm.values.size(); ++c) {
    const float stored = rounded(folded[c], norm.type);
    const float scale = (norm.values[c] + one) / (stored + one);
    const bool serves = std::isfinite(scale) && scale > 0;  // a norm of 0, or one that leaves its type's range, stays
    scales[c] = serves ? scale : 1;
    if (serves) norm.values[c] = stored;
  }
  for (std::size_t c = 0; c < bias.values.size(); ++c) bias.values[c] = rounded(bias.values[c] / scales[c], bias.type);
}

}  // namespace

DenseBlock DenseBlock::load(CalibratedBlock& block) {
  DenseBlock out;
  out.groups.assign(block.groups().begin(), block.groups().end());
  for (std::size_t g = 0; g < out.groups.size(); ++g) {
    std::vector<DenseMatrix>& linears = out.linears.emplace_back();
    for (std::size_t l = 0; l < out.groups[g].layers.size(); ++l) {
      const FloatMatrix stored = weights_of(block, {g, l});
      DenseMatrix& to = linears.emplace_back(DenseMatrix{stored.rows, stored.cols, {}});
      to.weights.resize(stored.rows * stored.cols);
      for (std::size_t r = 0; r < stored.rows; ++r)
        upcast_floats(stored.type, stored.row(r), stored.cols, to.weights.data() + r * stored.cols);
    }
  }
  return out;
}

void fold(DenseBlock& block, BlockScales& scales) {
  for (std::size_t g = 0; g < scales.size(); ++g) {
    if (scaled_with_previous(block.groups, g)) scales[g] = scales[g - 1];  // as the norm that is folded into has them
    auto& [by_input, by_source] = scales[g];
    if (by_input.empty()) continue;
    ScaleSource& source = block.groups[g].source;
    if (scaled_with_previous(block.groups, g)) source = block.groups[g - 1].source;
    else if (source.is_linear)
      awq::fold_into_linear(block[source.linear].view(), block.layer(source.linear).bias.values,
                            by_source.empty() ? by_input : by_source);
    else fold_into_stored_norm(source, by_input);
    for (DenseBlock::DenseMatrix& l : block.linears[g]) awq::scale_columns(l.view(), by_input);
    for (StoredVector& m : block.groups[g].scaled_along)
      awq::scale_columns({m.values.data(), m.values.size() / by_input.size(), by_input.size()}, by_input);
  }
}

}  // namespace nibble::inline NIBBLE_ABI::model
