// What the readers and writers of adapters share. They are a file each: PEFT's folder (adapter_peft_read.cpp,
// adapter_peft_write.cpp) and llama.cpp's (adapter_gguf.cpp).
#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "nibble/model/adapter.h"

namespace nibble::inline NIBBLE_ABI::model {

/// No adapter has such a rank: it would be larger than the weight that it stands for. A bound keeps products of sizes
/// far from overflowing.
inline constexpr std::size_t kMaxRank = std::size_t{1} << 20;

/// What a file had for one layer, as it arrives.
struct LoraHalves {
  struct Matrix {
    std::string tensor;  ///< Its name in the file; empty: not there.
    std::vector<std::size_t> shape;
    std::vector<float> values;
  };
  Matrix a, b, magnitude;
};

/// Pairs by the layer's name become layers, in natural order, without rank-dependent settings (alpha, rslora).
/// Error{corrupt_file} for a pair that lacks a half, shapes that do not fit, values that are not finite.
std::vector<AdapterLayer> layers_of(std::map<std::string, LoraHalves>& halves, const std::string& file);

/// "layers.2" before "layers.10": the order of an adapter's layers.
bool natural_less(std::string_view a, std::string_view b);

/// A linear layer of a block, by its name.
struct LinearShape {
  std::size_t out, in;
};
/// Nothing for a name that no linear layer of this model has.
std::optional<LinearShape> find_linear(const Config& config, std::string_view layer);

/// Error{invalid_argument | shape_mismatch} unless it can be written: layers with names, each once, matrices of the
/// sizes they state, numbers that are finite, α/r and DoRA in the same way in all.
void validate(const Adapter& adapter, DType type);

Adapter read_peft(const std::filesystem::path& folder);
Adapter read_gguf_adapter(const std::filesystem::path& file, const Config* model);

}  // namespace nibble::inline NIBBLE_ABI::model
