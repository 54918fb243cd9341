#include "nibble/model/export_gguf.h"

#include <cstring>
#include <deque>
#include <map>

#include "calibrate_run.h"
#include "calibrated_checkpoint.h"
#include "core/files.h"
#include "core/output_path.h"
#include "gguf_metadata.h"
#include "gguf_plan.h"
#include "gguf_weights.h"
#include "nibble/core/error.h"
#include "nibble/core/impl/memory.h"

namespace nibble::inline NIBBLE_ABI::model {

namespace {

namespace fs = std::filesystem;

/// Layers that GPTQ has solved, in their files.
class SolvedLayers {
 public:
  SolvedLayers(const CalibrationFolder& folder, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) {
      const FinishedFile& file = files_.emplace_back(folder.block_file(i));
      for (const FinishedFile::Layer& l : file.layers()) places_[l.report.layer] = {&file, &l};
    }
  }
  /// A view of the file.
  [[nodiscard]] std::optional<BlockMatrix> find(const std::string& layer) const {
    const auto it = places_.find(layer);
    return it == places_.end() ? std::nullopt : std::optional(it->second.first->blocks(*it->second.second));
  }
  [[nodiscard]] std::vector<LayerReport> reports() const {
    std::vector<LayerReport> out;
    for (const FinishedFile& file : files_)
      for (const FinishedFile::Layer& l : file.layers()) out.push_back(l.report);
    return out;
  }

 private:
  std::deque<FinishedFile> files_;  ///< Where they are stays.
  std::map<std::string, std::pair<const FinishedFile*, const FinishedFile::Layer*>> places_;
};

class Writer {
 public:
  /// `solved`: null, or what takes the place of the weights.
  Writer(const GgufPlan& plan, const SolvedLayers* solved)
      : plan_(plan),
        solved_(solved),
        backend_(plan.options().backend ? *plan.options().backend : default_backend()),
        executor_(plan.options().executor ? *plan.options().executor : default_executor()),
        report_(plan.report()) {}

  ExportGgufReport write(const fs::path& path) {
    const std::vector<GgufTensor>& tensors = plan_.tensors();
    const Progress& progress = plan_.options().progress;
    GgufWriter writer(path, plan_.metadata(), tensors, plan_.options().part_bytes);
    for (const fs::path& part : writer.paths()) files::check_output({part, files::OutputKind::file}, {plan_.from()});
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      nibble::report(progress, static_cast<double>(i) / static_cast<double>(tensors.size()), tensors[i].name);
      needing_memory([&] { return "tensor '" + tensors[i].name + "'"; }, tensors[i].bytes,
                     [&] { write_entry(plan_.entries()[i], tensors[i], writer); });
    }
    in().require_intact();
    nibble::report(progress, 1, "syncing");
    if (again_ > 0)
      note(std::to_string(again_) + " layers were quantized already, in a form that " + what() +
           " cannot hold: decoded and quantized a second time, at a loss");
    if (exact_ > 0) note(std::to_string(exact_) + " layers keep the codes and scales they had");
    if (solved_ != nullptr) report_.layers = solved_->reports();
    report_.files = writer.paths();
    writer.finish();  // from here on nothing may fail for want of memory: the file is there
    for (const fs::path& part : report_.files) report_.file_bytes += files::size(part);
    return std::move(report_);
  }

 private:
  void note(std::string text) { report_.notes.push_back(std::move(text)); }
  [[nodiscard]] std::string what() const {
    const ExportGgufOptions& o = plan_.options();
    return std::string(o.mix == nullptr ? name_of(o.type) : o.mix->name);
  }
  [[nodiscard]] const Checkpoint& in() const { return plan_.checkpoint(); }

