#include "gguf_fields.h"

#include <charconv>
#include <type_traits>

namespace nibble::inline NIBBLE_ABI::format {

std::optional<std::uint64_t> GgufFields::number(const std::string& key) const {
  const GgufValue* v = find(key);
  if (v == nullptr) return std::nullopt;
  return std::visit(
      [&](const auto& value) -> std::uint64_t {
        using T = std::decay_t<decltype(value)>;
        if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool>) {
          if constexpr (std::is_signed_v<T>)
            if (value < 0) refuse(key, "is " + std::to_string(value) + "; a whole number from 0 is needed");
          return static_cast<std::uint64_t>(value);
        } else {
          refuse(key, "is not a whole number");
        }
      },
      *v);
}

std::size_t GgufFields::size(const std::string& key, std::optional<std::size_t> fallback) const {
  const auto v = number(key);
  if (!v && fallback) return *fallback;
  if (!v) refuse(key, "is missing");
  constexpr std::uint64_t most = 1u << 28;
  if (*v == 0 || *v > most) refuse(key, "is " + std::to_string(*v) + "; 1 to 2^28 is allowed");
  return static_cast<std::size_t>(*v);
}

double GgufFields::positive(const std::string& key, std::optional<double> fallback) const {
  const GgufValue* v = find(key);
  if (v == nullptr && fallback) return *fallback;
  if (v == nullptr) refuse(key, "is missing");
  double value = 0;
  if (const auto* single = std::get_if<float>(v)) {
    char text[32];
    const auto end = std::to_chars(text, text + sizeof(text), *single).ptr;
    std::from_chars(text, end, value);
  } else if (const auto* wide = std::get_if<double>(v)) {
    value = *wide;
  } else {
    refuse(key, "is not a floating-point number");
  }
  if (!(value > 0 && value < 1e30)) refuse(key, "is " + std::to_string(value) + "; a positive number is needed");
  return value;
}

std::string GgufFields::text(const std::string& key, const std::string& fallback) const {
  const GgufValue* v = find(key);
  if (v == nullptr) return fallback;
  const auto* value = std::get_if<std::string>(v);
  if (value == nullptr) refuse(key, "is not text");
  return *value;
}

bool GgufFields::flag(const std::string& key, bool fallback) const {
  const GgufValue* v = find(key);
  if (v == nullptr) return fallback;
  const auto* value = std::get_if<bool>(v);
  if (value == nullptr) refuse(key, "is not true or false");
  return *value;
}

}  // namespace nibble::inline NIBBLE_ABI::format
