#include "directory.h"

#include <nlohmann/json.hpp>

#include "core/files.h"
#include "core/json.h"
#include "gguf_directory.h"
#include "gguf_weights.h"

namespace nibble::inline NIBBLE_ABI::model {

namespace {

namespace fs = std::filesystem;

using Json = nlohmann::ordered_json;

/// config.json without what it says of quantization, and with room for two more members.
json::OrderedDocument unquantized_config(const fs::path& from) {
  const std::string name = is_gguf(from) ? from.string() : (from / "config.json").string();
  json::OrderedDocument config = json::parse_ordered(config_json(from), name);
  if (!config->is_object()) throw Error(ErrorCode::corrupt_file, "'" + name + "' is not a JSON object");
  json::OrderedDocument out(Json::object());
  auto& to = out->get_ref<Json::object_t&>();
  to.reserve(config->size() + 2);
  for (auto& [key, value] : config->get_ref<Json::object_t&>())
    if (key != "quantization_config" && key != "compression_config") to.emplace_back(key, std::move(value));
  return out;
}

}  // namespace

std::string config_with_quantization(const fs::path& from, const std::string& quantization) {
  auto config = unquantized_config(from);
  json::OrderedDocument member = json::parse_ordered(quantization, "the new quantization_config");
  config->get_ref<Json::object_t&>().emplace_back("quantization_config", std::move(*member));
  return config->dump(2) + "\n";
}

void write_quantized_config(const fs::path& from, const fs::path& to, CheckpointLayout layout,
                            const std::string& quantization) {
  files::write_file(to / "config.json", config_with_quantization(from, quantization));
  if (layout == CheckpointLayout::gptq || layout == CheckpointLayout::gptq_v2)
    files::write_file(to / "quantize_config.json", quantization + "\n");
}

std::string config_with_dtype(const fs::path& from, DType type) {
  auto config = unquantized_config(from);
  (*config)[config->contains("dtype") ? "dtype" : "torch_dtype"] = type == DType::f16    ? "float16"
                                                                   : type == DType::bf16 ? "bfloat16"
                                                                                         : "float32";
  return config->dump(2) + "\n";
}

}  // namespace nibble::inline NIBBLE_ABI::model
