// One way to store quantized layers: the interface that each layout implements, and the list of all.
#pragma once

#include <string>
#include <vector>

#include "nibble/format/quantized_tensors.h"

namespace nibble::inline NIBBLE_ABI::format {

class LayerFormat {
 public:
  virtual ~LayerFormat() = default;

  /// Whether `layer` is stored this way. Cheap: looks for names, and at the configuration.
  [[nodiscard]] virtual bool holds(const TensorSource& source, const std::string& layer) const = 0;
  /// A layer for which holds() is true.
  [[nodiscard]] virtual QuantizedMatrix decode(const TensorSource& source, const std::string& layer) const = 0;

  /// Why a layer of this description cannot be stored, whatever its values; empty if it can.
  [[nodiscard]] virtual std::string obstacle(const LayerDescription& d) const = 0;
  /// Which of this layer's values (scales, codebook) cannot be stored as they are; empty if all can.
  [[nodiscard]] virtual std::string value_loss(const QuantizedMatrix&) const { return {}; }
  /// What comes back a unit in the last place away, or is read otherwise by others; empty if nothing.
  [[nodiscard]] virtual std::string tolerated_loss(const QuantizedMatrix&) const { return {}; }
  /// The nearest spec that can be stored.
  [[nodiscard]] virtual QuantSpec nearest(const LayerDescription& d) const = 0;

  /// The tensors without their bytes, and the same with them. The layer has no obstacle and no loss.
  [[nodiscard]] virtual std::vector<NamedTensor> declare(const std::string& layer, const LayerDescription& d) const = 0;
  virtual void fill(const QuantizedMatrix& q, DType dtype, std::vector<NamedTensor>& tensors) const = 0;
  /// The file's metadata must say "nibble.L" = "<spec> <N>x<K>".
  [[nodiscard]] virtual bool needs_metadata() const { return false; }
  /// quantization_config, as JSON text, for layers that have no obstacle; at least one.
  [[nodiscard]] virtual std::string config(const std::vector<QuantizedLayer>& layers,
                                           const std::vector<std::string>& skipped,
                                           const QuantizationRun& run) const = 0;
};

/// The implementation of a layout.
const LayerFormat& format_of(CheckpointLayout layout);

/// The implementations, each in the file of its name (the first in nibble_layout.cpp).
const LayerFormat& nibble_format();
const LayerFormat& bitsandbytes_format();
const LayerFormat& gptq_format(bool v2);
enum class AwqKind { gemm, gemv, gemv_fast };
const LayerFormat& awq_format(AwqKind kind);
const LayerFormat& compressed_tensors_format();
const LayerFormat& fp8_format();
const LayerFormat& modelopt_format();

}  // namespace nibble::inline NIBBLE_ABI::format
