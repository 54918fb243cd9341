// A file in pieces: its lines, or what lies between its form feeds.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>

#include "core/files.h"

namespace nibble::inline NIBBLE_ABI::text {

/// Holds one block of the file at a time, however long the file is and whatever stands in it. A byte order mark of
/// UTF-8 at the beginning is no part of the first piece.
class DelimitedReader {
 public:
  /// Of a piece at most `most_bytes` are kept.
  DelimitedReader(std::filesystem::path file, char delimiter, std::size_t most_bytes);
  /// Puts the next piece, without its delimiter, in place of `piece`; false where there is none. What ends the file is
  /// a piece even without a delimiter, if it is not empty.
  bool next(std::string& piece);
  /// Whether the last piece had more bytes than are kept: those behind them were passed over.
  [[nodiscard]] bool too_long() const { return too_long_; }
  /// Which one the last piece was, from 1.
  [[nodiscard]] std::size_t number() const { return number_; }
  /// How much of the file has been taken.
  [[nodiscard]] double fraction() const;

 private:
  /// Reads the next block; false at the end.
  bool refill();
  void append(std::string& piece, std::string_view more);

  std::filesystem::path file_;
  files::Descriptor descriptor_;
  std::size_t size_ = 0;  ///< Of the file, when it was opened.
  std::size_t read_ = 0;  ///< Where the next block begins.
  std::string block_;
  std::size_t taken_ = 0;  ///< Of the block.
  char delimiter_;
  std::size_t most_bytes_;
  bool too_long_ = false;
  std::size_t number_ = 0;
};

}  // namespace nibble::inline NIBBLE_ABI::text
