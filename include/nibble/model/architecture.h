// What the blocks of a model are made of, as data: one table for each architecture, in a file of its own in
// src/model/architectures. The loader, the writers, GPTQ, AWQ and the reports loop over it; none of them knows a name
// of a tensor.
//
//   const auto& architecture = nibble::model::find_architecture("qwen3");
//   for (const Module& m : architecture.linears()) …          // {query, "self_attn.q_proj", "attn_q", …}
//
// A decoder block of these architectures is
//
//   x ─ norm ─ query, key, value ─ heads ─ attention_output ─ (+ x) ─ norm ─ gate, up ─ activation ─ down ─ (+) ─►
//
// and an architecture says which tensors that takes, and what it does otherwise than Llama: query, key and value may be
// one layer, and so may gate and up. A block that has a router is a mixture of experts: gate, up and down are then each
// expert's own, under a name with a place for its number. What a table cannot say nothing here does: layers without
// positions, experts that all tokens share, blocks with experts beside blocks without. Such an architecture is added
// with a field for it and whatever reads the field. A table whose modules the engine does not run as they stand is an
// error there (engine::check_architecture).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "nibble/backend/gated.h"
#include "nibble/core/abi.h"

namespace nibble::inline NIBBLE_ABI::model {

/// What a module of a block is for. The linear layers come first, in the order of the forward pass, and behind them
/// those that a block has in place of several.
enum class Role : std::uint8_t {
  query,
  key,
  value,
  attention_output,
  gate,
  up,
  down,
  query_key_value,  ///< Their rows one below the other.
  gate_up,
  attention_norm,  ///< Of the block's input, before query, key and value.
  query_norm,      ///< Of each head's query, before it is turned by its position (QK-norm).
  key_norm,
  attention_post_norm,  ///< Of what attention_output gives, before it is added to the block's input.
  ffn_norm,             ///< Of what attention was added to, before gate and up.
  ffn_post_norm,        ///< Of what down gives, before it is added.
  router,               ///< Says which experts a token goes to: a matrix that stays in floating point, as norms do.
};
inline constexpr std::size_t kLinearRoles = 9, kRoles = 16;

/// A side of a weight, which a Config gives in elements.
enum class Size : std::uint8_t {
  hidden,
  queries,       ///< heads·head_dim
  keys,          ///< kv_heads·head_dim, of the values too.
  head,          ///< head_dim
  intermediate,  ///< Of the feed-forward layer.
  queries_keys_values,
  gates_ups,            ///< Twice intermediate.
  experts,              ///< How many there are.
  expert_intermediate,  ///< Of one expert's feed-forward layer, where config.json has a key of its own for it.
};

/// What a linear layer multiplies. Layers with the same input are multiplied in one call (gate and up together with the
/// activation), have one Hessian and are scaled together by AWQ.
enum class Input : std::uint8_t {
  attention,  ///< The normed input of the block, [hidden].
  heads,      ///< What the heads saw, [queries].
  ffn,        ///< The normed input of the feed-forward layer, [hidden]; an expert's: of the tokens that go to it.
  gated,      ///< activation(gate)·up, [intermediate].
};
inline constexpr std::size_t kInputs = 4;

/// Whether linear layers have a bias beside their weight.
enum class Bias : std::uint8_t {
  as_stored,  ///< Where the file has one: it is added.
  needed,     ///< The configuration says so, and a missing one is an error.
  none,       ///< Others would leave a stored one out, so it is an error.
};

/// A tensor that every block has; a linear layer may have a bias too.
struct Module {
  Role role;
  /// Hugging Face's, within the block: "self_attn.q_proj". An asterisk stands for an expert's number, and says that
  /// each expert has its own: "mlp.experts.*.gate_proj".
  std::string_view name;
  std::string_view gguf_name;  ///< llama.cpp's, within the block: "attn_q". Of experts: of one stack of all.
  Size out;                    ///< Rows of a linear layer or a router; the values of a norm.
  // Of linear layers only, but for the router's `in`:
  Size in = Size::hidden;
  Input input = Input::attention;
  /// AWQ divides the channels of an input by folding the divisors into what comes before it: that norm, or the rows of
  /// that linear layer, of several in one the last ones'.
  Role folds_into = Role::attention_norm;
  Bias bias = Bias::none;          ///< Where config.json does not decide: it has no such flag, or leaves it out.
  std::string_view bias_key = {};  ///< The flag of config.json that decides (needed or none); empty: there is none.

