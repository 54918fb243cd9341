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
  using namespace nibble::cli;
  install_interrupt_handler();
  add_backend_option(app);
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
    fmt::print(stderr, "nibble: unexpected failure: {}\n", nibble::printable(e.what()));
    return 1;
  }
}
