// This tool, run again with other arguments.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace nibble::cli {

/// A process for a step of a command is the only honest way to measure the step's peak memory, and what ends one step
/// does not end the others. `threads`: of the child; 0: as many as this process may have. What it says goes to `log`.
/// May be called from several threads. Error{cancelled} after Ctrl-C, else Error{io} with what it said of its failure.
void run_self(std::vector<std::string> arguments, const std::filesystem::path& log, int threads = 0);

}  // namespace nibble::cli