  [[nodiscard]] constexpr bool is_linear() const { return static_cast<std::size_t>(role) < kLinearRoles; }
  [[nodiscard]] constexpr bool is_norm() const { return !is_linear() && role != Role::router; }
  [[nodiscard]] constexpr bool is_expert() const { return name.find('*') != std::string_view::npos; }
};

/// A module of one block of a model; of those that each expert has, one expert's.
struct BlockModule {
  const Module* module;
  std::size_t expert;  ///< 0 where experts have no own.
  std::string name;    ///< "model.layers.3.mlp.experts.7.gate_proj"

  const Module* operator->() const { return module; }
};

/// Which layers have a sliding window, where config.json does not list layer_types.
enum class Windows : std::uint8_t {
  never,    ///< Whatever the file states.
  always,   ///< All layers.
  if_used,  ///< Where use_sliding_window is true: all layers but the first max_window_layers, if there is such a key.
  pattern,  ///< All layers but every window_pattern-th: of 2 the layers 1, 3, 5 … see everything.
};

/// Which values of a head are turned together by their position, of those that are turned at all.
enum class RopePairs : std::uint8_t {
  halves,      ///< The first and the first of the second half, and so on: (i, i + width/2).
  neighbours,  ///< (2i, 2i + 1)
};

/// What config.json calls it as a rule: "silu".
std::string_view name_of(GatedActivation activation);

/// A module outside of the blocks.
struct EndModule {
  std::string_view name, gguf_name;
};

struct Architecture {
  std::string_view model_type;         ///< Of config.json: "llama".
  std::string_view class_name;         ///< The first of "architectures" of config.json: "LlamaForCausalLM".
  std::string_view gguf_architecture;  ///< "general.architecture" of a GGUF file; several may share one.
  std::span<const Module> block;       ///< In the order of the forward pass.

  GatedActivation activation = GatedActivation::silu;
  std::string_view activation_key = "hidden_act";  ///< The key of config.json that names it.
  /// Norms multiply by 1 + the stored weight. In GGUF files the sum is stored.
  bool norm_plus_one = false;
  bool scaled_embedding = false;  ///< Embeddings are multiplied by √hidden.
  /// Scores are divided by the root of query_pre_attn_scalar, which is this where config.json leaves it out; 0: by that
  /// of head_dim, and there is no such key.
  std::size_t query_pre_attn_scalar = 0;
  /// x becomes cap·tanh(x/cap): scores by attn_logit_softcapping, logits by final_logit_softcapping, which are this
  /// where config.json leaves them out (0: no cap). None: there is no such key.
  std::optional<double> attention_cap = std::nullopt, logit_cap = std::nullopt;
  RopePairs rope_pairs = RopePairs::halves;  ///< In Hugging Face's files.
  /// In the architecture's GGUF files they are neighbours where Hugging Face has halves, of whole heads, so that the
  /// rows of query and key lie in another order; else both have the same.
  bool gguf_interleaved_rope = false;
  bool gguf_rope_factors = false;  ///< llama.cpp reads rope_freqs.weight in this architecture.
  /// llama.cpp takes hidden/heads for query_pre_attn_scalar in models of so many layers, and head_dim in others.
  std::size_t gguf_layers_by_hidden = 0;

