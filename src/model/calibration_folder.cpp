#include "calibration_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "core/files.h"
#include "core/json.h"
#include "core/output_path.h"
#include "core/pending.h"
#include "layer_report_json.h"

namespace nibble::inline NIBBLE_ABI::model {

namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr const char* kReports = "nibble.reports";
constexpr const char* kVectors = "nibble.vectors";

std::string blocks_name(const std::string& layer) { return layer + ".blocks"; }

Json layer_json(const FinishedBlock::Layer& l) {
  Json out = l.report;
  out["dtype"] = static_cast<int>(l.dtype);
  if (l.has_blocks()) {
    out["blocks"] = name_of(l.blocks.type);
    out["rows"] = l.blocks.rows;
    out["cols"] = l.blocks.cols;
    return out;
  }
  out["spec"] = l.matrix.spec.to_string();
  out["rows"] = l.matrix.rows;
  out["cols"] = l.matrix.cols;
  out["act_order"] = LayerDescription::of(l.matrix).act_order;
  return out;
}

FinishedFile::Layer layer_of(const Json& j) {
  FinishedFile::Layer out;
  out.report = j.get<LayerReport>();
  out.description.rows = j.at("rows");
  out.description.cols = j.at("cols");
  out.description.dtype = static_cast<DType>(j.at("dtype").get<int>());
  if (j.contains("blocks")) {
    out.blocks = parse_block_type(j.at("blocks").get<std::string>());
    if (!out.blocks) throw Error(ErrorCode::corrupt_file, "there are no blocks of type " + j.at("blocks").dump());
    return out;
  }
  out.description.spec = QuantSpec::parse(j.at("spec").get<std::string>());
  out.description.act_order = j.at("act_order");
  return out;
}

std::string shortened(const std::string& text) { return text.size() <= 60 ? text : text.substr(0, 57) + "..."; }

void compare(const fs::path& folder, const CalibrationFolder::Manifest& asked) {
  CalibrationFolder::Manifest there;
  const std::string file = (folder / "manifest.json").string();
  const std::string text = files::read_text(file);
  try {
    there = json::parse(text, file)->get<CalibrationFolder::Manifest>();
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const std::exception&) {
    throw Error(ErrorCode::corrupt_file, "'" + file + "' is no manifest; remove the folder and start again");
  }
  for (const auto& [key, value] : asked)
    if (there[key] != value)
      throw Error(ErrorCode::invalid_argument, "'" + folder.string() + "' was begun with another " + key + ": '" +
                                                   shortened(there[key]) + "', not '" + shortened(value) +
                                                   "'; resume with the same options, or remove it to start again");
}

/// A folder that is there without a manifest is a run's that was killed at once, and holds next to nothing, or
/// somebody else's: what is in it would go with it when the run is done.
void refuse_foreign(const fs::path& folder) {
  std::error_code error;
  for (const fs::path& entry : files::list_folder(folder, error))
    if (const std::string name = entry.filename().string(); name != "lock" && !files::is_temporary_name(name))
      throw Error(ErrorCode::invalid_argument, "'" + folder.string() + "' is no folder of finished blocks: it holds '" +
                                                   name + "'; move it away, or choose another output");
}

/// Whether what lies there is a folder of finished blocks, or the beginning of one. It is asked once the output is
/// there, when nothing may fail for want of memory: where there is a manifest, no name is copied.
bool may_be_removed(const fs::path& folder) noexcept {
  const files::Descriptor opened(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (opened.get() < 0) return false;
  struct stat status {};
  if (::fstatat(opened.get(), "manifest.json", &status, AT_SYMLINK_NOFOLLOW) == 0) return true;
  try {
    refuse_foreign(folder);
    return true;
  } catch (...) {  // somebody else's, or there is no memory: what stays behind costs room only
    return false;
  }
}

}  // namespace

fs::path CalibrationFolder::of(const fs::path& output) {
  fs::path out = files::without_slash(output);
  out += ".partial";
  return out;
}

CalibrationFolder::CalibrationFolder(fs::path folder, const Manifest& manifest, bool resume)
    : path_(std::move(folder)) {
  const fs::path file = path_ / "manifest.json";
  if (files::is_link(path_))
    throw Error(ErrorCode::invalid_argument,
                "'" + path_.string() + "' is a link; a run's finished blocks go into a folder of its own: remove it");
  if (files::exists(file)) {
    if (!resume)
      throw Error(ErrorCode::invalid_argument,
                  "'" + path_.string() +
                      "' holds the finished blocks of an earlier run; --resume goes on with it, removing it starts "
                      "again");
    lock_.take(path_);
    compare(path_, manifest);
    return;
  }
  refuse_foreign(path_);
  std::error_code error;
  fs::create_directories(path_, error);
  if (error) throw Error(ErrorCode::io, "cannot create the directory '" + path_.string() + "': " + error.message());
  lock_.take(path_);
  try {
    files::write_file(file, Json(manifest).dump(2) + "\n");
  } catch (...) {
    files::remove_quietly(path_);  // there is nothing to go on with
    throw;
  }
}

CalibrationFolder::Lock::~Lock() {
  if (file_ >= 0) ::close(file_);
}

void CalibrationFolder::Lock::take(const fs::path& folder) {
  file_ = ::open((folder / "lock").c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0644);
  if (file_ < 0) files::throw_system_error("create", folder / "lock");
  if (::flock(file_, LOCK_EX | LOCK_NB) != 0)
    throw Error(ErrorCode::invalid_argument, "another process is at work in '" + folder.string() + "'");
  // The process that held it until now may have finished, and removed the folder.
  struct stat held {
  }, there{};
  if (::fstat(file_, &held) != 0 || ::lstat((folder / "lock").c_str(), &there) != 0 || held.st_ino != there.st_ino)
    throw Error(ErrorCode::invalid_argument,
                "another process was at work in '" + folder.string() + "', and has finished; look at its output");
}

fs::path CalibrationFolder::block_file(std::size_t index) const {
  char name[40];
  std::snprintf(name, sizeof name, "block-%05zu.safetensors", index);
  return path_ / name;
}

std::size_t CalibrationFolder::finished(std::size_t count) const {
  std::size_t n = 0;
  while (n < count && files::exists(block_file(n))) ++n;
  return n;
}

void CalibrationFolder::remove(const fs::path& folder) noexcept {
  if (may_be_removed(folder)) files::remove_quietly(folder, "manifest.json");
}

void save_finished(const fs::path& path, const FinishedBlock& block) {
  std::vector<TensorInfo> declared;
  std::map<std::string, std::string> metadata;
  Json reports = Json::array(), names = Json::array();
  for (const auto& l : block.layers) {
    reports.push_back(layer_json(l));
    if (l.has_blocks()) {
      declared.push_back({blocks_name(l.report.layer), DType::u8, {l.blocks.rows, l.blocks.row_bytes()}, 0, 0});
      continue;
    }
    const auto description = LayerDescription::of(l.matrix, l.dtype);
    for (const NamedTensor& t : declare_quantized(CheckpointLayout::nibble, l.report.layer, description))
      declared.push_back({t.name, t.type, t.shape, 0, 0});
    metadata.insert(*quantized_metadata(CheckpointLayout::nibble, l.report.layer, description));
  }
  for (const auto& [name, values] : block.vectors) {
    declared.push_back({name, DType::f32, {values.size()}, 0, 0});
    names.push_back(name);
  }
  metadata[kReports] = reports.dump();
  metadata[kVectors] = names.dump();
  SafetensorsWriter writer(path, declared, metadata);
  for (const auto& l : block.layers) {
    if (l.has_blocks()) writer.write(blocks_name(l.report.layer), {l.blocks.blocks.data(), l.blocks.blocks.size()});
    else
      for (const NamedTensor& t : encode_quantized(CheckpointLayout::nibble, l.report.layer, l.matrix, l.dtype))
        writer.write(t.name, {t.bytes.data(), t.bytes.size()});
  }
  for (const auto& [name, values] : block.vectors) writer.write(name, std::as_bytes(std::span(values)));
  writer.finish();
}

FinishedFile::FinishedFile(const fs::path& path) : file_(Checkpoint::open(path)) {
  try {
    const auto read = [&](const char* key) {
      return json::parse_ordered(file_.find_metadata(key).value_or(""), path.string() + "': '" + key);
    };
    const json::OrderedDocument reports = read(kReports);
    for (const Json& j : *reports) layers_.push_back(layer_of(j));
    vectors_ = read(kVectors)->get<std::vector<std::string>>();
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const std::exception& e) {
    throw Error(ErrorCode::corrupt_file, "'" + path.string() + "': its metadata is damaged (" + e.what() +
                                             "); remove it, and resume does the block again");
  }
}

QuantizedMatrix FinishedFile::matrix(const std::string& layer) const {
  auto q = decode_quantized(file_, layer);
  if (!q) throw Error(ErrorCode::corrupt_file, "a finished block lacks the layer '" + layer + "'");
  return *std::move(q);
}

double FinishedFile::Layer::bits_per_weight() const {
  if (blocks) return 8.0 * static_cast<double>(block_bytes(*blocks)) / static_cast<double>(block_size(*blocks));
  return description.spec.bits_per_weight(description.rows, description.cols);
}

BlockMatrix FinishedFile::blocks(const Layer& layer) const {
  BlockMatrix out{*layer.blocks, layer.description.rows, layer.description.cols,
                  file_.data(blocks_name(layer.report.layer))};
  out.validate(layer.report.layer);
  return out;
}

FinishedBlock FinishedFile::block() const {
  FinishedBlock out;
  for (const Layer& l : layers_) {
    FinishedBlock::Layer& to = out.layers.emplace_back();
    to.report = l.report;
    to.dtype = l.description.dtype;
    if (l.blocks) to.blocks = blocks(l);
    else to.matrix = matrix(l.report.layer);
  }
  for (const std::string& name : vectors_) out.vectors[name] = vector(name);
  return out;
}

void FinishedFile::release(const std::string& layer) const {
  for (const TensorInfo& t : file_.tensors())
    if (t.name.starts_with(layer + ".")) file_.release(t.name);
}

std::size_t FolderSink::begin(const Manifest& manifest, std::size_t count) {
  files_.emplace(path_, manifest, resume_);
  return files_->finished(count);
}

void FolderSink::write(std::size_t index, FinishedBlock block) { save_finished(files_->block_file(index), block); }

FinishedBlock FolderSink::read(std::size_t index) const { return FinishedFile(files_->block_file(index)).block(); }

std::unique_ptr<CalibrationSink> folder_sink(fs::path folder, bool resume) {
  return std::make_unique<FolderSink>(std::move(folder), resume);
}

}  // namespace nibble::inline NIBBLE_ABI::model
