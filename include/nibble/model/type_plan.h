// A type for each tensor of a GGUF file: in so many bytes, the least that the model can lose.
//
//   auto choices = nibble::engine::type_choices("model", token_ids);             // what each type costs each tensor
//   auto plan = nibble::model::allot(choices, 100'000'000);                      // bytes of those tensors
//   nibble::model::export_gguf("model", "model.gguf", {.plan = &plan});
//   plan.write("model.plan.json");                                               // for the next time
//
// Losses are nats of KL divergence from the model as it was, and are taken to add up over the tensors, which small ones
// do. Of a tensor's choices those are kept that lie on the lower hull of loss over bytes; then every step from one to
// the next is taken in the order of what it gains for a byte, while it fits. That is the best plan of its size, and the
// best of any size to within the last step (Everett 1963, on Lagrange multipliers for allotments).
#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "nibble/scheme/gguf_blocks.h"

namespace nibble::inline NIBBLE_ABI::model {

/// What a tensor takes and loses in one type.
struct TypeChoice {
  BlockType type = BlockType::f16;
  std::size_t bytes = 0;
  double loss = 0;
};

struct TensorChoices {
  std::string tensor;  ///< GGUF's name: "blk.3.ffn_down.weight".
  std::vector<TypeChoice> choices;
};

struct TypePlan {
  std::map<std::string, BlockType> types;  ///< By GGUF's name. Tensors that are not in it: ExportGgufOptions::type.
  std::size_t bytes = 0;                   ///< Of those tensors.
  double loss = 0;                         ///< The sum of what was measured of each.

  /// JSON, whole or not there. Error{io}.
  void write(const std::filesystem::path& path) const;
  /// Error{not_found | io}; Error{corrupt_file} says what is no plan, and names a type that cannot be written.
  static TypePlan read(const std::filesystem::path& path);
};

/// The plan of the least loss whose tensors take at most `max_bytes`. Errors: invalid_argument for fewer bytes than the
/// smallest types take (says how many), for a tensor without a choice or named twice; non_finite for a loss that is no
/// number.
TypePlan allot(std::span<const TensorChoices> tensors, std::size_t max_bytes);

}  // namespace nibble::inline NIBBLE_ABI::model
