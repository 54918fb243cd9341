#include "model_directory.h"

#include <nlohmann/json.hpp>

#include "format/files.h"

namespace nibble::llama {

namespace {

namespace fs = std::filesystem;

nlohmann::ordered_json unquantized_config(const fs::path& from) {
  auto config = nlohmann::ordered_json::parse(format::read_text(from / "config.json"));
  config.erase("quantization_config");
  config.erase("compression_config");
  return config;
}

}  // namespace

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
