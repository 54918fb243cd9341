// Typed access to the fields of config.json.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "known_keys.h"
#include "nibble/core/error.h"

namespace nibble::inline NIBBLE_ABI::model {

using Json = nlohmann::json;

/// No matrix has more rows or columns.
inline constexpr std::uint64_t kMaxSize = 1u << 28;

/// Typed access to one JSON object, with errors that name the field.
class Fields {
 public:
  Fields(const Json& object, std::string name) : object_(object), name_(std::move(name)) {}

  const Json* find(const char* field) const {
    const auto it = object_.find(field);
    return it == object_.end() || it->is_null() ? nullptr : &*it;
  }
  std::size_t size(const char* field, std::optional<std::size_t> fallback = std::nullopt) const {
    const Json* v = find(field);
    if (v == nullptr && fallback) return *fallback;
    if (v == nullptr) refuse(field, "is missing");
    if (!v->is_number_unsigned() || v->get<std::uint64_t>() == 0 || v->get<std::uint64_t>() > kMaxSize)
      refuse(field, "is " + shown(*v) + "; a positive whole number is needed");
    return v->get<std::size_t>();
  }
  std::size_t size_or_zero(const char* field, std::size_t fallback) const {
    const Json* v = find(field);
    return v != nullptr && *v == 0 ? 0 : size(field, fallback);
  }
  double number(const char* field, std::optional<double> fallback, bool zero = false) const {
    const Json* v = find(field);
    if (v == nullptr && fallback) return *fallback;
    if (v == nullptr) refuse(field, "is missing");
    if (!v->is_number() || !(v->get<double>() > 0 || (zero && v->get<double>() == 0)))
      refuse(field, "is " + shown(*v) + "; a positive number is needed");
    return v->get<double>();
  }
  bool flag(const char* field, bool fallback) const {
    const Json* v = find(field);
    if (v == nullptr) return fallback;
    if (!v->is_boolean()) refuse(field, "is " + shown(*v) + "; true or false is needed");
    return v->get<bool>();
  }
  std::string text(const char* field, const std::string& fallback) const {
    const Json* v = find(field);
    if (v == nullptr) return fallback;
    if (!v->is_string()) refuse(field, "is not text");
    return v->get<std::string>();
  }
  /// An object; null for one that is empty or not there.
  const Json* object(const char* field) const {
    const Json* v = find(field);
    if (v != nullptr && !v->is_object()) refuse(field, "is not an object");
    return v == nullptr || v->empty() ? nullptr : v;
  }
  /// A token id or a list of them; −1 stands for none.
  std::vector<std::int32_t> tokens(const char* field) const {
    std::vector<std::int32_t> out;
    const Json* v = find(field);
    if (v == nullptr) return out;
    const auto add = [&](const Json& id) {
      if (id == -1) return;  // none
      if (!id.is_number_unsigned() || id.get<std::uint64_t>() > 0x7FFFFFFF)
        refuse(field, "holds " + shown(id) + "; token ids are needed");
      out.push_back(id.get<std::int32_t>());
    };
    if (v == nullptr) return out;
    if (!v->is_array()) add(*v);
    else
      for (const Json& id : *v) add(id);
    return out;
  }
  /// Refuses keys that would change what the model computes; `style` says which table they are in.
  void check_known(KeyStyle style, const Architecture& architecture) const {
    check_known_keys(
        style, architecture,
        [&](std::string_view key) -> std::optional<PlainValue> {
          const auto it = object_.find(key);
          if (it == object_.end()) return std::nullopt;
          if (it->is_boolean()) return it->get<bool>();
          if (it->is_number()) return it->get<double>();
          if (it->is_string()) return it->get<std::string>();
          if (it->is_null()) return PlainValue();
          return it->empty() ? PlainValue(false) : PlainValue(std::string("an ") + it->type_name());
        },
        [&](std::string_view key, const std::string& why) { unsupported(std::string(key).c_str(), why); });
  }
  [[nodiscard]] bool states(const char* field) const { return object_.contains(field); }
  [[noreturn]] void refuse(const char* field, const std::string& why, ErrorCode code = ErrorCode::corrupt_file) const {
    throw Error(code, "'" + name_ + "': \"" + field + "\" " + why);
  }
  [[noreturn]] void unsupported(const char* field, const std::string& why) const {
    refuse(field, why, ErrorCode::unsupported);
  }
  /// A value in a message: what it is, where it holds others.
  static std::string shown(const Json& v) {
    if (v.is_structured() && !v.empty()) return std::string("an ") + v.type_name();
    return v.dump(-1, ' ', true, Json::error_handler_t::replace).substr(0, 60);
  }

 private:
  const Json& object_;
  std::string name_;
};

}  // namespace nibble::inline NIBBLE_ABI::model
