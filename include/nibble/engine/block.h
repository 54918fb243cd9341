// One decoder block: its weights, and its forward pass in stages, so that a model can be gone through block by block
// and calibration can begin, listen and end between the stages. Model::forward() is made of the same calls.
//
//   x ─ norm ─ query, key, value ─ attention ─ attention_output ─ (+ x) ─ norm ─ gate, up ─ down ─ (+) ─►
//     └────────────────────── attention_layer ──────────────────────┘   └─────────── ffn ───────────┘
//
// In some architectures what a half gives is normed once more before it is added. In a mixture of experts gate, up and
// down are each expert's own, and a router says which of them see a token (engine/routing.h).
// What there is of it, and under which names, is the architecture's table (model/architecture.h).
#pragma once

#include <array>
#include <cstddef>
#include <functional>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "nibble/backend/backend.h"
#include "nibble/engine/routing.h"
#include "nibble/model/config.h"

namespace nibble::inline NIBBLE_ABI::engine {

/// A LoRA adapter of a linear layer (train/lora.h; as files: model/adapter.h), in memory of somebody else's:
///   y = gain · (W·x + scale·B·(A·x)) + bias
struct LinearAdapter {
  MatrixView<const float> a, b;  ///< [rank, in], [out, rank]
  float scale = 1;
  std::span<const float> gain = {};  ///< [out], DoRA's magnitude over the norm of the adapted row; empty: 1.
};

/// A linear layer, packed for multiplication.
struct Linear {
  std::string name;  ///< As Architecture::name gives it.
  PackedMatrixPtr weight;
  std::vector<float> bias = {};                         ///< Or empty.
  std::optional<LinearAdapter> adapter = std::nullopt;  ///< Added to what the weight gives, in fp32.

  explicit operator bool() const { return weight != nullptr; }
};

/// By role; without a weight where the architecture has none.
struct Linears : std::array<Linear, model::kLinearRoles> {
  using array::operator[];
  [[nodiscard]] Linear& operator[](model::Role role) { return at(static_cast<std::size_t>(role)); }
  [[nodiscard]] const Linear& operator[](model::Role role) const { return at(static_cast<std::size_t>(role)); }
};

struct Block {
  Linears linears;                                      ///< But for those that experts have.
  std::array<std::vector<float>, model::kRoles> norms;  ///< By role; empty where the architecture has none.
  std::size_t window = 0;                               ///< A token sees itself and the window − 1 before it; 0: all.
  Linear router = {};                                   ///< In floating point; without a weight: there are no experts.
  std::vector<Linears> experts = {};                    ///< Gate, up and down of each.

  [[nodiscard]] Linear& operator[](model::Role role) { return linears[role]; }
  [[nodiscard]] const Linear& operator[](model::Role role) const { return linears[role]; }
  /// Whose kernels compute what lies between the linear layers.
  [[nodiscard]] const Backend* backend() const {
    const PackedMatrixPtr& weight = (*this)[model::Role::attention_output].weight;
    return weight ? &weight->backend() : nullptr;
  }
  [[nodiscard]] std::vector<float>& norm(model::Role role) { return norms.at(static_cast<std::size_t>(role)); }
  [[nodiscard]] const std::vector<float>& norm(model::Role role) const {
    return norms.at(static_cast<std::size_t>(role));
  }
};

/// Error{unsupported} names what a table asks for that BlockPass does not do: another set of linear layers, other
/// inputs or shapes than those of model/architecture.h, a norm for queries and none for keys.
void check_architecture(const model::Architecture& architecture);

/// Sees the input [tokens, in] of each linear layer before it is applied, and that of routers; of an expert's layers
/// zeros in the rows of tokens that it does not see.
using LinearHook = std::function<void(std::string_view layer, MatrixView<const float> input)>;

/// One block's keys and values [room, kv_heads·head_dim], of which the first `seen` are there; a pass over n tokens
/// writes the next n.
struct KeyValues {
  MatrixView<float> keys, values;
  std::size_t seen = 0;
};

/// Cosines, then sines, of `count` positions from `first` on: [count, turned_dim].
std::vector<float> rope_angles(std::span<const double> inverse_frequencies, std::size_t first, std::size_t count);

/// Those of a model's blocks, of which some may be turned otherwise than others (Config::window_rope_theta).
class RopeAngles {
 public:
  RopeAngles(const model::Config& config, std::size_t first, std::size_t count);
  /// Valid as long as this is.
  [[nodiscard]] std::span<const float> of(const Block& block) const {
    return block.window != 0 && !windowed_.empty() ? windowed_ : full_;
  }

 private:
  std::vector<float> full_, windowed_;  ///< The second only where the two differ.
};

/// Makes of the rows of an embedding what the first block takes (Architecture::scaled_embedding).
void scale_embedded(const model::Config& config, MatrixView<float> x);

/// How blocks are run. All matrices are [tokens, features] of consecutive tokens of one sequence.
class BlockPass {
 public:
  /// Keeps references; `hook` may be null.
  BlockPass(const model::Config& config, Executor& executor, Activations activations, const LinearHook* hook)
      : config_(config), executor_(executor), activations_(activations), hook_(hook) {}

