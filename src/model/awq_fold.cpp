#include "awq_fold.h"

#include <cmath>

#include "nibble/solver/awq.h"

namespace nibble::inline NIBBLE_ABI::model {

namespace {

float rounded(float x, DType type) {
  if (type == DType::f16) return static_cast<float>(f16(x));
  if (type == DType::bf16) return static_cast<float>(bf16(x));
  return x;
}

/// What the norm multiplies by becomes RN(norm/s), s = what that is of the norm before: exact where the two are not 0
/// or of different size by far. `plus_one`: it multiplies by 1 + what is stored.
void fold_into_stored_norm(std::vector<float>& norm, std::vector<float>& scales, DType type, bool plus_one) {
  const float one = plus_one ? 1 : 0;
  std::vector<float> folded = norm;
  awq::fold_into_norm(folded, {}, scales, plus_one);
  for (std::size_t c = 0; c < norm.size(); ++c) {
    const float stored = rounded(folded[c], type);
    const float scale = (norm[c] + one) / (stored + one);
    const bool serves = std::isfinite(scale) && scale > 0;  // a norm of 0, or one that leaves its type's range, stays
    scales[c] = serves ? scale : 1;
    if (serves) norm[c] = stored;
  }
}

}  // namespace

DenseBlock DenseBlock::load(const Checkpoint& checkpoint, const Architecture& architecture, std::size_t index) {
  DenseBlock out;
  for (const Module& m : architecture.linears()) {
    const std::string name = architecture.name(index, m), weight = name + ".weight";
    const FloatMatrix stored = checkpoint.matrix(weight);
    Linear& l = out[m.role];
    l = {name, stored.rows, stored.cols, checkpoint.read_f32(weight), {}, stored.type};
    if (checkpoint.contains(name + ".bias")) l.bias = checkpoint.read_f32(name + ".bias");
    checkpoint.release(weight);
    const Module& source = architecture.module(m.folds_into);
    if (source.is_linear() || out.norms.contains(source.role)) continue;
    const std::string norm = architecture.name(index, source), stored_norm = norm + ".weight";
    out.norms[source.role] = {norm, checkpoint.read_f32(stored_norm), checkpoint.info(stored_norm).type};
  }
  return out;
}

void fold(const Architecture& architecture, DenseBlock& block, BlockScales& scales) {
  for (std::size_t i = 0; i < scales.size(); ++i) {
    auto& [by_input, by_source] = scales[i];
    if (by_input.empty()) continue;
    const std::vector<Module> consumers = architecture.linears(static_cast<Input>(i));
    const Module& source = architecture.module(consumers.front().folds_into);
    if (source.is_linear()) {
      DenseBlock::Linear& l = block[source.role];
      awq::fold_into_linear(l.view(), l.bias, by_source.empty() ? by_input : by_source);
    } else {
      DenseBlock::Norm& norm = block.norms.at(source.role);
      fold_into_stored_norm(norm.weight, by_input, norm.type, architecture.norm_plus_one);
    }
    for (const Module& m : consumers) awq::scale_columns(block[m.role].view(), by_input);
  }
}

}  // namespace nibble::inline NIBBLE_ABI::model
