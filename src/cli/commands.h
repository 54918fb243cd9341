// The tool's commands. Each adds its subcommand to the application; its work runs when the command line is parsed.
#pragma once

#include <CLI/CLI.hpp>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "core/output_path.h"
#include "nibble/backend/backend.h"
#include "nibble/core/printable.h"
#include "nibble/engine/model.h"

namespace nibble::cli {

/// --backend, which all commands take, and the list of backends under --help. Before the commands.
void add_backend_option(CLI::App& app);
/// What --backend or its environment variable chose, for the options of each call of the library that takes a backend;
/// null where nothing did.
[[nodiscard]] const Backend* chosen_backend();

void add_compare_command(CLI::App& app);
void add_quantize_command(CLI::App& app);
void add_convert_command(CLI::App& app);
void add_export_gguf_command(CLI::App& app);
void add_imatrix_command(CLI::App& app);
void add_eval_command(CLI::App& app);
void add_generate_command(CLI::App& app);
void add_finetune_command(CLI::App& app);
void add_qat_command(CLI::App& app);
void add_inspect_command(CLI::App& app);
void add_memory_command(CLI::App& app);
void add_merge_command(CLI::App& app);
void add_rotate_command(CLI::App& app);
void add_recommend_command(CLI::App& app);

/// Where the embedded model and its texts lie: $NIBBLE_DATA, else the source tree the tool was built from.
std::filesystem::path example_data();
/// The token ids of a text file by the model's own tokenizer: the first `most` or more, 0 for all. Of a long text no
/// more is read than that takes.
std::vector<std::int32_t> read_tokens(const std::filesystem::path& model, const std::filesystem::path& text,
                                      std::size_t most = 0);
/// The model with the adapter of --adapter, or as it is where that was not given.
engine::Model with_adapter(engine::Model model, const std::string& adapter);
/// Error unless all outputs of a command can be written and none reaches one of its inputs (files::check_outputs);
/// outputs and inputs that were not given are empty, and passed over. Before the work.
void check_given_outputs(std::vector<files::Output> outputs, const std::vector<std::filesystem::path>& inputs);
/// For options that name an output: an empty name is a mistake, not the same as no option.
extern const CLI::Validator kNamed;
/// "nibble: note: …" on standard error.
void note(std::string_view text);
/// The same of files beside the weights that were not copied.
void note_left_out(const std::vector<std::string>& files);
/// A whole text file through a temporary one, so that a crash leaves no half of it.
void save_text(const std::filesystem::path& path, const std::string& text);
/// The most memory this process has held, in bytes.
std::size_t peak_rss_bytes();
/// "9.71 MB": 10^6 bytes to a megabyte.
std::string megabytes(std::size_t bytes);

}  // namespace nibble::cli