  /// y = x / rms(x) · weight, row by row (Zhang and Sennrich 2019).
  void norm(MatrixView<const float> x, std::span<const float> weight, MatrixView<float> y) const;
  /// What the heads see, [tokens, heads·head_dim]: the input of attention_output. Queries and keys are normed first,
  /// each head by itself, where the block has norms for them (QK-norm: Henry et al. 2020, Dehghani et al. 2023).
  void attention(const Block& block, MatrixView<const float> normed, std::span<const float> rope,
                 const KeyValues& cache, MatrixView<float> mixed) const;
  /// The same from what query, key and value gave: queries, and keys and values as the cache's next rows; the first two
  /// are normed and turned in place.
  void attend(const Block& block, MatrixView<float> queries, std::span<const float> rope, const KeyValues& cache,
              MatrixView<float> mixed) const;
  /// activation(gate)·up, [tokens, intermediate]: the input of down.
  void ffn_gated(const Block& block, MatrixView<const float> normed, MatrixView<float> gated) const;
  void linear(const Linear& linear, MatrixView<const float> x, MatrixView<float> y) const { apply(x, {{linear, y}}); }

  // A block of experts has these in place of ffn_gated and down. Matrices of [places] have the rows of all experts'
  // tokens as the routing orders them.
  [[nodiscard]] Routing route(const Block& block, MatrixView<const float> normed) const;
  /// What the experts see, [places, hidden].
  void gather(const Routing& routing, MatrixView<const float> normed, MatrixView<float> rows) const;
  /// activation(gate)·up, [places, width]: the inputs of their down layers.
  void experts_gated(const Block& block, const Routing& routing, MatrixView<const float> rows,
                     MatrixView<float> gated) const;
  /// What down makes of them, weighted and added up for each token in the order of the experts, [tokens, hidden].
  void experts_down(const Block& block, const Routing& routing, MatrixView<const float> gated,
                    MatrixView<float> out) const;
  /// The inner width of an expert.
  [[nodiscard]] std::size_t expert_width() const;

  /// attention and attention_output; ffn_gated and down, or what experts have in their place.
  void attention_layer(const Block& block, MatrixView<const float> normed, std::span<const float> rope,
                       const KeyValues& cache, MatrixView<float> out) const;
  void ffn(const Block& block, MatrixView<const float> normed, MatrixView<float> out) const;

  /// Each half of the block with its norms, added to x in place. `scratch` keeps its memory from call to call.
  struct Scratch {
    std::vector<float> normed, inner, delta;
  };
  void add_attention(const Block& block, MatrixView<float> x, std::span<const float> rope, const KeyValues& cache,
                     Scratch& scratch) const;
  void add_ffn(const Block& block, MatrixView<float> x, Scratch& scratch) const;
  /// The rest of each half, from the input of its last linear layer: mixed, or gated.
  void add_attention_output(const Block& block, MatrixView<const float> mixed, MatrixView<float> x,
                            Scratch& scratch) const;
  void add_down(const Block& block, MatrixView<const float> gated, MatrixView<float> x, Scratch& scratch) const;
  /// From what ffn() or experts_down() gave, which is normed in place where the block has a norm for it.
  void add_ffn_output(const Block& block, MatrixView<float> out, MatrixView<float> x) const;

 private:
  struct Output {
    const Linear& linear;
    MatrixView<float> y;
  };
  /// Layers that share an input, in one call of the backend; each is shown to the hook.
  void apply(MatrixView<const float> x, std::initializer_list<Output> outputs) const;
  /// The same, or `fused` in their place where there is one, whose output is split.
  void apply(const Linear& fused, MatrixView<const float> x, std::initializer_list<Output> outputs) const;
  /// One feed-forward layer: the block's, or an expert's of some rows.
  void feed_forward_gated(const Block& block, const Linears& layers, MatrixView<const float> normed,
                          MatrixView<float> gated) const;
  void ffn_of_experts(const Block& block, MatrixView<const float> normed, MatrixView<float> out) const;
  /// x += post_norm(out), or without a norm where the block has none of that role.
  void add_normed(const Block& block, model::Role post_norm, MatrixView<float> out, MatrixView<float> x) const;
  /// x += post_norm(linear(input)).
  void add_output(const Block& block, model::Role linear, model::Role post_norm, MatrixView<const float> input,
                  MatrixView<float> x, Scratch& scratch) const;
  /// Norms each head of the rows in place, unless there is no weight [head_dim].
  void norm_heads(MatrixView<float> rows, std::span<const float> weight) const;
  void listen(const Linear& linear, MatrixView<const float> x) const {
    if (hook_ != nullptr && *hook_) (*hook_)(linear.name, x);
  }

  const model::Config& config_;
  Executor& executor_;
  Activations activations_;
  const LinearHook* hook_;
};

}  // namespace nibble::inline NIBBLE_ABI::engine
