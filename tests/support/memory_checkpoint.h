// A checkpoint in memory, with whatever tensors, metadata and configuration a test wants.
#pragma once

#include <cstring>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "nibble/format/quantization_config.h"
#include "nibble/format/quantized_tensors.h"

namespace nibble::testing_support {

template <class T>
Buffer buffer_of(const std::vector<T>& values) {
  Buffer out = Buffer::allocate(values.size() * sizeof(T));
  if (!values.empty()) std::memcpy(out.writable<std::byte>(), values.data(), out.size());
  return out;
}

/// A copy whose bytes can be changed.
inline Buffer copy_of(const Buffer& from) {
  Buffer out = Buffer::allocate(from.size());
  if (from.size() > 0) std::memcpy(out.writable<std::byte>(), from.data(), from.size());
  return out;
}

inline bool same_bytes(const Buffer& a, const Buffer& b) {
  return a.size() == b.size() && (a.size() == 0 || std::memcmp(a.data(), b.data(), a.size()) == 0);
}

class MemoryCheckpoint : public TensorSource {
 public:
  MemoryCheckpoint() = default;
  /// The layer "L" in a layout, as a model directory would hold it.
  MemoryCheckpoint(CheckpointLayout layout, const QuantizedMatrix& q, DType dtype = DType::bf16) {
    for (auto& t : encode_quantized(layout, "L", q, dtype)) tensors.emplace(t.name, std::move(t));
    const auto description = LayerDescription::of(q, dtype);
    if (const auto entry = quantized_metadata(layout, "L", description)) metadata.insert(*entry);
    config = QuantizationConfig::parse(quantization_config(layout, {{"L", description}}, {"lm_head"}), "config.json");
  }
  std::optional<NamedTensor> find(const std::string& name) const override {
    const auto it = tensors.find(name);
    return it == tensors.end() ? std::nullopt : std::optional(it->second);
  }
  std::optional<std::string> find_metadata(const std::string& key) const override {
    const auto it = metadata.find(key);
    return it == metadata.end() ? std::nullopt : std::optional(it->second);
  }
  const QuantizationConfig* quantization() const override { return config ? &*config : nullptr; }

  /// Configuration text in place of what there is.
  void configure(const std::string& json) { config = QuantizationConfig::parse(json, "config.json"); }
  template <class T>
  void put(const std::string& name, DType type, std::vector<std::size_t> shape, const std::vector<T>& values) {
    tensors[name] = {name, type, std::move(shape), buffer_of(values)};
  }
  /// A tensor's bytes, to be damaged.
  template <class T>
  T* edit(const std::string& name) {
    Buffer& bytes = tensors.at(name).bytes;
    bytes = copy_of(bytes);
    return bytes.writable<T>();
  }

  std::map<std::string, NamedTensor> tensors;
  std::map<std::string, std::string> metadata;
  std::optional<QuantizationConfig> config;
};

/// A matrix of random codes, zero points and scales that the spec allows: every code and every zero point occurs.
inline QuantizedMatrix random_quantized(const QuantSpec& spec, std::size_t rows, std::size_t cols, unsigned seed) {
  QuantizedMatrix q = QuantizedMatrix::allocate(spec, rows, cols);
  std::uint64_t state = seed * 2654435761u + 12345;
  const auto next = [&](std::uint64_t below) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (state >> 33) % below;
  };
  auto* codes = q.codes.writable<std::uint8_t>();
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t c = 0; c < cols; ++c)
      set_code(codes + r * q.row_bytes(), c, spec.bits, static_cast<std::uint8_t>(next(1u << spec.bits)));
  if (spec.has_float_codes() && spec.bits == 8)
    for (std::size_t i = 0; i < q.codes.size(); ++i)
      if (!is_finite(q.codebook[codes[i]])) codes[i] = 0x42;  // of E4M3 and E5M2 some are no numbers
  if (spec.has_tensor_scale()) q.tensor_scale = {1.75f, true};
  for (std::size_t g = 0; g < q.group_count(); ++g) {
    const float scale = static_cast<float>(next(255) + 1) / 4096;  // exact in F16 and BF16
    if (spec.double_quant) q.scales.writable<std::uint8_t>()[g] = static_cast<std::uint8_t>(next(256));
    else store_scale(spec.scale_type, q.scales.writable<std::byte>(), g, scale);
    if (spec.has_real_zeros())
      store_scale(spec.scale_type, q.zero_points.writable<std::byte>(), g, static_cast<float>(next(255)) / 16);
    if (spec.has_zero_points() && spec.preserve_zero)
      q.zero_points.writable<std::uint8_t>()[g] = static_cast<std::uint8_t>(next(1u << spec.bits));
    else if (spec.has_zero_points())
      q.zero_points.writable<std::int32_t>()[g] = static_cast<std::int32_t>(next(4000)) - 2000;
  }
  if (spec.double_quant) {
    q.nested.offset = 0.375f;
    q.nested.absmax.assign((q.group_count() + NestedScales::block_size - 1) / NestedScales::block_size, 0.25f);
    for (int i = 0; i < 256; ++i) q.nested.map.push_back(static_cast<float>(i - 128) / 128);
  }
  return q;
}

/// Groups of equal size in an order of their own, as act-order leaves them.
inline std::vector<std::int32_t> scattered_g_idx(std::size_t cols, std::size_t group_size) {
  std::vector<std::int32_t> out(cols);
  for (std::size_t c = 0; c < cols; ++c) out[c * 37 % cols] = static_cast<std::int32_t>(c / group_size);
  return out;
}

}  // namespace nibble::testing_support
