// "<output>.partial": what a calibration run has finished, so that it can be killed at any moment and go on.
//
//   manifest.json             what the run was asked to do, and to which model
//   block-00000.safetensors   the quantized layers of a block in our own layout, vectors that changed (F32), and the
//                             layers' reports as JSON in the metadata: each file complete or not there. The head is the
//                             block behind the last
//   model/                    the output while it is put together
#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include "nibble/format/checkpoint.h"
#include "nibble/model/calibrate.h"

namespace nibble::inline NIBBLE_ABI::model {

class CalibrationFolder {
 public:
  /// What a run must agree on with the one that it resumes, by name.
  using Manifest = CalibrationSink::Manifest;

  /// Makes the folder, or takes up the one there is. Error{invalid_argument}: it is there and not `resume`, another
  /// process is at work in it, or its manifest is another (names the first difference).
  CalibrationFolder(std::filesystem::path folder, const Manifest& manifest, bool resume);

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  [[nodiscard]] std::filesystem::path block_file(std::size_t index) const;
  /// Blocks finished, from the first on, of so many.
  [[nodiscard]] std::size_t finished(std::size_t count) const;
  /// Removes such a folder, if there is one and it is a run's; at whatever moment this is killed, another run
  /// understands what is left.
  static void remove(const std::filesystem::path& folder) noexcept;
  /// The folder's name for an output.
  static std::filesystem::path of(const std::filesystem::path& output);

 private:
  /// Held until the object, or the process, goes.
  class Lock {
   public:
    ~Lock();
    Lock() = default;
    Lock(const Lock&) = delete;
    Lock& operator=(const Lock&) = delete;
    void take(const std::filesystem::path& folder);

   private:
    int file_ = -1;
  };

  std::filesystem::path path_;
  Lock lock_;
};

/// One finished file, written and read.
void save_finished(const std::filesystem::path& path, const FinishedBlock& block);

class FinishedFile {
 public:
  /// What the file says of a layer.
  struct Layer {
    LayerReport report;
    LayerDescription description;
    std::optional<BlockType> blocks = {};  ///< It is stored in these, and the description's spec means nothing.

    [[nodiscard]] double weights() const {
      return static_cast<double>(description.rows) * static_cast<double>(description.cols);
    }
    [[nodiscard]] double bits_per_weight() const;
  };
  /// Error{corrupt_file}.
  explicit FinishedFile(const std::filesystem::path& path);
  [[nodiscard]] const std::vector<Layer>& layers() const { return layers_; }
  [[nodiscard]] QuantizedMatrix matrix(const std::string& layer) const;
  /// Of a layer that is stored in blocks: a view of the file.
  [[nodiscard]] BlockMatrix blocks(const Layer& layer) const;
  /// Its pages may leave memory.
  void release(const std::string& layer) const;
  [[nodiscard]] const std::vector<std::string>& vectors() const { return vectors_; }
  [[nodiscard]] std::vector<float> vector(const std::string& name) const { return file_.read_f32(name); }
  /// All of it, as it was saved.
  [[nodiscard]] FinishedBlock block() const;

 private:
  Checkpoint file_;
  std::vector<Layer> layers_;
  std::vector<std::string> vectors_;
};

/// What folder_sink() gives.
class FolderSink : public CalibrationSink {
 public:
  FolderSink(std::filesystem::path folder, bool resume) : path_(std::move(folder)), resume_(resume) {}

  std::size_t begin(const Manifest& manifest, std::size_t count) override;
  void write(std::size_t index, FinishedBlock block) override;
  [[nodiscard]] FinishedBlock read(std::size_t index) const override;
  [[nodiscard]] std::filesystem::path folder() const override { return path_; }

 protected:
  /// Once begin() has made it.
  [[nodiscard]] CalibrationFolder& files() { return *files_; }

 private:
  std::filesystem::path path_;
  bool resume_;
  std::optional<CalibrationFolder> files_;
};

}  // namespace nibble::inline NIBBLE_ABI::model
