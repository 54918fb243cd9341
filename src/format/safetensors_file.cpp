#include <nlohmann/json.hpp>

#include "files.h"
#include "nibble/format/safetensors.h"
#include "pending_file.h"
#include "recognise.h"

namespace nibble {

namespace {

const std::filesystem::path& recognised(const std::filesystem::path& path) {
  format::refuse_no_tensors(path);
  return path;
}

}  // namespace

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path)
    : map_(format::map_file(recognised(path))), header_(parse_safetensors_header(*map_, path.string())) {}

Buffer SafetensorsFile::data(const TensorInfo& tensor) const {
  return Buffer::view(map_->subspan(header_.data_start + tensor.offset, tensor.bytes), map_);
}

void SafetensorsFile::release(const TensorInfo& tensor) const {
  format::release_pages(map_->subspan(header_.data_start + tensor.offset, tensor.bytes));
}

namespace {

/// The header text, padded so that the data begins on a multiple of 64 bytes of the file.
std::string header_text(std::vector<TensorInfo>& tensors, const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json header;
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::size_t at = 0;
  for (TensorInfo& t : tensors) {
    t.offset = at;
    t.bytes = size_of(t.type);
    for (std::size_t d : t.shape)
      if (__builtin_mul_overflow(t.bytes, d, &t.bytes))
        throw Error(ErrorCode::invalid_argument, "the shape of tensor '" + t.name + "' overflows");
    at += t.bytes;
    if (header.contains(t.name)) throw Error(ErrorCode::invalid_argument, "two tensors are named '" + t.name + "'");
    header[t.name] = {{"dtype", name_of(t.type)}, {"shape", t.shape}, {"data_offsets", {t.offset, at}}};
  }
  std::string text = header.is_null() ? "{}" : header.dump();
  text.append((64 - (text.size() + 8) % 64) % 64, ' ');
  return text;
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(std::filesystem::path path, std::vector<TensorInfo> tensors,
                                     const std::map<std::string, std::string>& metadata)
    : file_(std::make_unique<format::PendingTensors>(std::move(path))) {
  const std::string text = header_text(tensors, metadata);
  for (const TensorInfo& t : tensors) file_->declare(t.name, 8 + text.size() + t.offset, t.bytes);
  const std::uint64_t length = text.size();
  file_->file().write(std::as_bytes(std::span(&length, 1)), 0);
  file_->file().write(std::as_bytes(std::span(text)), 8);
}

SafetensorsWriter::~SafetensorsWriter() = default;

void SafetensorsWriter::write(const std::string& name, std::span<const std::byte> bytes) { file_->write(name, bytes); }

void SafetensorsWriter::finish() { file_->finish(); }

}  // namespace nibble
