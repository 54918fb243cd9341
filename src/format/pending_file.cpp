#include "pending_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <utility>

#include "files.h"
#include "nibble/core/error.h"

namespace nibble::format {

PendingFile::PendingFile(std::filesystem::path path) : path_(std::move(path)), temporary_(temporary_beside(path_)) {
  file_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (file_ < 0) throw_system_error("create", temporary_);
}

PendingFile::~PendingFile() {
  if (file_ < 0) return;
  ::close(file_);
  ::unlink(temporary_.c_str());
}

void PendingFile::write(std::span<const std::byte> bytes, std::size_t offset) {
  write_at(file_, bytes, offset, temporary_);
}

void PendingFile::resize(std::size_t size) {
  if (::ftruncate(file_, static_cast<off_t>(size)) != 0) throw_system_error("resize", temporary_);
}

void PendingFile::commit() {
  const int file = std::exchange(file_, -1);
  try {
    commit_file(file, temporary_, path_);
  } catch (...) {
    ::unlink(temporary_.c_str());
    throw;
  }
}

void PendingTensors::declare(const std::string& name, std::size_t offset, std::size_t bytes) {
  if (!pending_.emplace(name, Place{offset, bytes}).second)
    throw Error(ErrorCode::invalid_argument, "two tensors are named '" + name + "'");
}

void PendingTensors::write(const std::string& name, std::span<const std::byte> bytes) {
  const auto it = pending_.find(name);
  if (it == pending_.end())
    throw Error(ErrorCode::not_found, "tensor '" + name + "' was not declared, or is written already");
  if (bytes.size() != it->second.bytes)
    throw Error(ErrorCode::shape_mismatch, "tensor '" + name + "' was declared with " +
                                               std::to_string(it->second.bytes) + " bytes and given " +
                                               std::to_string(bytes.size()));
  file_.write(bytes, it->second.offset);
  pending_.erase(it);
}

void PendingTensors::finish() {
  if (!pending_.empty())
    throw Error(ErrorCode::invalid_argument, "tensor '" + pending_.begin()->first + "' was declared but never written");
  file_.commit();
}

}  // namespace nibble::format
