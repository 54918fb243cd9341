// Reading tokenizer.json: each accessor names the file and the place when the value is not of the kind it must be.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "core/json.h"
#include "nibble/core/error.h"

namespace nibble::inline NIBBLE_ABI::text {

using Json = nlohmann::json;

[[noreturn]] inline void throw_bad_json(const std::string& what) {
  throw Error(ErrorCode::corrupt_file, "tokenizer.json: " + what);
}

inline const Json kNull;

/// The member `key` of `j`, or null when it is not there.
inline const Json& member(const Json& j, const char* key) {
  if (!j.is_object())
    throw_bad_json(std::string("an object with \"") + key + "\" must stand where " + j.type_name() + " is");
  const auto it = j.find(key);
  return it == j.end() ? kNull : *it;
}

inline bool flag(const Json& j, const char* key, bool otherwise = false) {
  const Json& v = member(j, key);
  if (v.is_null()) return otherwise;
  if (!v.is_boolean()) throw_bad_json(std::string("\"") + key + "\" must be true or false");
  return v.get<bool>();
}

inline std::string text(const Json& j, const char* key) {
  const Json& v = member(j, key);
  if (!v.is_string()) throw_bad_json(std::string("\"") + key + "\" must be a string");
  return v.get<std::string>();
}

/// A count or a length: 0 … 2^31 − 1.
inline std::size_t count(const Json& j, const char* key) {
  const Json& v = member(j, key);
  if (!v.is_number_integer() || v < 0 || v > 2147483647)
    throw_bad_json(std::string("\"") + key + "\" must be an integer from 0 to 2147483647");
  return v.get<std::size_t>();
}

inline const Json& array(const Json& j, const char* key) {
  const Json& v = member(j, key);
  if (!v.is_array()) throw_bad_json(std::string("\"") + key + "\" must be an array");
  return v;
}

/// A token id: 0 … 2^31 − 1.
inline std::int32_t token_id(const Json& v, const std::string& token) {
  if (!v.is_number_integer() || v < 0 || v > 2147483647)
    throw_bad_json("token \"" + token + "\" has the id " + v.dump() + "; an id is an integer from 0 to 2147483647");
  return v.get<std::int32_t>();
}

/// `known`: what could stand there instead.
[[noreturn]] inline void throw_unsupported(const char* kind, const std::string& type, const std::string& known) {
  throw Error(ErrorCode::unsupported, "tokenizer.json: the " + std::string(kind) + " '" + type + "' is not known (" +
                                          known +
                                          " are). A tokenizer.model of SentencePiece beside it would be read instead");
}

}  // namespace nibble::inline NIBBLE_ABI::text
