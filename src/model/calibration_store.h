// The hidden states of all calibration sequences, between one block and the next.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <vector>

#include "nibble/core/matrix_view.h"

namespace nibble::inline NIBBLE_ABI::model {

/// Where states go that no other folder is named for: the system's for temporary files, /tmp where that is none.
std::filesystem::path spill_folder();

/// [sequences][tokens, width] of fp32, in memory or in a file that has no name.
class CalibrationStore {
 public:
  /// `folder` is where the file goes, should all of it take more than `most_bytes`. Error{io}.
  CalibrationStore(std::size_t sequences, std::size_t tokens, std::size_t width, std::size_t most_bytes,
                   const std::filesystem::path& folder);
  ~CalibrationStore();
  CalibrationStore(const CalibrationStore&) = delete;
  CalibrationStore& operator=(const CalibrationStore&) = delete;

  [[nodiscard]] std::size_t sequences() const { return sequences_; }
  [[nodiscard]] std::size_t tokens() const { return tokens_; }
  [[nodiscard]] std::size_t width() const { return width_; }
  [[nodiscard]] bool in_memory() const { return file_ < 0; }

  /// A sequence's states into `x` [tokens, width], and back. Error{io}.
  void read(std::size_t sequence, MatrixView<float> x) const;
  void write(std::size_t sequence, MatrixView<const float> x);

 private:
  [[nodiscard]] std::size_t bytes_each() const { return tokens_ * width_ * sizeof(float); }

  std::size_t sequences_, tokens_, width_;
  std::vector<float> values_;
  std::filesystem::path folder_;
  int file_ = -1;
};

}  // namespace nibble::inline NIBBLE_ABI::model
