// Safetensors: a memory-mapped reader and a crash-safe streaming writer.
//
//   8 bytes   N, little-endian
//   N bytes   JSON: {"name": {"dtype", "shape", "data_offsets": [begin, end]}, …, "__metadata__": {text: text}}
//   the rest  the data; offsets count from here, tensors cover it without gap or overlap
//
// Source: the format section of the safetensors documentation. A header is untrusted: whatever it says is checked
// before it is used, and a refusal is Error{corrupt_file} that names the tensor and the value.
#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "nibble/core/buffer.h"
#include "nibble/core/dtype.h"

namespace nibble::inline NIBBLE_ABI {

namespace format {
class PendingTensors;
}

/// One tensor of a file. A scalar has an empty shape.
struct TensorInfo {
  std::string name;
  DType type = DType::f32;
  std::vector<std::size_t> shape;
  std::size_t offset = 0;  ///< Bytes from the start of the data section.
  std::size_t bytes = 0;
};

struct SafetensorsHeader {
  std::vector<TensorInfo> tensors;  ///< In the order of their data.
  std::map<std::string, std::string> metadata;
  std::size_t data_start = 0;  ///< File offset of the data section.
};

/// Parses and checks the header at the start of `file`, whose size must be that of the whole file. `name` is for
/// messages.
SafetensorsHeader parse_safetensors_header(std::span<const std::byte> file, const std::string& name);

/// A file mapped for reading. Safe to share between threads.
class SafetensorsFile {
 public:
  /// Error{not_found | io} with the system's reason, Error{corrupt_file}.
  explicit SafetensorsFile(const std::filesystem::path& path);
  [[nodiscard]] const std::vector<TensorInfo>& tensors() const { return header_.tensors; }
  [[nodiscard]] const std::map<std::string, std::string>& metadata() const { return header_.metadata; }
  /// A view into the map, which lives as long as the view does. Not aligned to the element size in every file: other
  /// writers leave headers of any length and put wide elements behind narrow ones. Error{io} as require_intact().
  [[nodiscard]] Buffer data(const TensorInfo& tensor) const;
  /// Tells the system that the pages of this tensor can leave memory; they come back when read again.
  void release(const TensorInfo& tensor) const;
  /// Error{io} if the file was cut off or written to since it was opened: what was read of it may be wrong.
  void require_intact() const;

 private:
  std::shared_ptr<const std::span<const std::byte>> map_;
  SafetensorsHeader header_;
};

/// Writes a file whose tensors are known beforehand but whose data arrives piece by piece, in any order. Nothing has
/// the final name until finish() has synced the data and renamed; an abandoned writer removes its temporary file.
/// Tensors lie in the file by element size, the widest first, and then by name, so that each is aligned to its
/// elements.
class SafetensorsWriter {
 public:
  /// `tensors` need name, type and shape. Error{invalid_argument} for a duplicate name, Error{io}.
  SafetensorsWriter(std::filesystem::path path, std::vector<TensorInfo> tensors,
                    const std::map<std::string, std::string>& metadata);
  ~SafetensorsWriter();
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  /// All the bytes of one tensor, once. Error{not_found}, Error{shape_mismatch} if the size is another, Error{io}.
  void write(const std::string& name, std::span<const std::byte> bytes);
  /// Error{invalid_argument} names a tensor never written.
  void finish();

 private:
  std::unique_ptr<format::PendingTensors> file_;
};

}  // namespace nibble::inline NIBBLE_ABI