  void check_shape(const std::string& name, std::size_t rows, std::size_t cols, const GgufTensor& t) const {
    const std::size_t dimensions = t.shape.size(), wanted = t.shape[dimensions == 3 ? 1 : 0];
    if (rows == wanted && cols == (dimensions == 1 ? 1 : t.shape.back())) return;
    throw Error(ErrorCode::shape_mismatch, "tensor '" + name + "' is " + std::to_string(rows) + " × " +
                                               std::to_string(cols) + "; the configuration needs " +
                                               std::to_string(wanted) + " rows");
  }

  std::vector<float> read_vector(const GgufPlan::Entry& e, const GgufTensor& t) const {
    if (e.kind == GgufPlan::Kind::factors) return rope_factors(plan_.config());
    std::vector<float> ours = in().read_f32(e.name);
    const std::size_t cols = t.shape.size() == 1 ? 1 : t.shape.back();
    check_shape(e.name, ours.size() / cols, cols, t);
    if (plan_.architecture().norm_plus_one && plan_.architecture().is_norm_weight(e.name))
      for (float& w : ours) w += 1;
    if (!plan_.architecture().is_interleaved(e.name)) return ours;
    std::vector<float> theirs(ours.size());
    for (std::size_t r = 0; r < ours.size(); ++r) theirs[r] = ours[interleaved_row(r, plan_.config().head_dim)];
    return theirs;
  }

  BlockMatrix read_matrix(const std::string& name, const GgufTensor& t, std::size_t expert = 0) {
    const std::string layer = name.substr(0, name.size() - std::string_view(".weight").size());
    if (solved_ != nullptr)
      if (auto found = solved_->find(layer)) {
        check_shape(name, found->rows, found->cols, t);
        return *std::move(found);
      }
    const std::vector<float> importance = plan_.importance_of(name, t, expert);
    if (const auto q = decode_quantized(in(), layer)) {
      check_shape(name, q->rows, q->cols, t);
      if (exact_block_type(*q) == t.type) {
        ++exact_;
        return to_blocks(*q);
      }
      if (!is_float(t.type)) ++again_;
      std::vector<float> values(q->rows * q->cols);
      const MatrixView<float> view(values.data(), q->rows, q->cols);
      backend_.dequantize(*q, 0, view, executor_);
      return BlockMatrix::encode(view, t.type, name, executor_, importance);
    }
    const FloatMatrix m = in().matrix(name);
    check_shape(name, m.rows, m.cols, t);
    BlockMatrix out = BlockMatrix::encode(m, t.type, name, executor_, importance);
    in().release(name);
    return out;
  }

  /// The experts' matrices one behind the other.
  Buffer read_stack(const GgufPlan::Entry& e, const GgufTensor& t) {
    Buffer out;
    for (std::size_t i = 0; i < e.parts.size(); ++i) {
      const BlockMatrix m = read_matrix(e.parts[i], t, i);
      if (i == 0) out = Buffer::allocate(e.parts.size() * m.blocks.size());
      std::memcpy(out.writable<std::byte>() + i * m.blocks.size(), m.blocks.data(), m.blocks.size());
    }
    return out;
  }

  void write_entry(const GgufPlan::Entry& e, const GgufTensor& t, GgufWriter& writer) {
    if (e.kind == GgufPlan::Kind::stack) {
      const Buffer stack = read_stack(e, t);
      return writer.write(t.name, {stack.data(), stack.size()});
    }
    if (e.kind != GgufPlan::Kind::matrix) {
      const std::vector<float> values = read_vector(e, t);
      return writer.write(t.name, std::as_bytes(std::span(values)));
    }
    const BlockMatrix ours = read_matrix(e.name, t);
    if (!plan_.architecture().is_interleaved(e.name))
      return writer.write(t.name, {ours.blocks.data(), ours.blocks.size()});
    BlockMatrix theirs = BlockMatrix::allocate(ours.type, ours.rows, ours.cols);
    for (std::size_t r = 0; r < ours.rows; ++r)
      std::memcpy(theirs.blocks.writable<std::byte>() + r * ours.row_bytes(),
                  ours.row(interleaved_row(r, plan_.config().head_dim)), ours.row_bytes());
    writer.write(t.name, {theirs.blocks.data(), theirs.blocks.size()});
  }

