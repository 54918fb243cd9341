// A copy of a model with one of its weights replaced.
#pragma once

#include <filesystem>
#include <fstream>
#include <string>

#include "nibble/core/float_types.h"
#include "nibble/format/safetensors.h"

namespace nibble::testing_support {

/// Copies the directory `from`, whose tensors are BF16 in model.safetensors, to `to`, and sets one element there.
inline std::filesystem::path damaged_model(const std::filesystem::path& from, const std::filesystem::path& to,
                                           const std::string& tensor, std::size_t element, float value) {
  std::filesystem::copy(from, to, std::filesystem::copy_options::recursive);
  const auto file = to / "model.safetensors";
  std::ifstream in(file, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  const auto header = parse_safetensors_header(std::as_bytes(std::span(text)), file.string());
  const bf16 stored(value);
  for (const TensorInfo& t : header.tensors)
    if (t.name == tensor) {
      std::fstream out(file, std::ios::binary | std::ios::in | std::ios::out);
      out.seekp(static_cast<std::streamoff>(header.data_start + t.offset + element * sizeof stored));
      out.write(reinterpret_cast<const char*>(&stored), sizeof stored);
    }
  return to;
}

}  // namespace nibble::testing_support
