// What GPTQ and AWQ need of an engine, any engine: to run one block of a model after another, and to show what the
// block's linear layers multiply. Whoever implements these two classes gets the whole of model/calibrate.h: memory that
// is bounded, hidden states on disk, cancelling and going on, rules for layers, reports.
//
//   class MyBlock : public nibble::model::CalibratedBlock {
//     groups()   {{up}} and {{down}}: the linear layers, together where they multiply the same input
//     weights()  a view of one layer's weights
//     run()      listen(0, input of up); …; listen(1, input of down); …; states += …
//     replace()  from now on the block multiplies by these weights
//   };
//
// That is all of it: examples/calibrate_own_engine.cpp does no more. The rest are refinements, each of which says what
// it gains. Calls come from one thread, one at a time; an engine uses what threads it likes.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "nibble/core/function_ref.h"
#include "nibble/core/matrix_view.h"
#include "nibble/matrix/block_matrix.h"
#include "nibble/matrix/quantized_matrix.h"

namespace nibble::inline NIBBLE_ABI::model {

/// One of a block's linear layers: groups()[group].layers[layer].
struct LayerId {
  std::size_t group = 0, layer = 0;
  // NOLINTNEXTLINE(modernize-use-nullptr): it takes what the compiler compares with for a 0 of ours
  friend auto operator<=>(const LayerId&, const LayerId&) = default;
};

/// What a block has beside its linear layers: a norm's weight, a bias; a router's matrix, row by row.
struct StoredVector {
  std::string name = {};  ///< Under which it comes back if it changes: "model.layers.3.input_layernorm.weight".
  std::vector<float> values = {};  ///< Empty: there is none.
  DType type = DType::f32;         ///< What it is kept in: f32, f16 or bf16. New values are rounded to it.
};

struct CalibratedLayer {
  std::string name = {};           ///< For rules, reports and errors: "model.layers.3.mlp.down_proj".
  std::size_t rows = 0, cols = 0;  ///< Of the weights [out, in].
  DType type = DType::f32;         ///< Of the weights: f32, f16 or bf16.
  bool clips = true;               ///< AWQ may clip the weights; it does not queries' and keys', which meet a softmax.
  StoredVector bias = {};          ///< AWQ alone needs it, and only where a group's scales fold into this layer.
};

/// What AWQ divides by a group's scales when it multiplies the columns of the group's weights by them: a norm, or a
/// linear layer, whose outputs reach the group's input by nothing that scaling does not pass through (an elementwise
/// product, ReLU, attention's weighted sum of values). Neither: the group is not scaled. One for one group.
struct ScaleSource {
  StoredVector norm = {}, norm_bias = {};  ///< A norm that multiplies by `norm` and then adds `norm_bias`, if any.
  bool norm_plus_one = false;              ///< It multiplies by 1 + `norm` (Gemma's do).
  bool is_linear = false;                  ///< Then it is this layer, of a group before:
  LayerId linear = {};
  /// The row of that layer that each channel of the input comes from, where several come from one (heads that share a
  /// value); empty: its last rows, one a channel.
  std::vector<std::size_t> rows = {};
  /// `rows` counts from the first of so many of that layer's last rows (where the layer gives more than values); 0:
  /// from its first.
  std::size_t last_rows = 0;

  [[nodiscard]] bool is_norm() const { return !norm.values.empty(); }
};

/// Linear layers that multiply the same input: they have one Hessian, and AWQ scales them together.
struct LayerGroup {
  std::vector<CalibratedLayer> layers = {};  ///< At least one; all with the same cols.
  ScaleSource source = {};
  /// AWQ's loss is measured behind the module that begins with this input (all of attention, say), which run_module()
  /// runs; else on the outputs of the layers themselves.
  bool has_module = false;

  // Of experts, each of which has groups of its own:

  /// The input is of a part of a sequence's tokens: the listener is shown [some, cols], and no rows where there are
  /// none. A layer that saw less than 0.5 % of the tokens of all sequences is rounded to nearest, and its report says
  /// so.
  bool routed = false;
  /// The input depends on no layer of the group before, so that GPTQ gathers both in one pass. Groups beside each other
  /// whose source is one norm are scaled together by AWQ, on what each of them sees.
  bool beside_previous = false;
  /// Matrices [rows, cols] that multiply this input and stay in floating point, a router's: AWQ multiplies their
  /// columns by the scales. Of groups that are scaled together the first has them.
  std::vector<StoredVector> scaled_along = {};
};

/// Whether AWQ scales a group by the scales of the group before.
bool scaled_with_previous(std::span<const LayerGroup> groups, std::size_t group);

/// A block: what lies between one state of the hidden states and the next. Errors that it throws as nibble::Error come
/// to the caller with the block's number before them; whatever it throws, the blocks finished before are kept.
class CalibratedBlock {
 public:
  /// Is shown the input [tokens, cols] of a group before it is multiplied, groups in their order, and each of them in
  /// every pass, of experts that see no token too. False: nothing that
  /// follows is needed, and the pass may end there (and does where resumes_at(group) is with_states).
  using Listener = FunctionRef<bool(std::size_t group, MatrixView<const float> input)>;

