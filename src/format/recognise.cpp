#include "recognise.h"

#include <algorithm>
#include <array>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <vector>

#include "core/files.h"
#include "core/json.h"

namespace nibble::inline NIBBLE_ABI::format {

namespace {

namespace fs = std::filesystem;

/// What a look at a path shows; enough for every row of the tables.
struct Look {
  fs::path path;
  std::string head;             ///< A file's first bytes.
  std::uintmax_t size = 0;      ///< A file's.
  std::set<std::string> names;  ///< In a folder; the first few thousand.

  [[nodiscard]] bool has(const char* name) const { return names.contains(name); }
  [[nodiscard]] std::string first_ending(std::initializer_list<std::string_view> ends) const {
    for (const std::string_view end : ends)
      for (const std::string& name : names)
        if (name.ends_with(end)) return name;
    return {};
  }
  [[nodiscard]] bool any(std::initializer_list<std::string_view> ends) const { return !first_ending(ends).empty(); }
  [[nodiscard]] bool begins(std::string_view bytes) const { return head.starts_with(bytes); }
  [[nodiscard]] bool named(std::initializer_list<std::string_view> ends) const {
    const std::string name = path.filename().string();
    return std::any_of(ends.begin(), ends.end(), [&](std::string_view end) { return name.ends_with(end); });
  }
};

Look look_at_file(const fs::path& path) {
  Look out;
  out.path = path;
  std::error_code ignored;
  out.size = fs::file_size(path, ignored);
  out.head.resize(512);
  std::ifstream in(path, std::ios::binary);
  in.read(out.head.data(), static_cast<std::streamsize>(out.head.size()));
  out.head.resize(static_cast<std::size_t>(in.gcount()));
  return out;
}

Look look_at_folder(const fs::path& path) {
  constexpr std::size_t most = 4096;
  Look out;
  out.path = path;
  for (const fs::path& entry : files::list_folder(path)) {
    if (out.names.size() == most) break;
    out.names.insert(entry.filename().string());
  }
  return out;
}

/// A row: what it is called, how it is known, what to do about it.
struct Recogniser {
  const char* what;
  bool (*is)(const Look&);
  std::string (*advice)(const Look&);
  ErrorCode code = ErrorCode::unsupported;
};

constexpr const char* kToSafetensors =
    "; such files can run code when they are loaded, so this library does not: in Python, "
    "AutoModelForCausalLM.from_pretrained(…).save_pretrained(…, safe_serialization=True) writes safetensors";

bool has_weights(const Look& l) { return l.any({".safetensors", ".safetensors.index.json"}); }
bool has_model_weights(const Look& l) { return l.has("model.safetensors") || l.has("model.safetensors.index.json"); }

/// The snapshot that a Hugging Face cache means: that of refs/main, else the only one.
std::string snapshot_of(const fs::path& root) {
  std::error_code ignored;
  const fs::path main = root / "refs" / "main";
  if (fs::is_regular_file(main, ignored)) {
    std::string revision = files::read_text(main);
    revision.erase(revision.find_last_not_of(" \r\n") + 1);
    if (revision.find('/') == std::string::npos && fs::exists(root / "snapshots" / revision, ignored))
      return (root / "snapshots" / revision).string();
  }
  const auto snapshots = files::list_folder(root / "snapshots", ignored);
  return snapshots.empty() ? std::string() : snapshots.front().string();
}

std::string base_of_adapter(const Look& l) {
  std::error_code ignored;
  if (fs::file_size(l.path / "adapter_config.json", ignored) > (1u << 20) || ignored) return {};
  json::Document config;
  try {
    config = json::parse(files::read_text(l.path / "adapter_config.json"), "adapter_config.json");
  } catch (const Error&) {
    return {};  // what it is shows in its name
  }
  const auto base = config->is_object() ? config->find("base_model_name_or_path") : config->end();
  return base != config->end() && base->is_string() ? " for '" + base->get<std::string>().substr(0, 200) + "'" : "";
}

// ── Files

constexpr std::array kFiles{
    Recogniser{"a pointer of Git LFS, not the file itself",
               [](const Look& l) { return l.begins("version https://git-lfs"); },
               [](const Look&) { return std::string("; `git lfs pull` in the repository fetches what it stands for"); },
               ErrorCode::corrupt_file},
    Recogniser{"an empty file", [](const Look& l) { return l.size == 0; },
               [](const Look&) { return std::string("; was its download interrupted? Fetch it again"); },
               ErrorCode::corrupt_file},
    Recogniser{
        "a web page",
        [](const Look& l) { return l.begins("<!DOCTYPE html") || l.begins("<!doctype html") || l.begins("<html"); },
        [](const Look&) {
          return std::string(
              "; its address was one to look at: download the file itself ('resolve' in place of "
              "'blob' on Hugging Face)");
        },
        ErrorCode::corrupt_file},
    Recogniser{"a PyTorch checkpoint (a zip archive of pickles)",
               [](const Look& l) {
                 return l.begins("PK\x03\x04") && !l.named({".npz", ".mlpackage", ".zip"});
               },
               [](const Look&) { return std::string(kToSafetensors); }},
    Recogniser{
        "a Python pickle",
        [](const Look& l) { return l.head.size() > 2 && l.head[0] == '\x80' && l.head[1] >= 2 && l.head[1] <= 5; },
        [](const Look&) { return std::string(kToSafetensors); }},
    Recogniser{"an archive",
               [](const Look& l) {
                 return l.begins("\x1f\x8b") || l.begins("PK\x03\x04") || l.begins("7z\xbc\xaf") ||
                        l.begins("\x28\xb5\x2f\xfd") ||
                        l.begins(
                            "\xfd"
                            "7zXZ") ||
                        (l.head.size() > 262 && l.head.compare(257, 5, "ustar") == 0);
               },
               [](const Look&) { return std::string("; unpack it, and give the model directory in it"); }},
    Recogniser{"a GGML file from before GGUF",
               [](const Look& l) { return l.begins("lmgg") || l.begins("fmgg") || l.begins("tjgg"); },
               [](const Look&) {
                 return std::string("; take a GGUF file of the model, or convert it with an old llama.cpp");
               }},
    Recogniser{"an HDF5 file (Keras, TensorFlow)", [](const Look& l) { return l.begins("\x89HDF"); },
               [](const Look&) { return std::string("; take the model's safetensors"); }},
    Recogniser{"an ONNX model",
               [](const Look& l) {
                 return l.named({".onnx", ".onnx_data"});
               },
               [](const Look&) { return std::string("; a graph is not read: take the model's safetensors or GGUF"); }},
    Recogniser{"a Core ML model", [](const Look& l) { return l.named({".mlmodel"}); },
               [](const Look&) { return std::string("; it is not read: take the model's safetensors or GGUF"); }},
};

/// Only where tensors of safetensors are wanted.
constexpr Recogniser kGgufAsSafetensors{
    "a GGUF file under another name", [](const Look& l) { return l.begins("GGUF"); },
    [](const Look&) { return std::string("; give the file itself in place of its folder, or name it *.gguf"); }};

// ── Folders

constexpr std::array kFolders{
    Recogniser{"the root of a model in a Hugging Face cache",
               [](const Look& l) { return l.has("snapshots") && (l.has("refs") || l.has("blobs")) && !has_weights(l); },
               [](const Look& l) {
                 const std::string snapshot = snapshot_of(l.path);
                 return snapshot.empty() ? std::string("; it has no snapshot: download the model again")
                                         : "; give the snapshot in it: '" + snapshot + "'";
               }},
    Recogniser{"a Hugging Face cache of several repositories",
               [](const Look& l) {
                 const auto at = l.names.lower_bound("models--");
                 return at != l.names.end() && at->starts_with("models--") && !l.has("config.json");
               },
               [](const Look& l) {
                 const std::string first = *l.names.lower_bound("models--");
                 const std::string snapshot = snapshot_of(l.path / first);
                 return "; give the snapshot of one model, such as '" +
                        (snapshot.empty() ? (l.path / first / "snapshots").string() : snapshot) + "'";
               }},
    Recogniser{"a PEFT adapter, not a model",
               [](const Look& l) { return l.has("adapter_config.json") && !has_model_weights(l); },
               [](const Look& l) {
                 return base_of_adapter(l) +
                        "; merge it into its base first: in Python, PeftModel.from_pretrained(base, adapter)"
                        ".merge_and_unload().save_pretrained(…)";
               }},
    Recogniser{"a Core ML package", [](const Look& l) { return l.path.extension() == ".mlpackage"; },
               [](const Look&) { return std::string("; it is not read: take the model's safetensors or GGUF"); }},
    Recogniser{"a Diffusers pipeline", [](const Look& l) { return l.has("model_index.json") && !l.has("config.json"); },
               [](const Look&) { return std::string("; this library knows language models of the Llama family"); }},
    Recogniser{
        "a folder of GGUF files", [](const Look& l) { return l.any({".gguf"}) && !has_weights(l); },
        [](const Look& l) { return "; give one of them: '" + (l.path / l.first_ending({".gguf"})).string() + "'"; }},
    Recogniser{"a folder of PyTorch pickles",
               [](const Look& l) {
                 return !has_weights(l) && l.any({".bin", ".pt", ".pth", ".ckpt"});
               },
               [](const Look& l) {
                 return " ('" + l.first_ending({".bin", ".pt", ".pth", ".ckpt"}) + "')" + kToSafetensors;
               }},
    Recogniser{"a model for Flax or TensorFlow",
               [](const Look& l) {
                 return !has_weights(l) && l.any({".msgpack", ".h5"});
               },
               [](const Look&) { return std::string("; take the model's safetensors"); }},
    Recogniser{"an ONNX model",
               [](const Look& l) {
                 return !has_weights(l) && l.any({".onnx", "onnx"});
               },
               [](const Look&) { return std::string("; a graph is not read: take the model's safetensors or GGUF"); }},
    Recogniser{"a model in Mistral's own layout (consolidated.safetensors, params.json)",
               [](const Look& l) {
                 return !has_model_weights(l) && l.any({"consolidated.safetensors", "params.json"});
               },
               [](const Look&) {
                 return std::string(
                     "; its tensors have other names: take the files model*.safetensors and config.json of "
                     "the same repository");
               }},
    Recogniser{"an interrupted download",
               [](const Look& l) {
                 return !has_weights(l) && l.any({".incomplete", ".part", ".crdownload", ".aria2"});
               },
               [](const Look&) { return std::string("; download the model to its end"); }, ErrorCode::corrupt_file},
    Recogniser{
        "a sharded model without its index",
        [](const Look& l) {
          return !has_model_weights(l) && !l.any({".safetensors.index.json"}) && l.any({".safetensors"}) &&
                 l.first_ending({".safetensors"}).find("-of-") != std::string::npos;
        },
        [](const Look&) { return std::string("; download model.safetensors.index.json, which says what is where"); },
        ErrorCode::not_found},
    Recogniser{"an empty folder", [](const Look& l) { return l.names.empty(); },
               [](const Look&) { return std::string("; a model directory holds config.json and *.safetensors"); },
               ErrorCode::not_found},
};

[[noreturn]] void refuse(const Look& l, const Recogniser& r) {
  throw Error(r.code, "'" + l.path.string() + "' is " + r.what + r.advice(l));
}

template <class Table>
void refuse_known(const Look& l, const Table& table) {
  for (const Recogniser& r : table)
    if (r.is(l)) refuse(l, r);
}

void need_existence(const fs::path& path, const char* wanted) {
  std::error_code error;
  const auto status = fs::status(path, error);
  if (status.type() == fs::file_type::not_found)
    throw Error(ErrorCode::not_found, "there is no '" + path.string() + "'; " + wanted);
  if (!fs::is_directory(status) && !fs::is_regular_file(status) && fs::exists(status))
    (void)files::open_input(path);  // says what it is
}

}  // namespace

void refuse_no_tensors(const fs::path& file) {
  std::error_code ignored;
  if (!fs::is_regular_file(file, ignored)) return;  // whoever opens it says why not
  const Look l = look_at_file(file);
  refuse_known(l, kFiles);
  if (kGgufAsSafetensors.is(l) && !l.named({".gguf"})) refuse(l, kGgufAsSafetensors);
}

void refuse_no_model(const fs::path& path) {
  need_existence(path, "a model directory, a .safetensors or a .gguf file is needed");
  if (files::is_directory(path)) refuse_known(look_at_folder(path), kFolders);
  else refuse_known(look_at_file(path), kFiles);
}

void refuse_no_text(const fs::path& path) {
  need_existence(path, "a file of text is needed");
  if (files::is_directory(path))
    throw Error(ErrorCode::invalid_argument, "'" + path.string() + "' is a folder; a file of text is needed");
  const Look l = look_at_file(path);
  refuse_known(l, kFiles);
  if (l.begins("GGUF"))
    throw Error(ErrorCode::invalid_argument, "'" + path.string() + "' is a GGUF file; a text is needed");
  if (l.begins("\xff\xfe") || l.begins("\xfe\xff"))
    throw Error(ErrorCode::unsupported, "'" + path.string() + "' is text in UTF-16; save it as UTF-8");
  if (const std::size_t at = l.head.find('\0'); at != std::string::npos)
    throw Error(ErrorCode::invalid_argument,
                "'" + path.string() + "' is no text: byte " + std::to_string(at) + " is 0");
}

}  // namespace nibble::inline NIBBLE_ABI::format
