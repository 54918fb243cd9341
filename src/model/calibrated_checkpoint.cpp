#include "calibrated_checkpoint.h"

#include <algorithm>
#include <deque>
#include <set>

#include "core/files.h"
#include "core/typed_buffer.h"
#include "directory.h"
#include "fingerprint.h"
#include "gguf_checkpoint.h"
#include "gguf_directory.h"
#include "gguf_weights.h"
#include "linear_layers.h"
#include "stored_weights.h"

namespace nibble::inline NIBBLE_ABI::model {

namespace {

namespace fs = std::filesystem;
using Kind = CalibratedMethod::Kind;

constexpr const char* kDigestKey = "nibble.calibration";

/// Of a manifest.
std::string digest(const CalibrationSink::Manifest& manifest) {
  Hash hash;
  for (const auto& [key, value] : manifest) hash.add(key + "=" + value + "\n");
  return hash.text();
}

QuantizationRun run_of(const CalibrateOptions& options) {
  QuantizationRun out;
  if (options.method.kind != Kind::gptq) return out;
  out.damp_percent = options.damp_percent;
  out.true_sequential = options.true_sequential;
  out.static_groups = options.method.static_groups;
  return out;
}

/// The one asked for, or the method's own where it has room for the layers: checked by describing them in it.
CheckpointLayout layout_for(const std::vector<QuantizedLayer>& layers, const std::vector<std::string>& skipped,
                            const CalibrateOptions& options) {
  if (options.layout) {
    (void)quantization_config(*options.layout, layers, skipped);  // throws where it has no room for a layer
    return *options.layout;
  }
  const bool zero_points = std::any_of(layers.begin(), layers.end(),
                                       [](const QuantizedLayer& l) { return l.description.spec.has_zero_points(); });
  const CheckpointLayout home = options.method.kind == Kind::awq ? CheckpointLayout::awq_gemm
                                : zero_points                    ? CheckpointLayout::gptq_v2
                                                                 : CheckpointLayout::gptq;
  for (const CheckpointLayout layout : {home, CheckpointLayout::compressed_tensors}) try {
      (void)quantization_config(layout, layers, skipped);
      return layout;
    } catch (const Error& e) {
      if (e.code() != ErrorCode::unsupported) throw;
    }
  return CheckpointLayout::nibble;
}

class Output {
 public:
  Output(const CalibratedCheckpoint& source, const CalibrationPlan& plan, const CalibrationFolder& folder)
      : in_(source.checkpoint()), layout_(source.layout()) {
    for (std::size_t i = 0; i < plan.count(); ++i) open(folder.block_file(i));
    metadata_ = {{"format", "pt"}};
    for (const TensorInfo& t : in_.tensors()) declare(t);
  }

  void write(const fs::path& path, const std::string& run, CalibrateReport& report) {
    metadata_[kDigestKey] = run;
    SafetensorsWriter writer(path, declared_, metadata_);
    for (const TensorInfo& t : in_.tensors())
      needing_memory([&] { return "tensor '" + t.name + "'"; }, t.bytes, [&] { write_tensor(t, writer); });
    in_.require_intact();
    writer.finish();
    report.layers.clear();
    double bits = 0, weights = 0;
    for (const FinishedFile& file : files_)
      for (const FinishedFile::Layer& l : file.layers()) {
        bits += l.bits_per_weight() * l.weights();
        weights += l.weights();
        report.layers.push_back(l.report);
      }
    report.bits_per_weight = bits / weights;
    report.file_bytes = files::size(path);
  }

  /// The quantization_config of what was written.
  [[nodiscard]] std::string config(const CalibrationPlan& plan, const std::vector<std::string>& skipped,
                                   const QuantizationRun& run) const {
    std::vector<QuantizedLayer> layers;
    for (const FinishedFile& file : files_)
      for (const FinishedFile::Layer& l : file.layers())
        layers.push_back({l.report.layer, l.description, plan.method_of(l.report.layer)->act_order});
    return quantization_config(layout_, layers, skipped, run);
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
    for (const NamedTensor& n : declare_quantized(layout_, l.report.layer, l.description))
      declared_.push_back({n.name, n.type, n.shape, 0, 0});
    if (const auto entry = quantized_metadata(layout_, l.report.layer, l.description)) metadata_.insert(*entry);
  }

  void write_tensor(const TensorInfo& t, SafetensorsWriter& writer) {
    const auto it = places_.find(t.name);
    if (it == places_.end()) {
      const Buffer bytes = in_.data(t.name);
      writer.write(t.name, {bytes.data(), bytes.size()});
    } else if (const auto [file, layer] = it->second; layer == nullptr) {
      const std::vector<float> values = file->vector(t.name);
      const Buffer bytes = typed_buffer(t.type, values, t.name, values.size());
      writer.write(t.name, {bytes.data(), bytes.size()});
    } else {
      const std::string& name = layer->report.layer;
      for (const NamedTensor& n : encode_quantized(layout_, name, file->matrix(name), layer->description.dtype))
        writer.write(n.name, {n.bytes.data(), n.bytes.size()});
      file->release(name);
    }
    in_.release(t.name);
  }

