// How a layout looks at a checkpoint: tensors by name, metadata by key, and what the configuration says.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "nibble/core/buffer.h"
#include "nibble/core/dtype.h"

namespace nibble::inline NIBBLE_ABI {

class QuantizationConfig;

/// A tensor to be written, with or without its bytes.
struct NamedTensor {
  std::string name;
  DType type = DType::u8;
  std::vector<std::size_t> shape;
  Buffer bytes;
};

/// How a reader looks at a checkpoint. NamedTensor bytes may view a mapped file.
class TensorSource {
 public:
  virtual ~TensorSource() = default;
  /// Nothing if there is no tensor of that name.
  [[nodiscard]] virtual std::optional<NamedTensor> find(const std::string& name) const = 0;
  [[nodiscard]] virtual std::optional<std::string> find_metadata(const std::string& key) const = 0;
  /// What the model's configuration says about its quantization; null if nothing. GPTQ, AWQ and compressed-tensors
  /// layers cannot be read without it.
  [[nodiscard]] virtual const QuantizationConfig* quantization() const { return nullptr; }
  /// Whether find() would give something; for sources that know without touching the tensor.
  [[nodiscard]] virtual bool contains(const std::string& name) const { return find(name).has_value(); }
  /// The names that begin with "<layer>."; nothing from a source that cannot list its tensors.
  [[nodiscard]] virtual std::optional<std::vector<std::string>> names_under(const std::string&) const {
    return std::nullopt;
  }
  /// As find(), but the bytes may be left out.
  [[nodiscard]] virtual std::optional<NamedTensor> describe(const std::string& name) const { return find(name); }
};

}  // namespace nibble::inline NIBBLE_ABI
