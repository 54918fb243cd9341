// Any configuration, and tensors of any shape, type and content under every name a layout knows: a layer is decoded, or
// nibble::Error is thrown, nothing else. What is decoded must be whole, and go into a layout that says it holds it.
//
// Input: a byte that chooses one of the configurations below or none of them; in the latter case the configuration up
// to the first zero byte; then tensors of (name index, type, dimensions, sizes …), each with as many bytes of what
// follows as its shape asks for, at most 4 KiB; then their contents.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>

#include "nibble/core/error.h"
#include "nibble/format/quantization_config.h"
#include "nibble/format/quantized_tensors.h"

namespace {

constexpr std::array kNames{".qweight",
                            ".qzeros",
                            ".scales",
                            ".scaled_zeros",
                            ".g_idx",
                            ".weight_packed",
                            ".weight_scale",
                            ".weight_zero_point",
                            ".weight_shape",
                            ".weight_g_idx",
                            ".weight",
                            ".SCB",
                            ".weight.absmax",
                            ".weight.quant_map",
                            ".weight.nested_absmax",
                            ".weight.nested_quant_map",
                            ".weight.quant_state.bitsandbytes__nf4",
                            ".weight.nibble.codes",
                            ".weight.nibble.scales",
                            ".weight.nibble.zero_points",
                            ".weight.nibble.g_idx",
                            ".weight.nibble.tensor_scale",
                            ".weight_scale_inv",
                            ".weight_scale_2",
                            ".weight_global_scale"};

constexpr std::array kConfigs{
    R"({"quant_method": "gptq", "bits": 4, "group_size": 8})",
    R"({"quant_method": "gptq", "bits": 3, "group_size": 32, "sym": false, "checkpoint_format": "gptq_v2"})",
    R"({"quant_method": "gptq", "bits": 2, "group_size": -1, "sym": false, "meta": {"quantizer": "gptqmodel:1"}})",
    R"({"quant_method": "gptq", "bits": 8, "group_size": 4, "desc_act": true})",
    R"({"quant_method": "awq", "bits": 4, "group_size": 8, "version": "gemm"})",
    R"({"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemv", "zero_point": false})",
    R"({"quant_method": "awq", "bits": 4, "group_size": 64, "version": "gemv_fast"})",
    R"({"quant_method": "compressed-tensors", "config_groups": {"g": {"targets": ["Linear"], "weights":
        {"num_bits": 4, "symmetric": false, "strategy": "group", "group_size": 8, "actorder": "group"}}}})",
    R"({"quant_method": "compressed-tensors", "config_groups": {"g": {"targets": ["Linear"], "weights":
        {"num_bits": 3, "symmetric": false, "strategy": "tensor"}}}})",
    R"({"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": {"g": {"targets":
        ["Linear"], "weights": {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [4, 4]}}}})",
    R"({"quant_method": "compressed-tensors", "format": "mxfp6-pack-quantized", "config_groups": {"g": {"targets":
        ["Linear"], "weights": {"num_bits": 6, "type": "float", "strategy": "group", "group_size": 8}}}})",
    R"({"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized", "config_groups": {"g": {"targets":
        ["Linear"], "weights": {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}}}})",
    R"({"quant_method": "fp8", "weight_block_size": [4, 4]})",
    R"({"quant_method": "fp8"})",
    R"({"quant_method": "modelopt", "quant_algo": "NVFP4"})"};

/// The metadata of our own layout, by the same byte.
constexpr std::array kDescriptions{"int4-g8-asym 3x9", "int3-g16-sym 2x32", "nf4-b64-dq 4x16",   "int5-g4-asymraw 3x7",
                                   "nvfp4 3x32",       "e4m3-t4 5x9",       "e3m2-g32-e8m0 2x33"};

class Source final : public nibble::TensorSource {
 public:
  Source(const std::uint8_t* data, std::size_t size) {
    const std::size_t choice = size == 0 ? kConfigs.size() : data[0] % (kConfigs.size() + 1);
    const auto* zero = size == 0 ? nullptr : static_cast<const std::uint8_t*>(std::memchr(data, 0, size));
    std::size_t text = 0;
    if (choice < kConfigs.size()) {
      config_ = nibble::QuantizationConfig::parse(kConfigs[choice], "fuzz");
    } else if (size > 0) {
      text = zero == nullptr ? size : std::max<std::size_t>(1, static_cast<std::size_t>(zero - data));
      config_ = nibble::QuantizationConfig::parse({reinterpret_cast<const char*>(data) + 1, text - 1}, "fuzz");
    }
    description_ = size == 0 ? "" : kDescriptions[data[0] / 16 % kDescriptions.size()];
    for (std::size_t at = text + 1; at + 3 <= size;) {
      nibble::NamedTensor t;
      t.name = std::string("L") + kNames[data[at] % kNames.size()];
      t.type = static_cast<nibble::DType>(data[at + 1] % 16);
      const std::size_t dimensions = data[at + 2] % 4;
      at += 3;
      std::size_t bytes = nibble::size_of(t.type);
      for (std::size_t d = 0; d < dimensions && at < size; ++d) {
        t.shape.push_back(data[at] == 255 ? std::size_t{1} << 62 : data[at]);
        if (__builtin_mul_overflow(bytes, t.shape.back(), &bytes)) bytes = 0;
        ++at;
      }
      t.bytes = nibble::Buffer::allocate(std::min<std::size_t>(bytes, 4096));
      const std::size_t there = std::min(t.bytes.size(), size - std::min(at, size));
      if (there > 0) std::memcpy(t.bytes.writable<std::byte>(), data + at, there);
      at += there;
      tensors_[t.name] = t;
    }
  }
  std::optional<nibble::NamedTensor> find(const std::string& name) const override {
    const auto it = tensors_.find(name);
    return it == tensors_.end() ? std::nullopt : std::optional(it->second);
  }
  std::optional<std::string> find_metadata(const std::string&) const override { return description_; }
  const nibble::QuantizationConfig* quantization() const override { return config_ ? &*config_ : nullptr; }

 private:
  std::optional<nibble::QuantizationConfig> config_;
  std::string description_;
  std::map<std::string, nibble::NamedTensor> tensors_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const Source source(data, size);
    const auto q = nibble::decode_quantized(source, "L");
    if (!q) return 0;
    q->validate("L");
    for (std::size_t r = 0; r < q->rows; r += q->rows / 2 + 1) (void)q->value(r, q->cols - 1);
    for (const auto layout : nibble::checkpoint_layouts()) {
      if (!nibble::loss_in(layout, *q).empty()) continue;
      for (const auto& t : nibble::encode_quantized(layout, "L", *q, nibble::DType::f32)) {
        std::size_t bytes = nibble::size_of(t.type);
        for (const std::size_t d : t.shape) bytes *= d;
        if (t.bytes.size() != bytes) __builtin_trap();
      }
    }
  } catch (const nibble::Error&) {
  }
  return 0;
}
