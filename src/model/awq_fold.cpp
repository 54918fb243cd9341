#include "awq_fold.h"

#include <cmath>

#include "nibble/model/architecture.h"
#include "nibble/solver/awq.h"

namespace nibble::inline NIBBLE_ABI::model {

namespace {

float rounded(float x, DType type) {
  if (type == DType::f16) return static_cast<float>(f16(x));
  if (type == DType::bf16) return static_cast<float>(bf16(x));
  return x;
}

/// norm = RN(norm/s), s = what that is of the norm before: exact where the two are not 0 or of different size by far.
void fold_into_stored_norm(std::vector<float>& norm, std::vector<float>& scales, DType type) {
  std::vector<float> folded = norm;
  awq::fold_into_norm(folded, {}, scales);
  for (std::size_t c = 0; c < norm.size(); ++c) {
    const float stored = rounded(folded[c], type);
    const float scale = norm[c] / stored;
    const bool serves = std::isfinite(scale) && scale > 0;  // a norm of 0, or one that leaves its type's range, stays
    scales[c] = serves ? scale : 1;
    if (serves) norm[c] = stored;
  }
}

}  // namespace

DenseBlock DenseBlock::load(const Checkpoint& checkpoint, std::size_t index) {
  const std::string prefix = "model.layers." + std::to_string(index) + ".";
  DenseBlock out;
  out.input_norm = checkpoint.read_f32(prefix + "input_layernorm.weight");
  out.post_norm = checkpoint.read_f32(prefix + "post_attention_layernorm.weight");
  out.norm_type = checkpoint.info(prefix + "input_layernorm.weight").type;
  const auto names = block_linear_names(index);
  for (std::size_t i = 0; i < names.size(); ++i) {
    Linear& l = out.linears[i];
    const FloatMatrix m = checkpoint.matrix(names[i] + ".weight");
    l = {names[i], m.rows, m.cols, checkpoint.read_f32(names[i] + ".weight"), {}, m.type};
    if (checkpoint.contains(names[i] + ".bias")) l.bias = checkpoint.read_f32(names[i] + ".bias");
    checkpoint.release(names[i] + ".weight");
  }
  return out;
}

void fold(DenseBlock& block, BlockScales& scales) {
  auto& [q, k, v, o, gate, up, down] = block.linears;
  if (!scales.attention.empty()) {
    fold_into_stored_norm(block.input_norm, scales.attention, block.norm_type);
    for (DenseBlock::Linear* l : {&q, &k, &v}) awq::scale_columns(l->view(), scales.attention);
  }
  if (!scales.values.empty()) {
    awq::fold_into_linear(v.view(), v.bias, scales.values);
    awq::scale_columns(o.view(), scales.mixed);
  }
  if (!scales.mlp.empty()) {
    fold_into_stored_norm(block.post_norm, scales.mlp, block.norm_type);
    for (DenseBlock::Linear* l : {&gate, &up}) awq::scale_columns(l->view(), scales.mlp);
  }
  if (!scales.down.empty()) {
    awq::fold_into_linear(up.view(), up.bias, scales.down);
    awq::scale_columns(down.view(), scales.down);
  }
}

}  // namespace nibble::inline NIBBLE_ABI::model
