// GGUF, the file of ggml and llama.cpp: a memory-mapped reader and a crash-safe streaming writer.
//
//   "GGUF", version u32 (2 or 3), tensor count u64, metadata count u64
//   metadata   each: key (u64 length, bytes), type u32, value; an array is its element type u32, count u64, elements
//   tensors    each: name, dimension count u32, dimensions u64 (the innermost first), type u32, offset u64
//   padding to a multiple of general.alignment (a u32 of the metadata, 32 if it is not there)
//   data       offsets count from here and are multiples of the alignment; nothing but padding lies between tensors
//
// Source: the GGUF specification in ggml's documentation. A header is untrusted: whatever it says is checked before it
// is used, and a refusal is Error{corrupt_file} that names the key or tensor, the place in the file and the value.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "nibble/core/buffer.h"
#include "nibble/matrix/block_matrix.h"
#include "nibble/scheme/gguf_blocks.h"

namespace nibble::inline NIBBLE_ABI {

namespace format {
class PendingTensors;
}

/// Types of metadata, numbered as in the file; each is the index of its alternative in GgufValue and GgufArray.
enum class GgufType : std::uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };

/// Elements of one type. Arrays of arrays may nest four deep.
struct GgufArray {
  using Elements = std::variant<std::vector<std::uint8_t>, std::vector<std::int8_t>, std::vector<std::uint16_t>,
                                std::vector<std::int16_t>, std::vector<std::uint32_t>, std::vector<std::int32_t>,
                                std::vector<float>, std::vector<bool>, std::vector<std::string>, std::vector<GgufArray>,
                                std::vector<std::uint64_t>, std::vector<std::int64_t>, std::vector<double>>;
  Elements elements;

  GgufArray() = default;
  template <class T>
  GgufArray(std::vector<T> values) : elements(std::move(values)) {}  // as a variant takes its alternatives
  GgufArray(GgufArray&&) noexcept = default;
  GgufArray& operator=(GgufArray&&) noexcept = default;
  // libstdc++ (12, at least) holds a variant of nothing but vectors to have a value always, and calls a destructor
  // that is none where memory ends while one is copied. An alternative by itself is copied first, then moved in.
  GgufArray(const GgufArray& other) : GgufArray(other.copy()) {}
  GgufArray& operator=(const GgufArray& other) { return *this = other.copy(); }
  ~GgufArray() = default;

  [[nodiscard]] std::size_t size() const {
    return std::visit([](const auto& v) { return v.size(); }, elements);
  }
  [[nodiscard]] GgufType type() const { return static_cast<GgufType>(elements.index()); }
  friend bool operator==(const GgufArray&, const GgufArray&) = default;

 private:
  [[nodiscard]] GgufArray copy() const {
    return std::visit(
        [](const auto& v) {
          auto values = v;
          return GgufArray(std::move(values));
        },
        elements);
  }
};

using GgufValue = std::variant<std::uint8_t, std::int8_t, std::uint16_t, std::int16_t, std::uint32_t, std::int32_t,
                               float, bool, std::string, GgufArray, std::uint64_t, std::int64_t, double>;
using GgufMetadata = std::map<std::string, GgufValue, std::less<>>;

/// A tensor type of ggml: what a tensor of it occupies, whether or not this library decodes it.
struct GgmlType {
  std::uint32_t id;       ///< As the file numbers it.
  std::string_view name;  ///< ggml's: "IQ3_S".
  std::size_t block_size, block_bytes;
};
/// All that ggml has or had in GGUF files, by number.
std::span<const GgmlType> ggml_types();

struct GgufTensor {
  std::string name;
  BlockType type = BlockType::f32;  ///< Where `unread` is null.
  std::vector<std::size_t> shape;   ///< The outermost dimension first, as everywhere in this library; at most 4.
  std::size_t offset = 0;           ///< Bytes from the start of the data.
  std::size_t bytes = 0;
  const GgmlType* unread = nullptr;  ///< Its type where this library can list the tensor but not decode it.
  std::size_t part = 0;              ///< Of a model in several files: the file that it lies in, from 0.

  /// ggml's name of the type, read or not.
  [[nodiscard]] std::string_view type_name() const { return unread == nullptr ? name_of(type) : unread->name; }
};

struct GgufHeader {
  std::uint32_t version = 3;
  std::size_t alignment = 32;
  GgufMetadata metadata;
  std::vector<GgufTensor> tensors;  ///< In the order of their data.
  std::size_t data_start = 0;       ///< File offset of the data.
};

/// Parses and checks the header at the start of `file`, whose size must be that of the whole file. `name` is for
/// messages. Beside corrupt_file: Error{unsupported} for version 1, for a big-endian file, and for a tensor of a type
/// that is not in ggml_types(), so that its size is not known. Limits: 128 MiB of header, keys of 65535 bytes, names of
/// 64.
GgufHeader parse_gguf_header(std::span<const std::byte> file, const std::string& name);

