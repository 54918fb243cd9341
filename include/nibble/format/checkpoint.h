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

namespace nibble::inline NIBBLE_ABI {

/// Tensors of a file of another kind under Hugging Face's names, for Checkpoint to show like its own. What it makes is
/// kept until release(). Safe to share between threads.
class TensorProvider {
 public:
  virtual ~TensorProvider() = default;
  [[nodiscard]] virtual const std::vector<TensorInfo>& tensors() const = 0;
  /// The bytes of one of tensors(), aligned to its type.
  [[nodiscard]] virtual Buffer data(const TensorInfo& tensor) const = 0;
  virtual void release(const TensorInfo& tensor) const = 0;
  /// Error{io} if the file was cut off or written to since it was opened.
  virtual void require_intact() const = 0;
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
  /// What `provider` has. (model::open_checkpoint gives GGUF files this way.)
  static Checkpoint over(std::shared_ptr<const TensorProvider> provider,
                         std::optional<QuantizationConfig> config = std::nullopt);

  /// Every tensor, in file order.
  [[nodiscard]] const std::vector<TensorInfo>& tensors() const { return all_; }
  [[nodiscard]] bool contains(const std::string& name) const override { return where_.contains(name); }
  /// Error{not_found} names the tensor.
  [[nodiscard]] const TensorInfo& info(const std::string& name) const;
  /// The bytes as they lie in the file, aligned to nothing.
  [[nodiscard]] Buffer data(const std::string& name) const;
  /// The bytes aligned to the element size: in place where the file has them so, else a copy.
  [[nodiscard]] Buffer aligned_data(const std::string& name) const;
  /// The pages of this tensor may leave memory, and so may the copy that matrix() made of one that is not aligned.
  void release(const std::string& name) const;
  /// Error{io} if one of the files was cut off or written to since it was opened. Whoever writes something made of the
  /// tensors asks before it gets its name.
  void require_intact() const;
  /// What matrix() would give, without the data. Errors as matrix().
  [[nodiscard]] const TensorInfo& matrix_info(const std::string& name) const;
  /// A 2-D tensor of F32, F16 or BF16, in place where the file has it aligned. Valid until release() of this tensor,
  /// and while the Checkpoint is. Error{shape_mismatch} for another number of dimensions; Error{unsupported} for
  /// another type and for the weight of a quantized layer, which decode_quantized reads, or nothing here does
  /// (layout_of).
  [[nodiscard]] FloatMatrix matrix(const std::string& name) const;
  /// The matrices of a 3-D tensor [n, rows, cols], as mixtures of experts have them, one below the other: n·rows ×
  /// cols. Otherwise as matrix().
  [[nodiscard]] const TensorInfo& stack_info(const std::string& name) const;
  [[nodiscard]] FloatMatrix stack(const std::string& name) const;
  /// A tensor of F64, F32, F16 or BF16 as fp32. Error{unsupported} as matrix().
  [[nodiscard]] std::vector<float> read_f32(const std::string& name) const;

  [[nodiscard]] std::optional<NamedTensor> find(const std::string& name) const override;
  [[nodiscard]] std::optional<std::vector<std::string>> names_under(const std::string& layer) const override;
  [[nodiscard]] std::optional<NamedTensor> describe(const std::string& name) const override;
  [[nodiscard]] std::optional<std::string> find_metadata(const std::string& key) const override;
  [[nodiscard]] const QuantizationConfig* quantization() const override { return config_ ? &*config_ : nullptr; }

 private:
  struct Place {
    std::size_t file, tensor;
  };
  /// Copies of tensors that matrix() and stack() have lent out and their file does not align.
  struct AlignedCopies;

  void add(SafetensorsFile file, const std::string& shown);
  const TensorInfo& float_info(const std::string& name, std::size_t dimensions) const;
  const std::byte* aligned(const TensorInfo& t) const;

  std::shared_ptr<const TensorProvider> provider_;  ///< Where there is one it holds the tensors, else files_ do.
  std::vector<SafetensorsFile> files_;
  std::vector<TensorInfo> all_;
  std::map<std::string, Place> where_;
  std::optional<QuantizationConfig> config_;
  std::shared_ptr<AlignedCopies> copies_;
};

}  // namespace nibble::inline NIBBLE_ABI
