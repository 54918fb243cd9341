#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "core/files.h"
#include "core/mapped_files.h"
#include "nibble/core/error.h"
#include "nibble/core/impl/memory.h"
#include "nibble/format/safetensors.h"
#include "pending_file.h"
#include "recognise.h"

namespace nibble::inline NIBBLE_ABI {

namespace {

/// What a file says of its header's size, if it can be so.
std::size_t header_bytes(std::span<const std::byte> file) {
  std::uint64_t length = 0;
  if (file.size() >= sizeof length) std::memcpy(&length, file.data(), sizeof length);
  return static_cast<std::size_t>(std::min<std::uint64_t>(length, file.size()));
}

const std::filesystem::path& recognised(const std::filesystem::path& path) {
  format::refuse_no_tensors(path);
  return path;
}

}  // namespace

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path)
    : map_(files::map_file(recognised(path))),
      header_(needing_memory([&] { return "the header of '" + path.string() + "'"; }, header_bytes(*map_),
                             [&] { return parse_safetensors_header(*map_, path.string()); })) {}

void SafetensorsFile::require_intact() const { files::require_intact(map_->data()); }

Buffer SafetensorsFile::data(const TensorInfo& tensor) const {
  require_intact();
  return Buffer::view(map_->subspan(header_.data_start + tensor.offset, tensor.bytes), map_);
}

void SafetensorsFile::release(const TensorInfo& tensor) const {
  files::release_pages(map_->subspan(header_.data_start + tensor.offset, tensor.bytes));
}

namespace {

/// Widest elements first, then by name: every tensor lies on a multiple of its element's size without the gaps that the
/// format forbids, and the same tensors give the same file in whatever order they are declared.
void sort_for_alignment(std::vector<TensorInfo>& tensors) {
  std::stable_sort(tensors.begin(), tensors.end(), [](const TensorInfo& a, const TensorInfo& b) {
    const std::size_t wide_a = size_of(a.type), wide_b = size_of(b.type);
    return wide_a != wide_b ? wide_a > wide_b : a.name < b.name;
  });
}

std::string quoted(const std::string& text) {
  try {
    return nlohmann::json(text).dump();
  } catch (const nlohmann::json::exception&) {
    throw Error(ErrorCode::invalid_argument, "a name to be written is not UTF-8: '" + text + "'");
  }
}

/// The header text, padded so that the data begins on a multiple of 64 bytes of the file. Written as it goes: a
/// document that keeps the order of its members searches all of them for each.
std::string header_text(std::vector<TensorInfo>& tensors, const std::map<std::string, std::string>& metadata) {
  std::string text = "{";
  const auto member = [&](const std::string& key) {
    if (text.size() > 1) text += ',';
    text += quoted(key);
    text += ':';
  };
  if (!metadata.empty()) {
    member("__metadata__");
    char before = '{';
    for (const auto& [key, value] : metadata) {
      text += before;
      text += quoted(key);
      text += ':';
      text += quoted(value);
      before = ',';
    }
    text += '}';
  }
  std::size_t at = 0;
  for (TensorInfo& t : tensors) {
    t.offset = at;
    t.bytes = size_of(t.type);
    std::string shape;
    for (std::size_t d : t.shape) {
      if (__builtin_mul_overflow(t.bytes, d, &t.bytes))
        throw Error(ErrorCode::invalid_argument, "the shape of tensor '" + t.name + "' overflows");
      shape.append(shape.empty() ? "" : ",").append(std::to_string(d));
    }
    at += t.bytes;
    member(t.name);
    text.append("{\"dtype\":\"").append(name_of(t.type)).append("\",\"shape\":[").append(shape);
    text.append("],\"data_offsets\":[").append(std::to_string(t.offset)).append(",").append(std::to_string(at));
    text.append("]}");
  }
  text += '}';
  text.append((64 - (text.size() + 8) % 64) % 64, ' ');
  return text;
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(std::filesystem::path path, std::vector<TensorInfo> tensors,
                                     const std::map<std::string, std::string>& metadata)
    : file_(std::make_unique<format::PendingTensors>(std::move(path))) {
  sort_for_alignment(tensors);
  const std::string text = header_text(tensors, metadata);
  for (const TensorInfo& t : tensors) file_->declare(t.name, 8 + text.size() + t.offset, t.bytes);
  const std::uint64_t length = text.size();
  file_->file().write(std::as_bytes(std::span(&length, 1)), 0);
  file_->file().write(std::as_bytes(std::span(text)), 8);
}

SafetensorsWriter::~SafetensorsWriter() = default;

void SafetensorsWriter::write(const std::string& name, std::span<const std::byte> bytes) { file_->write(name, bytes); }

void SafetensorsWriter::finish() { file_->finish(); }

}  // namespace nibble::inline NIBBLE_ABI
