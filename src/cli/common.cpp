#include <fmt/format.h>
#include <sys/resource.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "commands.h"
#include "format/files.h"

namespace nibble::cli {

std::filesystem::path example_data() {
  const char* folder = std::getenv("NIBBLE_DATA");
  return folder != nullptr && *folder != '\0' ? folder : NIBBLE_EXAMPLE_DATA;
}

std::vector<std::int32_t> text_tokens(const std::filesystem::path& model, const std::string& text) {
  std::string tokenizer = "none";
  if (const auto path = model / "tokenizer_config.json"; std::filesystem::exists(path)) {
    const auto config = nlohmann::json::parse(format::read_text(path), nullptr, false);
    if (config.is_object()) tokenizer = config.value("tokenizer_class", tokenizer);
  }
  if (tokenizer != "ByteTokenizer")
    throw Error(ErrorCode::unsupported, "the model in '" + model.string() + "' has the tokenizer '" + tokenizer +
                                            "'; this build reads text for byte-level models (ByteTokenizer)");
  std::vector<std::int32_t> ids;
  for (char c : text) ids.push_back(static_cast<unsigned char>(c));
  return ids;
}

std::vector<std::int32_t> read_tokens(const std::filesystem::path& model, const std::filesystem::path& text) {
  return text_tokens(model, format::read_text(text));
}

void save_text(const std::filesystem::path& path, const std::string& text) { format::write_file(path, text); }

std::size_t peak_rss_bytes() {
  // getrusage would count what the parent held before exec; VmHWM is of this program alone.
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("VmHWM:")) return std::strtoull(line.c_str() + 6, nullptr, 10) * 1024;
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::size_t>(usage.ru_maxrss) * 1024;
}

std::string megabytes(std::size_t bytes) { return fmt::format("{:.2f} MB", static_cast<double>(bytes) / 1e6); }

}  // namespace nibble::cli
