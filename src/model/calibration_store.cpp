#include "calibration_store.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <limits>

#include "core/files.h"
#include "nibble/core/impl/memory.h"

namespace nibble::inline NIBBLE_ABI::model {

std::filesystem::path spill_folder() {
  std::error_code error;
  std::filesystem::path out = std::filesystem::temp_directory_path(error);
  return error ? std::filesystem::path("/tmp") : out;
}

CalibrationStore::CalibrationStore(std::size_t sequences, std::size_t tokens, std::size_t width, std::size_t most_bytes,
                                   const std::filesystem::path& folder)
    : sequences_(sequences), tokens_(tokens), width_(width), folder_(folder) {
  if (sequences_ * bytes_each() <= most_bytes) {
    needing_memory([] { return std::string("the hidden states of the calibration (see --cache-memory)"); },
                   sequences_ * bytes_each(), [&] { values_.resize(sequences_ * tokens_ * width_); });
    return;
  }
  // Without a name, so that no crash leaves it behind.
  std::string pattern = (folder / "states-XXXXXX").string();
  file_ = ::mkostemp(pattern.data(), O_CLOEXEC);
  if (file_ < 0) files::throw_system_error("create a file in", folder);
  ::unlink(pattern.c_str());
}

CalibrationStore::~CalibrationStore() {
  if (file_ >= 0) ::close(file_);
}

void CalibrationStore::read(std::size_t sequence, MatrixView<float> x) const {
  if (in_memory()) {
    std::memcpy(x.data, values_.data() + sequence * tokens_ * width_, bytes_each());
    return;
  }
  auto* to = reinterpret_cast<std::byte*>(x.data);
  for (std::size_t done = 0; done < bytes_each();) {
    const ssize_t n =
        ::pread(file_, to + done, bytes_each() - done, static_cast<off_t>(sequence * bytes_each() + done));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) files::throw_system_error("read the hidden states back from", folder_);
    done += static_cast<std::size_t>(n);
  }
}

void CalibrationStore::write(std::size_t sequence, MatrixView<const float> x) {
  std::vector<float> packed;
  if (x.stride != x.cols) {
    for (std::size_t r = 0; r < x.rows; ++r) packed.insert(packed.end(), x.row(r).begin(), x.row(r).end());
    x = {packed.data(), x.rows, x.cols};
  }
  if (in_memory()) std::memcpy(values_.data() + sequence * tokens_ * width_, x.data, bytes_each());
  else
    files::write_at(file_, {reinterpret_cast<const std::byte*>(x.data), bytes_each()}, sequence * bytes_each(),
                    folder_);
}

}  // namespace nibble::inline NIBBLE_ABI::model
