#include "calibrated_output.h"

#include <deque>

#include "core/files.h"
#include "core/typed_buffer.h"
#include "directory.h"
#include "gguf_checkpoint.h"
#include "gguf_directory.h"

namespace nibble::inline NIBBLE_ABI::model {

namespace {

namespace fs = std::filesystem;

class Output {
 public:
  Output(const CalibrationPlan& plan, const CalibrationFolder& folder) : plan_(plan) {
    for (std::size_t i = 0; i < plan.config().layers; ++i) open(folder.block_file(i));
    if (plan.method_of("lm_head")) open(folder.head_file());
    metadata_ = {{"format", "pt"}};
    for (const TensorInfo& t : plan.checkpoint().tensors()) declare(t);
  }

  void write(const fs::path& path, const std::string& run, CalibrateReport& report) {
    metadata_[kDigestKey] = run;
    SafetensorsWriter writer(path, declared_, metadata_);
    for (const TensorInfo& t : plan_.checkpoint().tensors())
      needing_memory([&] { return "tensor '" + t.name + "'"; }, t.bytes, [&] { write_tensor(t, writer); });
    plan_.checkpoint().require_intact();
    writer.finish();
    report.layers.clear();
    double bits = 0, weights = 0;
    for (const FinishedFile& file : files_)
      for (const FinishedFile::Layer& l : file.layers()) {
        const LayerDescription& d = l.description;
        const auto count = static_cast<double>(d.rows) * static_cast<double>(d.cols);
        bits += d.spec.bits_per_weight(d.rows, d.cols) * count;
        weights += count;
        report.layers.push_back(l.report);
      }
    report.bits_per_weight = bits / weights;
    report.file_bytes = fs::file_size(path);
  }

  /// The quantization_config of what was written.
  [[nodiscard]] std::string config() const {
    std::vector<QuantizedLayer> layers;
    for (const FinishedFile& file : files_)
      for (const FinishedFile::Layer& l : file.layers())
        layers.push_back({l.report.layer, l.description, plan_.method_of(l.report.layer)->act_order});
    return quantization_config(plan_.layout(), layers, plan_.skipped(), plan_.run());
  }

 private:
  struct Place {
    const FinishedFile* file;
    const FinishedFile::Layer* layer;  ///< Null for a vector.
  };

  void open(const fs::path& path) {
    const FinishedFile& file = files_.emplace_back(path);
    for (const FinishedFile::Layer& l : file.layers()) places_[l.report.layer + ".weight"] = {&file, &l};
    for (const std::string& name : file.vectors()) places_[name] = {&file, nullptr};
  }

  void declare(const TensorInfo& t) {
    const auto it = places_.find(t.name);
    if (it == places_.end() || it->second.layer == nullptr) {
      declared_.push_back({t.name, t.type, t.shape, 0, 0});
      return;
    }
    const FinishedFile::Layer& l = *it->second.layer;
    for (const NamedTensor& n : declare_quantized(plan_.layout(), l.report.layer, l.description))
      declared_.push_back({n.name, n.type, n.shape, 0, 0});
    if (const auto entry = quantized_metadata(plan_.layout(), l.report.layer, l.description)) metadata_.insert(*entry);
  }

  void write_tensor(const TensorInfo& t, SafetensorsWriter& writer) {
    const auto it = places_.find(t.name);
    if (it == places_.end()) {
      const Buffer bytes = plan_.checkpoint().data(t.name);
      writer.write(t.name, {bytes.data(), bytes.size()});
    } else if (const auto [file, layer] = it->second; layer == nullptr) {
      const std::vector<float> values = file->vector(t.name);
      const Buffer bytes = typed_buffer(t.type, values, t.name, values.size());
      writer.write(t.name, {bytes.data(), bytes.size()});
    } else {
      const std::string& name = layer->report.layer;
      for (const NamedTensor& n : encode_quantized(plan_.layout(), name, file->matrix(name), layer->description.dtype))
        writer.write(n.name, {n.bytes.data(), n.bytes.size()});
      file->release(name);
    }
    plan_.checkpoint().release(t.name);
  }

  const CalibrationPlan& plan_;
  std::deque<FinishedFile> files_;  ///< Where they are stays.
  std::map<std::string, Place> places_;
  std::vector<TensorInfo> declared_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace

void write_calibrated(const CalibrationPlan& plan, const CalibrationFolder& folder,
                      const CalibrationFolder::Manifest& manifest, const fs::path& to, CalibrateReport& report) {
  Output output(plan, folder);
  PendingDirectory directory(to, folder.path() / "model");
  output.write(directory.path() / "model.safetensors", digest(manifest), report);
  const std::string quantization = output.config();
  files::write_file(directory.path() / "config.json", config_with_quantization(plan.from(), quantization));
  if (plan.layout() == CheckpointLayout::gptq || plan.layout() == CheckpointLayout::gptq_v2)
    files::write_file(directory.path() / "quantize_config.json", quantization + "\n");
  SideFiles side = write_side_files(plan.from(), directory.path());
  report.left_out = std::move(side.left_out);
  report.notes = std::move(side.notes);
  if (std::string note = requantization_note(plan.from()); !note.empty()) report.notes.push_back(std::move(note));
  directory.commit();
}

}  // namespace nibble::inline NIBBLE_ABI::model