  virtual ~CalibratedBlock() = default;

  /// In the order of the forward pass; the same at any time.
  [[nodiscard]] virtual std::span<const LayerGroup> groups() const = 0;
  /// A layer's weights as the block came with them, until the next call of any function of the block.
  [[nodiscard]] virtual FloatMatrix weights(LayerId layer) = 0;
  /// Runs one sequence's hidden states [tokens, width] through the block, in place. Where the listener ends the pass
  /// they are of no use, but for what resumes_at() says.
  virtual void run(MatrixView<float> states, Listener listen) = 0;
  /// The block multiplies by these weights from now on. GPTQ's layers are calibrated on what those before them,
  /// quantized, give; AWQ never calls it.
  virtual void replace(LayerId layer, QuantizedMatrix weights) = 0;

  /// The same with GGUF's blocks: for export_gguf_calibrated() alone. By default Error{unsupported}.
  virtual void replace_by_blocks(LayerId layer, BlockMatrix weights);

  // Refinement for GPTQ: no part of the block is run twice with the same weights.

  enum class Resume : std::uint8_t {
    never,
    with_states,  ///< From the hidden states as the pass that was ended at this group's input left them.
    with_input,   ///< From the hidden states as that pass found them, and the group's input.
  };
  /// Whether a pass can begin where an earlier one was ended, at this group's input.
  [[nodiscard]] virtual Resume resumes_at(std::size_t) const { return Resume::never; }
  /// run() from there on. `input` is empty unless that is with_input. The listener is shown this group's input again
  /// with_states, and not with_input.
  virtual void resume(std::size_t group, MatrixView<const float> input, MatrixView<float> states, Listener listen);

  // Refinement for GPTAQ and Qronos, which compare the inputs with those in full precision: two blocks of one index,
  // one of which is never given a replacement, are then there at once.

  /// Of a routed group, while its input is shown: which token of the sequence each row is, ascending. Needed for
  /// experts alone; by default Error{unsupported}.
  [[nodiscard]] virtual std::span<const std::size_t> tokens_of(std::size_t group) const;

  // Refinement for AWQ: its loss behind a whole module, LayerGroup::has_module.

  using Outputs = FunctionRef<void(std::size_t index, MatrixView<const float> output)>;
  /// What the module that begins with this group makes of each of the inputs, each all tokens of one sequence, with
  /// `weights` in place of those of the group's layers, or as it is where there are none.
  virtual void run_module(std::size_t group, std::span<const FloatMatrix> weights,
                          std::span<const MatrixView<const float>> inputs, Outputs outputs);
};

/// A model as a row of blocks. Blocks are asked for one after another, and each is let go before the next; with GPTAQ
/// or Qronos each is asked for twice, and lives twice at a time.
class CalibratedModel {
 public:
  virtual ~CalibratedModel() = default;

  [[nodiscard]] virtual std::size_t blocks() const = 0;
  /// Of the hidden states.
  [[nodiscard]] virtual std::size_t width() const = 0;
  /// states [ids, width]: what the first block is given for these tokens.
  virtual void embed(std::span<const std::int32_t> ids, MatrixView<float> states) = 0;
  /// A block with its own weights. The model outlives it.
  [[nodiscard]] virtual std::unique_ptr<CalibratedBlock> block(std::size_t index) = 0;
  /// The output head as a block of one group, whose run() takes what the last block gives. Null: there is none. Only
  /// asked for with CalibrateOptions::lm_head; an error says why it cannot be quantized.
  [[nodiscard]] virtual std::unique_ptr<CalibratedBlock> head() { return nullptr; }

  /// The layers of a block, in the order of its groups, without biases: for the rules, before any work. By default
  /// block(index) is asked, which is slow for one that reads its weights then.
  [[nodiscard]] virtual std::vector<CalibratedLayer> layers(std::size_t index);
  /// Tokens are 0 to vocabulary − 1; 0: they are not checked.
  [[nodiscard]] virtual std::size_t vocabulary() const { return 0; }
  /// The most tokens of a sequence; 0: any number.
  [[nodiscard]] virtual std::size_t context() const { return 0; }
  /// Tells this model from another, so that no run goes on with the blocks of one that was of other weights.
  [[nodiscard]] virtual std::string fingerprint() const { return {}; }
};

}  // namespace nibble::inline NIBBLE_ABI::model
