#include <algorithm>
#include <cstring>
#include <set>
#include <utility>

#include "gguf_internal.h"
#include "nibble/core/error.h"

namespace nibble::inline NIBBLE_ABI {

namespace {

using format::kMaxGgufNesting;

constexpr std::size_t kMaxHeaderBytes = std::size_t{128} << 20;
constexpr std::size_t kMaxKeyBytes = 65535;  // the specification's
constexpr std::size_t kMaxNameBytes = 64;    // the specification's
constexpr std::uint32_t kMaxDimensions = 4;
constexpr std::uint32_t kTypesOfGgml = 64;      // ids below this are, or may become, types of ggml
constexpr std::uint32_t kTypesOfIkLlama = 133;  // from here that fork numbers its own

std::string quoted(const char* what, const std::string& name) {
  std::string shown;
  for (const char c : name.substr(0, 200)) shown += c >= ' ' && c != '\x7f' ? c : '?';
  return std::string(what) + " '" + shown + "'";
}

/// Reads forward through the header; every refusal says where.
class Cursor {
 public:
  Cursor(std::span<const std::byte> bytes, const std::string& file)
      : bytes_(bytes.first(std::min(bytes.size(), kMaxHeaderBytes))), file_(file) {}

  [[noreturn]] void refuse(const std::string& why, ErrorCode code = ErrorCode::corrupt_file) const {
    // What only this library lacks does not make the file a bad one.
    const char* verdict =
        code == ErrorCode::unsupported ? "' cannot be read: at byte " : "' is not a valid GGUF file: at byte ";
    throw Error(code, "'" + file_ + verdict + std::to_string(at_) + ": " + why);
  }

  template <class T>
  T number(const std::string& what) {
    if (sizeof(T) > rest()) refuse(what + " is cut off" + limit());
    T value;
    std::memcpy(&value, bytes_.data() + at_, sizeof(T));
    at_ += sizeof(T);
    return value;
  }

  std::string text(const std::string& what, std::size_t most) {
    const auto length = number<std::uint64_t>("the length of " + what);
    if (length > most || length > rest())
      refuse(what + " has " + std::to_string(length) + " bytes; the file has " + std::to_string(rest()) +
             " more of header" + (most < kMaxHeaderBytes ? ", and " + std::to_string(most) + " is the most" : ""));
    std::string out(reinterpret_cast<const char*>(bytes_.data()) + at_, static_cast<std::size_t>(length));
    at_ += out.size();
    return out;
  }

  /// A count of things that take at least `least` bytes each: more than fit the rest of the header is a lie.
  std::size_t count(const std::string& what, std::size_t least) {
    const auto n = number<std::uint64_t>(what);
    if (n > rest() / least)
      refuse(what + " is " + std::to_string(n) + "; at most " + std::to_string(rest() / least) + " fit the file");
    return static_cast<std::size_t>(n);
  }

  std::size_t at() const { return at_; }
  std::size_t rest() const { return bytes_.size() - at_; }

 private:
  std::string limit() const {
    return bytes_.size() == kMaxHeaderBytes ? ": a header has at most 128 MiB" : ": the file ends";
  }