/// A file mapped for reading, or all of a model that is split over several, as llama.cpp splits it:
/// "m-00001-of-00003.gguf" has the metadata, and says split.count; those behind it have tensors alone. Safe to share
/// between threads.
class GgufFile {
 public:
  /// `path`: of several files the first. Error{not_found | io} with the system's reason, and those of
  /// parse_gguf_header; invalid_argument names the first where another is given; not_found and corrupt_file name a part
  /// that is missing or does not belong to the others.
  explicit GgufFile(const std::filesystem::path& path);

  [[nodiscard]] const std::vector<GgufTensor>& tensors() const { return header_.tensors; }
  [[nodiscard]] const GgufMetadata& metadata() const { return header_.metadata; }
  [[nodiscard]] std::uint32_t version() const { return header_.version; }

  [[nodiscard]] bool contains(std::string_view tensor) const { return where_.contains(tensor); }
  /// Error{not_found} names the tensor.
  [[nodiscard]] const GgufTensor& info(std::string_view tensor) const;
  /// A view into the map, which lives as long as the view does.
  [[nodiscard]] Buffer data(const GgufTensor& tensor) const;
  /// A tensor of two dimensions [rows, cols], in place. Error{shape_mismatch} for any other, Error{unsupported} names
  /// the tensor and its type where that is not decoded.
  [[nodiscard]] BlockMatrix matrix(std::string_view tensor) const;
  /// Any tensor, decoded. Error{unsupported} as matrix().
  [[nodiscard]] std::vector<float> read_f32(std::string_view tensor) const;
  /// Tells the system that the pages of this tensor can leave memory; they come back when read again.
  void release(const GgufTensor& tensor) const;
  /// Files that the model lies in.
  [[nodiscard]] std::size_t parts() const { return parts_.size(); }
  /// Error{io} if a file was cut off or written to since it was opened: what was read of it may be wrong.
  void require_intact() const;

 private:
  [[nodiscard]] const GgufTensor& readable(std::string_view tensor) const;

  struct Part {
    std::shared_ptr<const std::span<const std::byte>> map;
    std::string name;  ///< For messages.
    std::size_t data_start = 0;
  };
  /// Maps another file and takes its tensors up; returns its header without them.
  GgufHeader add(const std::filesystem::path& path);
  void add_others(const std::filesystem::path& first, std::uint64_t count);
  [[nodiscard]] std::span<const std::byte> bytes_of(const GgufTensor& tensor) const;

  std::vector<Part> parts_;
  GgufHeader header_;  ///< Of the first, and the tensors of all.
  std::map<std::string, std::size_t, std::less<>> where_;
};

/// Whether a path is a GGUF file: by its name or its first four bytes. Error{io} for one that cannot be read.
bool is_gguf(const std::filesystem::path& path);

/// The name of part `index`, from 0, of a model that is split over `count` files: "m.gguf" to "m-00001-of-00003.gguf".
std::filesystem::path gguf_part_path(const std::filesystem::path& whole, std::size_t index, std::size_t count);

/// Writes a file, version 3, whose tensors are known beforehand but whose data arrives piece by piece, in any order.
/// Nothing has the final name until finish() has synced the data and renamed; an abandoned writer removes its temporary
/// file.
class GgufWriter {
 public:
  /// Where the file would be larger than `part_bytes` (not 0), it is split over several of at most so many bytes, or of
  /// one tensor that has more; the first of them gets its name last.
  /// `tensors` need name, type and shape. general.alignment in the metadata sets the alignment. Error{invalid_argument}
  /// for a name that is empty, used twice or longer than 63 bytes (ggml's limit), more than 4 dimensions, a row that is
  /// no whole number of blocks, an alignment that is no u32 power of two, arrays nested too deeply; Error{io}.
  GgufWriter(const std::filesystem::path& path, const GgufMetadata& metadata, std::vector<GgufTensor> tensors,
             std::size_t part_bytes = 0);
  ~GgufWriter();
  GgufWriter(const GgufWriter&) = delete;
  GgufWriter& operator=(const GgufWriter&) = delete;

  /// Of the file that such a writer makes. Errors as the constructor, but io.
  static std::size_t file_bytes(const GgufMetadata& metadata, std::vector<GgufTensor> tensors);
  /// All the bytes of one tensor, once. Error{not_found}, Error{shape_mismatch} if the size is another, Error{io}.
  void write(const std::string& name, std::span<const std::byte> bytes);
  /// Error{invalid_argument} names a tensor never written.
  void finish();
  /// What finish() gives their names to.
  [[nodiscard]] const std::vector<std::filesystem::path>& paths() const { return paths_; }

 private:
  void begin(const std::filesystem::path& path, const GgufMetadata& metadata, std::vector<GgufTensor> tensors);

  std::vector<std::unique_ptr<format::PendingTensors>> files_;
  std::vector<std::filesystem::path> paths_;
  std::map<std::string, std::size_t, std::less<>> part_of_;
};

}  // namespace nibble::inline NIBBLE_ABI
