// The mixes of GGUF's types that people know by name: Q4_K_M and its kin give the tensors that lose most by few bits
// more than the others.
//
//   nibble::model::export_gguf("model", "model.gguf", {.mix = nibble::model::find_gguf_mix("Q4_K_M")});
//
// Which tensor gets which type are the choices of llama.cpp's llama-quantize (0.3.36 of llama-cpp-python; a test holds
// every tensor of several models against it), so that a file is of the size that its name leads one to expect.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "nibble/model/architecture.h"
#include "nibble/scheme/gguf_blocks.h"

namespace nibble::inline NIBBLE_ABI::model {

/// A weight as a mix sees it.
struct MixedWeight {
  /// Of a block's linear layer.
  Role role = Role::query;
  std::size_t block = 0, blocks = 1;  ///< Which of the model's blocks, from 0, and of how many.
  std::size_t queries_per_key = 1;    ///< Heads that share a key (grouped-query attention).
  std::size_t experts = 0;            ///< Of a mixture; 0: there is none.
  bool has_importance = false;        ///< The codes are fitted by an importance matrix.
};

/// Which blocks a rule of a mix is for.
enum class MixBlocks : std::uint8_t {
  all,
  first_two,
  first_four,
  first_sixteenth,  ///< Of the blocks, rounded down.
  first_eighth,
  outer,  ///< The first eighth, the last eighth, and between them every third.
};

/// Which models a rule of a mix is for.
enum class MixModels : std::uint8_t {
  all,
  many_queries,  ///< At least four to a key.
  weighed,       ///< Those whose codes are fitted by an importance matrix.
  unweighed,
};

struct MixRule {
  Role role;
  BlockType type;
  MixBlocks blocks = MixBlocks::all;
  MixModels models = MixModels::all;
};

struct GgufMix {
  std::string_view name;                ///< llama.cpp's: "Q4_K_M".
  BlockType base;                       ///< Of the weights that no rule names.
  std::uint32_t file_type;              ///< llama.cpp's number (general.file_type).
  std::span<const MixRule> rules = {};  ///< The first that holds.
  bool raises_expert_outputs = false;   ///< Attention's output is Q5_K in models of eight experts.

  /// Of a block's linear layer.
  [[nodiscard]] BlockType type_of(const MixedWeight& weight) const;
  /// Of the head, and of the embedding where it is the head too; one that is not has `base`. `cols`: of its rows.
  [[nodiscard]] BlockType head_type(std::size_t cols) const;
};

/// All of them, those of fewer bits first.
std::span<const GgufMix> gguf_mixes();
/// The mix of a name, upper or lower case; null: there is none.
const GgufMix* find_gguf_mix(std::string_view name);

}  // namespace nibble::inline NIBBLE_ABI::model
