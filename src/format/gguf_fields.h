// Typed access to the metadata of a GGUF file, with errors that name the key.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "nibble/core/error.h"
#include "nibble/format/gguf.h"

namespace nibble::inline NIBBLE_ABI::format {

class GgufFields {
 public:
  GgufFields(const GgufMetadata& metadata, std::string file) : metadata_(metadata), file_(std::move(file)) {}

  [[nodiscard]] const GgufValue* find(const std::string& key) const {
    const auto it = metadata_.find(key);
    return it == metadata_.end() ? nullptr : &it->second;
  }
  /// A whole number of any integer type, from 0.
  [[nodiscard]] std::optional<std::uint64_t> number(const std::string& key) const;
  /// The same, positive and no more than 2^28; Error{corrupt_file} if it is not there and has no fallback.
  [[nodiscard]] std::size_t size(const std::string& key, std::optional<std::size_t> fallback = std::nullopt) const;
  /// A positive number. One stored as f32 is the double of its shortest decimal: 1e-5, not 9.99999974737875e-06.
  [[nodiscard]] double positive(const std::string& key, std::optional<double> fallback = std::nullopt) const;
  [[nodiscard]] std::string text(const std::string& key, const std::string& fallback) const;
  [[nodiscard]] bool flag(const std::string& key, bool fallback) const;
  /// The elements of an array; null if the key is not there, Error{corrupt_file} for another type.
  template <class T>
  [[nodiscard]] const std::vector<T>* array(const std::string& key) const {
    const GgufValue* v = find(key);
    if (v == nullptr) return nullptr;
    const auto* a = std::get_if<GgufArray>(v);
    const auto* elements = a == nullptr ? nullptr : std::get_if<std::vector<T>>(&a->elements);
    if (elements == nullptr) refuse(key, "is not an array of the type it must have");
    return elements;
  }
  [[noreturn]] void refuse(const std::string& key, const std::string& why,
                           ErrorCode code = ErrorCode::corrupt_file) const {
    throw Error(code, "'" + file_ + "': the key '" + key + "' " + why);
  }

 private:
  const GgufMetadata& metadata_;
  std::string file_;
};

}  // namespace nibble::inline NIBBLE_ABI::format
