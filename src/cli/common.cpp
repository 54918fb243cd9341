#include <fmt/format.h>
#include <sys/resource.h>

#include <cstdlib>
#include <fstream>
#include <iterator>

#include "commands.h"
#include "format/files.h"
#include "nibble/llama/tokenizer.h"
#include "progress_bar.h"

namespace nibble::cli {

std::filesystem::path example_data() {
  const char* folder = std::getenv("NIBBLE_DATA");
  return folder != nullptr && *folder != '\0' ? folder : NIBBLE_EXAMPLE_DATA;
}

std::vector<std::int32_t> read_tokens(const std::filesystem::path& model, const std::filesystem::path& text) {
  ProgressBar bar("tokens", true);
  return llama::load_tokenizer(model)->encode(format::read_text(text), true, bar.callback());
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
