#include "model_directory.h"

#include <cstdio>
#include <nlohmann/json.hpp>

#include "format/files.h"
#include "llama/gguf/directory.h"

namespace nibble::llama {

namespace {

namespace fs = std::filesystem;

constexpr const char* kSideFiles[] = {
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json",
    "vocab.json",     "merges.txt",      "added_tokens.json"};

nlohmann::ordered_json unquantized_config(const fs::path& from) {
  auto config = nlohmann::ordered_json::parse(config_json(from));
  config.erase("quantization_config");
  config.erase("compression_config");
  return config;
}

}  // namespace

PendingDirectory::PendingDirectory(fs::path final_path) : PendingDirectory(std::move(final_path), {}) {}

PendingDirectory::PendingDirectory(fs::path final_path, fs::path temporary)
    : final_(std::move(final_path)), temporary_(std::move(temporary)) {
  if (final_.filename().empty()) final_ = final_.parent_path();  // "out/" means "out"
  if (fs::exists(final_))
    throw Error(ErrorCode::invalid_argument,
                "'" + final_.string() + "' exists already; remove it or choose another name");
  if (temporary_.empty()) temporary_ = format::temporary_beside(final_);
  std::error_code error;
  fs::remove_all(temporary_, error);
  if (!fs::create_directories(temporary_, error))
    throw Error(ErrorCode::io, "cannot create the directory '" + temporary_.string() + "': " + error.message());
}

PendingDirectory::~PendingDirectory() {
  std::error_code ignored;
  if (!committed_) fs::remove_all(temporary_, ignored);
}

void PendingDirectory::commit() {
  if (std::rename(temporary_.c_str(), final_.c_str()) != 0) format::throw_system_error("rename to", final_);
  committed_ = true;
}

void copy_side_files(const fs::path& from, const fs::path& to) {
  for (const char* file : kSideFiles)
    if (fs::exists(from / file)) format::write_file(to / file, format::read_text(from / file));
}

std::string config_with_quantization(const fs::path& from, const std::string& quantization) {
  auto config = unquantized_config(from);
  config["quantization_config"] = nlohmann::ordered_json::parse(quantization);
  return config.dump(2) + "\n";
}

std::string config_with_dtype(const fs::path& from, DType type) {
  auto config = unquantized_config(from);
  config[config.contains("dtype") ? "dtype" : "torch_dtype"] = type == DType::f16    ? "float16"
                                                               : type == DType::bf16 ? "bfloat16"
                                                                                     : "float32";
  return config.dump(2) + "\n";
}

}  // namespace nibble::llama