  const GgufPlan& plan_;
  const SolvedLayers* solved_;
  const Backend& backend_;
  Executor& executor_;
  ExportGgufReport report_;
  std::size_t again_ = 0, exact_ = 0;
};

void refuse_gguf(const fs::path& from) {
  if (is_gguf(from))
    throw Error(ErrorCode::unsupported, "'" + from.string() + "' is a GGUF file already; a model directory is needed");
}

/// The run that solves the layers of a file of such a type.
CalibrateOptions run_of(const ExportGgufOptions& options, const CalibrateOptions& calibration) {
  const auto refuse = [](bool given, const char* what) {
    if (given)
      throw Error(ErrorCode::invalid_argument, std::string(what) + " says nothing of a GGUF file, whose type does");
  };
  refuse(!calibration.rules.empty(), "a rule for layers");
  refuse(calibration.layout.has_value(), "the layout of a checkpoint");
  refuse(calibration.lm_head, "lm_head");
  if (options.mix == nullptr && options.plan == nullptr && is_float(options.type))
    throw Error(ErrorCode::invalid_argument,
                "GPTQ solves codes, and " + std::string(name_of(options.type)) + " has none: choose a type like q4_k");
  CalibrateOptions out = calibration;
  out.method = {};
  out.method.blocks = options.mix == nullptr ? options.type : options.mix->base;  // each layer's: the file's plan
  out.method.gptaq = calibration.method.gptaq;
  out.method.qronos = calibration.method.qronos;
  return out;
}

}  // namespace

ExportGgufReport export_gguf(const fs::path& from, const fs::path& to, const ExportGgufOptions& options) {
  refuse_gguf(from);
  files::check_output({to, files::OutputKind::file}, {from});
  const GgufPlan plan(from, options);
  return Writer(plan, nullptr).write(to);
}

std::size_t gguf_file_bytes(const fs::path& from, const ExportGgufOptions& options) {
  refuse_gguf(from);
  return GgufPlan(from, options).file_bytes();
}

ExportGgufReport export_gguf_calibrated(const fs::path& from, const fs::path& to, CalibratedModel& model,
                                        std::span<const std::int32_t> ids, const ExportGgufOptions& options,
                                        const CalibrateOptions& calibration) {
  refuse_gguf(from);
  const fs::path blocks = CalibrationFolder::of(to);  // once the output is there, not even a name may fail
  files::check_outputs(
      {{to, files::OutputKind::file}, {blocks, files::OutputKind::folder, "the folder of finished blocks"}}, {from});
  const GgufPlan file(from, options);
  const CalibrateOptions run = run_of(options, calibration);
  const CalibratedCheckpoint source(from);
  CalibrationPlan plan(model, run);
  plan.keep_if([&](const QuantizedLayer& l) { return !is_float(file.type_of(l.name).value_or(BlockType::f32)); });
  for (std::size_t l = 0; l < plan.layers().size(); ++l) plan.set_blocks(l, *file.type_of(plan.layers()[l].name));
  source.check_shapes(plan);
  plan.check_ids(ids);
  CalibrateReport report;
  CheckpointSink sink(to, run.resume, source.checkpoint());
  CalibrationSink::Manifest manifest = source.manifest(plan, ids);
  if (options.mix != nullptr) manifest["mix"] = options.mix->name;
  if (options.plan != nullptr)
    for (const auto& [name, type] : options.plan->types) manifest["type of " + name] = name_of(type);
  const std::size_t found = sink.begin(manifest, plan.count());
  Tally tally(report);
  run_blocks(model, plan, ids, run, found, sink, tally);
  const SolvedLayers solved(sink.files(), plan.count());
  ExportGgufReport out = Writer(file, &solved).write(to);
  CalibrationFolder::remove(blocks);
  return out;
}

}  // namespace nibble::inline NIBBLE_ABI::model
