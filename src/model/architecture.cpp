#include "nibble/model/architecture.h"

namespace nibble::inline NIBBLE_ABI::model {

namespace {

constexpr std::string_view kLinearSuffixes[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                                                "self_attn.o_proj", "mlp.gate_proj",    "mlp.up_proj",
                                                "mlp.down_proj"};

}  // namespace

std::vector<std::string> block_linear_names(std::size_t index) {
  std::vector<std::string> out;
  for (std::string_view suffix : kLinearSuffixes)
    out.push_back("model.layers." + std::to_string(index) + "." + std::string(suffix));
  return out;
}

bool is_block_linear_weight(std::string_view tensor) {
  if (!tensor.starts_with("model.layers.") || !tensor.ends_with(".weight")) return false;
  tensor.remove_suffix(std::string_view(".weight").size());
  for (std::string_view suffix : kLinearSuffixes)
    if (tensor.ends_with(suffix)) return true;
  return false;
}

}  // namespace nibble::inline NIBBLE_ABI::model
