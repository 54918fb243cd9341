#include <fmt/format.h>

#include <memory>

#include "commands.h"
#include "nibble/core/error.h"
#ifdef NIBBLE_WITH_CUDA
#include "nibble/cuda/device.h"
#endif

namespace nibble::cli {

namespace {

constexpr const char* kNoCuda =
    "this build of nibble has no CUDA backend; configure it with -DNIBBLE_CUDA=ON, which takes nvcc, cuBLAS and "
    "cuSOLVER";

/// Of the command line that is being run.
const Backend* chosen = nullptr;

std::string why_not_here(const Backend& b) {
  if (b.available()) return "";
  const std::string why = b.why_unavailable();
  return why.empty() ? " (not on this CPU)" : " (not here: " + why + ")";
}

/// One line a backend, those that this machine cannot run with the reason.
std::string list() {
  std::string text = "Backends, the first that this machine can run being the default:\n";
  bool has_cuda = false;
  for (const Backend* b : backends()) {
    text += fmt::format("  {:<14}{}{}\n", b->name(), b->description(), why_not_here(*b));
    has_cuda = has_cuda || b->name() == "cuda";
  }
  if (!has_cuda) text += fmt::format("  {:<14}({})\n", "cuda", kNoCuda);
  return text;
}

/// Told now, not when a model has been read.
void choose(const std::string& name) {
#ifndef NIBBLE_WITH_CUDA
  if (name == "cuda") throw Error(ErrorCode::not_found, kNoCuda);
#endif
  chosen = &find_backend(name);
}

}  // namespace

const Backend* chosen_backend() { return chosen; }

void add_backend_option(CLI::App& app) {
#ifdef NIBBLE_WITH_CUDA
  cuda::register_backend();
#endif
  chosen = nullptr;
  const auto name = std::make_shared<std::string>();
  app.fallthrough();  // before the command or behind it
  app.add_option("--backend", *name, "What multiplies: one of the backends below")->envname("NIBBLE_BACKEND");
  app.parse_complete_callback([name] {
    if (!name->empty()) choose(*name);
  });
  app.footer([] {
    return list() +
           "Environment: NIBBLE_BACKEND as --backend, NIBBLE_THREADS the threads, NIBBLE_DATA the folder of the "
           "embedded model.\nExit status: 0 success, 1 error, 130 interrupted; the command line's own errors are "
           "above 100.";
  });
}

}  // namespace nibble::cli
