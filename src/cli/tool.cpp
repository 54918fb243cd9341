#include "tool.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <new>

#include "commands.h"
#include "core/mapped_files.h"
#include "core/pending.h"
#include "interrupt.h"
#include "nibble/core/error.h"
#include "nibble/core/mapped_files.h"

namespace nibble::cli {

namespace {

/// Without allocating: it may be memory that has run out. (stderr has no buffer, and fprintf one on the stack.)
void complain(const char* what, const char* detail) noexcept { std::fprintf(stderr, "nibble: %s%s\n", what, detail); }

constexpr const char* kNoMemory = "no memory left; a smaller model, or fewer threads or tokens, may fit: ";

/// Destructors of libraries that allocate, and threads, have nobody to throw to.
[[noreturn]] void on_terminate() {
  try {
    if (const auto error = std::current_exception()) std::rethrow_exception(error);
    complain("unexpected failure: terminated", "");
  } catch (const std::bad_alloc& e) {
    complain(kNoMemory, e.what());
  } catch (const std::exception& e) {
    complain("unexpected failure: ", e.what());
  } catch (...) {
    complain("unexpected failure", "");
  }
  files::Pending::remove_all();
  std::_Exit(1);
}

int parse_and_run(int argc, char** argv) {
  CLI::App app("nibble: quantize a language model, and see what each method costs in quality, size and speed.");
  app.set_version_flag("--version", NIBBLE_VERSION);
  app.require_subcommand(1);
  add_backend_option(app);
  add_compare_command(app);
  add_quantize_command(app);
  add_convert_command(app);
  add_export_gguf_command(app);
  add_imatrix_command(app);
  add_eval_command(app);
  add_generate_command(app);
  add_finetune_command(app);
  add_qat_command(app);
  add_inspect_command(app);
  add_memory_command(app);
  add_merge_command(app);
  add_rotate_command(app);
  add_recommend_command(app);
  try {
    app.parse(argc, argv);
    return 0;
  } catch (const CLI::ParseError& e) {
    return app.exit(e);
  }
}

}  // namespace

void prepare_process() {
  install_interrupt_handler();
  std::signal(SIGXFSZ, SIG_IGN);  // write() then says EFBIG, which is an error as any other
  guard_mapped_files();
  std::set_terminate(on_terminate);
}

int run_tool(int argc, char** argv) noexcept {
  try {
    return parse_and_run(argc, argv);
  } catch (const Error& e) {
    complain("", e.what());
    return e.code() == ErrorCode::cancelled ? kInterruptedExit : 1;
  } catch (const std::bad_alloc& e) {
    complain(kNoMemory, e.what());
  } catch (const std::exception& e) {
    complain("unexpected failure: ", e.what());
  } catch (...) {
    complain("unexpected failure", "");
  }
  return 1;
}

}  // namespace nibble::cli
