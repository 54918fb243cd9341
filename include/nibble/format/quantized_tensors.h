// Quantized linear layers as named tensors of a checkpoint, in every layout that the ecosystem reads.
//
// For a layer `L` (without ".weight"), K = input features, N = output features:
//
//   bitsandbytes        nf4, fp4     L.weight U8 [⌈NK/2⌉, 1], even elements of the flattened matrix in high nibbles;
//                                    L.weight.absmax F32 [blocks], or U8 with L.weight.nested_absmax F32 and
//                                    L.weight.nested_quant_map F32 [256]; L.weight.quant_map F32 [16];
//                                    L.weight.quant_state.bitsandbytes__nf4 | __fp4 U8: JSON. Read too where
//                                    quant_storage packs L.weight into wider elements, BF16 or F32 say
//                       llm-int8,    L.weight I8 [N, K]; L.SCB F32 [N], the row's absmax; L.weight_format U8 [] = 0
//                       int8 rows
//   gptq, gptq-v2       2, 3, 4 and 8 bits, act-order: gptq.h
//   awq, awq-gemv,      4 bits: awq.h
//   awq-gemv-fast
//   compressed-tensors  2 to 8 bits, and floats of 8, 6 and 4: compressed_tensors.h
//   fp8                 DeepSeek's and transformers': fp8.h
//   modelopt            NVFP4 and FP8: modelopt.h
//   nibble (v1)         any spec     L.weight.nibble.codes U8 [N, row bytes], the canonical stream;
//                                    L.weight.nibble.scales [groups] in the spec's type; asymmetric:
//                                    L.weight.nibble.zero_points, U8, an LSB-first stream of `bits` each, or I32
//                                    [groups] for the raw range; act-order: L.weight.nibble.g_idx I32 [K];
//                                    E4M3 scales: L.weight.nibble.tensor_scale F32 [2], the value, and 1 if it divides
//
// The file's metadata holds "nibble.L" = "<spec> <N>x<K>" for the nibble layout and for int8 rows in bitsandbytes'.
// Source of bitsandbytes' layouts: its serialisation code, as described in its documentation and files.
#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "nibble/format/tensor_source.h"
#include "nibble/matrix/quantized_matrix.h"

namespace nibble::inline NIBBLE_ABI {

enum class CheckpointLayout : std::uint8_t {
  nibble,
  bitsandbytes,
  gptq,
  gptq_v2,
  awq_gemm,
  awq_gemv,
  awq_gemv_fast,  ///< Read only.
  compressed_tensors,
  fp8,
  modelopt,
};

/// "gptq-v2": what `nibble convert --to` takes.
std::string_view name_of(CheckpointLayout layout);
/// Error{invalid_argument} lists the names there are.
CheckpointLayout parse_checkpoint_layout(std::string_view name);
/// All of them, in the order above.
std::span<const CheckpointLayout> checkpoint_layouts();
/// Where a spec is at home when nobody chooses: bitsandbytes if it has it, compressed-tensors for floats, else nibble.
CheckpointLayout default_layout(const QuantSpec& spec);

/// What is known of a layer before its codes are: enough to name and size its tensors.
struct LayerDescription {
  QuantSpec spec;
  std::size_t rows = 0, cols = 0;
  bool act_order = false;     ///< There is a g_idx that says more than column/group_size.
  DType dtype = DType::bf16;  ///< Of the weights before: bitsandbytes records it.

