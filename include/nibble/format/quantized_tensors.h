// Quantized linear layers as named tensors of a checkpoint, in the layouts the ecosystem reads where there is one.
//
// For a layer `L` (without ".weight"), K = input features, N = output features:
//
//   nf4, fp4 (bitsandbytes 4-bit)   L.weight U8 [⌈NK/2⌉, 1], the even element of the flattened matrix in the high
//   nibble
//                                   L.weight.absmax F32 [blocks], or U8 with L.weight.nested_absmax F32 and
//                                   L.weight.nested_quant_map F32 [256]; L.weight.quant_map F32 [16];
//                                   L.weight.quant_state.bitsandbytes__nf4 | __fp4 U8: JSON
//   llm-int8, int8-channel-sym      L.weight I8 [N, K]; L.SCB F32 [N], the row's absmax; L.weight_format U8 [] = 0
//   (bitsandbytes 8-bit)
//   every other spec (nibble, v1)   L.weight.nibble.codes U8 [N, row bytes], the canonical stream;
//   L.weight.nibble.scales
//                                   [groups] in the spec's type; asymmetric: L.weight.nibble.zero_points, U8, an
//                                   LSB-first stream of `bits` each, or I32 [groups] for the raw range
//
// The file's metadata holds "nibble.L" = "<spec> <N>x<K>", which is what tells our own layouts apart.
// Source of bitsandbytes' layouts: its serialisation code, as described in its documentation and files.
#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "nibble/core/buffer.h"
#include "nibble/core/dtype.h"
#include "nibble/matrix/quantized_matrix.h"

namespace nibble {

/// A tensor to be written, with or without its bytes.
struct NamedTensor {
  std::string name;
  DType type = DType::u8;
  std::vector<std::size_t> shape;
  Buffer bytes;
};

/// What encode_quantized will give for a rows × cols layer, the bytes left out: sizes are known before the work, so a
/// writer can lay out its file first. `dtype` is the type the weights had ("bfloat16"), which bitsandbytes records.
std::vector<NamedTensor> declare_quantized(const std::string& layer, const QuantSpec& spec, std::size_t rows,
                                           std::size_t cols, DType dtype);
std::vector<NamedTensor> encode_quantized(const std::string& layer, const QuantizedMatrix& q, DType dtype);

/// The metadata entry ("nibble.L", "int4-g128-sym 768x256") to store with the tensors.
std::pair<std::string, std::string> quantized_metadata(const std::string& layer, const QuantizedMatrix& q);
std::pair<std::string, std::string> quantized_metadata(const std::string& layer, const QuantSpec& spec,
                                                       std::size_t rows, std::size_t cols);

/// How a reader looks at a checkpoint: tensors by name, metadata by key. NamedTensor bytes may view a mapped file.
class TensorSource {
 public:
  virtual ~TensorSource() = default;
  /// Nothing if there is no tensor of that name.
  [[nodiscard]] virtual std::optional<NamedTensor> find(const std::string& name) const = 0;
  [[nodiscard]] virtual std::optional<std::string> find_metadata(const std::string& key) const = 0;
};

/// The quantized layer `L`, or nothing if L.weight is an ordinary tensor or missing. Error{corrupt_file} names the
/// tensor that is missing, of the wrong type or size, or holds a value its layout does not allow.
std::optional<QuantizedMatrix> decode_quantized(const TensorSource& source, const std::string& layer);

/// Our quantization_config for config.json: bitsandbytes' for its layouts, quant_method "nibble" for our own. JSON
/// text.
std::string quantization_config(const QuantSpec& spec, const std::vector<std::string>& skipped_modules);

}  // namespace nibble
