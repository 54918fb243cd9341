#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <nlohmann/json.hpp>

#include "files.h"
#include "nibble/format/safetensors.h"

namespace nibble {

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path)
    : map_(format::map_file(path)), header_(parse_safetensors_header(*map_, path.string())) {}

Buffer SafetensorsFile::data(const TensorInfo& tensor) const {
  return Buffer::view(map_->subspan(header_.data_start + tensor.offset, tensor.bytes), map_);
}

void SafetensorsFile::release(const TensorInfo& tensor) const {
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const std::size_t begin = (header_.data_start + tensor.offset + page - 1) / page * page;
  const std::size_t end = (header_.data_start + tensor.offset + tensor.bytes) / page * page;
  // Only advice: a failure costs memory, not correctness.
  if (end > begin) ::madvise(const_cast<std::byte*>(map_->data()) + begin, end - begin, MADV_DONTNEED);
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
    : path_(std::move(path)), temporary_(format::temporary_beside(path_)) {
  const std::string text = header_text(tensors, metadata);
  data_start_ = 8 + text.size();
  for (const TensorInfo& t : tensors) pending_.emplace(t.name, t);
  file_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (file_ < 0) format::throw_system_error("create", temporary_);
  const std::uint64_t length = text.size();
  try {
    format::write_at(file_, std::as_bytes(std::span(&length, 1)), 0, temporary_);
    format::write_at(file_, std::as_bytes(std::span(text)), 8, temporary_);
  } catch (...) {
    ::close(file_);
    ::unlink(temporary_.c_str());
    throw;
  }
}

SafetensorsWriter::~SafetensorsWriter() {
  if (file_ < 0) return;
  ::close(file_);
  ::unlink(temporary_.c_str());
}

void SafetensorsWriter::write(const std::string& name, std::span<const std::byte> bytes) {
  const auto it = pending_.find(name);
  if (it == pending_.end())
    throw Error(ErrorCode::not_found, "tensor '" + name + "' was not declared, or is written already");
  if (bytes.size() != it->second.bytes)
    throw Error(ErrorCode::shape_mismatch, "tensor '" + name + "' was declared with " +
                                               std::to_string(it->second.bytes) + " bytes and given " +
                                               std::to_string(bytes.size()));
  format::write_at(file_, bytes, data_start_ + it->second.offset, temporary_);
  pending_.erase(it);
}

void SafetensorsWriter::finish() {
  if (!pending_.empty())
    throw Error(ErrorCode::invalid_argument, "tensor '" + pending_.begin()->first + "' was declared but never written");
  const int file = file_;
  file_ = -1;
  try {
    format::commit_file(file, temporary_, path_);
  } catch (...) {
    ::unlink(temporary_.c_str());
    throw;
  }
}

}  // namespace nibble