  std::span<const std::byte> bytes_;
  const std::string& file_;
  std::size_t at_ = 0;
};

template <class T>
T read_value(Cursor& in, const std::string& what) {
  if constexpr (std::is_same_v<T, std::string>) {
    return in.text(what, kMaxHeaderBytes);
  } else if constexpr (std::is_same_v<T, bool>) {
    const auto byte = in.number<std::uint8_t>(what);
    if (byte > 1) in.refuse(what + " is " + std::to_string(byte) + "; a boolean is 0 or 1");
    return byte == 1;
  } else {
    return in.number<T>(what);
  }
}

/// The fewest bytes that an element takes.
template <class T>
constexpr std::size_t kMinBytes = std::is_same_v<T, std::string> ? 8
                                  : std::is_same_v<T, GgufArray> ? 12
                                                                 : sizeof(T);

std::uint32_t value_type(Cursor& in, const std::string& what) {
  const auto type = in.number<std::uint32_t>("the type of " + what);
  if (type > static_cast<std::uint32_t>(GgufType::f64))
    in.refuse("the type of " + what + " is " + std::to_string(type) + "; types are 0 to 12");
  return type;
}

/// Calls make(std::integral_constant<I>) for the I that is `index`.
template <class Make, std::size_t... I>
void for_index(std::size_t index, Make&& make, std::index_sequence<I...>) {
  ((index == I ? make(std::integral_constant<std::size_t, I>{}) : void()), ...);
}

GgufArray read_array(Cursor& in, const std::string& what, int depth) {
  if (depth > kMaxGgufNesting) in.refuse(what + " nests arrays more than 4 deep");
  GgufArray array;
  const auto read = [&](auto index) {
    using Elements = std::variant_alternative_t<index, decltype(array.elements)>;
    using T = typename Elements::value_type;
    const std::size_t n = in.count("the number of elements of " + what, kMinBytes<T>);
    Elements elements;
    elements.reserve(n);
    for (std::size_t i = 0; i < n; ++i) {
      if constexpr (std::is_same_v<T, GgufArray>) elements.push_back(read_array(in, what, depth + 1));
      else elements.push_back(read_value<T>(in, what));
    }
    array.elements = std::move(elements);
  };
  for_index(value_type(in, what), read, std::make_index_sequence<std::variant_size_v<GgufValue>>{});
  return array;
}

GgufValue read_metadata_value(Cursor& in, const std::string& what) {
  GgufValue value;
  const auto read = [&](auto index) {
    using T = std::variant_alternative_t<index, GgufValue>;
    if constexpr (std::is_same_v<T, GgufArray>) value.emplace<index>(read_array(in, what, 1));
    else value.emplace<index>(read_value<T>(in, what));
  };
  for_index(value_type(in, what), read, std::make_index_sequence<std::variant_size_v<GgufValue>>{});
  return value;
}

void read_metadata(Cursor& in, std::size_t count, GgufMetadata& out) {
  for (std::size_t i = 0; i < count; ++i) {
    const std::string key = in.text("key " + std::to_string(i), kMaxKeyBytes);
    if (key.empty()) in.refuse("key " + std::to_string(i) + " is empty");
    if (out.contains(key)) in.refuse(quoted("the key", key) + " appears twice");
    out.emplace(key, read_metadata_value(in, quoted("key", key)));
  }
}

/// Sets the type; one that is not decoded is only remembered, so that the other tensors can be read.
void read_type(Cursor& in, const std::string& what, GgufTensor& t) {
  const auto id = in.number<std::uint32_t>("the type of " + what);
  for (const BlockType type : kBlockTypes)
    if (static_cast<std::uint32_t>(type) == id) {
      t.type = type;
      return;
    }
  t.unread = format::find_ggml_type(id);
  if (t.unread != nullptr) return;
  if (id >= kTypesOfIkLlama && id < kTypesOfIkLlama + 256)
    in.refuse(what + " has type " + std::to_string(id) +
                  ", one of those that the fork ik_llama.cpp added; convert it with that",
              ErrorCode::unsupported);
  if (id < kTypesOfGgml)
    in.refuse(what + " has type " + std::to_string(id) +
                  ", which this library has no name and no size for: a newer ggml's, or one dropped long ago",
              ErrorCode::unsupported);
  in.refuse(what + " has type " + std::to_string(id) + "; ggml's are numbered from 0 to " +
            std::to_string(ggml_types().back().id));
}

GgufTensor read_tensor(Cursor& in, std::size_t index) {
  GgufTensor t;
  t.name = in.text("the name of tensor " + std::to_string(index), kMaxNameBytes);
  if (t.name.empty()) in.refuse("tensor " + std::to_string(index) + " has no name");
  const std::string what = quoted("tensor", t.name);
  const auto dimensions = in.number<std::uint32_t>("the number of dimensions of " + what);
  if (dimensions > kMaxDimensions)
    in.refuse(what + " has " + std::to_string(dimensions) + " dimensions; 4 are the most");
  for (std::uint32_t d = 0; d < dimensions; ++d)
    t.shape.insert(t.shape.begin(), in.number<std::uint64_t>("dimension " + std::to_string(d) + " of " + what));
  read_type(in, what, t);
  const std::string problem = format::gguf_tensor_bytes(t, t.bytes);
  if (!problem.empty()) in.refuse(what + " " + problem);
  t.offset = in.number<std::uint64_t>("the offset of " + what);
  return t;
}

/// Tensors must cover the data but for padding: a gap could hide something, an overlap is an attack or a bug.
void check_cover(Cursor& in, GgufHeader& header, std::size_t data_bytes) {
  std::sort(header.tensors.begin(), header.tensors.end(), [](const GgufTensor& a, const GgufTensor& b) {
    return std::pair(a.offset, a.bytes) < std::pair(b.offset, b.bytes);
  });
  std::set<std::string_view> names;
  std::size_t at = 0;  // no more than data_bytes rounded up
  for (const GgufTensor& t : header.tensors) {
    const std::string what = quoted("tensor", t.name);
    if (!names.insert(t.name).second) in.refuse("two tensors are named " + what.substr(7));
    if (t.offset != format::round_up(at, header.alignment))
      in.refuse(what + " begins at " + std::to_string(t.offset) + " of the data; the one before it ends at " +
                std::to_string(at) + ", and the alignment is " + std::to_string(header.alignment));
    if (t.offset > data_bytes || t.bytes > data_bytes - t.offset)
      in.refuse(what + " of " + std::to_string(t.bytes) + " bytes at " + std::to_string(t.offset) +
                " lies outside the file's " + std::to_string(data_bytes) + " bytes of data");
    at = t.offset + t.bytes;
  }
  if (data_bytes > format::round_up(at, header.alignment))
    in.refuse("the tensors end at " + std::to_string(at) + " of " + std::to_string(data_bytes) + " bytes of data");
}

std::size_t read_alignment(const Cursor& in, const GgufMetadata& metadata) {
  const auto it = metadata.find("general.alignment");
  if (it == metadata.end()) return format::kGgufAlignment;
  const auto* value = std::get_if<std::uint32_t>(&it->second);
  if (value == nullptr || *value == 0 || (*value & (*value - 1)) != 0)
    in.refuse("general.alignment is " + (value == nullptr ? std::string("no u32") : std::to_string(*value)) +
              "; it must be a u32 power of two");
  return *value;
}

void read_version(Cursor& in, GgufHeader& header) {
  if (in.rest() < 24) in.refuse("it has " + std::to_string(in.rest()) + " bytes, fewer than the 24 of a header");
  if (in.number<std::uint32_t>("the magic") != 0x46554747) in.refuse("it does not begin with \"GGUF\"");
  header.version = in.number<std::uint32_t>("the version");
  if (header.version == 2 || header.version == 3) return;
  const bool swapped = header.version != 0 && (header.version & 0xffff) == 0;
  in.refuse("its version is " + std::to_string(header.version) +
                (swapped ? ", as in a file for big-endian machines; little-endian ones are read"
                         : "; versions 2 and 3 are read"),
            swapped || header.version == 1 ? ErrorCode::unsupported : ErrorCode::corrupt_file);
}

}  // namespace

std::string format::gguf_tensor_bytes(const GgufTensor& t, std::size_t& bytes) {
  const std::size_t size = t.unread == nullptr ? block_size(t.type) : t.unread->block_size;
  bytes = t.unread == nullptr ? block_bytes(t.type) : t.unread->block_bytes;
  const std::size_t row = t.shape.empty() ? 1 : t.shape.back();
  if (row % size != 0)
    return "is " + std::string(t.type_name()) + " with rows of " + std::to_string(row) +
           ", which are no whole blocks of " + std::to_string(size);
  bool overflow = __builtin_mul_overflow(bytes, row / size, &bytes);
  std::size_t values = row;
  for (std::size_t d = 0; d + 1 < t.shape.size(); ++d) {
    overflow = __builtin_mul_overflow(bytes, t.shape[d], &bytes) || overflow;
    overflow = __builtin_mul_overflow(values, t.shape[d], &values) || overflow;
  }
  std::string shape;
  for (const std::size_t d : t.shape) shape += (shape.empty() ? "" : " × ") + std::to_string(d);
  return overflow ? "has the shape " + shape + ", which overflows" : std::string();
}

GgufHeader parse_gguf_header(std::span<const std::byte> bytes, const std::string& file) {
  Cursor in(bytes, file);
  GgufHeader header;
  read_version(in, header);
  const auto tensors = in.count("the number of tensors", 24), keys = in.count("the number of keys", 13);
  read_metadata(in, keys, header.metadata);
  header.alignment = read_alignment(in, header.metadata);
  for (std::size_t i = 0; i < tensors; ++i) header.tensors.push_back(read_tensor(in, i));
  header.data_start = format::round_up(in.at(), header.alignment);
  // A file without tensors may end with its metadata.
  if (tensors > 0 && header.data_start > bytes.size()) in.refuse("the padding before the data is missing");
  check_cover(in, header, bytes.size() - std::min(bytes.size(), header.data_start));
  return header;
}

}  // namespace nibble::inline NIBBLE_ABI