  // What transformers takes where config.json leaves a field out.
  std::size_t context = 2048;  ///< max_position_embeddings
  std::size_t kv_heads = 0;    ///< num_key_value_heads; 0: as many as heads.
  std::size_t head_dim = 0;    ///< 0: hidden_size/num_attention_heads.
  Windows windows = Windows::never;
  std::size_t window = 0;                    ///< sliding_window
  std::size_t full_layers = 0;               ///< max_window_layers; 0: there is no such key.
  std::size_t window_pattern = 0;            ///< Of Windows::pattern.
  std::string_view window_pattern_key = {};  ///< The key that says otherwise; empty: there is none.
  double rms_eps = 1e-6;                     ///< rms_norm_eps
  double rope_theta = 10000;
  /// The share of a head's values, of its first, that is turned by their position; 0: all are, and there is no such
  /// key.
  double partial_rotary_factor = 0;
  /// rope_local_base_freq, of layers with a window, whose rotary embeddings are never scaled; 0: as in other layers.
  double window_rope_theta = 0;
  bool tied_embeddings = false;  ///< tie_word_embeddings
  // Of mixtures of experts:
  std::string_view experts_key = {};    ///< What files call their number. Both names that there are are read.
  std::size_t experts = 0;              ///< num_experts or num_local_experts; 0: the blocks have none.
  std::size_t experts_per_token = 0;    ///< num_experts_per_tok
  std::size_t expert_intermediate = 0;  ///< moe_intermediate_size; 0: there is no such key.
  /// norm_topk_prob: what a token's experts give is weighted by their shares of what the router gives these experts,
  /// and not of what it gives all. None: by those always, and there is no such key.
  std::optional<bool> norm_topk_prob = std::nullopt;

  // The same in all so far.
  std::string_view block_prefix = "model.layers.", gguf_block_prefix = "blk.";
  EndModule embedding = {"model.embed_tokens", "token_embd"}, final_norm = {"model.norm", "output_norm"},
            head = {"lm_head", "output"};

  [[nodiscard]] bool has(Role role) const { return find(role) != nullptr; }
  [[nodiscard]] bool has_experts() const { return has(Role::router); }
  /// Null if the block has none.
  [[nodiscard]] const Module* find(Role role) const;
  /// Error{not_found} if the block has none.
  [[nodiscard]] const Module& module(Role role) const;
  /// The linear layer whose first rows give the queries.
  [[nodiscard]] const Module& query_module() const;
  /// The linear layers, in the order of the forward pass.
  [[nodiscard]] std::vector<Module> linears() const;
  /// Those with this input, which lie side by side in linears().
  [[nodiscard]] std::vector<Module> linears(Input input) const;

  /// All modules of block `index` of a model with so many experts, in the order of the forward pass: of the modules
  /// that experts have, those with one input expert by expert.
  [[nodiscard]] std::vector<BlockModule> modules(std::size_t index, std::size_t expert_count) const;
  /// "model.layers.3.self_attn.q_proj"
  [[nodiscard]] std::string name(std::size_t index, const Module& module, std::size_t expert = 0) const;
  [[nodiscard]] std::string name(std::size_t index, Role role) const { return name(index, module(role)); }
  /// Of the linear layers of block `index`, in the order of modules().
  [[nodiscard]] std::vector<std::string> linear_names(std::size_t index, std::size_t expert_count = 0) const;
  /// Whether a tensor is the weight of a block's linear layer, whichever block's.
  [[nodiscard]] bool is_linear_weight(std::string_view tensor) const;
  /// Whether a tensor is the weight of a norm, the last one or a block's.
  [[nodiscard]] bool is_norm_weight(std::string_view tensor) const;
  /// The GGUF name of a tensor, ".weight" or ".bias" kept; empty for one that has none. Of an expert's: that of the
  /// stack which it lies in.
  [[nodiscard]] std::string gguf_name(std::string_view tensor) const;
  /// Whose tensor it is, of those that each expert has.
  [[nodiscard]] std::optional<std::size_t> expert_of(std::string_view tensor) const;
  /// Whether a tensor's rows lie in another order in a GGUF file, see gguf_interleaved_rope.
  [[nodiscard]] bool is_interleaved(std::string_view tensor) const;
};

/// All that are known, each named by its model_type.
std::span<const Architecture* const> architectures();

/// That of config.json's model_type. Error{unsupported} lists those that are known.
const Architecture& find_architecture(std::string_view model_type);
/// The first whose GGUF files state this "general.architecture" and that has experts, or has none; null if there is
/// none.
const Architecture* find_gguf_architecture(std::string_view gguf_architecture, bool experts = false);

}  // namespace nibble::inline NIBBLE_ABI::model
