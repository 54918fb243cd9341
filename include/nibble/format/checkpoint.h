// A model's tensors by name: one .safetensors file, or a Hugging Face directory with one file or a sharded index. And
// what the configuration beside them says about their quantization, so that decode_quantized reads any layout.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "nibble/core/matrix_view.h"
#include "nibble/format/quantization_config.h"
#include "nibble/format/quantized_tensors.h"
#include "nibble/format/safetensors.h"

namespace nibble {

/// Tensors of a file of another kind under Hugging Face's names, for Checkpoint to show like its own. What it makes is
/// kept until release(). Safe to share between threads.
class TensorProvider {
 public:
  virtual ~TensorProvider() = default;
  [[nodiscard]] virtual const std::vector<TensorInfo>& tensors() const = 0;
  /// The bytes of one of tensors(), aligned to its type.
  [[nodiscard]] virtual Buffer data(const TensorInfo& tensor) const = 0;
  virtual void release(const TensorInfo& tensor) const = 0;
  [[nodiscard]] virtual std::optional<std::string> find_metadata(const std::string& key) const = 0;
};

/// Tensors are mapped, not read: opening a large model is quick and takes no memory. Safe to share between threads.
class Checkpoint final : public TensorSource {
 public:
  /// `path` is a .safetensors file or a directory that holds model.safetensors or model.safetensors.index.json, or else
  /// one other .safetensors or .safetensors.index.json file (AutoGPTQ's gptq_model-4bit-128g.safetensors, say).
  /// Error{not_found} says what was looked for; Error{corrupt_file} for an index that does not match its shards, and
  /// those of QuantizationConfig::find for the directory of the tensors.
  static Checkpoint open(const std::filesystem::path& path);
  /// What `provider` has. (llama::open_checkpoint gives GGUF files this way.)
  static Checkpoint over(std::shared_ptr<const TensorProvider> provider,
                         std::optional<QuantizationConfig> config = std::nullopt);

  /// Every tensor, in file order.
  [[nodiscard]] const std::vector<TensorInfo>& tensors() const { return all_; }
  [[nodiscard]] bool contains(const std::string& name) const { return where_.contains(name); }
  /// Error{not_found} names the tensor.
  [[nodiscard]] const TensorInfo& info(const std::string& name) const;
  [[nodiscard]] Buffer data(const std::string& name) const;
  void release(const std::string& name) const;
  /// What matrix() checks, without its data. Error{shape_mismatch | unsupported} as there.
  [[nodiscard]] const TensorInfo& matrix_info(const std::string& name) const;
  /// A 2-D tensor of F32, F16 or BF16 in place; Error{shape_mismatch | unsupported} otherwise. Valid while the
  /// Checkpoint is and the tensor is not released.
  [[nodiscard]] FloatMatrix matrix(const std::string& name) const;
  /// Any floating-point tensor as fp32, converted if need be.
  [[nodiscard]] std::vector<float> read_f32(const std::string& name) const;

  [[nodiscard]] std::optional<NamedTensor> find(const std::string& name) const override;
  [[nodiscard]] std::optional<std::string> find_metadata(const std::string& key) const override;
  [[nodiscard]] const QuantizationConfig* quantization() const override { return config_ ? &*config_ : nullptr; }

 private:
  struct Place {
    std::size_t file, tensor;
  };
  void add(SafetensorsFile file, const std::string& shown);

  std::shared_ptr<const TensorProvider> provider_;  ///< Where there is one it holds the tensors, else files_ do.
  std::vector<SafetensorsFile> files_;
  std::vector<TensorInfo> all_;
  std::map<std::string, Place> where_;
  std::optional<QuantizationConfig> config_;
};

}  // namespace nibble