  const Checkpoint& in_;
  CheckpointLayout layout_;
  std::deque<FinishedFile> files_;  ///< Where they are stays.
  std::map<std::string, Place> places_;
  std::vector<TensorInfo> declared_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace

CalibratedCheckpoint::CalibratedCheckpoint(const fs::path& from)
    : from_(from), checkpoint_(open_checkpoint(from, GgufView::decoded)) {
  const LinearLayers found = find_linear_layers(checkpoint_, Outline::load(from), from.string());
  refuse_quantized(found.quantized, from.string());
  if (found.by_rule)
    for (const LinearTensor& l : found.linears)
      for (std::string& layer : l.layers()) left_.push_back(std::move(layer));
  for (std::string& layer : found.left_layers()) left_.push_back(std::move(layer));
}

void CalibratedCheckpoint::check_shapes(const CalibrationPlan& plan) const {
  for (const QuantizedLayer& l : plan.layers()) {
    const TensorInfo& t = checkpoint_.matrix_info(l.name + ".weight");
    if (t.shape[0] != l.description.rows || t.shape[1] != l.description.cols)
      throw Error(ErrorCode::shape_mismatch, "layer '" + l.name + "' is " + std::to_string(l.description.rows) + " × " +
                                                 std::to_string(l.description.cols) + " in the engine and " +
                                                 std::to_string(t.shape[0]) + " × " + std::to_string(t.shape[1]) +
                                                 " in '" + from_.string() + "'");
  }
}

void CalibratedCheckpoint::choose_layout(CalibrationPlan& plan, const CalibrateOptions& options) {
  for (const QuantizedLayer& l : plan.layers())
    if (const auto method = plan.method_of(l.name); method->blocks)
      throw Error(ErrorCode::unsupported, "layer '" + l.name + "': " + method->to_string() +
                                              " is of GGUF's blocks, which no checkpoint holds; export_gguf_calibrated "
                                              "(nibble export-gguf --gptq) writes them");
  check_shapes(plan);
  skipped_ = plan.skipped();
  std::set<std::string> named(skipped_.begin(), skipped_.end());
  for (const QuantizedLayer& l : plan.layers()) named.insert(l.name);
  std::copy_if(left_.begin(), left_.end(), std::back_inserter(skipped_),
               [&](const std::string& layer) { return !named.contains(layer); });
  if (!options.lm_head) skipped_.emplace_back("lm_head");  // a tied one, too, which the file does not name
  layout_ = layout_for(plan.layers(), skipped_, options);
  for (std::size_t l = 0; l < plan.layers().size(); ++l)
    plan.set_spec(l, nearest_spec(layout_, plan.layers()[l].description));
}

CalibrationSink::Manifest CalibratedCheckpoint::manifest(const CalibrationPlan& plan,
                                                         std::span<const std::int32_t> ids) const {
  CalibrationSink::Manifest out = plan.manifest(ids);
  out["model"] = fingerprint(from_, checkpoint_);
  out["format"] = std::string(name_of(layout_));
  return out;
}

void CalibratedCheckpoint::write(const CalibrationPlan& plan, const CalibrateOptions& options,
                                 const CalibrationFolder& folder, const CalibrationSink::Manifest& manifest,
                                 const fs::path& to, CalibrateReport& report) const {
  Output output(*this, plan, folder);
  PendingDirectory directory(to, folder.path() / "model");
  output.write(directory.path() / "model.safetensors", digest(manifest), report);
  const std::string quantization = output.config(plan, skipped_, run_of(options));
  files::write_file(directory.path() / "config.json", config_with_quantization(from_, quantization));
  if (layout_ == CheckpointLayout::gptq || layout_ == CheckpointLayout::gptq_v2)
    files::write_file(directory.path() / "quantize_config.json", quantization + "\n");
  SideFiles side = write_side_files(from_, directory.path());
  report.left_out = std::move(side.left_out);
  report.notes = std::move(side.notes);
  if (std::string note = requantization_note(from_); !note.empty()) report.notes.push_back(std::move(note));
  directory.commit();
}

bool made_by(const fs::path& directory, const CalibrationSink::Manifest& manifest) {
  const fs::path file = directory / "model.safetensors";
  return files::exists(file) && Checkpoint::open(file).find_metadata(kDigestKey) == digest(manifest);
}

}  // namespace nibble::inline NIBBLE_ABI::model
