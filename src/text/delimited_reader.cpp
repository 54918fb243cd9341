#include "delimited_reader.h"

#include <algorithm>
#include <cerrno>
#include <span>
#include <string_view>
#include <system_error>
#include <utility>

namespace nibble::inline NIBBLE_ABI::text {

namespace {

constexpr std::size_t kBlock = std::size_t{64} << 10;
constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

}  // namespace

DelimitedReader::DelimitedReader(std::filesystem::path file, char delimiter, std::size_t most_bytes)
    : file_(std::move(file)), descriptor_(files::open_input(file_)), delimiter_(delimiter), most_bytes_(most_bytes) {
  std::error_code error;
  const std::uintmax_t size = std::filesystem::file_size(file_, error);
  if (error) {
    errno = error.value();
    files::throw_system_error("look at", file_);
  }
  size_ = static_cast<std::size_t>(size);
}

double DelimitedReader::fraction() const {
  return size_ == 0 ? 1 : static_cast<double>(read_ - (block_.size() - taken_)) / static_cast<double>(size_);
}

bool DelimitedReader::refill() {
  if (read_ == size_) return false;
  block_.resize(std::min(kBlock, size_ - read_));
  files::read_at(descriptor_.get(), std::as_writable_bytes(std::span(block_)), read_, file_);
  taken_ = read_ == 0 && block_.starts_with(kByteOrderMark) ? kByteOrderMark.size() : 0;
  read_ += block_.size();
  return true;
}

void DelimitedReader::append(std::string& piece, std::string_view more) {
  const std::size_t room = most_bytes_ - piece.size();
  too_long_ = too_long_ || more.size() > room;
  piece += more.substr(0, room);
}

bool DelimitedReader::next(std::string& piece) {
  piece.clear();
  too_long_ = false;
  while (taken_ == block_.size())
    if (!refill()) return false;
  ++number_;
  do {
    const std::string_view rest = std::string_view(block_).substr(taken_);
    const std::size_t end = rest.find(delimiter_);
    append(piece, rest.substr(0, end));
    taken_ += end == rest.npos ? rest.size() : end + 1;
    if (end != rest.npos) return true;
  } while (refill());
  return true;
}

}  // namespace nibble::inline NIBBLE_ABI::text
