#include "side_files.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <string_view>

#include "core/files.h"
#include "core/pending.h"

namespace nibble::inline NIBBLE_ABI::model {

namespace {

namespace fs = std::filesystem;

/// How the names of weights end, training states and compiled models included.
constexpr std::array<std::string_view, 27> kWeightEndings = {
    ".safetensors", ".bin",     ".pt",        ".pth",  ".ckpt",     ".gguf",      ".ggml",   ".onnx", ".onnx_data",
    ".onnx.data",   ".h5",      ".keras",     ".npz",  ".npy",      ".msgpack",   ".ot",     ".pkl",  ".pickle",
    ".tflite",      ".mlmodel", ".mlpackage", ".nemo", ".pdparams", ".llamafile", ".engine", ".mar",  ".distcp"};

/// What describes weights: indexes and how they are quantized or adapted.
constexpr std::array<std::string_view, 9> kDescriptions = {
    "quantize_config.json", "quant_config.json",       "quantization_config.json",
    "hf_quant_config.json", "compression_config.json", "recipe.yaml",
    "recipe.yml",           "adapter_config.json",     "openvino_model.xml"};

constexpr std::array<std::string_view, 4> kNoPartOfAModel = {".git", ".cache", "__pycache__", ".ipynb_checkpoints"};

std::string lower(std::string text) {
  for (char& c : text) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  return text;
}

template <class List>
bool holds(const List& list, std::string_view name) {
  return std::find(list.begin(), list.end(), name) != list.end();
}

bool is_weights(const std::string& name) {
  return name.find(".ckpt.") != std::string::npos ||
         std::any_of(kWeightEndings.begin(), kWeightEndings.end(), [&](auto end) { return name.ends_with(end); });
}

/// Whether a file is what a checkpoint is usually read from, and so has become the new weights.
bool is_read_as_checkpoint(const std::string& name) {
  constexpr std::string_view shard = "-00000-of-00000.safetensors";
  if (name == "model.safetensors" || name.ends_with(".safetensors.index.json")) return true;
  if (name.size() <= shard.size()) return false;
  return std::equal(shard.begin(), shard.end(), name.end() - static_cast<std::ptrdiff_t>(shard.size()),
                    [](char pattern, char c) { return pattern == '0' ? c >= '0' && c <= '9' : pattern == c; });
}

std::vector<fs::path> sorted_entries(const fs::path& folder) {
  std::error_code error;
  std::vector<fs::path> out = files::list_folder(folder, error);
  if (error) throw Error(ErrorCode::io, "cannot list the folder '" + folder.string() + "': " + error.message());
  std::sort(out.begin(), out.end());
  return out;
}

bool holds_weights(const fs::path& folder) {
  for (const fs::path& entry : sorted_entries(folder)) {
    if (is_weights(lower(entry.filename().string()))) return true;
    if (!files::is_link(entry) && files::is_directory(entry) && holds_weights(entry)) return true;
  }
  return false;
}

void copy_contents(const fs::path& from, const fs::path& to) {
  const files::Descriptor in = files::open_input(from);
  files::PendingFile out(to);
  std::vector<std::byte> buffer(std::size_t{1} << 18);
  for (std::size_t at = 0;;) {
    const ssize_t n = ::read(in.get(), buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) files::throw_system_error("read", from);
    if (n == 0) break;
    const auto bytes = static_cast<std::size_t>(n);
    out.write(std::span(buffer).first(bytes), at);
    at += bytes;
  }
  out.commit();
}

class Copy {
 public:
  explicit Copy(const fs::path& model) {
    for (const fs::path& entry : sorted_entries(model))
      if (entry.extension() == ".safetensors") ++checkpoints_;
  }

  void folder(const fs::path& from, const fs::path& to, const std::string& shown) {
    for (const fs::path& entry : sorted_entries(from)) {
      const std::string name = entry.filename().string();
      const std::string why = reason_to_leave(entry, lower(name), shown.empty());
      if (why == kReplaced) continue;
      if (!why.empty()) {
        left_out.push_back(shown + name + " (" + why + ")");
      } else if (files::is_directory(entry)) {
        if (::mkdir((to / name).c_str(), 0777) != 0) files::throw_system_error("create the folder", to / name);
        folder(entry, to / name, shown + name + "/");
      } else {
        copy_contents(entry, to / name);
      }
    }
  }

  std::vector<std::string> left_out;

 private:
  static constexpr const char* kReplaced = "replaced";

  std::size_t checkpoints_ = 0;  ///< Safetensors files of the model's own folder: if there is one, it is the weights.

  /// Empty: it is copied.
  std::string reason_to_leave(const fs::path& entry, const std::string& name, bool top) const {
    std::error_code error;
    const fs::file_status there = fs::status(entry, error);
    const bool is_link = fs::is_symlink(fs::symlink_status(entry, error));
    if (files::is_temporary_name(name)) return "unfinished output of another run";
    if (holds(kNoPartOfAModel, name)) return "no part of the model";
    const bool the_only_one = checkpoints_ == 1 && name.ends_with(".safetensors");
    if (top && (name == "config.json" || is_read_as_checkpoint(name) || the_only_one ||
                name == "quantize_config.json" || name == "quant_config.json"))
      return kReplaced;
    if (is_weights(name)) return "weights";
    if (name.ends_with(".index.json") || holds(kDescriptions, name)) return "describes weights";
    if (!fs::exists(there)) return is_link ? "a link to nothing" : "cannot be looked at";
    if (fs::is_directory(there)) return is_link ? "a link to a folder" : holds_weights(entry) ? "holds weights" : "";
    return fs::is_regular_file(there) ? ""
           : fs::is_fifo(there)       ? "a pipe"
           : fs::is_socket(there)     ? "a socket"
                                      : "a device";
  }
};

}  // namespace

std::vector<std::string> copy_side_files(const fs::path& from, const fs::path& to) {
  if (std::error_code error; !fs::is_directory(from, error)) return {};
  Copy copy(from);
  copy.folder(from, to, "");
  return std::move(copy.left_out);
}

}  // namespace nibble::inline NIBBLE_ABI::model