  static LayerDescription of(const QuantizedMatrix& q, DType dtype = DType::bf16);
};

/// A layer of a model, as a quantization_config speaks of it.
struct QuantizedLayer {
  std::string name;
  LayerDescription description;
  bool act_order = false;  ///< Solved in act-order, be there a g_idx of it or not (static groups, one group a row).
};

/// What a quantization_config says of the run that made the layers. What is not set was not, and is left out.
struct QuantizationRun {
  std::optional<double> damp_percent;
  std::optional<bool> true_sequential, static_groups;
};

// ── Reading

/// The layout of the quantized layer `L`; nothing if L.weight is an ordinary tensor or missing. Error{not_found} where
/// the tensors are those of GPTQ or AWQ and no configuration says which. Error{unsupported} where the layer is
/// quantized in a way that no layout decodes, which shows by tensors beside the weight (L.weight_scale_inv, L.W_q, …),
/// by a type of codes (F8_E4M3, I8, U32, …) or by the configuration's quant_method: it names them all.
std::optional<CheckpointLayout> layout_of(const TensorSource& source, const std::string& layer);

/// The quantized layer `L`, or nothing if L.weight is an ordinary tensor or missing. Error{corrupt_file} names the
/// tensor that is missing, of the wrong type or size, or holds a value its layout does not allow; else as layout_of.
std::optional<QuantizedMatrix> decode_quantized(const TensorSource& source, const std::string& layer);

/// The layer that a tensor would be part of, were it quantized: "L" for "L.qweight", "L.weight.absmax", "L.weight", …;
/// nothing for other names, "L.bias" too.
std::optional<std::string> layer_of_tensor(std::string_view tensor);

/// Tensors under "L." that have no part in reading the layer as it is stored: not its weight, codes, scales or bias,
/// nor the scales of its activations. Of a linear layer there should be none. Empty for a source that cannot list its
/// tensors. Errors as layout_of.
std::vector<std::string> unread_tensors(const TensorSource& source, const std::string& layer);

// ── Writing

/// Why a layer cannot go into a layout without loss, as a sentence; empty if it can. The first knows the description
/// alone and doubts scales of a wider type; the second looks at the values: F32 scales that are exact in F16 lose
/// nothing. The second also tells of two things that encode_quantized takes: a zero point of 0 in GPTQ v1, which others
/// may read differently (gptq.h), and a row scale that bitsandbytes' 8-bit layout holds but for its last bit.
std::string loss_in(CheckpointLayout layout, const LayerDescription& description);
std::string loss_in(CheckpointLayout layout, const QuantizedMatrix& q);

/// The spec nearest to a layer's that the layout holds: its own if there is no loss. Where only scale_type differs,
/// with_scale_type() is enough; else the layer must be quantized anew. Error{unsupported} if the shape itself cannot be
/// stored, or the layout is only read.
QuantSpec nearest_spec(CheckpointLayout layout, const LayerDescription& description);
/// The same codes with every scale rounded to `type`, F32, F16 or BF16. Error{non_finite} for a scale beyond its range.
QuantizedMatrix with_scale_type(QuantizedMatrix q, ScaleType type, const std::string& name = "matrix");

/// What encode_quantized will give, the bytes left out: sizes are known before the work, so a writer can lay out its
/// file first. Error{unsupported} if the layout cannot hold it.
std::vector<NamedTensor> declare_quantized(CheckpointLayout layout, const std::string& layer,
                                           const LayerDescription& description);
/// Error{unsupported} names the layer and says why it would not come back the same.
std::vector<NamedTensor> encode_quantized(CheckpointLayout layout, const std::string& layer, const QuantizedMatrix& q,
                                          DType dtype);
/// The metadata entry ("nibble.L", "int4-g128-sym 768x256") to store with the tensors, where the layout needs one.
std::optional<std::pair<std::string, std::string>> quantized_metadata(CheckpointLayout layout, const std::string& layer,
                                                                      const LayerDescription& description);
/// The quantization_config of a model with these layers, for config.json; JSON text. What most layers share is said
/// once, the rest by name. Error{unsupported} where the layout has no room for layers that differ. `skipped` are the
/// linear layers left in floating point.
std::string quantization_config(CheckpointLayout layout, const std::vector<QuantizedLayer>& layers,
                                const std::vector<std::string>& skipped_modules, const QuantizationRun& run = {});

// ── The same in the spec's default layout, with its errors: of floats that asks for whole groups

std::vector<NamedTensor> declare_quantized(const std::string& layer, const QuantSpec& spec, std::size_t rows,
                                           std::size_t cols, DType dtype);
std::vector<NamedTensor> encode_quantized(const std::string& layer, const QuantizedMatrix& q, DType dtype);
std::pair<std::string, std::string> quantized_metadata(const std::string& layer, const QuantizedMatrix& q);
std::pair<std::string, std::string> quantized_metadata(const std::string& layer, const QuantSpec& spec,
                                                       std::size_t rows, std::size_t cols);
std::string quantization_config(const QuantSpec& spec, const std::vector<std::string>& skipped_modules);

}  // namespace nibble::inline NIBBLE_ABI
