#include "pending_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <utility>

#include "files.h"

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

}  // namespace nibble::format
