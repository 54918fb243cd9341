// nibble: quantize a model, and see what it costs.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <exception>

#include "commands.h"
#include "interrupt.h"
#include "nibble/core/error.h"

int main(int argc, char** argv) {
  CLI::App app("nibble: quantize a language model, and see what each method costs in quality, size and speed.");
  app.set_version_flag("--version", NIBBLE_VERSION);
  app.require_subcommand(1);
  app.footer(
      "Environment: NIBBLE_BACKEND=scalar|avx2|avxvnni|avx512|avx512vnni chooses the kernels, NIBBLE_THREADS the "
      "threads, NIBBLE_DATA the "
      "folder of the embedded "
      "model.\nExit status: 0 success, 1 error, 130 interrupted; the command line's own errors are above 100.");
  using namespace nibble::cli;
  install_interrupt_handler();
  add_compare_command(app);
  add_quantize_command(app);
  add_convert_command(app);
  add_export_gguf_command(app);
  add_eval_command(app);
  add_generate_command(app);
  add_inspect_command(app);
  add_memory_command(app);
  add_recommend_command(app);
  try {
    app.parse(argc, argv);
    return 0;
  } catch (const CLI::ParseError& e) {
    return app.exit(e);
  } catch (const nibble::Error& e) {
    fmt::print(stderr, "nibble: {}\n", e.what());
    return e.code() == nibble::ErrorCode::cancelled ? kInterruptedExit : 1;
  } catch (const std::exception& e) {
    fmt::print(stderr, "nibble: unexpected failure: {}\n", e.what());
    return 1;
  }
}
