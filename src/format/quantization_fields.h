// The fields of a quantization_config, each checked as it is read.
#pragma once

#include <algorithm>
#include <cctype>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>

#include "nibble/core/error.h"
#include "nibble/format/quantization_config.h"

namespace nibble::inline NIBBLE_ABI::format {

using Json = nlohmann::ordered_json;

inline std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

/// As JSON text, whatever bytes are in it. Not for nested values, which may be as deep as a file is long.
inline std::string printed(const Json& value) { return value.dump(-1, ' ', false, Json::error_handler_t::replace); }

/// One JSON object; every error names the file, the place in it and the value.
class Fields {
 public:
  Fields(const Json& object, std::string place) : object_(object), place_(std::move(place)) {
    if (!object.is_object()) throw Error(ErrorCode::corrupt_file, place_ + " is not an object");
  }

  /// The first of the names that is there and not null.
  [[nodiscard]] const Json* find(std::initializer_list<const char*> names) const {
    for (const char* name : names)
      if (const auto it = object_.find(name); it != object_.end() && !it->is_null()) return &*it;
    return nullptr;
  }
  [[nodiscard]] std::string text(std::initializer_list<const char*> names, const std::string& fallback) const {
    const Json* v = find(names);
    if (v == nullptr) return fallback;
    if (!v->is_string()) refuse(*names.begin(), *v, "text is needed");
    return v->get<std::string>();
  }
  [[nodiscard]] bool flag(std::initializer_list<const char*> names, bool fallback) const {
    const Json* v = find(names);
    if (v == nullptr) return fallback;
    if (!v->is_boolean()) refuse(*names.begin(), *v, "true or false is needed");
    return v->get<bool>();
  }
  [[nodiscard]] int bits(std::initializer_list<const char*> names, std::optional<int> fallback = std::nullopt) const {
    const Json* v = find(names);
    if (v == nullptr && fallback) return *fallback;
    if (v == nullptr) throw Error(ErrorCode::corrupt_file, place_ + ": \"" + *names.begin() + "\" is missing");
    if (!v->is_number_integer() || v->get<std::int64_t>() < 2 || v->get<std::int64_t>() > 8)
      refuse(*names.begin(), *v, "2 to 8 are known");
    return v->get<int>();
  }
  /// −1 means that a row is one group.
  void group_size(std::initializer_list<const char*> names, LayerQuantization& as) const {
    const Json* v = find(names);
    if (v == nullptr) return;
    const std::int64_t size = v->is_number_integer() ? v->get<std::int64_t>() : 0;
    constexpr std::int64_t most = 1 << 28;
    if (size < -1 || size == 0 || size > most) refuse(*names.begin(), *v, "a positive number or −1 is needed");
    as.granularity = size == -1 ? Granularity::channel : Granularity::group;
    as.group_size = size == -1 ? 0 : static_cast<std::size_t>(size);
  }
  [[noreturn]] void refuse(const char* name, const Json& value, const std::string& why) const {
    const std::string shown = value.is_structured() ? std::string("an ") + value.type_name() : printed(value);
    throw Error(ErrorCode::corrupt_file, place_ + ": \"" + name + "\" is " + shown.substr(0, 60) + "; " + why);
  }
  [[nodiscard]] const Json& object() const { return object_; }
  [[nodiscard]] const std::string& place() const { return place_; }

 private:
  const Json& object_;
  std::string place_;
};

}  // namespace nibble::inline NIBBLE_ABI::format
