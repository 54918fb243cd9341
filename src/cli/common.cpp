#include <fmt/format.h>
#include <sys/resource.h>

#include <cstdlib>
#include <fstream>
#include <iterator>

#include "commands.h"
#include "core/files.h"
#include "core/pending.h"
#include "format/recognise.h"
#include "nibble/core/error.h"
#include "nibble/text/tokenizer.h"
#include "progress_bar.h"

namespace nibble::cli {

std::filesystem::path example_data() {
  const char* folder = std::getenv("NIBBLE_DATA");
  return folder != nullptr && *folder != '\0' ? folder : NIBBLE_EXAMPLE_DATA;
}

namespace {

/// The first bytes of a text, up to the end of its last whole line where it goes on.
std::string beginning_of(const std::filesystem::path& path, std::size_t bytes) {
  std::ifstream in(path, std::ios::binary);
  std::string text(bytes, '\0');
  in.read(text.data(), static_cast<std::streamsize>(bytes));
  if (in.bad() || !in.is_open()) files::throw_system_error("read", path);
  const auto got = static_cast<std::size_t>(in.gcount());  // peek() sets it, too
  const bool goes_on = got == bytes && in.peek() != std::ifstream::traits_type::eof();
  text.resize(got);
  if (!goes_on) return text;
  if (const std::size_t line = text.rfind('\n'); line != std::string::npos) {
    text.resize(line + 1);
  } else {  // no cut within a character
    while (!text.empty() && (text.back() & 0xC0) == 0x80) text.pop_back();
    if (!text.empty() && (text.back() & 0x80) != 0) text.pop_back();
  }
  return text;
}

}  // namespace

std::vector<std::int32_t> read_tokens(const std::filesystem::path& model, const std::filesystem::path& text,
                                      std::size_t most) {
  constexpr std::uintmax_t largest = std::uintmax_t{1} << 30;
  // Tokens depend on what follows within a word or a few; those this near to a cut are not relied on.
  constexpr std::size_t margin = 256;
  format::refuse_no_text(text);
  const auto tokenizer = text::load_tokenizer(model);
  ProgressBar bar("tokens", true);  // heeds Ctrl-C
  const std::uintmax_t size = files::size(text);
  for (std::uintmax_t bytes = 16 * (most + margin); most > 0 && bytes < size; bytes *= 4) {
    auto ids = tokenizer->encode(beginning_of(text, static_cast<std::size_t>(bytes)), true, bar.callback());
    if (ids.size() < most + margin) continue;
    ids.resize(most);
    return ids;
  }
  if (size > largest)
    throw Error(ErrorCode::invalid_argument,
                fmt::format("'{}' has {} of text; at most 1 GiB is read whole, and --tokens takes the first so many",
                            text.string(), megabytes(size)));
  return tokenizer->encode(beginning_of(text, static_cast<std::size_t>(size)), true, bar.callback());
}

engine::Model with_adapter(engine::Model model, const std::string& adapter) {
  return adapter.empty() ? std::move(model) : model.with_adapter(model::Adapter::load(adapter, &model.config()));
}

void check_given_outputs(std::vector<files::Output> outputs, const std::vector<std::filesystem::path>& inputs) {
  std::erase_if(outputs, [](const files::Output& o) { return o.path.empty(); });
  files::check_outputs(outputs, inputs);
}

void note(std::string_view text) { fmt::print(stderr, "nibble: note: {}\n", printable(text)); }

const CLI::Validator kNamed([](std::string& name) { return std::string(name.empty() ? "the name is empty" : ""); }, "");

void note_left_out(const std::vector<std::string>& files) {
  if (!files.empty()) note(fmt::format("not copied: {}", fmt::join(files, ", ")));
}

void save_text(const std::filesystem::path& path, const std::string& text) { files::write_file(path, text); }

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
