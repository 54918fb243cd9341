// The linear layers of a model, which quantization is about, and what is left: by the table of its architecture, or by
// the names and shapes of its tensors where no table describes it.
//
// By rule a linear layer is a matrix "NAME.weight" of F32, F16 or BF16, or a stack of matrices [n, rows, cols] among
// the experts of a mixture, unless its name says that it is something else: an embedding, a head, a norm, a router.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "nibble/format/checkpoint.h"
#include "outline.h"

namespace nibble::inline NIBBLE_ABI::model {

/// One tensor of linear layers.
struct LinearTensor {
  std::string tensor;        ///< As the file names it.
  std::string layer;         ///< The same without ".weight".
  std::size_t matrices = 0;  ///< Of a stack [matrices, rows, cols]; 0 for a matrix.

  /// The layers in it: itself, or "layer.0", "layer.1", … of a stack.
  [[nodiscard]] std::vector<std::string> layers() const;
};

/// Why a tensor stays as it is.
enum class LeftAs : std::uint8_t { vector, embedding, head, norm, router, adapter, transposed, other };

struct LeftTensor {
  std::string tensor;
  LeftAs as;
};

struct LinearLayers {
  std::vector<LinearTensor> linears;   ///< In file order by rule, in that of the blocks by table.
  std::vector<LinearTensor> heads;     ///< Quantized only if asked for.
  std::vector<LeftTensor> left;        ///< By table only routers.
  std::vector<std::string> quantized;  ///< Layers that are quantized already, in file order.
  bool by_rule = false;

  /// The names of linear layers that stay in floating point whatever is chosen: routers, say.
  [[nodiscard]] std::vector<std::string> left_layers() const;
  /// The same and the heads: what a quantization_config names as not quantized. Of an architecture that is known a head
  /// that is tied, too, which the file does not name.
  [[nodiscard]] std::vector<std::string> left_layers_and_heads() const;
  /// For the user: what the rule found and what it left.
  [[nodiscard]] std::string summary(const Outline& outline) const;
};

/// Holds the checkpoint against what its configuration promises, where that is known, as check_stored_weights does, and
/// says which layers are quantized already. Error{unsupported} for a weight that is quantized in a way nothing decodes,
/// or has tensors beside it that nothing reads. `from` is for messages.
LinearLayers find_linear_layers(const Checkpoint& checkpoint, const Outline& outline, const std::string& from);
/// Error{invalid_argument} where the rule found none: it says what it looks for and which architectures are known.
void require_linear_layers(const LinearLayers& layers, const Outline& outline, const std::string& from);

/// What the weights of a quantized model were before, for bitsandbytes records it: the embedding still is.
DType dtype_of_weights(const Checkpoint& checkpoint, const Outline& outline, const LinearLayers& layers);

/// What a tensor is, were it of a model that no table describes. Nothing for a linear layer.
std::optional<LeftAs> left_as(const TensorInfo& tensor, std::string_view model_type);

}  // namespace nibble::inline NIBBLE_ABI::model
