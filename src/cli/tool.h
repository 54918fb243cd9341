// The tool as a function: what main() is, and what tests run in their own process.
#pragma once

namespace nibble::cli {

/// Runs one command line. Errors are printed to stderr; returns the exit status. Nothing leaves it as an exception,
/// whatever fails.
int run_tool(int argc, char** argv) noexcept;

/// What the process needs before: signals (Ctrl-C; a file that may not grow and one that has become shorter are errors,
/// not the end), and an end that leaves nothing behind where memory runs out in a place that cannot report it.
void prepare_process();

}  // namespace nibble::cli
