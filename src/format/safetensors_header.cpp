#include <algorithm>
#include <cstring>
#include <optional>
#include <string_view>

#include "core/json.h"
#include "nibble/core/error.h"
#include "nibble/format/safetensors.h"

namespace nibble::inline NIBBLE_ABI {

namespace {

using Json = nlohmann::json;

constexpr std::size_t kMaxHeaderBytes = 100'000'000;  // the limit of the reference implementation
constexpr std::size_t kMaxDimensions = 16;

/// Types that the format has and this library has not.
constexpr std::string_view kUnreadTypes[] = {"F4", "F6_E2M3", "F6_E3M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "C64"};

bool is_unread_type(std::string_view name) {
  return std::find(std::begin(kUnreadTypes), std::end(kUnreadTypes), name) != std::end(kUnreadTypes);
}

[[noreturn]] void refuse(const std::string& file, const std::string& why) {
  throw Error(ErrorCode::corrupt_file, "'" + file + "' is not a valid safetensors file: " + why);
}

std::string quoted(const std::string& name) { return "tensor '" + name.substr(0, 200) + "'"; }

json::Document parse_strict(const char* text, std::size_t size, const std::string& file) {
  constexpr json::Limits limits{3, kMaxHeaderBytes, std::size_t{16} << 20};  // {name: {"shape": [ … ]}}
  json::Document document;
  try {
    document = json::parse({text, size}, "header", limits);
  } catch (const Error& e) {
    refuse(file, e.what());
  }
  if (!document->is_object()) refuse(file, "the header is not a JSON object");
  return document;
}

std::optional<DType> dtype_of(const std::string& name) {
  for (int i = 0; i <= static_cast<int>(DType::boolean); ++i)
    if (name_of(static_cast<DType>(i)) == name) return static_cast<DType>(i);
  return std::nullopt;
}

std::size_t number(const Json& value, const std::string& file, const std::string& tensor, const char* field) {
  if (!value.is_number_unsigned())
    refuse(file, quoted(tensor) + ": " + field + " holds " + value.dump().substr(0, 60) +
                     "; only whole numbers from 0 are allowed");
  return value.get<std::size_t>();
}

const Json& member(const Json& entry, const std::string& file, const std::string& tensor, const char* field) {
  const auto it = entry.find(field);
  if (it == entry.end()) refuse(file, quoted(tensor) + ": \"" + field + "\" is missing");
  return *it;
}

TensorInfo parse_tensor(const std::string& name, const Json& entry, const std::string& file, std::size_t data_bytes) {
  if (!entry.is_object()) refuse(file, quoted(name) + " is not described by an object");
  for (const auto& [key, value] : entry.items())
    if (key != "dtype" && key != "shape" && key != "data_offsets")
      refuse(file, quoted(name) + ": unknown field '" + key.substr(0, 60) + "'");
  const Json& dtype = member(entry, file, name, "dtype");
  const Json& shape = member(entry, file, name, "shape");
  const Json& offsets = member(entry, file, name, "data_offsets");
  TensorInfo t;
  t.name = name;
  const auto type = dtype.is_string() ? dtype_of(dtype.get<std::string>()) : std::nullopt;
  if (dtype.is_string() && is_unread_type(dtype.get<std::string>()))
    throw Error(ErrorCode::unsupported, "'" + file + "': " + quoted(name) + " is " + dtype.get<std::string>() +
                                            ", a type of quantized weights and their scales that is not read");
  if (!type) refuse(file, quoted(name) + ": unknown dtype " + dtype.dump().substr(0, 60));
  t.type = *type;
  if (!shape.is_array() || shape.size() > kMaxDimensions)
    refuse(file, quoted(name) + ": \"shape\" must be an array of at most 16 sizes");
  std::size_t bytes = size_of(t.type);
  for (const Json& dimension : shape) {
    t.shape.push_back(number(dimension, file, name, "shape"));
    if (__builtin_mul_overflow(bytes, t.shape.back(), &bytes))
      refuse(file, quoted(name) + ": the shape " + shape.dump() + " overflows");
  }
  if (!offsets.is_array() || offsets.size() != 2)
    refuse(file, quoted(name) + ": \"data_offsets\" must be [begin, end]");
  t.offset = number(offsets[0], file, name, "data_offsets");
  const std::size_t end = number(offsets[1], file, name, "data_offsets");
  if (t.offset > end || end > data_bytes)
    refuse(file, quoted(name) + ": data_offsets " + offsets.dump() + " lie outside the file's " +
                     std::to_string(data_bytes) + " bytes of data" +
                     (t.offset <= end ? ": the file is cut off; download it again" : ""));
  t.bytes = end - t.offset;
  if (t.bytes != bytes)
    refuse(file, quoted(name) + ": its shape needs " + std::to_string(bytes) + " bytes, its data_offsets give " +
                     std::to_string(t.bytes));
  return t;
}

void parse_metadata(const Json& entry, const std::string& file, std::map<std::string, std::string>& out) {
  if (!entry.is_object()) refuse(file, "__metadata__ is not an object");
  for (const auto& [key, value] : entry.items()) {
    if (!value.is_string()) refuse(file, "__metadata__ '" + key.substr(0, 60) + "' is not text");
    out[key] = value.get<std::string>();
  }
}

/// Tensors must cover the data exactly: a gap could hide something, an overlap is an attack or a bug.
void check_cover(const std::vector<TensorInfo>& tensors, const std::string& file, std::size_t data_bytes) {
  std::size_t at = 0;
  for (const TensorInfo& t : tensors) {
    if (t.offset != at)
      refuse(file, quoted(t.name) + " begins at " + std::to_string(t.offset) +
                       " of the data; the one before it ends at " + std::to_string(at));
    at += t.bytes;
  }
  if (at != data_bytes)
    refuse(file, "its tensors end at " + std::to_string(at) + " of " + std::to_string(data_bytes) + " bytes of data");
}

}  // namespace

SafetensorsHeader parse_safetensors_header(std::span<const std::byte> bytes, const std::string& file) {
  if (bytes.size() < 8)
    refuse(file, "it has " + std::to_string(bytes.size()) + " bytes, fewer than the 8 of the header's length");
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), 8);
  if (length > kMaxHeaderBytes || length > bytes.size() - 8)
    refuse(file, "the header's length is " + std::to_string(length) + "; the file has " +
                     std::to_string(bytes.size() - 8) +
                     " bytes after it, and 100 MB is the most: the file is cut off, or of another kind");
  const auto* text = reinterpret_cast<const char*>(bytes.data() + 8);
  const json::Document document = parse_strict(text, static_cast<std::size_t>(length), file);

  SafetensorsHeader header;
  header.tensors.reserve(document->size());
  header.data_start = 8 + static_cast<std::size_t>(length);
  const std::size_t data_bytes = bytes.size() - header.data_start;
  for (const auto& [name, entry] : document->items()) {
    if (name == "__metadata__") parse_metadata(entry, file, header.metadata);
    else header.tensors.push_back(parse_tensor(name, entry, file, data_bytes));
  }
  std::sort(header.tensors.begin(), header.tensors.end(), [](const TensorInfo& a, const TensorInfo& b) {
    return std::pair(a.offset, a.bytes) < std::pair(b.offset, b.bytes);
  });
  check_cover(header.tensors, file, data_bytes);
  return header;
}

}  // namespace nibble::inline NIBBLE_ABI
