// One decoder block: its weights, and its forward pass in stages, so that a model can be gone through block by block
// and calibration can begin, listen and end between the stages. Model::forward() is made of the same calls.
//
//   x ─ norm ─ query, key, value ─ attention ─ attention_output ─ (+ x) ─ norm ─ gate, up ─ down ─ (+) ─►
//     └────────────────────── attention_layer ──────────────────────┘   └─────────── ffn ───────────┘
//
// In some architectures what a half gives is normed once more before it is added.
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

struct Block {
  std::array<Linear, model::kLinearRoles> linears;      ///< By role; without a weight where the architecture has none.
  std::array<std::vector<float>, model::kRoles> norms;  ///< By role; empty where the architecture has none.
  std::size_t window = 0;                               ///< A token sees itself and the window − 1 before it; 0: all.

  [[nodiscard]] Linear& operator[](model::Role role) { return linears.at(static_cast<std::size_t>(role)); }
  [[nodiscard]] const Linear& operator[](model::Role role) const { return linears.at(static_cast<std::size_t>(role)); }
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

/// Sees the input [tokens, in] of each linear layer before it is applied.
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

  /// attention and attention_output; ffn_gated and down.
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

 private:
  struct Output {
    const Linear& linear;
    MatrixView<float> y;
  };
  /// Layers that share an input, in one call of the backend; each is shown to the hook.
  void apply(MatrixView<const float> x, std::initializer_list<Output> outputs) const;
  /// The same, or `fused` in their place where there is one, whose output is split.
  void apply(const Linear& fused, MatrixView<const float> x, std::initializer_list<Output> outputs) const;
  /// x += post_norm(linear(input)), or without a norm where the block has none of that role.
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
